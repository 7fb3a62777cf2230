"""The floor: what a consumer loop written by hand reaches, without an engine.

    python -m benchmarks.floor KIND TOPIC --connections 1 --batch 500        (KAFKA and POSTGRES: addresses)

One transaction a batch: progress, a row for every record, and what KIND says. Everything that makes such a loop fast
is in it: `poll` and `consume(n, 0)`, arrays in binary, prepared statements, a pipeline (one round trip a batch),
constants as scalars. Tables, indexes and columns are ours. It does less than we do: no fence, no order, no failure,
no recovery, no validation of the payload. It is never weakened to meet a ratio.

    step    a workflow row and a step row
    three   a workflow row and three step rows
    tx      a workflow row, two step rows, an application's row
    each    a workflow row, and one INSERT statement a record for the application's row
    set     a workflow row, and one INSERT statement a batch for the application's rows
"""

import argparse
import json
import os
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from confluent_kafka import Consumer, Message, TopicPartition

from engine.ids import ordering_key

PROGRESS = """
    INSERT INTO dbos.event_dispatch_kv AS k (service_name, workflow_fn_name, key, value, update_seq, update_time)
    SELECT 'kafka:floor', 'fulfil', t.key, t.value, 1, EXTRACT(EPOCH FROM clock_timestamp())
      FROM unnest(%(keys)b::text[], %(values)b::text[]) AS t (key, value)
        ON CONFLICT (service_name, workflow_fn_name, key)
        DO UPDATE SET value = EXCLUDED.value, update_time = EXCLUDED.update_time
"""
WORKFLOWS = """
    INSERT INTO dbos.workflow_status
           (workflow_uuid, status, name, application_version, request, inputs, output, executor_id,
            created_at, updated_at, started_at_epoch_ms, kafka_source, kafka_offset, kafka_key)
    SELECT t.id, 'SUCCESS', 'fulfil', '1', t.request, t.inputs, 'null', %(executor)s,
           %(now)s, %(now)s, %(now)s, t.source, t.kafka_offset, t.key
      FROM unnest(%(ids)b::text[], %(requests)b::text[], %(inputs)b::text[], %(sources)b::text[],
                  %(offsets)b::bigint[], %(keys)b::bigint[])
             AS t (id, request, inputs, source, kafka_offset, key)
"""
STEPS = """
    INSERT INTO dbos.operation_outputs
           (workflow_uuid, function_id, function_name, output, started_at_epoch_ms, completed_at_epoch_ms)
    SELECT t.id, s.function_id, 'charge', '"receipt"', %(now)s, %(now)s
      FROM unnest(%(ids)b::text[]) AS t (id), generate_series(1, %(steps)s) AS s (function_id)
"""
EACH = "INSERT INTO app_order (order_id, customer, seq, amount_cents) VALUES (%s, %s, %s, %s)"
SET = """
    INSERT INTO app_order (order_id, customer, seq, amount_cents)
    SELECT * FROM unnest(%(ids)b::text[], %(customers)b::text[], %(seqs)b::integer[], %(amounts)b::integer[])
"""
KINDS = ("step", "three", "tx", "each", "set")
STEP_ROWS = {"step": 1, "three": 3, "tx": 2, "each": 0, "set": 0}


def consume(kind: str, topic: str, partitions: Sequence[int], batch: int) -> None:
    """Read the partitions from their start to their end, over one connection."""
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA"],
            "group.id": f"floor-{secrets.token_hex(4)}",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "queued.min.messages": 100_000,
        }
    )
    left = sum(consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions)
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    with psycopg.connect(os.environ["POSTGRES"], autocommit=True, prepare_threshold=0) as connection:
        while left > 0:
            first = consumer.poll(1)
            if first is None:
                continue
            messages = [first, *consumer.consume(batch - 1, 0)]
            assert not any(message.error() for message in messages), "a log that is read to its end has no errors"
            with connection.pipeline(), connection.transaction():
                write(connection.cursor(), kind, messages)
            left -= len(messages)
    consumer.close()


def write(cursor: psycopg.Cursor[Any], kind: str, messages: Sequence[Any]) -> None:
    """The statements of one transaction."""
    now = int(time.time() * 1000)
    topics = [(m.topic(), m.partition(), m.offset()) for m in messages]
    ids = [f"{topic}-{partition}-{offset}" for topic, partition, offset in topics]
    progress = {f"{topic}-{partition}": f'{{"next":{offset + 1}}}' for topic, partition, offset in topics}
    cursor.execute(PROGRESS, {"keys": list(progress), "values": list(progress.values())})
    cursor.execute(
        WORKFLOWS,
        {
            "executor": "floor",
            "now": now,
            "ids": ids,
            "requests": [_request(m) for m in messages],
            "inputs": [f'{{"args": [{m.value().decode()}], "kwargs": {{}}}}' for m in messages],
            "sources": [f"floor|{topic}-{partition}" for topic, partition, _ in topics],
            "offsets": [offset for _, _, offset in topics],
            "keys": [ordering_key(m.key()) for m in messages],
        },
    )
    if steps := STEP_ROWS[kind]:
        cursor.execute(STEPS, {"ids": ids, "steps": steps, "now": now})
    if kind in ("tx", "each", "set"):
        orders = [json.loads(m.value()) for m in messages]
        if kind == "each":
            for order in orders:
                cursor.execute(EACH, (order["order_id"], order["customer"], order["seq"], order["amount_cents"]))
        else:
            cursor.execute(
                SET,
                {
                    "ids": [order["order_id"] for order in orders],
                    "customers": [order["customer"] for order in orders],
                    "seqs": [order["seq"] for order in orders],
                    "amounts": [order["amount_cents"] for order in orders],
                },
            )


def _request(m: Message) -> str:
    key = m.key()
    assert isinstance(key, bytes), "orders have keys"
    return (
        f'{{"topic": "{m.topic()}", "partition": {m.partition()}, "offset": {m.offset()}, '
        f'"timestamp": {m.timestamp()[1]}, "key": "{key.decode()}"}}'
    )


def main() -> None:
    """Share the partitions among the connections, a thread each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("topic")
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--batch", type=int, default=500)
    given = parser.parse_args()
    shares = [range(n, given.partitions, given.connections) for n in range(given.connections)]
    threads = [threading.Thread(target=consume, args=(given.kind, given.topic, s, given.batch)) for s in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
