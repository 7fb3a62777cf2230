"""Schedules on a real Postgres: each tick once, whoever dies, whoever is first, and whatever was missed (decision 0014)."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from engine import clock
from engine.crashpoints import armed
from engine.settings import EngineSettings
from engine.store.executor import session_name
from engine.telemetry import ExecutorLost, ScheduleChanged, TickRefused, TicksPassedOver, TicksStarted
from engine.ticks import tick_id
from processor import App, CatchUp, Cron, Tick, Transaction
from processor.testing import Bench, CrashPoint
from processor.testing.bench import Crashed
from tests.fixtures.proxy import losing_proxy

FAST = EngineSettings(
    conninfo="", lease=timedelta(seconds=2.4), heartbeat=timedelta(seconds=0.4), scan=timedelta(milliseconds=50)
)

PATIENCE_S = 60
HOUR = timedelta(hours=1)
HOURLY = Cron("0 * * * *")


class Books:
    """A schedule whose every run leaves a row; it fails if there is one for its tick already."""

    def __init__(self, cron: Cron = HOURLY, *, version: str | None = None, name: str = "close") -> None:
        self.app = app = App("books")
        self.cron = cron
        self.ticks: list[Tick] = []
        self.gate = asyncio.Event()
        self.gate.set()

        @app.transaction()
        async def book(tx: Transaction, at: datetime) -> None:
            await tx.execute("INSERT INTO closed (at) VALUES (%s)", (at,))

        @app.workflow(on=cron, name=name, version=version)
        async def close(tick: Tick) -> str:
            self.ticks.append(tick)
            await self.gate.wait()
            await book(tick.scheduled_at)
            return tick.scheduled_at.isoformat()

        self.close = close


async def prepare(bench: Bench) -> None:
    await bench.execute("CREATE TABLE IF NOT EXISTS closed (at timestamptz PRIMARY KEY)")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def last_of(bench: Bench, name: str = "close") -> int:
    rows = await bench.fetch_all("SELECT last_run_time FROM dbos.scheduler_state WHERE workflow_fn_name = %s", (name,))
    return int(rows[0][0])


async def now_of(bench: Bench) -> int:
    return int((await bench.fetch_all("SELECT dbos.now_ms()"))[0][0])


async def closed(bench: Bench) -> list[int]:
    """Times that were booked, in order; epoch ms. The table's key sees to it that none is twice."""
    rows = await bench.fetch_all("SELECT (EXTRACT(EPOCH FROM at) * 1000)::bigint FROM closed ORDER BY at")
    return [int(at) for (at,) in rows]


async def missing(bench: Bench, by: timedelta, name: str = "close") -> None:
    """As if nothing had run for so long."""
    await bench.execute(
        "UPDATE dbos.scheduler_state SET last_run_time = last_run_time - %s WHERE workflow_fn_name = %s",
        (int(by.total_seconds() * 1000), name),
    )


async def to_next(bench: Bench, cron: Cron, *, past: timedelta = timedelta(milliseconds=100)) -> int:
    """Move the clock to just behind the next tick; returns that."""
    now = await now_of(bench)
    tick = next(cron.after(now))
    await bench.advance(timedelta(milliseconds=tick - now) + past)
    return tick


def whoever_looks_dies(*benches: Bench, at: CrashPoint) -> None:
    """The next process that passes a point of the scheduler dies there: `Bench.crash` is for one bench at a time."""

    def act(point: CrashPoint) -> None:
        armed.pop(point, None)
        for bench in benches:
            if bench.engine.scheduler.is_this_task():
                bench.cut()
        raise Crashed(point)

    armed[at] = act


# -- each tick once --


async def test_each_tick_runs_once_with_its_times(database: str) -> None:
    """The workflow's ID is the tick; its argument has the time it is for, and when it was started."""
    books = Books()
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
        begun = await last_of(bench)
        for _ in range(3):
            await to_next(bench, HOURLY)
            await bench.settle()

        expected = list(HOURLY.between(begun, await now_of(bench)))
        assert len(expected) >= 3
        assert await closed(bench) == expected
        rows = await bench.fetch_all(
            "SELECT workflow_uuid, name, status, request::json ->> 'why' FROM dbos.workflow_status ORDER BY created_at"
        )
        assert rows == [(tick_id("close", at), "close", "SUCCESS", "tick") for at in expected]
        for tick, at in zip(books.ticks, expected, strict=True):
            assert tick.scheduled_at == datetime.fromtimestamp(at / 1000, UTC)
            assert timedelta(0) <= tick.started_at - tick.scheduled_at < timedelta(seconds=30)
        started = [event for event in bench.events if isinstance(event, TicksStarted)]
        assert [(event.schedule, event.late) for event in started] == [("close", 0)] * 3
        assert await last_of(bench) == expected[-1]


