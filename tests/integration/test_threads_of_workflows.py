"""Calls of a workflow from threads that are not its own: recorded in order, or refused, never half (I4, decision 0033)."""

import asyncio
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from engine.own_thread import UnrecordedStepWarning
from processor import App, OtherThreadError, SyncTransaction, Topic, sync
from processor.testing import Bench
from tests.integration.talking import at_rest, history

DAY = timedelta(days=1)


class Shop:
    """Steps of both colours. `calls`: what was called, sorted; `together`: lets so many sync steps end at once."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.calls: list[str] = []
        self.together = threading.Barrier(1)

        @app.step()
        def charge(order: str, cents: int = 1) -> str:
            self.together.wait(30)
            self.calls.append(order)
            if order == "bad":
                raise ConnectionError("declined")
            return f"{order} {cents}"

        @app.step()
        async def ask(order: str) -> str:
            self.calls.append(order)
            return f"asked {order}"

        @app.transaction()
        def book(tx: SyncTransaction, order: str) -> int:
            tx.execute("SELECT 1")
            return len(order)

        self.charge, self.ask, self.book = charge, ask, book


def in_pool(call: Callable[[], Any]) -> Any:
    """Call in a thread of a pool, with the caller's context."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, call).result()


def alone(call: Callable[[], Any]) -> Any:
    """Call in a thread of a pool, without it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(OtherThreadError) as error:
        call()
    return str(error.value).splitlines()[0]


async def test_a_thread_that_has_the_context_of_a_sync_workflow_is_refused(database: str) -> None:
    """Whatever is called there: nothing of it runs, and the history has no place for it."""
    shop, said = Shop(), list[str]()

    @shop.app.workflow()
    def work() -> str:
        calls: list[Callable[[], Any]] = [
            partial(shop.charge, "o-1"),
            partial(shop.book, "o-1"),
            lambda: sync.run_step(shop.ask, "o-1"),
            lambda: sync.run_step(shop.charge, "o-1", name="one"),
            lambda: sync.gather(partial(shop.charge, "o-1")),
            sync.now,
            partial(sync.sleep, timedelta(seconds=1)),
            partial(sync.set_event, "state", 1),
        ]
        for call in calls:
            said.append(refused(partial(in_pool, call)))
        return shop.charge("own")

    async with Bench(shop.app, database) as bench:
        assert await (await work.start(id="w")).result() == "own 1"
        assert [row[:2] for row in await history(bench, "w")] == [(1, "charge")]

    assert shop.calls == ["own"]
    assert said[0] == "workflow w: 'charge' was called in a thread that is not the workflow's own."
    assert len(said) == 8


async def test_a_thread_that_has_the_context_of_an_async_workflow_is_refused(database: str) -> None:
    """`asyncio.to_thread` hands it on; also an async step on a loop of the thread's own."""
    shop, said = Shop(), list[str]()

    @shop.app.workflow()
    async def work() -> str:
        for call in (
            lambda: asyncio.run(shop.ask("o-1")),
            lambda: asyncio.run(shop.app.run_step(shop.charge, "o-1")),
            sync.now,
        ):
            try:
                await asyncio.to_thread(call)
            except OtherThreadError as error:
                said.append(str(error).split("\n")[0])
        with pytest.raises(OtherThreadError):
            await asyncio.to_thread(shop.charge, "o-1")
        return await shop.ask("own")

    async with Bench(shop.app, database) as bench:
        assert await (await work.start(id="w")).result() == "asked own"
        assert [row[:2] for row in await history(bench, "w")] == [(1, "ask")]

    assert shop.calls == ["own"]
    assert len(said) == 3


