"""Retention beside everything else: processes, seeks, crashes, the hot path, operators (P30, I10)."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection, IsolationLevel
from pydantic import BaseModel

from engine.ids import parts_of
from engine.keeping import Keep, RetentionSettings, Span, policy_rows
from engine.partitions import PartitionActError, Place
from engine.progress import Progress
from engine.retention_acts import pause, resume
from engine.seeks import seek
from engine.settings import EngineSettings
from engine.store import retention
from engine.store.statement import send
from engine.sweep import Sweep
from engine.telemetry import RetentionDeleted, ServiceFailed, VacuumFreed, VacuumStarved
from processor import App, Topic
from processor.testing import Bench, CrashPoint
from tests.integration.sweeping import SOURCE, WEEK, connecting

PLACE = Place("shop", "orders-0")
LATER = """
    CREATE OR REPLACE FUNCTION dbos.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
        SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + 691200000
    $$
"""
"""Eight days later."""


class Order(BaseModel):
    order_id: str


class Shop:
    """An app that says which orders ran."""

    def __init__(self, name: str = "shop", topic: str = "orders", handler: str = "fulfil") -> None:
        self.ran: list[str] = []
        self.orders = Topic(topic, Order, key=lambda order: order.order_id)
        self.app = App(name)

        @self.app.workflow(on=self.orders, name=handler)
        async def fulfil(order: Order) -> None:
            self.ran.append(order.order_id)


def settings(**keep: Keep) -> EngineSettings:
    return EngineSettings(
        conninfo="",
        scan=timedelta(milliseconds=100),
        retention=RetentionSettings(keep=keep or {"fulfil": WEEK}, every=timedelta(milliseconds=50)),
    )


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise TimeoutError(f"it never came: {what}") from None


async def offsets(bench: Bench) -> list[int]:
    return [row[0] for row in await bench.fetch_all("SELECT kafka_offset FROM dbos.workflow_status ORDER BY 1")]


async def horizon(bench: Bench) -> int:
    rows = await bench.fetch_all("SELECT horizon FROM dbos.horizon")
    return rows[0][0] if rows else 0


async def deliver(bench: Bench, shop: Shop, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        await bench.deliver(shop.orders, Order(order_id=f"o-{number}"), offset=number)
    await bench.settle()


async def test_the_service_deletes_what_is_old_and_tells_how_many(database: str) -> None:
    """P30: nothing else is asked for."""
    shop = Shop()
    async with Bench(shop.app, database, settings=settings()) as bench:
        await deliver(bench, shop, 5)
        await bench.execute(LATER)
        await until(lambda: empty(bench), "an empty table")
        await deliver(bench, shop, 1, first=5)

        told = [event for event in bench.events if isinstance(event, RetentionDeleted)]
        assert sum(event.deleted["fulfil", "SUCCESS"] for event in told) == 5
        assert await horizon(bench) == 5
        assert await offsets(bench) == [5]


async def empty(bench: Bench) -> bool:
    return not await offsets(bench)


@pytest.mark.parametrize(
    "point, is_done", [(CrashPoint.RETENTION_DELETED, False), (CrashPoint.RETENTION_DURABLE, True)]
)
async def test_a_crash_between_deletes_with_the_horizon_or_not_at_all(
    database: str, point: CrashPoint, is_done: bool
) -> None:
    """P30: rows and horizon are one commit, and whoever comes next finishes."""
    shop = Shop()
    async with Bench(shop.app, database, settings=settings()) as bench:
        await deliver(bench, shop, 5)
        bench.crash(at=point)
        await bench.execute(LATER)
        await until(lambda: crashed(bench), "a crash")
        found = (await offsets(bench), await horizon(bench))
        await bench.settle()
        await until(lambda: empty(bench), "an empty table")

        assert bench.crashes == 1
        assert found == (([], 5) if is_done else ([0, 1, 2, 3, 4], 0))
        assert await horizon(bench) == 5
        assert len(shop.ran) == 5


async def crashed(bench: Bench) -> bool:
    return bench.crashes > 0


async def test_what_is_delivered_again_above_the_horizon_does_not_run_and_a_forced_seek_below_it_does(
    database: str,
) -> None:
    """P30, I2: what retention deleted runs again only for an operator who says so, and that is recorded."""
    shop = Shop()
    async with Bench(shop.app, database, settings=settings()) as bench:
        await deliver(bench, shop, 2)
        await bench.execute(LATER)
        await deliver(bench, shop, 2, first=2)
        await until(lambda: at_least(bench, 2), "a horizon")
        async with connecting(database) as connection:
            with pytest.raises(PartitionActError, match="rows below offset 2 were deleted"):
                await seek(connection, "dbos", PLACE, to=1, note="again", actor="ann")
            above = await seek(connection, "dbos", PLACE, to=2, note="again", actor="ann")
            await until(lambda: claimed(bench, shop, 4), "the claim after the seek")
            await bench.settle()
            ran_once = list(shop.ran)
            forced = await seek(connection, "dbos", PLACE, to=1, note="again", actor="ann", force=True)
            await until(lambda: claimed(bench, shop, 4), "the claim after the forced seek")
            await bench.settle()
        acts = await bench.fetch_all("SELECT actor, action FROM dbos.audit")

        assert (above.horizon, forced.horizon) == (2, 2)
        assert ran_once == ["o-0", "o-1", "o-2", "o-3"]
        assert shop.ran == ["o-0", "o-1", "o-2", "o-3", "o-1"]
        assert acts == [("ann", "seek"), ("ann", "seek")]
        assert await horizon(bench) == 2


async def at_least(bench: Bench, at: int) -> bool:
    return await horizon(bench) >= at


async def claimed(bench: Bench, shop: Shop, next_offset: int) -> bool:
    """Whether the partition is attached anew, and everything in the log is done."""
    ((value,),) = await bench.fetch_all(
        "SELECT (value::json ->> 'next')::bigint FROM dbos.event_dispatch_kv WHERE key = 'orders-0'"
    )
    return value == next_offset and bench.ref(shop.orders) in {source.ref for source in bench.engine.sources.attached()}


# -- a seek and a batch at the same moment


@asynccontextmanager
async def open_batch(database: str) -> AsyncGenerator[int]:
    """A batch that has deleted and not committed; and how many."""
    span = Span(("fulfil",), ("SUCCESS",), 0, 2**53)
    async with connecting(database) as connection, connection.transaction():
        await send(connection, "dbos", retention.read_committed())
        window = await (await send(connection, "dbos", retention.look(span, rows=1_000))).fetchone()
        parts = parts_of(SOURCE)
        assert window is not None
        assert parts is not None
        partitions = dict.fromkeys(window.locked, parts)
        deleting = retention.delete(span, upto=window.upto, partitions=partitions, rows=1_000)
        deleted = await (await send(connection, "dbos", deleting)).fetchall()
        yield sum(row.rows for row in deleted)


async def test_a_seek_waits_for_a_batch_and_sees_what_it_deleted(database: str) -> None:
    """P30: else it would seek to records whose rows are just going, and they would run again unasked."""
    shop = Shop()
    async with Bench(shop.app, database) as bench, connecting(database) as connection:
        await deliver(bench, shop, 3)
        await bench.execute("INSERT INTO dbos.horizon VALUES ('shop|orders-0', 0)")
        async with open_batch(database) as count:
            seeking = asyncio.create_task(seek(connection, "dbos", PLACE, to=1, note="", actor="ann"))
            await until(lambda: waits_for_a_lock(bench), "a seek that waits")
            assert (count, seeking.done()) == (3, False)

        with pytest.raises(PartitionActError, match="rows below offset 3 were deleted"):
            await seeking


async def waits_for_a_lock(bench: Bench) -> bool:
    rows = await bench.fetch_all(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(rows)


@pytest.mark.parametrize("had_horizon", [False, True], ids=["first-ever", "not-the-first"])
async def test_a_batch_leaves_alone_what_a_seek_is_about_to_move(database: str, had_horizon: bool) -> None:
    """P30: also where nothing of the partition was ever deleted, and there is no row to lock yet."""
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await deliver(bench, shop, 3)
        if had_horizon:
            await bench.execute("INSERT INTO dbos.horizon VALUES ('shop|orders-0', 0)")
        await bench.execute(LATER)
        async with connecting(database) as seeking, seeking.transaction():
            await seek(seeking, "dbos", PLACE, to=1, note="", actor="ann")
            async with connecting(database) as connection:
                skipped = await sweep_on(connection)
        kept = await offsets(bench)

    assert (skipped, kept) == (0, [0, 1, 2])


async def sweep_on(connection: AsyncConnection[Any]) -> int:
    """Rows that a sweep on this connection deletes."""
    walk, count = Sweep("dbos"), 0
    clock = await (await send(connection, "dbos", retention.clock())).fetchone()
    assert clock is not None
    walk.begin(policy_rows({"fulfil": WEEK}), clock.now)
    while (batch := await walk.step(connection, rows=100)) is not None:
        count += batch.count
    return count


# -- beside the hot path, and beside another process


async def test_records_are_committed_while_a_batch_is_open_and_locked_rows_are_left_for_later(database: str) -> None:
    """I10, P30: a batch holds no lock that a flush wants, and waits for none that somebody has."""
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await deliver(bench, shop, 3)
        await bench.execute("INSERT INTO dbos.horizon VALUES ('shop|orders-0', 0)")
        async with open_batch(database) as count:
            await deliver(bench, shop, 3, first=3)
            ran = list(shop.ran)
        await bench.execute(LATER)
        async with connecting(database) as holding, holding.transaction():
            await holding.execute("SELECT FROM dbos.workflow_status WHERE kafka_offset = 4 FOR UPDATE")
            async with connecting(database) as connection:
                skipping = await sweep_on(connection)
        left = await offsets(bench)

    assert (count, ran) == (3, [f"o-{number}" for number in range(6)])
    assert (skipping, left) == (2, [4])


async def test_two_that_sweep_at_once_delete_each_row_once(database: str) -> None:
    """P30: two processes that both believe to be the first do no harm."""
    async with connecting(database) as one, connecting(database) as two:
        await one.execute(
            """
            INSERT INTO dbos.workflow_status (workflow_uuid, status, name, created_at, updated_at, kafka_source,
                                              kafka_offset)
            SELECT 'orders-0-' || n, 'SUCCESS', 'fulfil', n / 7, n / 7, 'shop|orders-0', n FROM generate_series(0, 2999) AS n
            """
        )
        progress = Progress(next=2_990, high=3_000).encode()
        await one.execute(
            "INSERT INTO dbos.event_dispatch_kv VALUES ('kafka:shop', 'fulfil', 'orders-0', %s, 1, 0)", (progress,)
        )

        counts = list(await asyncio.gather(sweep_on(one), sweep_on(two)))
        counts.append(await sweep_on(one))  # what either left to the other, which had it locked
        rows = await (await one.execute("SELECT kafka_offset FROM dbos.workflow_status ORDER BY 1")).fetchall()
        horizon = await (await one.execute("SELECT horizon FROM dbos.horizon")).fetchone()

    assert sum(counts) == 2_990
    assert [offset for (offset,) in rows] == list(range(2_990, 3_000))
    assert horizon == (2_990,)


async def test_one_process_of_all_deletes_and_goes_by_what_each_said_of_its_handlers(database: str) -> None:
    """P30: also for an app that it does not have; when it ends another one goes on."""
    shop, other = Shop(), Shop("other", "parcels", "audit")
    for_ever = settings(audit=Keep())
    async with (
        Bench(shop.app, database, executor="one", settings=settings(fulfil=WEEK)) as one,
        Bench(other.app, database, executor="two", settings=for_ever) as two,
    ):
        await deliver(one, shop, 2)
        await deliver(two, other, 2)
        first, second = sorted((one, two), key=lambda bench: bench.engine.executor_id)
        await until(lambda: sweeps_alone(first, second), "one that sweeps, and one that does not")
        await one.execute(LATER)
        await until(lambda: is_left(one, ["parcels-0-0", "parcels-0-1"]), "orders that are gone")
        await until(lambda: told_of(first), "word of the first that it deleted")
        assert not await told_of(second)
        await first.engine.stop()
        await until(lambda: sweeps_alone(second), "a sweep of the second")

        assert await is_left(one, ["parcels-0-0", "parcels-0-1"])


async def is_left(bench: Bench, ids: list[str]) -> bool:
    return await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY 1") == [(i,) for i in ids]


async def told_of(bench: Bench) -> int:
    """How often a process said that it had deleted."""
    return sum(isinstance(event, RetentionDeleted) for event in bench.events)


async def sweeps_alone(first: Bench, *others: Bench) -> bool:
    shown = [bench.engine.snapshot().retention is not None for bench in (first, *others)]
    return shown == [True] + [False] * len(others)


async def test_a_pause_stops_the_service_at_once_and_shows(database: str) -> None:
    """An operator's brake needs no deployment."""
    shop = Shop()
    async with Bench(shop.app, database, settings=settings()) as bench:
        await deliver(bench, shop, 2)
        async with connecting(database) as connection:
            await pause(connection, "dbos", note="incident 7", actor="ann")
            await until(lambda: is_paused(bench, True), "a gauge that says so")
            await bench.execute(LATER)
            before = bench.engine.retention.sweeps
            await until(lambda: swept(bench, before + 2), "a sweep that began since")
            kept = await offsets(bench)
            await resume(connection, "dbos", note="", actor="ann")
        await until(lambda: empty(bench), "an empty table")
        await until(lambda: is_paused(bench, False), "a gauge that says so")

    assert kept == [0, 1]


