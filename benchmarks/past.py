"""Finished workflows by the million, as a consumer of one step leaves them, made by SQL with every index in place.

They are of a group that is no more (`GROUP`), with its progress behind them all; of the handler that is measured, so
that whatever looks for a handler's rows finds these as well.
"""

from collections.abc import Callable
from datetime import timedelta

import psycopg

from benchmarks.orders import CUSTOMERS, PARTITIONS
from engine.progress import Progress

GROUP = "past"
AT_ONCE = 500_000
"""Rows of a commit: five to twenty seconds, then it says how far it is."""

_WORKFLOWS = """
    INSERT INTO dbos.workflow_status
           (workflow_uuid, status, name, application_version, request, inputs, output, executor_id,
            created_at, updated_at, started_at_epoch_ms, kafka_source, kafka_offset, kafka_key)
    SELECT 'past-' || r.partition || '-' || r.kafka_offset, 'SUCCESS', 'fulfil', '1',
           '{"topic": "past", "partition": ' || r.partition || ', "offset": ' || r.kafka_offset
               || ', "timestamp": ' || r.at || ', "key": "' || r.customer || '"}',
           '{"args": [{"order_id": "past-' || r.n || '", "customer": "' || r.customer || '", "seq": ' || r.n
               || ', "amount_cents": 100, "note": "leave it with the neighbour, please"}], "kwargs": {}}',
           'null', 'past', r.at, r.at, r.at, 'past|past-' || r.partition, r.kafka_offset,
           hashtextextended(r.customer, 0)
      FROM (SELECT n, n %% %(partitions)s AS partition, n / %(partitions)s AS kafka_offset,
                   'customer-' || n %% %(customers)s AS customer,
                   %(since_ms)s + n * %(span_ms)s / %(count)s AS at
              FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n) AS r
"""
_STEPS = """
    INSERT INTO dbos.operation_outputs
           (workflow_uuid, function_id, function_name, output, started_at_epoch_ms, completed_at_epoch_ms)
    SELECT 'past-' || n %% %(partitions)s || '-' || n / %(partitions)s, 1, 'charge', '"past-' || n || '"', r.at, r.at
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n,
           LATERAL (SELECT %(since_ms)s + n * %(span_ms)s / %(count)s AS at) AS r
"""
_PROGRESS = """
    INSERT INTO dbos.event_dispatch_kv (service_name, workflow_fn_name, key, value, update_seq, update_time)
    VALUES (%s, 'fulfil', %s, %s, 1, EXTRACT(EPOCH FROM clock_timestamp()))
"""


def fill(address: str, count: int, *, oldest: timedelta, newest: timedelta, progress: Callable[[int], None]) -> None:
    """Add finished workflows with a step each. Tables are vacuumed and analysed then, so that nothing does it later.

    Args:
        address: Of a migrated database that has none yet.
        count: How many.
        oldest, newest: How long ago the first one ended, and the last; evenly between.
        progress: Told after every commit how many there are.
    """
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        row = connection.execute("SELECT dbos.now_ms()").fetchone()
        assert row is not None, "a clock has a time"
        for first in range(0, count, AT_ONCE):
            numbers = {
                "first": first,
                "last": min(first + AT_ONCE, count) - 1,
                "count": count,
                "partitions": PARTITIONS,
                "customers": CUSTOMERS,
                "since_ms": row[0] - oldest // timedelta(milliseconds=1),
                "span_ms": (oldest - newest) // timedelta(milliseconds=1),
            }
            with connection.transaction():
                connection.execute(_WORKFLOWS, numbers)
                connection.execute(_STEPS, numbers)
            progress(numbers["last"] + 1)
        for partition in range(PARTITIONS):
            passed = Progress(next=count, high=count)
            connection.execute(_PROGRESS, (f"kafka:{GROUP}", f"past-{partition}", passed.encode()))
        connection.execute("VACUUM (ANALYZE) dbos.workflow_status, dbos.operation_outputs")
        connection.execute("CHECKPOINT")


DELETED = "SELECT COALESCE(sum(h.horizon), 0) FROM dbos.horizon AS h WHERE h.kafka_source LIKE 'past|%'"
"""How many of them are deleted, oldest first: the horizons of their partitions say so without counting rows (P30)."""
