"""One measurement: start a process, wait until the database has it all, read the times off the commits.

The clock is Postgres's: `pg_xact_commit_timestamp` of every finished workflow's row, the same query for the floor, for
us and for dbos. What a process says about itself is not asked. A rate begins with the commit that completes the first
tenth of the records and ends with the last commit: starting a process, joining a group, preparing statements are in
nobody's rate, and several connections that commit their first batches together gain nothing by it.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.fixtures.processes import GuardedProcess

LOOK_S = 0.1
"""Between two looks at progress: ten rows of one small table."""
STALL_S = 60.0
"""A measurement that moves nothing for so long has failed."""

_PROGRESS = """
    SELECT COALESCE(sum((k.value::json ->> 'next')::bigint), 0)
      FROM dbos.event_dispatch_kv AS k
     WHERE k.service_name = %s
"""
_CLAIMED = "SELECT count(*) FROM dbos.event_dispatch_kv WHERE update_seq > 0"
_OPEN = "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('PENDING', 'ENQUEUED')"
_SUCCEEDED = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
_RATE = """
    WITH finished AS (
        SELECT pg_xact_commit_timestamp(w.xmin) AS at
          FROM dbos.workflow_status AS w
         WHERE w.status = 'SUCCESS' AND w.created_at >= %s
    ), ends AS MATERIALIZED (  -- once, whatever the planner believes about how many have finished
        SELECT percentile_disc(0.1) WITHIN GROUP (ORDER BY at) AS first, max(at) AS last FROM finished
    )
    SELECT count(*), count(*) FILTER (WHERE f.at > e.first),
           COALESCE(EXTRACT(EPOCH FROM max(e.last) - min(e.first)), 0)::float8
      FROM finished AS f, ends AS e
"""
_STEPS = "SELECT count(*) FROM dbos.operation_outputs"
_STEPS_SINCE = """
    SELECT count(*)
      FROM dbos.workflow_status AS w
      JOIN dbos.operation_outputs AS o USING (workflow_uuid)
     WHERE w.created_at >= %s
"""
_LATENCIES = """
    SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY ms)
      FROM (
        SELECT EXTRACT(EPOCH FROM pg_xact_commit_timestamp(w.xmin))::float8 * 1000
               - (w.request::json ->> 'timestamp')::bigint AS ms
          FROM dbos.workflow_status AS w
         WHERE w.status = 'SUCCESS' AND (w.request::json ->> 'timestamp')::bigint >= %s
      ) AS each
"""


class MeasurementError(Exception):
    """A measurement came to no end, or to a wrong one. The message has the end of the process's output."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one measurement says."""

    records_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    rss_mib: float | None = None
    """At its highest; of several processes the largest one's."""
    core_percent: float | None = None
    """Share of a core, user and system time together."""
    queries_per_s: float | None = None
    """Statements that Postgres was sent; those that begin, set or end a transaction left out."""
    deleted_ratio: float | None = None
    """Workflows deleted for each record that was worked off meanwhile."""


class Subject:
    """A process under measurement; what it writes goes to a file that is shown if it fails."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], scratch: Path) -> None:
        self._log = scratch / "output"
        # Logs off the terminal, and nothing of the caller's own settings.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROCESSOR_", "PG"))}
        self._process = GuardedProcess(command, log=self._log, env={**kept, **environment})
        self._watched = [psutil.Process(self._process.pid)]
        self.rss_mib = 0.0

    def look(self) -> None:
        """Note its memory, and that it lives."""
        for process in self._watched:
            with contextlib.suppress(psutil.Error):
                self.rss_mib = max(self.rss_mib, process.memory_info().rss / 2**20)

    def watch_children(self) -> None:
        """Note the memory of those that it has started by now as well. (Finding them takes a look at every process.)"""
        self._watched += self._watched[0].children(recursive=True)

    def busy_s(self) -> float:
        """Processor time it has taken so far, in seconds."""
        times = self._watched[0].cpu_times()
        return times.user + times.system

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def pid(self) -> int:
        return self._process.pid

    def failed(self, what: str) -> MeasurementError:
        """The error of a measurement, with the end of the output."""
        return MeasurementError(f"{what}; the process said:\n{self._log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """End it, and what it has started; what counts is in the database."""
        if self._process.running:
            self._process.kill()
        self._process.stop(signal.SIGKILL)


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Generator[Subject]:
    """A process for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="onceflow-bench-") as scratch:
        subject = Subject([sys.executable, *command] if command[0] == "-m" else command, environment, Path(scratch))
        try:
            yield subject
        finally:
            subject.stop()