async def is_paused(bench: Bench, expected: bool) -> bool:
    snapshot = bench.engine.snapshot().retention
    return snapshot is not None and snapshot.is_paused is expected


# -- what may go wrong


async def test_a_database_that_lost_deletions_is_walked_over_from_its_beginning(database: str) -> None:
    """P4, P30: rows and horizon came back together, below where the walk had been."""
    shop = Shop()
    async with Bench(shop.app, database, settings=settings()) as bench:
        await deliver(bench, shop, 3)
        await bench.execute("CREATE TABLE backup AS TABLE dbos.workflow_status")
        await bench.execute(LATER)
        await until(lambda: empty(bench), "an empty table")
        await until(lambda: swept(bench, 1), "a sweep that found nothing left")

        await bench.execute("INSERT INTO dbos.workflow_status TABLE backup")
        await bench.execute("UPDATE dbos.horizon SET horizon = 0")
        before = bench.engine.executor_id
        bench.engine.went_back("as a test")
        await until(lambda: empty(bench), "an empty table again")

        assert bench.engine.executor_id != before
        assert await horizon(bench) == 3


async def swept(bench: Bench, count: int) -> bool:
    return bench.engine.retention.sweeps >= count


async def test_a_failure_of_retention_is_reported_and_ends_nothing_else(database: str) -> None:
    """P27: an error of its own statements is visible, and records go on; mended, it goes on too."""
    shop = Shop()
    async with Bench(shop.app, database, settings=settings()) as bench:
        await deliver(bench, shop, 2)
        await bench.execute("ALTER TABLE dbos.horizon RENAME TO elsewhere")
        await bench.execute(LATER)
        await until(lambda: failed(bench), "a report")
        await deliver(bench, shop, 2, first=2)
        ran = list(shop.ran)
        await bench.execute("ALTER TABLE dbos.elsewhere RENAME TO horizon")
        bench.engine.retention.hint()
        await until(lambda: at_least(bench, 2), "a horizon")

        assert ran == ["o-0", "o-1", "o-2", "o-3"]
        assert not bench.engine.failure.done()


