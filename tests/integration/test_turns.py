"""Workflows that share a task until one waits: each has its own context, its own current task, its own end."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel

from processor import App, Topic
from processor.testing import Bench

MANY = 50

seen: ContextVar[int] = ContextVar("seen", default=-1)


class Number(BaseModel):
    n: int


Step = Callable[[int], Awaitable[int]]
Handle = Callable[[Number], Coroutine[Any, Any, None]]


def app_of(handler: Callable[[Step], Handle], *, waits: bool) -> tuple[App, Topic[Number]]:
    """An app with one handler, whose step returns at once or after a turn of the loop."""
    app = App("turns")
    numbers = Topic("numbers", Number, key=lambda number: str(number.n))

    @app.step()
    async def step(number: int) -> int:
        if waits:
            await asyncio.sleep(0)
        return number

    app.workflow(on=numbers, name="handle")(handler(step))
    return app, numbers


async def deliver_all(bench: Bench, numbers: Topic[Number], count: int = MANY) -> None:
    for n in range(count):
        await bench.deliver(numbers, Number(n=n))
    await bench.settle()


async def test_a_context_variable_set_by_one_workflow_is_not_seen_by_the_next(database: str) -> None:
    found: list[int] = []

    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            found.append(seen.get())
            seen.set(number.n)
            await step(number.n)
            found.append(seen.get() - number.n)

        return handle

    for waits in (False, True):
        found.clear()
        app, numbers = app_of(handler, waits=waits)
        async with Bench(app, database, group=f"waits-{waits}") as bench:
            await deliver_all(bench, numbers)

        assert sorted(found) == [-1] * MANY + [0] * MANY


async def test_the_current_task_is_the_same_from_the_beginning_to_the_end(database: str) -> None:
    """Time-outs, task groups and libraries that keep state by task rely on it."""
    changed: list[int] = []
    timed_out: list[int] = []

    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            before = asyncio.current_task()
            try:
                async with asyncio.timeout(0.01 if number.n % 5 == 0 else None):
                    await step(number.n)
                    if number.n % 5 == 0:
                        await asyncio.Event().wait()
            except TimeoutError:
                timed_out.append(number.n)
            if asyncio.current_task() is not before:
                changed.append(number.n)

        return handle

    app, numbers = app_of(handler, waits=True)
    async with Bench(app, database) as bench:
        await deliver_all(bench, numbers)

        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", MANY)
        ]
    assert changed == []
    assert sorted(timed_out) == list(range(0, MANY, 5))


async def test_a_workflow_that_cancels_its_own_task_ends_no_other(database: str) -> None:
    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            if number.n == 3:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            else:
                await step(number.n)

        return handle

    app, numbers = app_of(handler, waits=True)
    async with Bench(app, database) as bench:
        await deliver_all(bench, numbers)

        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", MANY)
        ]


async def test_workflows_that_wait_are_all_begun_before_the_first_goes_on(database: str) -> None:
    """One that waits holds up nobody behind it: not even for turns of the loop, once it is known that they wait."""
    order: list[tuple[str, int]] = []

    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            order.append(("begun", number.n))
            await asyncio.sleep(0.05)
            await step(number.n)
            order.append(("ended", number.n))

        return handle

    app, numbers = app_of(handler, waits=False)
    async with Bench(app, database) as bench:
        await bench.deliver(numbers, Number(n=0), partition=1)
        await bench.settle()
        order.clear()
        await deliver_all(bench, numbers)

    first_end = next(place for place, (what, _) in enumerate(order) if what == "ended")
    assert first_end == MANY


async def test_code_that_waits_for_commits_keeps_its_task_and_its_context(database: str) -> None:
    """It is gone on with by whoever hears of the commit, for many at once: on behalf of its own task."""
    tasks: dict[int, set[asyncio.Task[Any] | None]] = {}
    values: dict[int, list[int]] = {}
    together = asyncio.Event()

    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            seen.set(number.n)
            for turn in range(4):
                tasks.setdefault(number.n, set()).add(asyncio.current_task())
                await step(number.n)
                values.setdefault(number.n, []).append(seen.get())
                if turn == 1:  # what is no commit is waited for by the task itself, and then a commit again
                    if len(values) == MANY:
                        together.set()
                    await together.wait()

        return handle

    app, numbers = app_of(handler, waits=False)
    async with Bench(app, database) as bench:
        await deliver_all(bench, numbers)

        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", MANY)
        ]
    assert values == {n: [n] * 4 for n in range(MANY)}
    assert {len(of_one) for of_one in tasks.values()} == {1}
    assert len(set[Any]().union(*tasks.values())) == MANY


async def test_a_cancellation_reaches_code_where_it_waits_for_a_commit(database: str) -> None:
    """Of its own, or a time-out's: as at any other wait. The step that it kept from beginning is recorded as cut off."""
    caught: list[tuple[str, int]] = []

    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            task = asyncio.current_task()
            assert task is not None
            for _ in range(3):  # begun in its task, gone on with on behalf of it, and again
                await step(number.n)
                task.cancel()
                try:
                    await step(number.n)
                except asyncio.CancelledError:
                    task.uncancel()
                    caught.append(("cancelled", number.n))
            try:
                async with asyncio.timeout(0):
                    await step(number.n)
                    await asyncio.Event().wait()
            except TimeoutError:
                caught.append(("timed out", number.n))

        return handle

    app, numbers = app_of(handler, waits=False)
    async with Bench(app, database) as bench:
        await deliver_all(bench, numbers)

        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", MANY)
        ]
        places = "SELECT DISTINCT function_id, error LIKE '%cut off%' FROM dbos.operation_outputs WHERE function_id < 7 ORDER BY 1"
        assert await bench.fetch_all(places) == [(1, None), (2, True), (3, None), (4, True), (5, None), (6, True)]
    assert sorted(caught) == sorted(
        [("cancelled", n) for n in range(MANY)] * 3 + [("timed out", n) for n in range(MANY)]
    )


async def test_steps_of_other_tasks_wait_for_commits_as_well(database: str) -> None:
    """What is gathered is run by tasks of its own, beside the workflow's, which waits for them."""

    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            await step(number.n)
            await asyncio.gather(*(step(n) for n in range(3)))
            await step(number.n)

        return handle

    app, numbers = app_of(handler, waits=False)
    async with Bench(app, database) as bench:
        await deliver_all(bench, numbers)

        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs") == [(5 * MANY,)]
        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", MANY)
        ]


async def test_a_task_whose_workflow_has_ended_takes_the_next(database: str) -> None:
    """I10: as many tasks as workflows wait at once, however many come; not one that somebody has cancelled."""

    def handler(step: Step) -> Handle:
        async def handle(number: Number) -> None:
            await step(number.n)
            await step(number.n)
            task = asyncio.current_task()
            assert task is not None
            if number.n == 3:
                task.cancel()

        return handle

    app, numbers = app_of(handler, waits=False)
    async with Bench(app, database) as bench:
        await deliver_all(bench, numbers)
        first = len(bench.engine.tasks)
        for _ in range(4):
            await deliver_all(bench, numbers)

        assert 0 < first <= MANY
        assert len(bench.engine.tasks) <= MANY
        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", 5 * MANY)
        ]
        assert not any(task.cancelling() for task in bench.engine.tasks)
