"""Options of executions: breakpoints, single-stepping, time-outs, concurrency (decision 0016)."""

import asyncio
from datetime import timedelta

import pytest

from engine.crashpoints import CrashPoint
from engine.execution_debugger import ExecutionDebugger
from engine.execution_events import ExecutionEventBus
from engine.execution_queue import FlowCall, enqueue
from engine.execution_rows import Execution, ExecutionLimits, ExecutionOptions
from processor import App
from processor.testing import Bench
from tests.integration.flows import Summarising, ended, store_of, until_event
from tests.integration.protocol import PATIENCE_S


def execution(id: str = "e-1", flow: str = "summarise", **options: object) -> Execution:
    return Execution(id=id, flow_id=flow, owner_id="ada", options=ExecutionOptions(**options))  # pyright: ignore[reportArgumentType]


async def paused_at(debugger: ExecutionDebugger, node: str, execution_id: str = "e-1") -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (pause := await debugger.paused(execution_id)) is None or pause.node_id != node:
            await asyncio.sleep(0.02)


async def at_rest(bench: Bench) -> None:
    """Wait until its row is nobody's."""
    async with asyncio.timeout(PATIENCE_S):
        while await bench.fetch_all("SELECT owner_xid FROM dbos.workflow_status") != [(None,)]:
            await asyncio.sleep(0.02)


async def test_a_flow_runs_from_its_creation_to_its_end(database: str) -> None:
    """The engine's statuses, in the seed's words; results where every workflow has them."""
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database) as bench:
        await flows.run(store, execution())
        done = await ended(store, "e-1")

        assert (done.status, done.processing_worker_id, done.error_message) == ("completed", None, None)
        assert done.started_at is not None
        assert done.completed_at is not None
        assert await flows.summarise.retrieve("e-1").result() == "WHY"
        statuses = [event.data["status"] for event in await ExecutionEventBus(store).history("e-1")]
        assert statuses == ["created", "running", "completed"]
        assert not await enqueue(store, "e-1", flows.call(execution()))
        await bench.settle()
    assert flows.calls == {"fetch 1": 1, "ask": 1, "keep": 1}


async def test_a_failed_flow_says_why_and_at_which_node(database: str) -> None:
    flows = Summarising()
    asked = Execution(id="e-1", flow_id="summarise", owner_id="ada", integration={"question": "nonsense"})
    async with store_of(database) as store, Bench(flows.app, database):
        await flows.run(store, asked)
        failed = await ended(store, "e-1")

    assert (failed.status, failed.error_message, failed.error_node_id) == ("failed", "no answer", "ask")


async def test_of_a_flow_that_an_engine_runs_its_lease_is_the_claim(database: str) -> None:
    """One mechanism: nobody else claims it, releases it or writes it."""
    flows = Summarising()
    flows.gate.clear()
    async with store_of(database) as store, Bench(flows.app, database) as bench:
        await flows.run(store, execution())
        await until_event(store, "e-1", status="running")

        claim = await store.get_claim_for_execution("e-1")
        assert claim is not None
        assert (claim.worker_id, claim.status) == (bench.engine.executor_id, "active")
        assert [each.execution_id for each in await store.get_active_claims()] == ["e-1"]
        assert not await store.claim_execution("e-1", "w", 60_000)
        await store.release_execution("e-1", bench.engine.executor_id)
        assert not await store.extend_claim("e-1", bench.engine.executor_id, 60_000)
        assert await store.get_executions_needing_recovery() == []
        flows.gate.set()
        assert (await ended(store, "e-1")).status == "completed"


async def test_a_breakpoint_pauses_before_its_node_until_somebody_resumes(database: str) -> None:
    """Asleep it costs a row: its process need not last. What ran before does not run again (I4)."""
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database) as bench:
        debugger = ExecutionDebugger(store)
        await flows.run(store, execution(breakpoints=["ask", "keep"]))
        await paused_at(debugger, "ask")
        await at_rest(bench)
        assert not await store.claim_execution("e-1", "w", 60_000)

        assert await debugger.resume("e-1", actor="ada")
        await paused_at(debugger, "keep")
        assert flows.calls == {"fetch 1": 1, "ask": 1}
        await bench.restart()
        assert await debugger.resume("e-1")
        done = await ended(store, "e-1")

        assert done.status == "completed"
        assert not await debugger.resume("e-1")
        assert await debugger.paused("e-1") is None
        told = [
            (e.type, e.data.get("node_id"), e.data.get("actor")) for e in await ExecutionEventBus(store).history("e-1")
        ]
        assert [each for each in told if each[0] != "status"] == [
            ("paused", "ask", None),
            ("resumed", "ask", "ada"),
            ("paused", "keep", None),
            ("resumed", "keep", "operator"),
        ]
    assert flows.calls == {"fetch 1": 1, "ask": 1, "keep": 1}


async def test_debugging_goes_node_by_node_until_it_is_resumed(database: str) -> None:
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database):
        debugger = ExecutionDebugger(store)
        await flows.run(store, execution(debug=True))
        await paused_at(debugger, "fetch")
        assert await debugger.step("e-1")
        await paused_at(debugger, "ask")
        assert await debugger.resume("e-1")

        assert (await ended(store, "e-1")).status == "completed"