async def failed(bench: Bench) -> bool:
    return any(isinstance(event, ServiceFailed) and event.service == "retention" for event in bench.events)


async def test_an_old_snapshot_that_keeps_deleted_rows_is_reported_and_when_it_is_gone(database: str) -> None:
    """I10: rows that vacuum may not remove are growth that no deletion ends."""
    shop = Shop()
    async with Bench(shop.app, database, settings=settings()) as bench:
        service = bench.engine.retention
        async with await AsyncConnection.connect(database, application_name="report") as reader:
            await reader.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            await reader.execute("SELECT count(*) FROM dbos.workflow_status")
            await deliver(bench, shop, 1)

            await service.look_at_vacuum(1_000.0)
            await service.look_at_vacuum(1_000.0 + 1_700)
            quiet = [event for event in bench.events if isinstance(event, VacuumStarved)]
            await service.look_at_vacuum(1_000.0 + 1_900)
            await service.look_at_vacuum(1_000.0 + 2_000)
        await until(lambda: nobody_reads(bench), "the end of the reader")
        await service.look_at_vacuum(1_000.0 + 2_100)

        told = [event for event in bench.events if isinstance(event, VacuumStarved | VacuumFreed)]
        assert quiet == []
        (starved, freed) = told
        assert isinstance(starved, VacuumStarved)
        assert isinstance(freed, VacuumFreed)
        assert (starved.kind, starved.age_s) == ("transaction", 1_900.0)
        assert "(report)" in starved.holder
        assert starved.transactions > 0


