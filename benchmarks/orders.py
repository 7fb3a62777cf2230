"""The records that everybody processes, and the topics they are in.

A topic is filled once; every measurement reads it from the start under a group of its own. The records are a function
of their number, so that two topics of different length begin with the same ones.
"""

import json
from collections.abc import Callable
from enum import StrEnum

from confluent_kafka import Producer

PARTITIONS = 8
CUSTOMERS = 50_000
FEW_CUSTOMERS = 100


class Keys(StrEnum):
    """How a topic's records share their ordering keys; the value is part of the topic's name."""

    MANY = "many"
    """50,000 in turns: no two of 50,000 records that follow each other share one, so that no record waits for another."""
    FEW = "few"
    """100 in turns: at most 100 records run beside each other, each waits for the one before it of its key."""
    HOT = "hot"
    """Every second record has the same one; these run one after the other. The others are as `MANY`."""


def order(number: int, keys: Keys = Keys.MANY) -> tuple[bytes, bytes]:
    """Key and value, 150 bytes together."""
    if keys is Keys.HOT and number % 2 == 0:
        customer = "customer-hot"
    else:
        customer = f"customer-{number * 2_654_435_761 % (FEW_CUSTOMERS if keys is Keys.FEW else CUSTOMERS)}"
    value = {
        "order_id": f"order-{number:09}",
        "customer": customer,
        "seq": number,
        "amount_cents": number % 10_000 + 1,
        "note": "leave it with the neighbour, please",
    }
    return customer.encode(), json.dumps(value).encode()


def fill(
    bootstrap_servers: str, topic: str, count: int, progress: Callable[[int], None], keys: Keys = Keys.MANY
) -> None:
    """Produce `count` orders and wait until the brokers have them."""
    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    )
    for number in range(count):
        key, value = order(number, keys)
        producer.produce(topic, value=value, key=key)
        if number % 10_000 == 0:
            producer.poll(0)
            progress(number)
    left = producer.flush(60)
    if left:
        raise RuntimeError(f"topic {topic}: {left} of {count} records were not taken by the broker within 60 s")
    progress(count)
