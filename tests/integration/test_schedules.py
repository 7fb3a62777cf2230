"""Schedules on a real Postgres: each tick once, whoever dies, whoever is first, and whatever was missed (decision 0014)."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from engine import clock
from engine.crashpoints import armed
from engine.scheduler import Scheduler
from engine.store.executor import session_name
from engine.telemetry import TicksStarted
from engine.ticks import tick_id
from processor import App, Cron, Tick
from processor.testing import Bench, CrashPoint
from processor.testing.bench import Crashed
from tests.fixtures.proxy import losing_proxy
from tests.integration.scheduling import (
    FAST,
    HOUR,
    HOURLY,
    PATIENCE_S,
    Books,
    closed,
    last_of,
    now_of,
    prepare,
    to_next,
    until,
)


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


async def test_a_clock_moved_at_once_passes_over_no_tick(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule begins with the first look of its process: a bench is there when that is over."""
    look = Scheduler._look  # pyright: ignore[reportPrivateUsage]

    async def slow_at_first(self: Scheduler) -> float:
        if not self.states:
            await asyncio.sleep(0.1)
        return await look(self)

    monkeypatch.setattr(Scheduler, "_look", slow_at_first)
    books = Books()
    async with Bench(books.app, database) as bench:
        at = await to_next(bench, HOURLY)
        await prepare(bench)
        await bench.settle()
        assert await closed(bench) == [at]


async def test_a_bench_is_not_settled_by_a_tick_that_becomes_a_row_while_it_reads(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books()
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
        read = bench.engine.recovery.unsettled

        async def until_the_look_is_over() -> list[str]:
            rows = await read()
            await until(lambda: not bench.engine.scheduler.unsettled())
            return rows

        monkeypatch.setattr(bench.engine.recovery, "unsettled", until_the_look_is_over)
        at = await to_next(bench, HOURLY)
        await bench.settle()
        assert await closed(bench) == [at]


@pytest.mark.crash_points(
    CrashPoint.TICKS_WRITTEN,
    CrashPoint.TICKS_DURABLE,
    CrashPoint.TAKEN,
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
    settings = replace(FAST, lease=timedelta(seconds=20))  # nobody dies here, however slow the machine
    async with (
        Bench(books.app, database, executor="one", settings=settings) as one,
        Bench(books.app, database, executor="two", settings=settings) as two,
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