async def nobody_reads(bench: Bench) -> bool:
    return not await bench.fetch_all("SELECT FROM pg_stat_activity WHERE application_name = 'report'")


async def test_executors_that_have_been_dead_for_long_are_forgotten(database: str) -> None:
    """I10, P2: one without a row is dead as well. Those that live, died of late, or are needed to judge, stay (P22)."""
    async with Bench(Shop().app, database) as bench:
        await bench.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, kafka_source, kafka_offset)"
            " VALUES ('suspect', 'PENDING', 'fulfil', 'shop|elsewhere-0', 0)"
        )
        await bench.execute(
            """
            INSERT INTO dbos.executor (executor_id, name, hostname, pid, started_at, renewed_at, lease_until, died_at,
                                       survived_alone)
            VALUES ('z1', 'n', 'h', 1, 1, 1, 1, 1, NULL), ('z2', 'n', 'h', 1, 1, 1, 1, dbos.now_ms(), NULL),
                   ('z3', 'n', 'h', 1, 1, 1, 1, NULL, NULL), ('z4', 'n', 'h', 1, 1, 1, 1, 1, ARRAY['gone', 'suspect']),
                   ('z5', 'n', 'h', 1, 1, 1, 1, 1, ARRAY['gone'])
            """
        )
        await bench.restart()
        await until(lambda: is_forgotten(bench, "z1"), "one executor less")

        assert await is_forgotten(bench, "z5")  # in the same statement
        assert not await is_forgotten(bench, "z2")
        assert not await is_forgotten(bench, "z3")
        assert not await is_forgotten(bench, "z4")


async def is_forgotten(bench: Bench, executor_id: str) -> bool:
    rows = await bench.fetch_all("SELECT FROM dbos.executor WHERE executor_id = %s", (executor_id,))
    return not rows
