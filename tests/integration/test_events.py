"""Events of workflows: in the commit of their checkpoint, the last value of a key stands, whatever crashes (P17, P31)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from engine.transactional import NotInWorkflowError
from processor import (
    App,
    Retry,
    TerminalError,
    Topic,
    WorkflowNotFoundError,
    get_event,
    recv,
    send,
    set_event,
    sleep,
    sync,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import STARTS
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, PATIENCE_S
from tests.integration.talking import at_rest, deaf, history, started
from tests.integration.test_rest import until_status

DAY = timedelta(days=1)


class State(BaseModel):
    name: str
    percent: int = 0


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)


class Works:
    """Workflows that say how far they are, and others that wait until they are so far."""

    def __init__(self) -> None:
        self.app = app = App("works")

        async def work() -> str:
            await set_event("state", State(name="begun"))
            go = await recv("go", model=str)
            await set_event("state", State(name=go, percent=50))
            await set_event("state", State(name="done", percent=100))
            return go

        @app.workflow(version="1")
        async def maker() -> str:
            return await work()

        @app.workflow(on=orders, version="1")
        async def by_order(order: Order) -> str:
            del order
            return await work()

        @app.workflow(version="1")
        async def watcher(workflow_id: str, key: str) -> str:
            state = await get_event(workflow_id, key, model=State)
            return "nothing" if state is None else state.name

        @app.workflow(version="1")
        async def late_maker(key: str) -> None:
            await recv("go")
            await set_event(key, State(name="late"))

        self.maker, self.watcher, self.late_maker = maker, watcher, late_maker


@pytest.fixture
def works() -> Works:
    return Works()


async def stored(bench: Bench) -> list[tuple[Any, ...]]:
    return await bench.fetch_all("SELECT key, value FROM dbos.workflow_events ORDER BY 1")


@pytest.mark.parametrize("kind", ["call", "record"])
async def test_the_last_value_of_a_key_stands_and_all_are_kept(database: str, works: Works, kind: str) -> None:
    """The tables are the seed's: the value, and one row of history for each place in the workflow."""
    async with Bench(works.app, database) as bench:
        workflow_id = "w" if kind == "call" else "orders-0-0"
        if kind == "call":
            await works.maker.start(id="w")
        else:
            await bench.deliver(orders, Order(order_id="o"))
        begun = await works.app.get_event(workflow_id, "state", model=State)
        await works.app.send(workflow_id, "halfway", "go")
        await until_status(bench, "SUCCESS")

        assert begun == State(name="begun")
        assert await works.app.get_event(workflow_id, "state") == {"name": "done", "percent": 100}
        assert await stored(bench) == [("state", '{"name":"done","percent":100}')]
        kept = await bench.fetch_all(
            "SELECT function_id, key, value::json ->> 'name' FROM dbos.workflow_events_history ORDER BY 1"
        )
        assert kept == [(1, "state", "begun"), (3, "state", "halfway"), (4, "state", "done")]
        assert [row[:2] for row in await history(bench, workflow_id)] == [
            (1, "DBOS.setEvent"),
            (2, "DBOS.recv"),
            (3, "DBOS.setEvent"),
            (4, "DBOS.setEvent"),
        ]


@pytest.mark.parametrize("rests", [False, True], ids=["in memory", "at rest"])
async def test_a_workflow_waits_for_anothers_event(database: str, works: Works, *, rests: bool) -> None:
    """Remembered: what it got is what every replay gets, whatever is set later. At rest it costs its row."""
    async with Bench(works.app, database) as bench:
        await works.late_maker.start("state", id="m")
        handle = await works.watcher.start("m", "state", id="w")
        if rests:
            await at_rest(bench, 2)
            assert not bench.engine.in_flight
            assert await bench.fetch_all("SELECT kind, target, name FROM dbos.waiting WHERE workflow_uuid = 'w'") == [
                ("event", "m", "state"),
                ("result", "m", ""),
            ]
        await works.app.send("m", None, "go")

        assert await handle.result() == "late"
        assert await history(bench, "w") == [(1, "DBOS.getEvent", '{"name":"late","percent":0}')]


