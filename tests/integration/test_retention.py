"""What retention deletes and what it spares, on a real database (P30)."""

from collections.abc import Generator
from typing import Any

import psycopg
import pytest

from engine.keeping import Keep, Kind
from engine.sweep import Sweep
from tests.integration.sweeping import DAY, SOURCE, WEEK, horizons, ids, left, partition, sweep, workflow

KEEP = {"fulfil": WEEK}
SIX_HOURS_LATER = """
    CREATE OR REPLACE FUNCTION dbos.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
        SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + 6 * 3600 * 1000
    $$
"""


@pytest.fixture
def rows(database: str) -> Generator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


async def test_what_ended_before_its_policy_goes_and_the_horizon_says_so(
    database: str, rows: psycopg.Connection[Any]
) -> None:
    """P30, I1: below `next`, old enough; the horizon stands above the last that went."""
    partition(rows, next=10)
    for offset in range(3):
        workflow(rows, f"orders-0-{offset}")
    workflow(rows, "orders-0-3", days=6)

    gone = await sweep(database, KEEP)

    assert gone == {("fulfil", "SUCCESS"): 3}
    assert left(rows) == ids(3)
    assert horizons(rows) == {SOURCE: 3}


async def test_never_an_open_row_and_never_at_or_above_next(database: str, rows: psycopg.Connection[Any]) -> None:
    """P30: what is delivered again must find its row (I2), whatever its age."""
    partition(rows, next=3)
    for offset, status in enumerate(["SUCCESS", "PENDING", "ENQUEUED", "SUCCESS", "ERROR"]):
        workflow(rows, f"orders-0-{offset}", status=status)

    await sweep(database, KEEP)

    assert left(rows) == ids(1, 2, 3, 4)
    assert horizons(rows) == {SOURCE: 1}


async def test_what_was_cancelled_stays_while_its_step_runs(database: str, rows: psycopg.Connection[Any]) -> None:
    """P12, P18: the row says whose step it is that its key waits for; of a dead executor nothing runs."""
    partition(rows, next=3)
    for executor, died_at in (("alive", None), ("dead", 1)):
        rows.execute(
            "INSERT INTO dbos.executor (executor_id, name, hostname, pid, started_at, renewed_at, lease_until, died_at)"
            " VALUES (%s, '', '', 1, 0, 0, dbos.now_ms(), %s)",
            (executor, died_at),
        )
    for offset, executor in enumerate(["alive", "dead"]):
        workflow(rows, f"orders-0-{offset}", status="CANCELLED")
        rows.execute(
            "UPDATE dbos.workflow_status SET owner_xid = 'o', executor_id = %s WHERE kafka_offset = %s",
            (executor, offset),
        )

    await sweep(database, KEEP)

    assert left(rows) == ids(0)


async def test_a_partition_without_progress_keeps_everything(database: str, rows: psycopg.Connection[Any]) -> None:
    """I1: whoever begins it anew finds what is done."""
    workflow(rows, "orders-0-0")
    workflow(rows, "parcels-0-0", source="no partition at all")

    assert not await sweep(database, KEEP)

    assert left(rows) == ["orders-0-0", "parcels-0-0"]


async def test_age_counts_from_the_end_and_not_from_the_beginning(database: str, rows: psycopg.Connection[Any]) -> None:
    """A workflow that slept a month and ended today is kept for its week."""
    partition(rows, next=10)
    workflow(rows, "orders-0-0", days=30, ended_days=1)
    workflow(rows, "orders-0-1", days=30, ended_days=8)

    await sweep(database, KEEP)

    assert left(rows) == ids(0)


