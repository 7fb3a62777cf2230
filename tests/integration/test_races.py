"""I4: sequences of steps that race each other are refused in the run that makes them; what a replay repeats is not."""

import asyncio
from datetime import timedelta
from typing import cast

import pytest

from processor import App, RacingStepsError, Retry, WorkflowStatus, sleep
from processor.testing import Bench
from tests.integration.protocol import FAST, until_row
from tests.integration.talking import at_rest

DAY = timedelta(days=1)
REFUSED = r"'[\w.]+' was called in a task, in the middle of a sequence of calls.*each in a child workflow"


class Pages:
    """A step that reads pages of sources, and tasks that read all of them."""

    def __init__(self) -> None:
        self.app = App("pages")
        self.read: list[str] = []

        @self.app.step()
        async def fetch(source: str, page: int) -> str:
            self.read.append(f"{source}{page}")
            return f"{source}{page}"

        self.fetch = fetch

    async def all_of(self, source: str, pages: int = 3) -> list[str]:
        return [await self.fetch(source, page) for page in range(pages)]


@pytest.mark.parametrize("retry", [Retry(), Retry(attempts=3, first_delay=timedelta(milliseconds=1))])
async def test_sequences_of_one_step_that_race_each_other_are_refused(database: str, retry: Retry) -> None:
    """The names in the history are the same: a replay would give each the other's pages. No attempt is made again."""
    pages = Pages()

    @pages.app.workflow(retry=retry)
    async def race() -> list[list[str]]:
        return list(await asyncio.gather(pages.all_of("a"), pages.all_of("b")))

    async with Bench(pages.app, database, settings=FAST) as bench:
        handle = await race.start()
        with pytest.raises(Exception, match=f"(?s){REFUSED}"):
            await handle.result()

        rows = await bench.fetch_all("SELECT error::json ->> 'type' FROM dbos.workflow_status")
        assert cast("str", rows[0][0]).endswith(f":{RacingStepsError.__name__}")
    assert pages.read == ["a0"], "what had called, and waited for its turn, does not begin either"


async def test_a_race_fails_its_workflow_also_where_its_error_is_caught(database: str) -> None:
    pages = Pages()

    @pages.app.workflow()
    async def looks_away() -> str:
        await asyncio.gather(pages.all_of("a"), pages.all_of("b"), return_exceptions=True)
        return "done"

    @pages.app.workflow()
    async def goes_on() -> str:
        await asyncio.gather(pages.all_of("a"), pages.all_of("b"), return_exceptions=True)
        return await pages.fetch("c", 0)

    @pages.app.workflow(retry=Retry(attempts=3))
    async def in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(pages.all_of("a"))
            group.create_task(pages.all_of("b"))

    async with Bench(pages.app, database, settings=FAST):
        for workflow in (looks_away, goes_on, in_a_group):
            handle = await workflow.start()
            with pytest.raises(Exception, match=f"(?s){REFUSED}"):
                await handle.result()
            assert (await handle.status()).status is WorkflowStatus.ERROR
    assert "c0" not in pages.read


async def test_a_sequence_beside_a_single_call_is_refused(database: str) -> None:
    """In a replay the sequence would take the place of the single call, whose answer is there."""
    pages = Pages()

    @pages.app.workflow()
    async def race() -> None:
        await asyncio.gather(pages.all_of("a", 2), pages.all_of("b", 1))

    async with Bench(pages.app, database, settings=FAST):
        with pytest.raises(Exception, match=f"(?s){REFUSED}"):
            await (await race.start()).result()


async def test_a_sequence_beside_the_workflows_own_calls_is_refused(database: str) -> None:
    pages = Pages()
    read_two = asyncio.Event()

    async def two_and_more() -> None:
        await pages.all_of("a", 2)
        read_two.set()
        await asyncio.Event().wait()

    @pages.app.workflow()
    async def race() -> None:
        task = asyncio.create_task(two_and_more())
        try:
            await read_two.wait()
            await pages.fetch("b", 0)
        finally:
            task.cancel()

    async with Bench(pages.app, database, settings=FAST):
        with pytest.raises(Exception, match=f"(?s){REFUSED}"):
            await (await race.start()).result()
    assert pages.read == ["a0", "a1"]


