"""What becomes of ticks that nobody started in time, and of schedules that change or go (decision 0014)."""

import asyncio
from datetime import timedelta

from engine.migrations import migrate
from engine.settings import EngineSettings
from engine.telemetry import ExecutorLost, ScheduleChanged, TickRefused, TicksPassedOver, TicksStarted
from engine.ticks import tick_id
from processor import App, CatchUp, Cron
from processor.testing import Bench
from tests.fixtures.postgres import PostgresServer
from tests.integration.scheduling import (
    FAST,
    HOUR,
    HOURLY,
    PATIENCE_S,
    Books,
    absent,
    closed,
    last_of,
    now_of,
    prepare,
    to_next,
    until,
)

# -- what was missed --


async def test_all_missed_ticks_are_made_up(database: str) -> None:
    books = Books()
    last = await absent(database, books, 30 * HOUR)
    async with Bench(books.app, database) as bench:
        await bench.settle()

        expected = list(HOURLY.between(last, await now_of(bench)))
        assert len(expected) >= 30
        assert await closed(bench) == expected
        assert sum(event.late for event in bench.events if isinstance(event, TicksStarted)) >= 29


async def test_of_missed_ticks_the_latest_is_made_up(database: str) -> None:
    books = Books(Cron("0 * * * *", catch_up=CatchUp.LATEST))
    last = await absent(database, books, 30 * HOUR)
    async with Bench(books.app, database) as bench:
        await bench.settle()

        due = list(HOURLY.between(last, await now_of(bench)))
        assert await closed(bench) == due[-1:]
        passed_over = [event.count for event in bench.events if isinstance(event, TicksPassedOver)]
        assert sum(passed_over) == len(due) - 1


async def test_no_missed_tick_is_made_up_and_the_next_one_runs(database: str) -> None:
    books = Books(Cron("0 * * * *", catch_up=CatchUp.NONE))
    last = await absent(database, books, 30 * HOUR)
    async with Bench(books.app, database) as bench:
        await bench.settle()
        assert await closed(bench) == []
        assert sum(e.count for e in bench.events if isinstance(e, TicksPassedOver)) == len(
            list(HOURLY.between(last, await last_of(bench)))
        )

        tick = await to_next(bench, HOURLY)
        await bench.settle()
        assert await closed(bench) == [tick]


async def test_what_is_made_up_is_bounded(database: str) -> None:
    """I10: while a thousand ticks are due and nobody has room, no more are written; the others follow, in order."""
    books = Books(Cron("* * * * * *"))
    last = await absent(database, books, timedelta(seconds=1_500))
    books.gate.clear()
    narrow = EngineSettings(conninfo="", in_flight_max=20, scan=timedelta(milliseconds=50))
    async with Bench(books.app, database, settings=narrow) as bench:
        async with asyncio.timeout(PATIENCE_S):
            while len(await bench.fetch_all("SELECT FROM dbos.workflow_status")) < 1_000:
                await asyncio.sleep(0.05)
        for _ in range(3):
            await bench.engine.scheduler._look()  # pyright: ignore[reportPrivateUsage]  # each to its end
        assert 1_000 <= len(await bench.fetch_all("SELECT FROM dbos.workflow_status")) <= 1_120
        state = bench.engine.scheduler.states["close"]
        assert state.next_at is not None
        assert state.next_at < await now_of(bench) - 300_000

        books.gate.set()
        async with asyncio.timeout(PATIENCE_S):
            while len(await closed(bench)) < 1_500:
                await asyncio.sleep(0.1)
        at = await closed(bench)
        assert at[:1_400] == list(books.cron.between(last, at[1_399]))


async def test_a_tick_of_long_ago_does_not_run_again_though_its_row_is_gone(database: str) -> None:
    """The ID is unique for as long as the row is kept; the last tick says it for ever."""
    books = Books()
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
        await bench.advance(3 * HOUR)
        await bench.settle()
        before = await closed(bench)
        await bench.execute("DELETE FROM dbos.workflow_status")
        await bench.execute("DELETE FROM closed")
        await bench.restart()
        await bench.settle()

        assert len(before) >= 3
        assert await closed(bench) == []


async def test_a_tick_whose_id_is_anothers_is_told(database: str) -> None:
    books = Books()
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
        at = next(HOURLY.after(await now_of(bench)))
        await bench.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name) VALUES (%s, 'SUCCESS', 'other')",
            (tick_id("close", at),),
        )
        await to_next(bench, HOURLY)
        await bench.settle()

        refused = [event for event in bench.events if isinstance(event, TickRefused)]
        assert [(event.schedule, event.workflow_id) for event in refused] == [("close", tick_id("close", at))]
        assert await last_of(bench) == at
        assert not [event for event in bench.events if isinstance(event, TicksStarted)]


async def test_while_postgres_is_away_nothing_is_lost_and_then_all_is_made_up(private_postgres: PostgresServer) -> None:
    """P25: every second of the outage has its run, in the end; nobody is given up for dead."""
    dsn = private_postgres.dsn()
    await migrate(dsn)
    books = Books(Cron("* * * * * *"))
    async with Bench(books.app, dsn, settings=FAST) as bench:
        await prepare(bench)
        await until(lambda: books.ticks)
        await asyncio.to_thread(private_postgres.stop, "immediate")
        await until(lambda: not bench.engine.lease.is_valid())
        count = len(books.ticks)
        await asyncio.to_thread(private_postgres.start)
        await until(lambda: len(books.ticks) >= count + 3)
        await bench.settle()

        at = await closed(bench)
        assert at == list(books.cron.between(at[0] - 1, at[-1]))


