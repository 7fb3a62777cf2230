"""Steps and transactions that their workflow's own code cuts off are cut off in every replay (decision 0031). Real Postgres."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from processor import App, Transaction, sleep
from processor.testing import Bench
from tests.integration.talking import at_rest

HOUR = timedelta(hours=1)
SHORT_S = 0.05

Call = Callable[[str], Coroutine[Any, Any, str]]
Cut = Callable[[Call], Coroutine[Any, Any, str]]


async def by_timeout(call: Call) -> str:
    try:
        async with asyncio.timeout(SHORT_S):
            return await call("primary")
    except TimeoutError:
        return "cut"


async def by_wait_for(call: Call) -> str:
    try:
        return await asyncio.wait_for(call("primary"), SHORT_S)
    except TimeoutError:
        return "cut"


async def by_task_group(call: Call) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(call("primary"))
            group.create_task(call("bad"))
    except* ValueError:
        said = "cut"
    else:
        said = "whole"
    return said


async def by_cancel(call: Call) -> str:
    task = asyncio.ensure_future(call("primary"))
    await call("quick")
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return "cut"


async def by_itself(call: Call) -> str:
    try:
        return await call("cancelled")
    except asyncio.CancelledError:
        return "cut"


@pytest.mark.parametrize("cut", [by_timeout, by_wait_for, by_task_group, by_cancel, by_itself])
async def test_a_step_that_was_cut_off_is_cut_off_in_the_replay_and_not_called(database: str, cut: Cut) -> None:
    """I4: though it would be quick by then; the calls behind it keep their places."""
    app = App("cuts")
    calls: Counter[str] = Counter()
    said: list[str] = []
    is_quick: list[bool] = []

    @app.step()
    async def call(what: str) -> str:
        calls[what] += 1
        if what == "bad":
            raise ValueError(what)
        if what == "quick":
            await asyncio.sleep(0)
        if what == "cancelled" and not is_quick:
            raise asyncio.CancelledError
        if what == "primary" and not is_quick:
            await asyncio.Event().wait()
        return what

    @app.workflow()
    async def work() -> str:
        said.append(await cut(call))
        if said[-1] == "cut":
            await call("mirror")
        await sleep(HOUR)
        return said[-1]

    async with Bench(app, database) as bench:
        handle = await work.start()
        await at_rest(bench, 1)
        is_quick.append(True)
        await bench.advance(HOUR)

        assert await handle.result() == "cut"

    assert said == ["cut", "cut"]
    assert set(calls.values()) == {1}


async def test_a_transaction_that_was_cut_off_has_committed_if_and_only_if_its_caller_has_its_result(
    database: str,
) -> None:
    """I5, P17: in a group, cut before, in and behind its turn."""
    app = App("cuts")

    @app.transaction()
    async def book(tx: Transaction, n: int) -> str:
        await tx.execute("INSERT INTO sale VALUES (%s)", (n,))
        return "booked"

    @app.workflow()
    async def work(n: int) -> str:
        try:
            async with asyncio.timeout(n % 12 / 1000):
                return await book(n)
        except TimeoutError:
            return "cut"

    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE sale (n int)")
        handles = [await work.start(n) for n in range(60)]
        booked = {n for n, handle in enumerate(handles) if await handle.result() == "booked"}

        assert {n for (n,) in await bench.fetch_all("SELECT n FROM sale")} == booked


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_a_transaction_whose_function_is_cut_off_is_rolled_back_and_not_called_again(
    database: str, isolation: str
) -> None:
    """I5: in a group, and in a commit of its own."""
    app = App("cuts")
    calls: Counter[str] = Counter()

    @app.transaction(isolation=isolation)  # type: ignore[arg-type]  # one of its literals
    async def book(tx: Transaction) -> str:
        calls["book"] += 1
        await tx.execute("INSERT INTO sale VALUES (1)")
        if calls["book"] == 1:
            await asyncio.Event().wait()
        return "booked"

    @app.workflow()
    async def work() -> str:
        try:
            async with asyncio.timeout(SHORT_S):
                said = await book()
        except TimeoutError:
            said = "cut"
        await sleep(HOUR)
        return said

    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE sale (n int)")
        handle = await work.start()
        await at_rest(bench, 1)
        await bench.advance(HOUR)

        assert await handle.result() == "cut"
        assert await bench.fetch_all("SELECT n FROM sale") == []

    assert calls == {"book": 1}