async def test_a_step_may_use_threads_as_it_likes(database: str) -> None:
    """What it calls there is a part of it: with its context, or by `fn`."""
    shop = Shop()

    @shop.app.step()
    def both() -> list[str]:
        return [in_pool(partial(shop.charge, "a")), alone(partial(shop.charge.fn, "b"))]

    @shop.app.workflow()
    def work() -> list[str]:
        return both()

    with warnings.catch_warnings():
        warnings.simplefilter("error", UnrecordedStepWarning)
        async with Bench(shop.app, database) as bench:
            assert await (await work.start(id="w")).result() == ["a 1", "b 1"]
            assert [row[:2] for row in await history(bench, "w")] == [(1, "both")]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_step_in_a_thread_without_a_context_does_not_go_unsaid(database: str, is_async: bool) -> None:
    """It is a plain call, as it would be anywhere: the warning names the step, and as an error it is a refusal."""
    shop = Shop()

    def call() -> str:
        try:
            return str(alone(partial(shop.charge, "o-1")))
        except UnrecordedStepWarning as warning:
            return str(warning)

    @shop.app.workflow(name="work")
    def work_sync() -> str:
        return call()

    @shop.app.workflow(name="work_async")
    async def work_async() -> str:
        return await asyncio.get_running_loop().run_in_executor(None, call)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UnrecordedStepWarning)
        async with Bench(shop.app, database):
            said = await (await work_async.start() if is_async else await work_sync.start()).result()
        plain = await asyncio.to_thread(shop.charge, "outside")

    assert said.startswith("step 'charge' was called in a thread that no workflow runs in")
    assert shop.calls == ["outside"]  # no workflow ran any more
    assert plain == "outside 1"


async def test_gathered_steps_run_beside_each_other_and_keep_their_places(database: str) -> None:
    """Whichever ends first; a replay gives each its own result, and calls none again."""
    shop, seen = Shop(), list[Any]()
    shop.together = threading.Barrier(3)

    def plain() -> str:
        return "plain"

    @shop.app.workflow()
    def work() -> None:
        seen.append(
            sync.gather(
                partial(shop.charge, "a"),
                partial(shop.ask, "b"),
                partial(shop.charge, "c", cents=3),
                partial(shop.book, "four"),
                plain,
                partial(shop.charge, "bad"),
                return_exceptions=True,
            )
        )
        sync.sleep(DAY)

    async with Bench(shop.app, database) as bench:
        handle = await work.start(id="w")
        await at_rest(bench)
        names = [row[1] for row in await history(bench, "w")]
        await bench.crash_now()
        await bench.advance(DAY)
        await handle.result()

    assert names == ["charge", "ask", "charge", "book", "plain", "charge", "DBOS.sleep"]
    for results in seen:
        assert results[:5] == ["a 1", "asked b", "c 3", 4, "plain"]
        assert isinstance(results[5], ConnectionError)
    assert len(seen) == 2
    assert sorted(shop.calls) == ["a", "b", "bad", "c"]


async def test_a_crash_in_the_middle_of_gathered_steps_mixes_no_results(database: str) -> None:
    """I4: what is recorded is answered at its place; at least once, what is not."""
    shop = Shop()
    orders = Topic("orders", str)

    @shop.app.workflow(on=orders)
    def work(order: str) -> list[str]:
        first = sync.gather(*(partial(shop.charge, f"{order}-{n}") for n in range(3)))
        return first + sync.gather(*(partial(shop.charge, f"{order}-{n}") for n in range(3, 6)))

    async with Bench(shop.app, database) as bench:
        bench.crash(after=shop.charge, times=2)
        await bench.deliver(orders, "o")
        await bench.settle()

        assert await shop.app.retrieve("orders-0-0").result() == [f"o-{n} 1" for n in range(6)]
        assert bench.crashes

    assert set(shop.calls) == {f"o-{n}" for n in range(6)}


async def test_the_first_error_of_gathered_steps_is_raised_when_all_have_ended(database: str) -> None:
    """In the order of the calls; the workflow's own `retry=` still knows that nothing was called after it (P28)."""
    shop = Shop()

    @shop.app.workflow()
    def work() -> list[str]:
        return sync.gather(partial(shop.charge, "bad"), partial(shop.charge, "good"))

    async with Bench(shop.app, database):
        with pytest.raises(ConnectionError, match="declined"):
            await (await work.start()).result()

    assert sorted(shop.calls) == ["bad", "good"]


def test_outside_of_a_workflow_they_are_plain_calls() -> None:
    shop = Shop()

    assert sync.gather(partial(shop.charge, "a"), partial(shop.ask, "b")) == ["a 1", "asked b"]
    assert shop.calls == ["a", "b"]
    with pytest.raises(ConnectionError):
        sync.gather(partial(shop.charge, "bad"))
