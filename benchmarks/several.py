"""`processor run --processes N`: several workers on the partitions of one topic.

Starting a process takes a second of processor, and the first one would have done half of the records before the last
one is there. So every partition is paused by an operator before they start, and resumed when each has its share.
"""

import asyncio
import time

import psycopg

from benchmarks import measure
from benchmarks.measure import Measured
from benchmarks.orders import PARTITIONS
from benchmarks.servers import Servers
from benchmarks.workloads import ONE_STEP, Participant, topic_of, worker, worker_environment
from engine.partitions import Place, resume

PROCESSES = (1, 2, 4)
SHARED_S = 60.0
"""Longest until every process has a share: their starts, and the rebalances these cause."""
SETTLED_S = 2.0
"""For how long nothing has moved between the processes."""

_PAUSE = """
    INSERT INTO dbos.hold (service_name, key, kind, reason, created_at)
    SELECT %s, %s || '-' || n, 'pause', 'until all are there', dbos.now_ms() FROM generate_series(0, %s - 1) AS n
"""
_OWNERS = """
    SELECT k.value::json ->> 'owner'
      FROM dbos.event_dispatch_kv AS k
     WHERE k.service_name = %s AND NOT (k.value::json ->> 'released')::boolean
     ORDER BY k.key
"""


def name_of(processes: int) -> str:
    """Of a row."""
    return f"processes-{processes}"


def several(servers: Servers, records: int, processes: int) -> Participant:
    """So many processes under one supervisor; its own memory is not counted, the largest worker's is."""

    def run() -> Measured:
        topic = topic_of(servers, records)
        with servers.database() as address:
            environment = worker_environment(servers, address, topic)
            group = environment["PROCESSOR_KAFKA_GROUP"]
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(_PAUSE, (f"kafka:{group}", topic, PARTITIONS))
            command = [*worker(ONE_STEP.app), "--processes", str(processes)]
            with measure.running(command, environment) as subject:
                _until_shared(subject, address, group, processes)
                subject.watch_children()
                asyncio.run(_resume(address, group, topic))
                measure.until_all_is_done(subject, address, records, group=group)
            measure.check_steps(address, records)
            rate = measure.rate(address, expected=records)
            return Measured(records_per_s=rate, rss_mib=subject.rss_mib)

    plain = "" if processes == PROCESSES[0] else name_of(PROCESSES[0])
    title = f"one step, {processes} process{'es' * (processes > 1)}"
    return Participant(name_of(processes), title, run, plain=plain)


def _until_shared(subject: measure.Subject, address: str, group: str, processes: int) -> None:
    """Wait until all partitions are claimed, by so many executors, and have been for a while."""
    deadline = time.monotonic() + SHARED_S
    seen, seen_at = [""], time.monotonic()
    with psycopg.connect(address, autocommit=True) as connection:
        while time.monotonic() < deadline:
            owners = [str(owner) for (owner,) in connection.execute(_OWNERS, (f"kafka:{group}",)).fetchall()]
            if owners != seen:
                seen, seen_at = owners, time.monotonic()
            if len(owners) == PARTITIONS and len(set(owners)) == processes and time.monotonic() - seen_at > SETTLED_S:
                return
            if not subject.running:
                raise subject.failed("ended before each process had its share")
            time.sleep(measure.LOOK_S)
    raise subject.failed(f"{PARTITIONS} partitions were not shared by {processes} processes: {sorted(set(seen))}")


async def _resume(address: str, group: str, topic: str) -> None:
    async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
        for partition in range(PARTITIONS):
            place = Place(group, f"{topic}-{partition}")
            if not await resume(connection, "dbos", place, note="all are there", actor="benchmark"):
                raise measure.MeasurementError(f"{place} was not paused")
