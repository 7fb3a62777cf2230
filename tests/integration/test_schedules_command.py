"""`processor schedules`, and the acts behind it: what operators do to schedules (decision 0014)."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from engine.schedules import (
    BackFill,
    ScheduleError,
    backfill,
    list_schedules,
    pause,
    resume,
    trigger,
)
from engine.ticks import tick_id
from processor import App, CatchUp, Cron, Tick, WorkflowStatus
from processor.testing import Bench

Command = Callable[..., Awaitable[tuple[int, str, str]]]

HOUR = timedelta(hours=1)
HOURLY = Cron("0 * * * *")


class Books:
    def __init__(self, cron: Cron = HOURLY) -> None:
        self.app = App("books")
        self.ticks: list[Tick] = []

        @self.app.workflow(on=cron)
        async def close(tick: Tick) -> None:
            self.ticks.append(tick)

        self.close = close

    @property
    def at(self) -> list[int]:
        return [round(tick.scheduled_at.timestamp() * 1000) for tick in self.ticks]


async def connect(dsn: str) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(dsn, autocommit=True)


async def now_of(bench: Bench) -> int:
    return int((await bench.fetch_all("SELECT dbos.now_ms()"))[0][0])


async def acts(bench: Bench) -> list[tuple[Any, ...]]:
    return await bench.fetch_all("SELECT action, subject, actor, detail ->> 'detail' FROM dbos.audit ORDER BY audit_id")


def time_of(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


async def test_a_paused_schedule_starts_nothing_and_goes_on_from_when_it_is_resumed(database: str) -> None:
    """Whoever pauses does not want a flood: the ticks of the pause are passed over, whatever `catch_up` says."""
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        await pause(operator, "dbos", "close", note="month end", actor="ada")
        await bench.advance(5 * HOUR)
        await bench.settle()
        assert books.ticks == []
        with pytest.raises(ScheduleError, match=r"'close' is paused, since 2.* by ada: month end"):
            await pause(operator, "dbos", "close", note="again")

        await resume(operator, "dbos", "close", note="done", actor="bob")
        resumed = await now_of(bench)
        await bench.settle()
        assert books.ticks == []
        with pytest.raises(ScheduleError, match="'close' is not paused"):
            await resume(operator, "dbos", "close", note="again")

        await bench.advance(2 * HOUR)
        await bench.settle()
        assert books.at == list(HOURLY.between(resumed, await now_of(bench)))
        rows = await acts(bench)
        assert [(action, subject, actor) for action, subject, actor, _ in rows] == [
            ("pause schedule", "close", "ada"),
            ("resume schedule", "close", "bob"),
        ]


async def test_a_pause_holds_through_restarts_and_crashes(database: str) -> None:
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        await pause(operator, "dbos", "close", note="month end")
        await bench.crash_now()
        await bench.advance(2 * HOUR)
        await bench.restart()
        await bench.settle()

        assert books.ticks == []


async def test_a_trigger_is_a_run_of_its_own_also_while_paused(database: str) -> None:
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        before = await bench.fetch_all("SELECT * FROM dbos.scheduler_state")
        await pause(operator, "dbos", "close", note="month end")
        first = await trigger(operator, "dbos", "close", actor="ada")
        second = await trigger(operator, "dbos", "close", note="late books", actor="ada")
        await bench.settle()

        assert first != second
        assert first.startswith("sched-close-trigger-2")
        assert [row[3] for row in await acts(bench)][1:] == [first, f"{second}; late books"]
        for workflow_id in (first, second):
            assert (await books.close.retrieve(workflow_id).status()).status is WorkflowStatus.SUCCESS
        assert len(books.ticks) == 2
        assert all(tick.scheduled_at == tick.started_at for tick in books.ticks)
        assert await bench.fetch_all("SELECT * FROM dbos.scheduler_state") == before


async def test_triggers_of_one_millisecond_are_two(database: str) -> None:
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        at = await now_of(bench)
        await bench.execute(
            f"CREATE OR REPLACE FUNCTION dbos.now_ms() RETURNS bigint LANGUAGE sql AS 'SELECT {at}::bigint'"  # pyright: ignore[reportArgumentType]  # a clock that stands
        )
        triggered = {await trigger(operator, "dbos", "close") for _ in range(3)}

        assert len(triggered) == 3


async def test_a_range_is_made_up_once_however_often_it_is_asked_for(database: str) -> None:
    """Ticks that have run, or that a back-fill before has started, stand; ranges may overlap."""
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        now = await now_of(bench)
        hour = HOURLY.newest(now)
        assert hour is not None
        end = time_of(hour)
        assert await backfill(operator, "dbos", "close", end - 5 * HOUR, end, actor="ada") == BackFill(5, 0)
        await bench.settle()
        assert await backfill(operator, "dbos", "close", end - 8 * HOUR, end - 2 * HOUR) == BackFill(3, 3)
        await bench.settle()

        expected = [hour - n * 3_600_000 for n in range(8, 0, -1)]
        assert sorted(books.at) == expected
        rows = await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY 1")
        assert rows == [(tick_id("close", at),) for at in expected]
        assert [(row[0], row[2]) for row in await acts(bench)] == [
            ("back-fill schedule", "ada"),
            ("back-fill schedule", "operator"),
        ]


async def test_a_back_fill_beside_a_schedule_that_catches_up_doubles_nothing(database: str) -> None:
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        begun = int((await bench.fetch_all("SELECT last_run_time FROM dbos.scheduler_state"))[0][0])
        await bench.advance(30 * HOUR)
        await backfill(operator, "dbos", "close", time_of(begun), time_of(await now_of(bench)))
        await bench.settle()

        assert sorted(books.at) == list(HOURLY.between(begun, await now_of(bench)))


async def test_a_long_range_is_made_up_in_parts_and_refused_beyond_a_bound(database: str) -> None:
    """I10: 1,200 ticks are three commits; a range of more than 10,000 is not begun."""
    books = Books(Cron("* * * * * *", catch_up=CatchUp.NONE))
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        await pause(operator, "dbos", "close", note="only the range")
        end = time_of(await now_of(bench) // 1000 * 1000)
        count = len(books.ticks)
        done = await backfill(operator, "dbos", "close", end - timedelta(seconds=3_600), end - timedelta(seconds=2_400))
        with pytest.raises(ScheduleError, match="more than 10000 ticks: do it in parts"):
            await backfill(operator, "dbos", "close", end - 5 * HOUR, end)
        await bench.settle()

        assert done == BackFill(1_200, 0)
        assert len(books.ticks) == count + 1_200
        assert await bench.fetch_all("SELECT count(*) FROM dbos.audit WHERE action = 'back-fill schedule'") == [(3,)]


async def test_what_cannot_be_done_is_refused_by_name(database: str) -> None:
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        now = datetime.now(UTC)
        with pytest.raises(ScheduleError, match="there is no schedule 'clos'; did you mean 'close'"):
            await trigger(operator, "dbos", "clos")
        with pytest.raises(ScheduleError, match="has not come"):
            await backfill(operator, "dbos", "close", now, now + HOUR)
        with pytest.raises(ScheduleError, match="is no time"):
            await backfill(operator, "dbos", "close", now, now)
        with pytest.raises(ScheduleError, match=r"has no zone: write 2026-01-01T00:00:00Z"):
            await backfill(operator, "dbos", "close", datetime(2026, 1, 1), now)  # noqa: DTZ001  # the mistake
        assert await acts(bench) == []


async def test_a_schedule_is_listed_as_it_stands(database: str) -> None:
    books = Books()
    async with Bench(books.app, database) as bench, await connect(database) as operator:
        await bench.settle()
        (active,) = await list_schedules(operator, "dbos")
        assert (active.name, active.expression, active.timezone, active.catch_up) == (
            "close",
            "0 * * * *",
            "UTC",
            "all",
        )
        assert (active.state, active.executors, active.last_tick_at, active.due_since) == ("active", 1, None, None)
        assert active.next_at == next(HOURLY.after(await now_of(bench)))
        await bench.advance(2 * HOUR)
        await bench.settle()
        (later,) = await list_schedules(operator, "dbos")
        assert later.last_tick_at == later.decided_until == books.at[-1]
        assert later.last_started_at is not None
        assert later.last_started_at >= books.at[-1]
    async with await connect(database) as operator:
        await operator.execute("UPDATE dbos.scheduler_state SET last_run_time = last_run_time - 3600000")
        (absent,) = await list_schedules(operator, "dbos")
        assert (absent.state, absent.executors, absent.due_since) == ("absent", 0, books.at[-1])


async def test_the_command_does_the_same(database: str, command: Command) -> None:
    code, out, err = await command("schedules", "list")
    assert (code, out, err) == (0, "no schedules\n", "")
    books = Books(Cron("0 3 * * *", timezone="Europe/Paris", catch_up=CatchUp.LATEST))
    async with Bench(books.app, database) as bench:
        await bench.settle()
        code, out, _ = await command("schedules", "list")
        assert code == 0
        assert "Europe/Paris" in out
        (line,) = [json.loads(each) for each in (await command("schedules", "list", "--json"))[1].splitlines()]
        assert (line["name"], line["cron"], line["catch_up"], line["state"]) == (
            "close",
            "0 3 * * *",
            "latest",
            "active",
        )
        assert line["next_tick"].endswith(":00:00Z")

        assert (await command("schedules", "pause", "close", "--note", "x", "--actor", "ada"))[:2] == (
            0,
            "close is paused\n",
        )
        code, out, _ = await command("schedules", "resume", "close", "--note", "y", "--actor", "ada")
        assert code == 0
        assert "processor schedules backfill close --from 2" in out
        code, out, _ = await command("schedules", "trigger", "close", "--json")
        assert json.loads(out)["workflow"].startswith("sched-close-trigger-2")
        code, out, _ = await command("schedules", "backfill", "close", "--from", "2026-01-01", "--to", "2026-01-03")
        assert (code, out) == (0, "2 ticks started, 0 had their workflows already\n")
        code, out, _ = await command(
            "schedules", "backfill", "close", "--from", "2026-01-01", "--to", "2026-01-04T00:00+01:00", "--json"
        )
        assert json.loads(out) == {"name": "close", "started": 1, "stood": 2}
        await bench.settle()
        assert len(books.ticks) == 4


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["pause", "nobody", "--note", "x"], "there is no schedule 'nobody'"),
        (["pause", "close", "--note", " "], "--note is empty"),
        (["pause", "close"], "--note"),
        (["backfill", "close"], "--from"),
        (["backfill", "close", "--from", "yesterday"], "'yesterday' is no time"),
        (["backfill", "close", "--from", "2026-01-01T00:00"], "has no zone: write 2026-01-01T00:00Z"),
    ],
)
async def test_a_mistake_of_the_command_line_is_exit_code_2_and_says_what(
    database: str, command: Command, arguments: list[str], problem: str
) -> None:
    with psycopg.connect(database):
        code, out, err = await command("schedules", *arguments)

    assert (code, out) == (2, "")
    assert problem in err
