"""What lasts: workflows asleep by the hundred thousand, a thousand of which wake at once; and those of a process that is killed.

sleepers    what a process weighs that has put 100,000 to sleep, and from the moment in which a thousand are due to the
            commit of each one's end
recovery    from SIGKILL of a process with thousands of workflows in the middle of a step to the moment in which that
            step begins in another one: a lease, until the death is certain, and what taking over takes
"""

import time
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks import measure
from benchmarks.measure import Measured
from benchmarks.servers import Servers
from benchmarks.workloads import Participant, worker, worker_environment

SLEEPERS = "sleepers"
ASLEEP = 100_000
WOKEN = 1_000
DUE_IN_MS = 3_000
"""Long enough for the statement that moves their times, and for the look that hears of it."""

RECOVERY = "recovery"
OPEN = 5_000
LEASE_S = 10


def sleepers(servers: Servers, asleep: int) -> Participant:
    """Workflows that a process starts and puts to sleep for a day; then it is a day later for some."""

    def run() -> Measured:
        with servers.database() as address, psycopg.connect(address, autocommit=True) as connection:
            connection.execute(_ROWS, ("remind_tomorrow", asleep))
            environment = worker_environment(servers, address, "none") | {"PROCESSOR_OUTBOX_RELAY": "false"}
            with measure.running(worker("reminders"), environment) as subject:
                _until(connection, [subject], "SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep", asleep)
                row = connection.execute(_MOVE, (DUE_IN_MS, WOKEN)).fetchone()
                assert row is not None, "an aggregate has a row"
                moved, due_ms, now_ms = row
                if moved != WOKEN or now_ms >= due_ms:
                    raise measure.MeasurementError(f"{moved} sleepers were moved, {now_ms - due_ms} ms late")
                _until(connection, [subject], _SUCCEEDED, WOKEN)
            return _percentiles(connection, _WOKEN, due_ms, WOKEN, subject.rss_mib)

    return Participant(SLEEPERS, f"{asleep:,} asleep, {WOKEN:,} due at once", run)


def recovery(servers: Servers, workflows: int) -> Participant:
    """Two processes, all workflows in one of them, which is killed."""

    def run() -> Measured:
        with servers.database() as address, psycopg.connect(address, autocommit=True) as connection:
            connection.execute(_ROWS, ("fulfil_held", workflows))
            environment = worker_environment(servers, address, "none") | {"PROCESSOR_OUTBOX_RELAY": "false"}
            environment |= {"PROCESSOR_EXECUTOR_LEASE": f"{LEASE_S}s"}
            holding = environment | {"BENCH_HOLD": "1", "PROCESSOR_EXECUTOR_IN_FLIGHT_MAX": str(workflows)}
            with measure.running(worker("held"), holding) as killed:
                _until(connection, [killed], "SELECT count(*) FROM dbos.operation_outputs", workflows)
                with measure.running(worker("held"), environment) as heir:
                    # Twice: it has seen the other's heartbeat.
                    _until(connection, [killed, heir], "SELECT count(*) FROM dbos.executor WHERE counter >= 2", 2)
                    killed_ms = measure.one(connection, "SELECT dbos.now_ms()")
                    killed.stop()
                    _until(connection, [heir], _SUCCEEDED, workflows)
            measure.check_steps(address, 2 * workflows)
            return _percentiles(connection, _RESUMED, killed_ms, workflows, heir.rss_mib)

    return Participant(RECOVERY, f"kill -9 to resumed, {workflows:,} open, lease {LEASE_S} s", run)


# As `App.start` leaves them where no process has room, in one statement.
_ROWS = """
    INSERT INTO dbos.workflow_status
           (workflow_uuid, status, name, application_version, inputs, created_at, updated_at)
    SELECT gen_random_uuid()::text, 'PENDING', %s, '1',
           json_build_object('args', json_build_array(json_build_object(
               'order_id', 'o-' || n, 'customer', 'c-' || n, 'seq', n, 'amount_cents', 100, 'note', 'a note')),
               'kwargs', '{}'::json)::text,
           dbos.now_ms(), dbos.now_ms()
      FROM generate_series(1, %s) AS n
"""
_SUCCEEDED = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"

# The time in which a sleeper wakes is in its history and in its row.
_MOVE = """
    WITH clock AS MATERIALIZED (
        SELECT dbos.now_ms() + %s AS due
    ), chosen AS MATERIALIZED (
        SELECT w.workflow_uuid FROM dbos.workflow_status AS w WHERE w.kafka_asleep LIMIT %s
    ), histories AS (
        UPDATE dbos.operation_outputs AS o
           SET output = c.due::text
          FROM clock AS c, chosen AS x
         WHERE o.workflow_uuid = x.workflow_uuid AND o.function_name = 'DBOS.sleep'
    ), woken AS (
        UPDATE dbos.workflow_status AS w
           SET kafka_wake_at = c.due
          FROM clock AS c, chosen AS x
         WHERE w.workflow_uuid = x.workflow_uuid
        RETURNING w.workflow_uuid
    )
    SELECT (SELECT count(*) FROM woken), (SELECT due FROM clock), dbos.now_ms()
"""
_WOKEN = """
    SELECT EXTRACT(EPOCH FROM pg_xact_commit_timestamp(w.xmin))::float8 * 1000 AS at
      FROM dbos.workflow_status AS w
     WHERE w.status = 'SUCCESS'
"""
_RESUMED = "SELECT o.started_at_epoch_ms::float8 AS at FROM dbos.operation_outputs AS o WHERE o.function_name = 'hold'"


def _until(connection: psycopg.Connection[Any], subjects: Sequence[measure.Subject], query: str, count: int) -> None:
    """Wait until a count has reached a number."""
    seen, seen_at = -1, time.monotonic()
    while True:
        for subject in subjects:
            subject.look()
            if not subject.running:
                raise subject.failed(f"ended at {seen} of {count}")
        done = measure.one(connection, query)
        if done >= count:
            return
        now = time.monotonic()
        if done != seen:
            seen, seen_at = done, now
        if now - seen_at > measure.STALL_S:
            raise subjects[0].failed(f"nothing moved for {measure.STALL_S:.0f} s at {done} of {count}: {query}")
        time.sleep(2 * measure.LOOK_S)  # a count of all rows


def _percentiles(
    connection: psycopg.Connection[Any], moments: str, since_ms: int, count: int, rss_mib: float
) -> Measured:
    """How long after a moment others were: half, 99 of 100, and how many a second until the last."""
    row = connection.execute(
        f"""
        SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY at - %s), max(at) - min(at), count(*)
          FROM ({moments}) AS each
        """.encode(),
        (since_ms,),
    ).fetchone()
    assert row is not None, "an aggregate has a row"
    (p50_ms, p99_ms), lasted_ms, found = row
    if found != count:
        raise measure.MeasurementError(f"{found} of {count} went on")
    return Measured(records_per_s=count * 1000 / max(lasted_ms, 1), p50_ms=p50_ms, p99_ms=p99_ms, rss_mib=rss_mib)