async def test_a_sql_function_is_a_node_too(database: str) -> None:
    """It pauses before its call, and its record is one commit with it (I5)."""
    app = App("shouting")

    @app.procedure("upper")
    async def shout(word: str) -> str: ...

    @app.workflow(version="1")
    async def speak(execution: Execution) -> str:
        return await shout(execution.id)

    waiting = execution(flow="speak", breakpoints=["shout"], execution=ExecutionLimits(node_timeout_ms=60_000))
    async with store_of(database) as store, Bench(app, database):
        debugger = ExecutionDebugger(store)
        await store.create(waiting)
        inputs = app.workflows["speak"].call_arguments().encode((waiting,), {})
        await enqueue(store, "e-1", FlowCall("speak", "1", inputs, None))
        await paused_at(debugger, "shout")

        assert await debugger.resume("e-1")

        assert (await ended(store, "e-1")).status == "completed"
        assert await speak.retrieve("e-1").result() == "E-1"


async def test_a_sync_flow_pauses_in_its_thread(database: str) -> None:
    """At rest it has none; what it did before is not repeated (I4)."""
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database) as bench:
        debugger = ExecutionDebugger(store)
        limits = ExecutionLimits(node_timeout_ms=60_000, max_concurrency=1)
        await flows.run(store, execution(flow="in_a_thread", debug=True, execution=limits))
        for place, node in enumerate(["weigh", "weigh", "note"], 1):
            async with asyncio.timeout(PATIENCE_S):
                while (pause := await debugger.paused("e-1")) is None or pause.place != place:
                    await asyncio.sleep(0.02)
            assert pause.node_id == node
            await at_rest(bench)
            assert await debugger.step("e-1")

        assert (await ended(store, "e-1")).status == "completed"
        assert await flows.in_a_thread.retrieve("e-1").result() == 6
    assert flows.calls == {"weigh 1": 1, "weigh 2": 1, "note": 1}


async def test_nodes_called_together_pause_one_after_the_other(database: str) -> None:
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database):
        debugger = ExecutionDebugger(store)
        await flows.run(store, execution(flow="gather", breakpoints=["fetch"]))
        places: list[int] = []
        while len(places) < 6:
            await paused_at(debugger, "fetch")
            pause = await debugger.paused("e-1")
            if pause is not None and pause.place not in places:
                places.append(pause.place)
                await debugger.resume("e-1")

        assert (await ended(store, "e-1")).status == "completed"
    assert places == [1, 2, 3, 4, 5, 6]
    assert all(count == 1 for count in flows.calls.values())


async def test_a_paused_execution_is_stopped(database: str) -> None:
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database):
        debugger = ExecutionDebugger(store)
        await flows.run(store, execution(breakpoints=["ask"]))
        await paused_at(debugger, "ask")

        assert await debugger.stop("e-1")

        assert (await ended(store, "e-1")).status == "stopped"
        assert await debugger.paused("e-1") is None
        assert not await debugger.resume("e-1")
    assert flows.calls == {"fetch 1": 1}


@pytest.mark.parametrize(
    "point", [CrashPoint.STEP_CALLED, CrashPoint.FLUSH_SENT, CrashPoint.FLUSH_DURABLE, CrashPoint.TAKEN]
)
async def test_a_crash_beside_a_breakpoint_loses_no_pause_and_no_command(database: str, point: CrashPoint) -> None:
    """I4, I10: pause and command are each one commit; the process dies before, between and after."""
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database) as bench:
        debugger = ExecutionDebugger(store)
        bench.crash(at=point)
        await flows.run(store, execution(breakpoints=["ask"]))
        while await debugger.paused("e-1") is None:
            await bench.settle()
        bench.crash(at=point)
        assert await debugger.resume("e-1")
        while (done := await store.get("e-1")) is None or done.status != "completed":
            await bench.settle()

        events = await ExecutionEventBus(store).history("e-1")
        assert [event.type for event in events].count("paused") == 1
        assert [event.index for event in events] == list(range(len(events)))
    assert bench.crashes >= 1
    assert flows.calls["ask"] <= 2


async def test_a_resume_that_comes_before_the_rest_is_not_lost(database: str) -> None:
    """Who brings it sees who rests, or who goes to rest sees it (decision 0007)."""
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database):
        debugger = ExecutionDebugger(store)
        for number in range(10):
            await flows.run(store, execution(f"e-{number}", breakpoints=["ask"]))

        async def resumed(name: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not await debugger.resume(name):
                    await asyncio.sleep(0)

        await asyncio.gather(*(resumed(f"e-{number}") for number in range(10)))
        for number in range(10):
            assert (await ended(store, f"e-{number}")).status == "completed"


async def test_as_many_nodes_are_at_work_as_the_options_say(database: str) -> None:
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database):
        await flows.run(store, execution(flow="gather", execution=ExecutionLimits(max_concurrency=2)))

        assert (await ended(store, "e-1")).status == "completed"
    assert flows.most_at_work == 2
    assert sum(flows.calls.values()) == 6


@pytest.mark.parametrize("node", ["fetch", "keep"])
async def test_a_node_that_takes_too_long_fails_its_flow(database: str, node: str) -> None:
    """A step, and a transaction, which is rolled back."""
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database):
        await flows.run(store, execution(breakpoints=[node], execution=ExecutionLimits(node_timeout_ms=50)))
        debugger = ExecutionDebugger(store)
        await paused_at(debugger, node)
        flows.gate.clear()
        await debugger.resume("e-1")
        failed = await ended(store, "e-1")

    assert (failed.status, failed.error_node_id) == ("failed", node)


async def test_a_flow_past_its_time_is_stopped_wherever_it_is(database: str) -> None:
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database) as bench:
        hour = int(timedelta(hours=1).total_seconds() * 1000)
        await flows.run(store, execution(flow="wait_long", execution=ExecutionLimits(flow_timeout_ms=hour)))
        await until_event(store, "e-1", status="running")
        await at_rest(bench)
        assert (await store.get("e-1")).status == "running"  # pyright: ignore[reportOptionalMemberAccess]

        await bench.advance(timedelta(hours=1))

        assert (await ended(store, "e-1")).status == "stopped"
