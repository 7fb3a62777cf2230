"""What handlers raise that is no `Exception`: it ends them as any error does (I8). Real Postgres."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from engine.settings import EngineSettings
from processor import App, Topic, Transaction, sync
from processor.testing import Bench

Numbers = dict[str, int]

numbers: Topic[Numbers] = Topic("numbers", Numbers, key=lambda _: "one")


class PanicException(BaseException):
    """As extensions written in Rust raise it."""


def panic(number: Numbers) -> None:
    if number["n"] == 0:
        raise PanicException("index out of bounds")


def sync_step(app: App) -> None:
    @app.workflow(on=numbers)
    def handle(number: Numbers) -> None:
        sync.run_step(panic, number, name="panic")


def step(app: App) -> None:
    @app.step()
    async def work(number: Numbers) -> None:
        panic(number)

    @app.workflow(on=numbers)
    async def handle(number: Numbers) -> None:
        await work(number)


def threaded(app: App) -> None:
    @app.workflow(on=numbers)
    async def handle(number: Numbers) -> None:
        await app.run_step(panic, number, name="panic")


def code(app: App) -> None:
    @app.workflow(on=numbers)
    async def handle(number: Numbers) -> None:
        panic(number)


def transaction(app: App) -> None:
    @app.transaction()
    async def work(tx: Transaction, number: Numbers) -> None:
        panic(number)

    @app.workflow(on=numbers)
    async def handle(number: Numbers) -> None:
        await work(number)


def fused(app: App) -> None:
    @app.transaction(on=numbers)
    async def handle(tx: Transaction, number: Numbers) -> None:
        panic(number)


def batch(app: App) -> None:
    @app.batch(on=numbers, size=10)
    async def handle(tx: Transaction, some: Sequence[Numbers]) -> None:
        for number in some:
            panic(number)


@pytest.mark.parametrize("register", [sync_step, step, threaded, code, transaction, fused, batch])
async def test_a_panic_ends_its_record_with_a_dead_letter_and_its_key_goes_on(
    database: str, register: Callable[[App], None]
) -> None:
    """I1, I8: no record waits for ever for what no `except Exception` catches."""
    app = App("panics")
    register(app)

    async with Bench(app, database) as bench:
        await bench.deliver(numbers, {"n": 0})
        await bench.deliver(numbers, {"n": 1})
        await bench.settle(within=timedelta(seconds=10))

        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status ORDER BY created_at, workflow_uuid") == [
            ("ERROR",),
            ("SUCCESS",),
        ]
        [(error,)] = await bench.fetch_all("SELECT error FROM dbos.workflow_status WHERE status = 'ERROR'")
        assert "PanicException" in error
        assert "index out of bounds" in error


async def test_a_panic_in_a_step_is_its_recorded_error_in_every_replay(database: str) -> None:
    """I4: the step is not called again, and the workflow hears the same twice."""
    app = App("panics")
    heard: list[str] = []
    calls: list[str] = []

    @app.step()
    async def work() -> None:
        calls.append("work")
        raise PanicException("index out of bounds")

    @app.workflow()
    async def handle() -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is to be the same
            heard.append(f"{type(error).__name__}: {error}")
        await after()

    @app.step()
    async def after() -> None: ...

    async with Bench(app, database, settings=EngineSettings(conninfo="")) as bench:
        bench.crash(after=after)
        await handle.start()
        await bench.settle()

    assert calls == ["work"]
    assert heard == [f"RecordedError: {__name__}:PanicException: index out of bounds"] * 2