@pytest.mark.parametrize("hears", [True, False], ids=["with NOTIFY", "without"])
@pytest.mark.parametrize("rests", [False, True], ids=["in memory", "at rest"])
async def test_an_event_arrives_in_another_process(database: str, *, hears: bool, rests: bool) -> None:
    """To whoever waits there, in a workflow and outside: by a hint, or by a poll."""
    here, there = Works(), Works()
    async with (
        Bench(here.app, database, executor="one", settings=FAST) as one,
        Bench(there.app, database, executor="two", settings=FAST) as two,
    ):
        if not hears:
            deaf(one)
            deaf(two)
        await here.late_maker.start("state", id="m")
        handle = await there.watcher.start("m", "state")
        outside = asyncio.ensure_future(there.app.get_event("m", "state", model=State))
        if rests:
            await at_rest(one, 2)
        await here.app.send("m", None, "go")
        async with asyncio.timeout(PATIENCE_S):
            assert await handle.result() == "late"
            assert await outside == State(name="late")


async def test_a_wait_ends_with_its_time_or_with_the_workflow(database: str, works: Works) -> None:
    """A workflow that has ended sets nothing any more: nobody waits for ever."""
    async with Bench(works.app, database) as bench:
        await works.late_maker.start("other", id="m")
        waiting = await works.watcher.start("m", "state")
        outside = asyncio.ensure_future(works.app.get_event("m", "state"))
        assert await works.app.get_event("m", "state", timeout=timedelta(0)) is None
        assert await works.app.get_event("m", "state", timeout=timedelta(milliseconds=20)) is None
        await at_rest(bench, 2)
        await works.app.send("m", None, "go")

        assert await waiting.result() == "nothing"
        assert await outside is None
        assert await works.app.get_event("m", "state") is None


async def test_a_time_out_in_a_workflow_is_the_same_in_every_replay(database: str) -> None:
    app = App("works")

    @app.workflow()
    async def silent() -> None:
        await recv()

    @app.workflow()
    async def watcher(workflow_id: str) -> list[Any]:
        first = await get_event(workflow_id, "state", timeout=DAY)
        await sleep(DAY)
        return [first]

    async with Bench(app, database) as bench:
        await silent.start(id="m")
        handle = await watcher.start("m", id="w")
        await at_rest(bench, 2)
        await bench.advance(DAY)
        async with asyncio.timeout(PATIENCE_S):
            while len(await history(bench, "w")) < 3:
                await asyncio.sleep(0.02)
        await bench.advance(DAY)

        assert await handle.result() == [None]
        names = [row[:2] for row in await history(bench, "w")]
        assert names == [(1, "DBOS.getEvent"), (2, "DBOS.sleep"), (3, "DBOS.sleep")]


async def test_an_event_of_nobody_is_an_error_that_names_it(database: str, works: Works) -> None:
    async with Bench(works.app, database):
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await works.app.get_event("nobody", "state")
        handle = await works.watcher.start("nobody", "state")
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await handle.result()


@pytest.mark.crash_points(*STARTS)
async def test_a_crash_anywhere_sets_every_event_once_and_wakes_every_watcher(
    database: str, works: Works, crash_point: CrashPoint | None
) -> None:
    """I4, P31: the history has one row for each recorded call; the last value is the last call's."""
    async with Bench(works.app, database) as bench:
        for n in range(3):
            await works.maker.start(id=f"m-{n}")
        await bench.deliver(orders, Order(order_id="o"))
        makers = ["m-0", "m-1", "m-2", "orders-0-0"]
        bench.crash(at=crash_point)
        for n, maker in enumerate(makers):
            await started(bench, lambda n=n, of=maker: works.watcher.start(of, "state", id=f"w-{n}"))
            await started(bench, lambda of=maker: works.app.send(of, "go on", "go", idempotency_key="k"))
        await bench.settle()
        await until_status(bench, "SUCCESS", 8)

        assert await stored(bench) == [("state", '{"name":"done","percent":100}')] * 4
        kept = await bench.fetch_all("SELECT count(*), count(DISTINCT workflow_uuid) FROM dbos.workflow_events_history")
        assert kept == [(12, 4)]


async def test_a_step_sets_events_in_commits_of_its_own(database: str) -> None:
    """Seen while the step still runs, under the step's place in the history; once for each key, however often it runs."""
    app = App("works")
    gate = asyncio.Event()

    @app.step(retry=Retry(attempts=2, first_delay=timedelta(0)))
    async def build() -> str:
        await set_event("state", "building")
        await set_event("state", "built")
        await gate.wait()
        if not gate.is_set() or build_failed.pop():
            raise ConnectionError
        return "built"

    build_failed = [False, True]

    @app.workflow()
    async def maker() -> str:
        return await build()

    async with Bench(app, database) as bench:
        handle = await maker.start(id="m")
        async with asyncio.timeout(PATIENCE_S):
            while await handle.get_event("state", model=str) != "built":
                await asyncio.sleep(0.01)
        assert await history(bench, "m") == []
        gate.set()

        assert await handle.result() == "built"
        kept = await bench.fetch_all("SELECT function_id, key, value FROM dbos.workflow_events_history")
        assert kept == [(1, "state", '"built"')]