async def test_each_handler_and_status_has_its_own_time_and_for_ever_is_one(
    database: str, rows: psycopg.Connection[Any]
) -> None:
    partition(rows, next=100)
    keep = {"fulfil": Keep(success=DAY, error=30 * DAY), "refund": Keep(cancelled=2 * DAY)}
    expected: list[str] = []
    for offset, (name, status, days, stays) in enumerate(
        [
            ("fulfil", "SUCCESS", 0.5, True),
            ("fulfil", "SUCCESS", 2, False),
            ("fulfil", "ERROR", 20, True),
            ("fulfil", "ERROR", 40, False),
            ("fulfil", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", 40, False),
            ("fulfil", "CANCELLED", 400, True),
            ("refund", "SUCCESS", 400, True),
            ("refund", "CANCELLED", 3, False),
            ("somebody-elses", "SUCCESS", 400, True),
        ]
    ):
        workflow(rows, f"orders-0-{offset}", name=name, status=status, days=days)
        expected += [f"orders-0-{offset}"] if stays else []

    await sweep(database, keep)

    assert sorted(left(rows)) == expected
    assert horizons(rows) == {SOURCE: 8}


async def test_the_horizon_never_goes_down(database: str, rows: psycopg.Connection[Any]) -> None:
    """P30: also when a younger record below it goes later."""
    partition(rows, next=10)
    workflow(rows, "orders-0-5")
    workflow(rows, "orders-0-2", days=6)
    await sweep(database, KEEP)
    assert horizons(rows) == {SOURCE: 6}

    await sweep(database, {"fulfil": Keep(success=5 * DAY)})

    assert left(rows) == []
    assert horizons(rows) == {SOURCE: 6}


async def test_rows_of_a_former_topic_of_that_name_go_whatever_their_offset(
    database: str, rows: psycopg.Connection[Any]
) -> None:
    """P30: no log delivers them again, and no seek leads there. Of a later one than is known nothing goes."""
    partition(rows, next=1, incarnation=2)
    workflow(rows, "orders-0-70")
    workflow(rows, "orders~2-0-0", source="shop|orders~2-0")
    workflow(rows, "orders~2-0-1", source="shop|orders~2-0")
    workflow(rows, "orders~3-0-0", source="shop|orders~3-0")

    await sweep(database, KEEP)

    assert left(rows) == ["orders~2-0-1", "orders~3-0-0"]
    assert horizons(rows)["shop|orders~2-0"] == 1


async def test_everything_that_hangs_on_a_row_goes_with_it(database: str, rows: psycopg.Connection[Any]) -> None:
    """I10: steps, large inputs, messages, events, streams, the queue's ledger; of others nothing."""
    partition(rows, next=10)
    for offset, days in ((0, 8), (1, 1)):
        workflow_id = f"orders-0-{offset}"
        workflow(rows, workflow_id, days=days)
        for statement in (
            "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id) VALUES (%s, 1)",
            "INSERT INTO dbos.workflow_inputs VALUES (%s, '{}')",
            "INSERT INTO dbos.notifications (destination_uuid, message) VALUES (%s, '1')",
            "INSERT INTO dbos.message_key VALUES (%s, 'k')",
            "INSERT INTO dbos.workflow_events VALUES (%s, 'k', '1')",
            "INSERT INTO dbos.workflow_events_history VALUES (%s, 1, 'k', '1')",
            "INSERT INTO dbos.streams (workflow_uuid, key, value, \"offset\") VALUES (%s, 'k', '1', 0)",
            "INSERT INTO dbos.workflow_queue (workflow_uuid, queue_name) VALUES (%s, 'q')",
            "INSERT INTO dbos.waiting (workflow_uuid, kind, target) VALUES (%s, 'event', 'another')",
            "INSERT INTO dbos.recovery (workflow_uuid, worker_id, reason, recovered_at) VALUES (%s, 'e', 'died', 1)",
            (
                "INSERT INTO dbos.execution (workflow_uuid, flow_id, owner_id, execution_depth, created_at, updated_at)"
                " VALUES (%s, 'f', 'o', 0, 1, 1)"
            ),
            "SELECT dbos.append_execution_event(%s, 'status', '{}')",
        ):
            rows.execute(statement.encode(), (workflow_id,))

    await sweep(database, KEEP)

    for table in hanging(rows):
        column = "destination_uuid" if table in ("notifications", "message_key") else "workflow_uuid"
        found = rows.execute(f"SELECT {column} FROM dbos.{table}".encode()).fetchall()
        assert found == [("orders-0-1",)], table


NOT_HANGING = {
    "dead_letter": "has a policy of its own; an open one spares its workflow",
    "debounce": "goes when nobody has called under the key for long (engine/depths.py)",
    "hold": "spares its workflow",
}
"""Tables with a workflow's ID whose rows do not go with it, and why."""


def hanging(rows: psycopg.Connection[Any]) -> list[str]:
    """Every table with a workflow's ID, from the catalogue: a new one is decided about here, or this fails."""
    found = rows.execute(
        """
        SELECT c.table_name
          FROM information_schema.columns AS c
          JOIN information_schema.tables AS t USING (table_schema, table_name)
         WHERE c.table_schema = 'dbos' AND t.table_type = 'BASE TABLE'
           AND c.column_name IN ('workflow_uuid', 'destination_uuid') AND c.table_name <> 'workflow_status'
        """
    ).fetchall()
    return sorted({table for (table,) in found} - NOT_HANGING.keys())


async def test_what_an_open_dead_letter_or_a_hold_names_is_spared(database: str, rows: psycopg.Connection[Any]) -> None:
    """P30: operators need the row to retry it; what was decided goes, with its letter's own time."""
    partition(rows, next=10)
    for offset, state in enumerate(["OPEN", "DISCARDED", "RETRIED"]):
        workflow(rows, f"orders-0-{offset}", status="ERROR")
        rows.execute(
            """
            INSERT INTO dbos.dead_letter (workflow_uuid, handler, service_name, topic, partition, kafka_offset, reason,
                                          error, state, created_at, resolved_at)
            VALUES (%s, 'fulfil', 'kafka:shop', 'orders', 0, %s, 'failed', '{}', %s, 1,
                    CASE %s WHEN 'DISCARDED' THEN 1 WHEN 'RETRIED' THEN dbos.now_ms() END)
            """,
            (f"orders-0-{offset}", offset, state, state),
        )
    workflow(rows, "orders-0-3", status="ERROR")
    rows.execute(
        "INSERT INTO dbos.hold (service_name, key, ordering_key, kind, reason, workflow_uuid, created_at)"
        " VALUES ('kafka:shop', 'orders-0', 7, 'block', 'failed', 'orders-0-3', 1)"
    )

    gone = await sweep(database, KEEP)

    assert left(rows) == ids(0, 3)
    assert rows.execute("SELECT state FROM dbos.dead_letter ORDER BY 1").fetchall() == [("OPEN",), ("RETRIED",)]
    assert rows.execute("SELECT kind FROM dbos.hold").fetchall() == [("block",)]
    assert gone == {("fulfil", "ERROR"): 2, ("fulfil", Kind.DEAD_LETTER): 1}


async def test_a_partition_that_is_held_as_a_whole_is_left_alone(database: str, rows: psycopg.Connection[Any]) -> None:
    """P30: whoever decides about it may need what it did."""
    for key, source in (("orders-0", SOURCE), ("orders-1", "shop|orders-1")):
        partition(rows, next=10, key=key)
        workflow(rows, f"{key}-0", source=source)
    rows.execute(
        "INSERT INTO dbos.hold (service_name, key, kind, reason, created_at)"
        " VALUES ('kafka:shop', 'orders-1', 'halt', 'the log was rewritten', 1)"
    )

    await sweep(database, KEEP)

    assert left(rows) == ["orders-1-0"]


async def test_workflows_without_a_source_go_but_no_child_that_its_parent_may_ask_for(
    database: str, rows: psycopg.Connection[Any]
) -> None:
    """P30, P31: a parent that runs, or can be resumed, is replayed and asks its children."""
    for parent, status in (("open", "PENDING"), ("failed", "ERROR"), ("done", "SUCCESS")):
        workflow(rows, parent, source=None, status=status, name="parent", days=20)
        for child in (f"{parent}-1", f"given-by-{parent}"):
            workflow(rows, child, source=None)
            rows.execute(
                "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, child_workflow_id)"
                " SELECT %s, 1 + count(*), %s FROM dbos.operation_outputs WHERE workflow_uuid = %s",
                (parent, child, parent),
            )
    workflow(rows, "alone", source=None)

    await sweep(database, KEEP)
    assert sorted(left(rows)) == ["done", "failed", "failed-1", "given-by-failed", "given-by-open", "open", "open-1"]

    rows.execute("DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'failed'")
    await sweep(database, KEEP)
    assert sorted(left(rows)) == ["done", "given-by-open", "open", "open-1"]


async def test_what_a_workflow_at_rest_waits_for_is_spared_until_it_has_it(
    database: str, rows: psycopg.Connection[Any]
) -> None:
    """P30, P31: nobody was there to wake it, and a result that is gone would never wake it. The dead wait for nothing."""
    partition(rows, next=10)
    for offset, waiter in enumerate(["open", "cancelled", "of-the-one-without-a-source"]):
        workflow(rows, waiter, source=None, status="CANCELLED" if waiter == "cancelled" else "PENDING", days=0)
        target = f"orders-0-{offset}" if offset < 2 else "alone"
        workflow(rows, target, source=SOURCE if offset < 2 else None)
        rows.execute(
            "INSERT INTO dbos.waiting (workflow_uuid, kind, target, polled) VALUES (%s, 'result', %s, true)",
            (waiter, target),
        )
    workflow(rows, "receiver", source=None, status="CANCELLED")
    rows.execute("INSERT INTO dbos.waiting (workflow_uuid, kind, target) VALUES ('receiver', 'message', 'receiver')")

    await sweep(database, KEEP)
    spared = sorted(left(rows))
    rows.execute("DELETE FROM dbos.waiting")
    await sweep(database, KEEP)

    assert spared == ["alone", "cancelled", "of-the-one-without-a-source", "open", "orders-0-0"]
    assert sorted(left(rows)) == ["cancelled", "of-the-one-without-a-source", "open"]


async def test_what_stayed_is_looked_at_again(database: str, rows: psycopg.Connection[Any]) -> None:
    """I10: a walk goes forward, and comes back for what was spared, open, or ended late, when it is time."""
    partition(rows, next=10)
    workflow(rows, "orders-0-0", status="PENDING")
    for offset in range(1, 4):
        workflow(rows, f"orders-0-{offset}")
    walk = Sweep("dbos")
    await sweep(database, KEEP, sweep=walk)
    rows.execute("UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = 'orders-0-0'")

    await sweep(database, KEEP, sweep=walk)
    assert left(rows) == ids(0)

    rows.execute(SIX_HOURS_LATER)
    await sweep(database, KEEP, sweep=walk)
    assert left(rows) == []


async def test_what_was_put_back_to_work_goes_when_it_has_succeeded(
    database: str, rows: psycopg.Connection[Any]
) -> None:
    """I10: the walk over what succeeds has passed it while it was a failure that is kept longer."""
    partition(rows, next=10)
    workflow(rows, "orders-0-0", status="ERROR")
    walk, keep = Sweep("dbos"), {"fulfil": Keep(success=DAY)}
    await sweep(database, keep, sweep=walk)
    rows.execute("UPDATE dbos.workflow_status SET status = 'SUCCESS', updated_at = dbos.now_ms() - 2 * 86400000")

    rows.execute(SIX_HOURS_LATER)
    await sweep(database, keep, sweep=walk)

    assert left(rows) == []


async def test_a_policy_that_changed_counts_from_the_next_sweep(database: str, rows: psycopg.Connection[Any]) -> None:
    partition(rows, next=10)
    workflow(rows, "orders-0-0", days=3)
    walk = Sweep("dbos")
    assert not await sweep(database, KEEP, sweep=walk)

    assert await sweep(database, {"fulfil": Keep(success=2 * DAY)}, sweep=walk)


async def test_more_rows_of_one_millisecond_than_a_batch_all_go(database: str, rows: psycopg.Connection[Any]) -> None:
    """I10: rows of one flush have one creation time; a window of that time is done in several batches."""
    partition(rows, next=1000)
    rows.execute(
        """
        INSERT INTO dbos.workflow_status (workflow_uuid, status, name, created_at, updated_at, kafka_source, kafka_offset)
        SELECT 'orders-0-' || n, CASE WHEN n %% 10 = 0 THEN 'PENDING' ELSE 'SUCCESS' END, 'fulfil', 5, 5, %s, n
          FROM generate_series(0, 499) AS n
        """,
        (SOURCE,),
    )

    gone = await sweep(database, KEEP, rows=100)

    assert gone == {("fulfil", "SUCCESS"): 450}
    assert len(left(rows)) == 50
