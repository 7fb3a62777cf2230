"""A producer of orders, as another team would have it: it knows Kafka and JSON, and nothing of the processor.

python -m examples.deployed.produce --kafka localhost:9092 --rate 50

One order in a hundred has nothing to pay, and becomes a dead letter. SIGTERM and Ctrl-C end it when all is delivered.
"""

import argparse
import json
import random
import signal
import sys
import time
import uuid

from confluent_kafka import KafkaError, Message, Producer

TOPIC = "orders.placed"
FLUSH_S = 30


class Orders:
    """Sends orders and counts what became of them."""

    def __init__(self, kafka: str) -> None:
        self._producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
        self.delivered = 0
        self.failed = 0

    def send(self) -> None:
        """One order, keyed by its ID. Waits while the producer's own queue is full."""
        order_id = str(uuid.uuid4())
        amount_cents = 0 if random.random() < 0.01 else random.randint(100, 50_000)
        value = json.dumps({"order_id": order_id, "amount_cents": amount_cents})
        while True:
            try:
                self._producer.produce(TOPIC, value, key=order_id, on_delivery=self._on_delivery)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def finish(self) -> int:
        """Wait for what is under way; returns how many never arrived."""
        return self._producer.flush(FLUSH_S) + self.failed

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self.failed += 1
            print(f"not delivered: {error.str()}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Send until told to stop. Exit code 1 if an order did not arrive."""
    parser = argparse.ArgumentParser(description="Sends orders to Kafka")
    parser.add_argument("--kafka", default="localhost:9092", metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, default=50, metavar="N", help="orders a second")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="stop after so many; 0: never")
    options = parser.parse_args(arguments)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    orders = Orders(options.kafka)
    sent = 0
    due = time.monotonic()
    while not stopped and (not options.count or sent < options.count):
        orders.send()
        sent += 1
        due += 1 / options.rate
        time.sleep(max(due - time.monotonic(), 0))
    lost = orders.finish()
    print(f"{orders.delivered} orders delivered, {lost} not")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