async def test_a_step_of_a_workflow_that_is_no_longer_ours_sets_nothing(database: str) -> None:
    """I6: it is unwound, and its successor's run sets its own."""
    app = App("works")
    gate = asyncio.Event()
    began: list[int] = []

    @app.step()
    async def build() -> str:
        began.append(1)
        if len(began) == 1:
            await gate.wait()
            await set_event("state", "of the first")
        return f"run {len(began)}"

    @app.workflow()
    async def maker() -> str:
        return await build()

    async with Bench(app, database) as bench:
        handle = await maker.start(id="m")
        async with asyncio.timeout(PATIENCE_S):
            while not began:
                await asyncio.sleep(0.01)
        await bench.execute("UPDATE dbos.workflow_status SET owner_xid = 'another'")
        gate.set()
        async with asyncio.timeout(PATIENCE_S):
            while bench.engine.commons.runs:
                await asyncio.sleep(0.01)
        assert await stored(bench) == []
        await bench.execute("UPDATE dbos.workflow_status SET owner_xid = NULL")
        bench.engine.scan.hint()

        assert await handle.result() == "run 2"


@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_keeps_event_and_checkpoint_together(database: str, works: Works, side: str) -> None:
    """P24, P31."""
    async with losing_proxy(database) as (proxy, dsn), Bench(works.app, dsn) as bench:
        proxy.marker = b"workflow_events_history"
        for n in range(9):
            proxy.lose_commits += side == "reply" and n % 3 == 0
            proxy.lose_requests += side == "request" and n % 3 == 0
            await works.maker.start(id=f"m-{n}")
            await works.app.send(f"m-{n}", "go on", "go")
            await bench.settle()

        assert proxy.lost == 3
        assert await stored(bench) == [("state", '{"name":"done","percent":100}')] * 9
        kept = await bench.fetch_all("SELECT count(*) FROM dbos.workflow_events_history")
        assert kept == [(27,)]


async def test_sync_workflows_and_steps_set_and_get_events(database: str) -> None:
    app = App("works")

    @app.step()
    def build() -> None:
        sync.set_event("step", 1)

    @app.workflow()
    def maker() -> None:
        sync.set_event("state", "begun")
        build()

    @app.workflow()
    def watcher(workflow_id: str) -> list[Any]:
        return [sync.get_event(workflow_id, "state", model=str), sync.get_event(workflow_id, "step")]

    async with Bench(app, database):
        handle = await maker.start()

        assert await (await watcher.start(handle.id)).result() == ["begun", 1]


async def test_events_are_set_by_workflows_alone(database: str) -> None:
    app = App("works")
    async with Bench(app, database):
        with pytest.raises(NotInWorkflowError, match="set_event"):
            await set_event("state", 1)
        with pytest.raises(ValueError, match="key ''"):
            await app.get_event("w", "")


async def test_a_failed_attempt_keeps_its_events(database: str) -> None:
    """P28: recorded calls stand; the next attempt's go on behind them."""
    app = App("works")
    tries: list[int] = []

    @app.step()
    async def fails_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError

    @app.workflow(retry=Retry(attempts=2, first_delay=timedelta(0), on=(ConnectionError,)))
    async def maker() -> None:
        await set_event("state", "begun")
        await fails_once()
        await set_event("state", "done")

    async with Bench(app, database) as bench:
        await (await maker.start()).result()

        kept = await bench.fetch_all("SELECT function_id, value FROM dbos.workflow_events_history ORDER BY 1")
        assert kept == [(1, '"begun"'), (3, '"done"')]


async def test_a_watcher_hears_of_a_failure(database: str) -> None:
    """Whatever way the workflow ends, the wait for its event does."""
    app = App("works")

    @app.workflow()
    async def fails() -> None:
        await recv()
        raise TerminalError("broken")

    @app.workflow()
    async def watcher(workflow_id: str) -> Any:
        return await get_event(workflow_id, "state")

    @app.workflow()
    async def starter(workflow_id: str) -> None:
        await send(workflow_id, None)

    async with Bench(app, database) as bench:
        await fails.start(id="a")
        cancelled = await fails.start(id="b")
        watchers = [await watcher.start("a"), await watcher.start("b")]
        await at_rest(bench, 4)
        await starter("a")
        await cancelled.cancel()

        assert [await handle.result() for handle in watchers] == [None, None]