async def test_every_second_is_on_time_by_itself(database: str) -> None:
    """Nothing but its own timer brings the next tick."""
    books = Books(Cron("* * * * * *"))
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await until(lambda: len(books.ticks) >= 3)
        await bench.settle()

        at = await closed(bench)
        assert at == list(books.cron.between(at[0] - 1, at[-1]))
        delays = [event.delays_s for event in bench.events if isinstance(event, TicksStarted)]
        assert all(0 <= delay < 10 for each in delays for delay in each)


def test_a_sync_handler_and_a_call_are_fine(database: str) -> None:
    async def scenario() -> None:
        app = App("books")
        seen: list[Tick] = []

        @app.workflow(on=HOURLY)
        def close(tick: Tick) -> int:
            seen.append(tick)
            return len(seen)

        async with Bench(app, database) as bench:
            at = await to_next(bench, HOURLY)
            await bench.settle()
            assert await close.retrieve(tick_id("close", at)).result() == 1

            own = Tick(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
            assert await (await close.start(own)).result() == 2
            assert seen[-1] == own

    asyncio.run(scenario())


@pytest.mark.crash_points(
    CrashPoint.TICKS_WRITTEN,
    CrashPoint.TICKS_DURABLE,
    CrashPoint.TAKEN,
    CrashPoint.STEP_CALLED,
    CrashPoint.TRANSACTION_OPEN,
    CrashPoint.TRANSACTION_DURABLE,
    CrashPoint.FLUSH_SENT,
)
async def test_each_tick_runs_once_wherever_the_process_dies(database: str, crash_point: CrashPoint | None) -> None:
    """I2, I4, I5: before the commit of its row nothing of it is there, behind it everybody finds it."""
    books = Books()
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
        begun = await last_of(bench)
        for times in (1, 3):
            bench.crash(at=crash_point, times=times)
            await bench.advance(5 * HOUR)
            await bench.settle()

        expected = list(HOURLY.between(begun, await now_of(bench)))
        assert len(expected) >= 10
        assert await closed(bench) == expected
        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", len(expected))
        ]
        passes = crash_point in (CrashPoint.TICKS_WRITTEN, CrashPoint.TICKS_DURABLE, CrashPoint.TAKEN)
        assert bench.crashes >= (2 if passes else 0)


@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_commit_of_ticks_without_a_reply_costs_and_doubles_nothing(database: str, side: str) -> None:
    """P24: nothing is remembered; the next look reads what stands."""
    books = Books()
    async with losing_proxy(database) as (proxy, dsn), Bench(books.app, dsn) as bench:
        await prepare(bench)
        await bench.settle()
        begun = await last_of(bench)
        proxy.marker = b"scheduler_state"
        for _ in range(3):
            proxy.lose_commits += side == "reply"
            proxy.lose_requests += side == "request"
            await bench.advance(2 * HOUR)
            await bench.settle()

        assert proxy.lost == 3
        assert await closed(bench) == list(HOURLY.between(begun, await now_of(bench)))


# -- several processes --


async def test_of_two_executors_whoever_is_first_starts_a_tick_and_nobody_twice(database: str) -> None:
    books = Books(Cron("*/10 * * * *"))
    async with (
        Bench(books.app, database, executor="one", settings=FAST) as one,
        Bench(books.app, database, executor="two", settings=FAST) as two,
    ):
        await prepare(one)
        await one.settle()
        await two.settle()
        begun = await last_of(one)
        for _ in range(10):
            await one.advance(timedelta(minutes=25))
            two.engine.scheduler.hint()
            await one.settle()
            await two.settle()

        expected = list(books.cron.between(begun, await now_of(one)))
        assert await closed(one) == expected
        started = [e for bench in (one, two) for e in bench.events if isinstance(e, TicksStarted)]
        assert sum(len(event.delays_s) for event in started) == len(expected)