async def test_a_race_that_a_crash_interrupts_is_refused_when_it_is_replayed(database: str) -> None:
    """Answers come in turn, as the calls did: the first task is not given what the second had read."""
    pages = Pages()
    both_there = asyncio.Barrier(3)

    async def some_of(source: str) -> list[str]:
        first = await pages.fetch(source, 0)
        if not both_there.broken:
            await both_there.wait()
            await asyncio.Event().wait()
        return [first, await pages.fetch(source, 1)]

    @pages.app.workflow()
    async def race() -> list[list[str]]:
        return list(await asyncio.gather(some_of("a"), some_of("b")))

    async with Bench(pages.app, database, settings=FAST) as bench:
        handle = await race.start()
        await both_there.wait()
        await until_row(bench, "(SELECT count(*) FROM dbos.operation_outputs) = 2")
        await both_there.abort()
        await bench.crash_now()
        with pytest.raises(Exception, match=f"(?s){REFUSED}"):
            await handle.result()
    assert pages.read == ["a0", "b0"]


async def test_naps_that_race_each_other_are_refused_when_they_wake(database: str) -> None:
    pages = Pages()

    async def twice() -> None:
        await sleep(DAY)
        await sleep(DAY)

    @pages.app.workflow()
    async def race() -> None:
        await asyncio.gather(twice(), twice())

    async with Bench(pages.app, database, settings=FAST) as bench:
        handle = await race.start()
        await at_rest(bench)
        await bench.advance(DAY)
        with pytest.raises(Exception, match=f"(?s){REFUSED}"):
            await handle.result()


async def test_what_every_replay_repeats_is_not_refused(database: str) -> None:
    """Single calls in tasks; a task's sequence alone, also in a task of a task; one after the other through a lock."""
    pages = Pages()
    seen: list[list[object]] = []

    async def one(source: str) -> str:
        return await pages.fetch(source, 0)

    async def below() -> list[object]:
        async with asyncio.TaskGroup() as group:
            alone = group.create_task(pages.all_of("e", 2))
        return [await pages.fetch("d", 0), alone.result(), await asyncio.gather(*map(one, "fgh")), await one("i")]

    @pages.app.workflow()
    async def fine() -> list[object]:
        lock = asyncio.Lock()

        async def locked(source: str) -> list[str]:
            async with lock:
                return await pages.all_of(source, 2)

        given: list[object] = [
            await pages.fetch("a", 0),
            await asyncio.gather(*map(one, "bcd")),
            await asyncio.wait_for(pages.all_of("e"), 60),
            await asyncio.gather(one("f"), pages.fetch("g", 0), one("h")),
            await asyncio.wait_for(below(), 60),
            await asyncio.gather(*map(locked, "jk")),
        ]
        async with asyncio.timeout(60):
            given.append(await pages.all_of("l"))
        seen.append(given)
        await sleep(DAY)
        return given

    async with Bench(pages.app, database, settings=FAST) as bench:
        handle = await fine.start()
        await at_rest(bench)
        await bench.advance(DAY)
        assert await handle.result() == seen[0]
    assert seen[0] == seen[1]
    assert len(pages.read) == len(set(pages.read)) + 6  # d to h of both


async def test_a_failure_among_gathered_calls_may_be_made_good_beside_the_others(database: str) -> None:
    """A task that has made its one call is in nobody's way."""
    app = App("saga")
    undone = asyncio.Event()

    @app.step()
    async def book(what: str) -> str:
        if what == "car":
            raise ValueError("no car")
        await undone.wait()
        return what

    @app.step()
    async def undo(what: str) -> None:
        undone.set()

    async def booked(what: str) -> str:
        return await book(what)

    @app.workflow()
    async def trip() -> str:
        try:
            await asyncio.gather(booked("room"), booked("car"))
        except ValueError:
            await undo("room")
        return "at home"

    async with Bench(app, database, settings=FAST):
        assert await (await trip.start()).result() == "at home"
