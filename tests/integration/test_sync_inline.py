"""Inline steps of sync workflows: `sync.run_step`."""

import threading
from collections import Counter
from datetime import timedelta

import pytest

from processor import App, Retry, SyncTransaction, Transaction, sync
from processor.testing import Bench
from tests.integration.talking import at_rest

DAY = timedelta(days=1)


async def test_a_sync_workflow_remembers_its_inline_steps(database: str) -> None:
    """I4: functions, lambdas, async functions, registered steps and transactions; each once, whatever is replayed."""
    app, calls, threads = App("inline"), Counter[str](), set[bool]()

    def double(n: int) -> int:
        calls["double"] += 1
        threads.add(threading.current_thread() is workflow_thread[-1])
        return 2 * n

    async def triple(n: int) -> int:
        calls["triple"] += 1
        return 3 * n

    @app.step()
    async def half(n: int) -> int:
        calls["half"] += 1
        return n // 2

    @app.transaction()
    async def one(tx: Transaction) -> int:
        row = await (await tx.execute("SELECT 1")).fetchone()
        calls["one"] += 1
        return int(row[0]) if row else 0

    @app.transaction()
    def two(tx: SyncTransaction) -> int:
        row = tx.execute("SELECT 2").fetchone()
        calls["two"] += 1
        return int(row[0]) if row else 0

    workflow_thread: list[threading.Thread] = []

    @app.workflow()
    def work() -> list[int]:
        workflow_thread.append(threading.current_thread())
        done = [
            sync.run_step(double, 4),
            sync.run_step(triple, 4),
            sync.run_step(lambda: triple(5), name="by lambda", timeout=timedelta(seconds=60)),
            sync.run_step(half, 4),
            sync.run_step(one),
            sync.run_step(two, name="named"),
        ]
        sync.sleep(DAY)
        return done

    async with Bench(app, database) as bench:
        handle = await work.start()
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)

        assert await handle.result() == [8, 12, 15, 2, 1, 2]
        names = [step.name for step in await handle.steps()]
    assert names[:6] == ["double", "triple", "by lambda", "half", "one", "named"]
    assert calls == {"double": 1, "triple": 2, "half": 1, "one": 1, "two": 1}
    assert threads == {True}
    assert len(workflow_thread) == 2


async def test_its_tries_are_inside_one_checkpoint(database: str) -> None:
    app, tries = App("tries"), Counter[str]()

    def flaky() -> str:
        tries["flaky"] += 1
        if tries["flaky"] < 3:
            raise ConnectionError("busy")
        return "done"

    @app.workflow()
    def work() -> str:
        return sync.run_step(flaky, retry=Retry(attempts=3, first_delay=timedelta(milliseconds=1)))

    async with Bench(app, database):
        handle = await work.start()
        assert await handle.result() == "done"
        assert len(await handle.steps()) == 1
    assert tries["flaky"] == 3


async def test_each_kind_of_workflow_is_told_which_one_is_its_own(database: str) -> None:
    """The async one returned a coroutine that nothing ran."""
    app = App("mixed")

    def nine() -> int:
        return 9

    @app.workflow()
    def not_awaited() -> None:
        app.run_step(nine)  # pyright: ignore[reportUnusedCoroutine]  # what is shown

    @app.workflow()
    async def would_block() -> int:
        return sync.run_step(nine)

    async with Bench(app, database):
        with pytest.raises(Exception, match=r"app\.run_step\(\.\.\.\) is awaited(?s:.*)Call `sync\.run_step"):
            await (await not_awaited.start()).result()
        with pytest.raises(Exception, match=r"step 'nine' is not async and would block"):
            await (await would_block.start()).result()


def test_elsewhere_it_is_a_plain_call() -> None:
    async def three() -> int:
        return 3

    assert sync.run_step(lambda: 2) == 2
    assert sync.run_step(three) == 3