@pytest.mark.parametrize("seed", range(3))
async def test_each_tick_runs_once_through_crashes_of_both_of_two_executors(database: str, seed: int) -> None:
    """Seeded: time passes in leaps, one or the other dies in between or inside the commit of ticks."""
    chance = random.Random(seed)
    books = Books(Cron("*/10 * * * *", timezone="Europe/Paris"))
    async with (
        Bench(books.app, database, executor="one", settings=FAST) as one,
        Bench(books.app, database, executor="two", settings=FAST) as two,
    ):
        await prepare(one)
        await one.settle()
        begun = await last_of(one)
        for _ in range(12):
            if chance.random() < 0.6:
                whoever_looks_dies(one, two, at=chance.choice([CrashPoint.TICKS_WRITTEN, CrashPoint.TICKS_DURABLE]))
            await one.advance(timedelta(minutes=chance.randint(1, 90)))
            two.engine.scheduler.hint()
            if chance.random() < 0.3:
                await chance.choice([one, two]).crash_now()
            await one.settle()
            await two.settle()

        assert await closed(one) == list(books.cron.between(begun, await now_of(one))), f"seed {seed}"


async def test_a_process_that_is_frozen_in_its_look_holds_nobody_up_for_long(database: str) -> None:
    """P2: its lock ends with its sessions, a lease after its last heartbeat."""
    books = Books()
    async with Bench(books.app, database, executor="one", settings=FAST) as one:
        await prepare(one)
        await one.settle()
        name = session_name(one.engine.executor_id)
        async with await psycopg.AsyncConnection.connect(database, application_name=name) as frozen:
            await frozen.execute("SELECT FROM dbos.schedule FOR UPDATE")
            begun = await last_of(one)
            await one.engine.abort()
            async with Bench(books.app, database, executor="two", settings=FAST) as two:
                await two.advance(HOUR)
                async with asyncio.timeout(PATIENCE_S):
                    while await closed(two) != list(HOURLY.between(begun, await now_of(two))):
                        await asyncio.sleep(0.05)

            with pytest.raises(psycopg.OperationalError):
                await frozen.execute("SELECT 1")


# -- clocks --


async def test_postgres_clock_decides_and_not_the_processes(database: str) -> None:
    """A process an hour ahead starts nothing early; one that is behind starts what is due."""
    books = Books()
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
        begun = await last_of(bench)
        clock.move(3_600_000)
        try:
            bench.engine.scheduler.hint()
            await bench.engine.scheduler._look()  # pyright: ignore[reportPrivateUsage]  # now, and to its end
            assert await closed(bench) == list(HOURLY.between(begun, await now_of(bench)))
        finally:
            clock.move(-3_600_000)

        await bench.execute(
            "CREATE OR REPLACE FUNCTION dbos.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS "
            "$$ SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + 7200000 $$"
        )
        bench.engine.scheduler.hint()
        await until(lambda: len(books.ticks) >= 2)
        await bench.settle()
        assert await closed(bench) == list(HOURLY.between(begun, await now_of(bench)))


async def test_a_repeated_hour_runs_once_and_a_skipped_one_not_at_all(database: str) -> None:
    """The instants that the zone has are the ticks that run, whatever the season of the test."""
    books = Books(Cron("30 2 * * *", timezone="Europe/Paris"))
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
        begun = await last_of(bench)
        await bench.advance(timedelta(days=366))
        await bench.settle()

        expected = list(books.cron.between(begun, await now_of(bench)))
        assert await closed(bench) == expected
        gaps = Counter((b - a) // 3_600_000 for a, b in pairwise(expected))
        assert gaps[24] > 350
        assert set(gaps) == {24, 25, 47}


# -- what was missed --


async def absent(database: str, books: Books, by: timedelta) -> int:
    """A first process runs and ends; then nothing for a while. Returns the last tick as it stands then."""
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
    await missing(bench, by)
    return await last_of(bench)


async def test_all_missed_ticks_are_made_up_in_order(database: str) -> None:
    books = Books()
    last = await absent(database, books, 30 * HOUR)
    async with Bench(books.app, database) as bench:
        await bench.settle()

        expected = list(HOURLY.between(last, await now_of(bench)))
        assert len(expected) >= 30
        assert await closed(bench) == expected
        assert [round(tick.scheduled_at.timestamp() * 1000) for tick in books.ticks] == expected
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
