"""A coroutine begun on behalf of a task that waits."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest

from engine.eager import Begun, begin

place: ContextVar[str] = ContextVar("place", default="nowhere")


async def begun_for(
    coroutine_of: Callable[[list[str]], Coroutine[Any, Any, None]], *, context: Context | None
) -> list[str]:
    """Begin `coroutine_of(log)` for a waiting task; the log of who did what, in order."""
    log: list[str] = []
    told: asyncio.Future[Begun | None] = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        found = await told
        log.append("told")
        if found is not None:
            await found

    task = asyncio.create_task(waits(), context=context, name="the task")
    await asyncio.sleep(0)
    made = coroutine_of(log)
    told.set_result(begin(made, on_behalf_of=task, context=context))
    log.append("begun")
    await task
    return log


def here() -> str:
    task = asyncio.current_task()
    return task.get_name() if task is not None else "no task"


async def test_what_does_not_wait_is_done_when_it_was_begun() -> None:
    async def at_once(log: list[str]) -> None:
        log.append(f"{here()}, {place.get()}")

    context = copy_context()
    context.run(place.set, "inside")

    assert await begun_for(at_once, context=context) == ["the task, inside", "begun", "told"]
    assert here() != "the task"


@pytest.mark.parametrize("waits", [0.0, 0.01], ids=["a turn", "a while"])
async def test_what_waits_goes_on_in_its_task_and_its_context(waits: float) -> None:
    async def twice(log: list[str]) -> None:
        token = place.set("between")
        async with asyncio.timeout(5):
            log.append(here())
            await asyncio.sleep(waits)
            log.append(f"{here()}, {place.get()}")
        place.reset(token)

    log = await begun_for(twice, context=copy_context())

    assert log == ["the task", "begun", "told", "the task, between"]


async def test_without_a_context_its_task_does_all_of_it() -> None:
    async def where(log: list[str]) -> None:
        log.append(here())

    assert await begun_for(where, context=None) == ["begun", "told", "the task"]


async def test_a_future_that_others_wait_for_too() -> None:
    shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def other() -> None:
        await shared

    async def wait(log: list[str]) -> None:
        await shared
        log.append("waited")

    beside = asyncio.create_task(other())
    asyncio.get_running_loop().call_later(0.01, shared.set_result, None)

    assert "waited" in await begun_for(wait, context=copy_context())
    await beside


async def test_what_it_raises_is_raised_where_it_was_begun() -> None:
    async def fails(log: list[str]) -> None:
        raise ValueError(str(log))

    task = asyncio.create_task(asyncio.sleep(0))
    with pytest.raises(ValueError, match="1"):
        begin(fails(["1"]), on_behalf_of=task, context=copy_context())
    await task


async def test_a_cancellation_of_its_task_reaches_it() -> None:
    seen: list[str] = []

    async def hangs(log: list[str]) -> None:
        del log
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append(here())
            raise

    running = asyncio.create_task(begun_for(hangs, context=copy_context()))
    await asyncio.sleep(0.01)
    for task in asyncio.all_tasks():
        if task.get_name() == "the task":
            task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert seen == ["the task"]