def until_all_is_done(
    subject: Subject,
    address: str,
    count: int,
    *,
    group: str,
    may_end: bool = False,
    observe: Callable[[int], None] = lambda _: None,
) -> None:
    """Wait until a group's progress has passed `count` records and no row is open.

    Args:
        subject: Who works.
        address: Of the database.
        count: Records in the topic.
        group: Whose progress.
        may_end: Whether it may end by itself.
        observe: Told at every look how far progress is.
    """
    with psycopg.connect(address, autocommit=True) as connection:
        seen, seen_at = (-1, -1), time.monotonic()
        while True:
            subject.look()
            done = one(connection, _PROGRESS, (f"kafka:{group}",))
            observe(done)
            open_rows = one(connection, _OPEN)  # of one key, progress waits for hundreds of records and they move
            if done >= count and not open_rows:
                return
            now = time.monotonic()
            if (done, open_rows) != seen:
                seen, seen_at = (done, open_rows), now
            if not subject.running and not may_end:
                raise subject.failed(f"ended after {done} of {count} records")
            if now - seen_at > STALL_S:
                raise subject.failed(f"nothing moved for {STALL_S:.0f} s after {done} of {count} records")
            time.sleep(LOOK_S)


def until_claimed(subject: Subject, address: str, partitions: int) -> None:
    """Wait until a worker has claimed so many partitions; attached they are within a fetch."""
    deadline = time.monotonic() + STALL_S
    with psycopg.connect(address, autocommit=True) as connection:
        while time.monotonic() < deadline:
            if one(connection, _CLAIMED) == partitions:
                time.sleep(1)
                return
            if not subject.running:
                raise subject.failed("ended before it had claimed its partitions")
            time.sleep(LOOK_S)
    raise subject.failed("did not claim its partitions")


def until_queue_is_drained(subjects: Sequence[Subject], address: str, count: int) -> None:
    """Wait until several processes together have done `count` workflows."""
    with psycopg.connect(address, autocommit=True) as connection:
        seen, seen_at = -1, time.monotonic()
        while True:
            for subject in subjects:
                subject.look()
                if not subject.running:
                    raise subject.failed("ended before the queue was empty")
            done = one(connection, _SUCCEEDED)
            if done >= count:
                return
            now = time.monotonic()
            if done != seen:
                seen, seen_at = done, now
            if now - seen_at > STALL_S:
                raise subjects[0].failed(f"nothing moved for {STALL_S:.0f} s after {done} of {count} workflows")
            time.sleep(2 * LOOK_S)  # a count of all rows


def until_time_is_over(subject: Subject, address: str, *, count: int, seconds: float) -> None:
    """Let it work for so long from its first success, or until it has done all."""
    deadline, first = time.monotonic() + STALL_S, True
    with psycopg.connect(address, autocommit=True) as connection:
        while time.monotonic() < deadline:
            subject.look()
            with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                done = one(connection, _SUCCEEDED)
                if done >= count:
                    return
                if done and first:
                    deadline, first = time.monotonic() + seconds, False
            if not subject.running:
                raise subject.failed("ended by itself")
            time.sleep(0.25)
    if first:
        raise subject.failed(f"no workflow succeeded within {STALL_S:.0f} s")


def rate(address: str, *, expected: int | None, since_ms: int = 0) -> float:
    """Finished workflows a second, by the database's clock: of those that were created since then, epoch ms."""
    with psycopg.connect(address, autocommit=True) as connection:
        row = connection.execute(_RATE, (since_ms,)).fetchone()
    assert row is not None, "an aggregate has a row"
    count, after_first, seconds = row
    if expected is not None and count != expected:
        raise MeasurementError(f"{count} workflows succeeded, {expected} records were there")
    if not seconds:
        raise MeasurementError(f"{count} workflows in one commit: too few for a rate")
    return after_first / seconds


def latencies(address: str, *, since_ms: int) -> tuple[float, float]:
    """p50 and p99 in ms, from the record's timestamp (the producer's, whole milliseconds) to its commit."""
    with psycopg.connect(address, autocommit=True) as connection:
        row = connection.execute(_LATENCIES, (since_ms,)).fetchone()
    if row is None or row[0] is None:
        raise MeasurementError("no record of the window was finished")
    p50, p99 = row[0]
    return p50, p99


def check_steps(address: str, expected: int, *, since_ms: int = 0) -> None:
    """The steps that a measurement must have left behind: those of workflows that were created since then, epoch ms."""
    with psycopg.connect(address, autocommit=True) as connection:
        found = one(connection, _STEPS_SINCE, (since_ms,)) if since_ms else one(connection, _STEPS)
    if found != expected:
        raise MeasurementError(f"{found} steps are recorded, {expected} were expected")


def check_orders(address: str, expected: int) -> None:
    """The application's rows that a measurement must have left behind."""
    with psycopg.connect(address, autocommit=True) as connection:
        found = one(connection, "SELECT count(*) FROM app_order")
    if found != expected:
        raise MeasurementError(f"{found} rows of app_order, {expected} were expected")


def now_ms(address: str) -> int:
    """The time in Postgres, epoch ms."""
    with psycopg.connect(address, autocommit=True) as connection:
        return one(connection, "SELECT dbos.now_ms()")


def one(connection: psycopg.Connection[Any], query: str, parameters: Sequence[Any] = ()) -> int:
    """The only value of a query's only row."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None, "an aggregate has a row"
    return int(row[0])
