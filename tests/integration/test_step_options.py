"""What a workflow and its steps are registered with, and calls of steps beside each other."""

import asyncio
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest

from processor import App, Retry, StepFailedError, Transaction, WorkflowStatus, sleep
from processor.testing import Bench
from tests.integration.talking import at_rest

DAY = timedelta(days=1)


async def test_a_function_is_registered_as_a_workflow_under_a_name(database: str) -> None:
    """As one of another library, which nobody can decorate; its IDs are UUIDs unless they are given."""
    app = App("library")

    async def add(a: int, b: int) -> int:
        return a + await app.run_step(lambda: b, name="given")

    plus = app.register_workflow(add, name="plus")

    async with Bench(app, database) as bench:
        handle = await plus.start(1, 2)
        assert await handle.result() == 3
        assert UUID(handle.id).version == 4
        assert [(step.name, step.output) for step in await handle.steps()] == [("given", "2")]
        assert await bench.fetch_all("SELECT name FROM dbos.workflow_status") == [("plus",)]


async def test_an_error_that_nobody_handles_ends_a_workflow_and_nobody_recovers_it(database: str) -> None:
    app = App("failing")
    calls: Counter[str] = Counter()

    @app.workflow()
    async def fail() -> None:
        calls["fail"] += 1
        raise ConnectionError("away")

    async with Bench(app, database) as bench:
        handle = await fail.start(id="w")
        with pytest.raises(ConnectionError):
            await handle.result()
        await bench.crash_now()
        await bench.settle()

        assert (await fail.retrieve("w").status()).status is WorkflowStatus.ERROR
        assert calls == {"fail": 1}


async def test_a_step_is_tried_as_often_as_its_retry_says_and_once_without(database: str) -> None:
    """What it raised is the workflow's to handle; used up, it is the cause of a `StepFailedError`."""
    app = App("tries")
    calls: Counter[str] = Counter()

    def fail(name: str, error: Exception) -> None:
        calls[name] += 1
        raise error

    retry = Retry(attempts=4, first_delay=timedelta(0), on=(ConnectionError,))

    @app.workflow()
    async def work() -> list[str]:
        caught: list[str] = []
        for name, error, tried in (
            ("plain", ConnectionError("away"), None),
            ("again", ConnectionError("away"), retry),
            ("other", ValueError("wrong"), retry),
        ):
            try:
                await app.run_step(fail, name, error, name=name, retry=tried)
            except (StepFailedError, ConnectionError, ValueError) as failed:
                caught.append(f"{type(failed).__name__} of {type(failed.__cause__).__name__}")
        return caught

    async with Bench(app, database):
        caught = await work()

    assert calls == {"plain": 1, "again": 4, "other": 1}
    assert caught == [
        "ConnectionError of NoneType",
        "StepFailedError of ConnectionError",
        "ValueError of NoneType",
    ]


async def test_a_step_that_takes_too_long_is_cancelled_and_tried_again(database: str) -> None:
    """`timeout=` is of one try; the last one's is the workflow's error."""
    app = App("slow")
    calls: Counter[str] = Counter()

    @app.step(timeout=timedelta(milliseconds=20), retry=Retry(attempts=2, first_delay=timedelta(0)))
    async def hang(name: str) -> str:
        calls[name] += 1
        if name == "once" and calls[name] == 2:
            return "done"
        try:
            await asyncio.Event().wait()
        finally:
            calls[f"{name} ended"] += 1
        return "never"

    @app.workflow()
    async def work(name: str) -> str:
        return await hang(name)

    async with Bench(app, database):
        assert await work("once") == "done"
        with pytest.raises(StepFailedError) as failed:
            await work("always")

    assert isinstance(failed.value.__cause__, TimeoutError)
    assert str(failed.value.__cause__) == "step 'hang' took longer than 0.02 s"
    assert calls == {"once": 2, "once ended": 1, "always": 2, "always ended": 2}


async def test_a_transaction_has_the_isolation_it_asks_for_and_may_only_read(database: str) -> None:
    """P26: what it writes all the same is its error, and no server that takes no writes for a while."""
    app = App("books")
    settings = "SELECT current_setting('transaction_isolation') || ' ' || current_setting('transaction_read_only')"

    async def look(tx: Transaction) -> str:
        row = await (await tx.execute(settings)).fetchone()
        assert row is not None
        return str(row[0])

    plain = app.transaction(name="plain")(look)
    strict = app.transaction(name="strict", isolation="serializable")(look)
    repeatable = app.transaction(name="repeatable", isolation="repeatable read", read_only=True)(look)

    @app.transaction(read_only=True)
    async def write(tx: Transaction) -> None:
        await tx.execute("INSERT INTO booked VALUES (1)")

    @app.workflow()
    async def work() -> list[str]:
        return [await plain(), await strict(), await repeatable()]

    @app.workflow()
    async def cheat() -> None:
        await write()

    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE booked (n int)")
        assert await work() == ["read committed off", "serializable off", "repeatable read on"]
        with pytest.raises(Exception, match="read-only transaction"):
            await cheat()
        assert await bench.fetch_all("SELECT * FROM booked") == []


async def test_gathered_steps_get_their_own_results_and_errors_in_every_replay(database: str) -> None:
    """I4: places are those of the calls, whichever ends first; `return_exceptions=True` is DBOS's `allSettled`."""
    app = App("gathered")
    calls: Counter[int] = Counter()
    turns: dict[int, asyncio.Event] = {n: asyncio.Event() for n in range(4)}
    seen: list[list[str]] = []

    @app.step()
    async def work(n: int) -> str:
        calls[n] += 1
        await turns[n].wait()
        if n + 1 in turns:
            turns[n + 1].set()
        if n % 2:
            raise ValueError(f"no {n}")
        return f"did {n}"

    @app.workflow()
    async def gather() -> list[str]:
        given = [str(each) for each in await asyncio.gather(*map(work, (3, 1, 2, 0)), return_exceptions=True)]
        seen.append(given)
        await sleep(DAY)
        return given

    async with Bench(app, database) as bench:
        turns[0].set()
        handle = await gather.start()
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)

        assert await handle.result() == ["no 3", "no 1", "did 2", "did 0"]
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert calls == dict.fromkeys(range(4), 1)
        assert [step.function_id for step in await handle.steps()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [float("nan"), [{"rate": float("inf")}]])
async def test_an_inline_step_without_an_annotation_refuses_what_json_would_change(
    database: str, value: object
) -> None:
    """A replay would get null for it. The first run says so."""
    app = App("rates")

    @app.workflow()
    async def rate() -> None:
        await app.run_step(lambda: value, name="rate")

    async with Bench(app, database) as bench:
        handle = await rate.start()
        await bench.settle()
        assert (await handle.status()).status == WorkflowStatus.ERROR
        [step] = await handle.steps()
        assert "finite number" in (step.error or "")


async def test_an_inline_step_with_an_annotation_keeps_nan(database: str) -> None:
    app, seen = App("rates"), list[float]()

    def unknown() -> float:
        return float("nan")

    @app.workflow()
    async def rate() -> None:
        seen.append(await app.run_step(unknown))
        await sleep(DAY)

    async with Bench(app, database) as bench:
        await rate.start()
        await at_rest(bench)
        await bench.advance(DAY)
        await bench.settle()
    assert [repr(each) for each in seen] == ["nan", "nan"]