async def test_a_database_that_was_restored_has_ticks_and_last_tick_of_one_moment(
    private_postgres: PostgresServer,
) -> None:
    """What the backup lacks, the schedule has not moved past, and no process remembers: it runs again, noticed (P4) or not."""
    dsn = private_postgres.dsn()
    await migrate(dsn)
    books = Books(Cron("* * * * * *"))
    async with Bench(books.app, dsn, settings=FAST) as bench:
        await prepare(bench)
        await until(lambda: len(books.ticks) >= 2)
        backup = await asyncio.to_thread(private_postgres.base_backup)
        count = len(books.ticks)
        await until(lambda: len(books.ticks) >= count + 2)
        await asyncio.to_thread(private_postgres.restore, backup)
        count = len(books.ticks)
        await until(lambda: len(books.ticks) >= count + 3)
        await bench.settle()

        at = await closed(bench)
        assert at == list(books.cron.between(at[0] - 1, at[-1]))


# -- definitions --


async def test_a_changed_expression_counts_from_now_on(database: str) -> None:
    """Of the former what was missed is made up; of the new one nothing that lies before the change."""
    old = Books(Cron("0 * * * *"))
    last = await absent(database, old, 5 * HOUR)
    new = Books(Cron("*/10 * * * *"))
    async with Bench(new.app, database) as bench:
        await bench.settle()
        changed = [event for event in bench.events if isinstance(event, ScheduleChanged)]
        made_up = await closed(bench)
        since = await last_of(bench)
        assert [(event.before, event.after) for event in changed] == [("0 * * * * UTC all", "*/10 * * * * UTC all")]
        assert made_up == list(old.cron.between(last, since))
        assert len(made_up) >= 5

        await bench.advance(HOUR)
        await bench.settle()
        assert await closed(bench) == sorted({*made_up, *new.cron.between(since, await now_of(bench))})


async def test_another_version_of_the_code_runs_what_is_started_from_now_on(database: str) -> None:
    old = Books(version="1")
    await absent(database, old, timedelta(0))
    new = Books(version="2")
    async with Bench(new.app, database) as bench:
        await to_next(bench, HOURLY)
        await bench.settle()

        versions = await bench.fetch_all("SELECT DISTINCT application_version FROM dbos.workflow_status")
        assert versions == [("2",)]
        assert len(new.ticks) == len(await closed(bench)) >= 1


async def test_side_by_side_the_executor_that_started_last_decides(database: str) -> None:
    """A rolling upgrade runs the ticks of one definition; when only old processes are left, theirs."""
    old, new = Books(Cron("*/20 * * * *"), version="1"), Books(Cron("*/30 * * * *"), version="2")
    async with Bench(old.app, database, executor="old", settings=FAST) as one:
        await prepare(one)
        await one.settle()
        async with Bench(new.app, database, executor="new", settings=FAST) as two:
            await two.settle()
            since = await last_of(one)
            await two.advance(3 * HOUR)
            one.engine.scheduler.hint()
            await two.settle()
            await one.settle()
            assert await closed(one) == list(new.cron.between(since, await now_of(one)))
            assert old.ticks == []
            last = await closed(one)
        await one.execute(
            "CREATE OR REPLACE FUNCTION dbos.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS "
            "$$ SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + 10800000 $$"
        )
        one.engine.scheduler.hint()
        await until(lambda: len([event for event in one.events if isinstance(event, ScheduleChanged)]) > 0)
        back = await last_of(one)
        await one.execute(
            "CREATE OR REPLACE FUNCTION dbos.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS "
            "$$ SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + 14400000 $$"
        )
        one.engine.scheduler.hint()
        await until(lambda: len(old.ticks) >= 3)
        await one.settle()
        assert await closed(one) == [*last, *old.cron.between(back, await now_of(one))]


async def test_a_removed_schedule_starts_nothing_and_goes_on_where_it_was_when_it_is_back(database: str) -> None:
    books = Books()
    last = await absent(database, books, timedelta(0))
    other = Books(name="other")
    async with Bench(other.app, database) as bench:
        await bench.settle()  # it is registered, and what follows is missed
        await bench.advance(3 * HOUR)
        await bench.settle()
        rows = await bench.fetch_all("SELECT DISTINCT name FROM dbos.workflow_status")
        assert rows == [("other",)]
        assert await last_of(bench) == last
        await bench.execute("DELETE FROM closed")
    async with Bench(books.app, database) as bench:
        await bench.settle()
        assert await closed(bench) == list(HOURLY.between(last, await now_of(bench)))


async def test_a_schedule_that_dbos_has_kept_goes_on_behind_its_last_tick(database: str) -> None:
    """A database that was moved to us has `scheduler_state` and nothing else of it."""
    books = Books()
    async with Bench(App("empty"), database) as before:
        await prepare(before)
        last = await now_of(before) - 3 * 3_600_000
        await before.execute("INSERT INTO dbos.scheduler_state VALUES ('close', %s)", (last,))
    async with Bench(books.app, database) as bench:
        await bench.settle()
        assert await closed(bench) == list(HOURLY.between(last, await now_of(bench)))


async def test_an_executor_that_registers_anew_goes_on_scheduling(database: str) -> None:
    """P2: marked dead by another, it has its schedules again under its new ID."""
    books = Books(Cron("* * * * * *"))
    async with Bench(books.app, database, settings=FAST) as bench:
        await prepare(bench)
        await until(lambda: books.ticks)
        await bench.execute("UPDATE dbos.executor SET died_at = dbos.now_ms(), lease_until = 0")
        await until(lambda: any(isinstance(event, ExecutorLost) for event in bench.events))
        count = len(books.ticks)
        await until(lambda: len(books.ticks) >= count + 3)
        await bench.settle()

        at = await closed(bench)
        assert at == list(books.cron.between(at[0] - 1, at[-1]))
