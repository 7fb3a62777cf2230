"""Acts on executions, which are workflows: resume, fork, restart, delete, lists (P29, decisions 0016, 0018)."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from engine import acts, forks
from engine.acts import Refusal
from engine.execution_debugger import ExecutionDebugger
from engine.execution_events import ExecutionEventBus
from engine.execution_recovery import ExecutionRecovery
from engine.execution_rows import Execution, ExecutionOptions, ExecutionStatus
from engine.executions import UpdateExecutionStatusParams
from processor import App, TerminalError, WorkflowFilter
from processor.executions import ExecutionStore, ExecutionWorker
from processor.testing import Bench
from tests.integration.flows import Summarising, ended, until_event
from tests.integration.test_execution_options import paused_at

MINUTE = timedelta(minutes=1)


class Drawing:
    """A flow of three nodes that says which execution it is; `fails` names nodes that raise."""

    def __init__(self) -> None:
        self.app = app = App("drawing")
        self.calls: list[str] = []
        self.fails: set[str] = set()

        def draw(node: str, execution: Execution) -> str:
            self.calls.append(f"{node} of {execution.id}")
            if node in self.fails:
                raise TerminalError(f"no {node}")
            return execution.root

        @app.step()
        async def sky(execution: Execution) -> str:
            return draw("sky", execution)

        @app.step()
        async def sea(execution: Execution) -> str:
            return draw("sea", execution)

        @app.step()
        async def boat(execution: Execution) -> str:
            return draw("boat", execution)

        @app.workflow(version="1")
        async def picture(execution: Execution) -> str:
            await sky(execution)
            await sea(execution)
            return await boat(execution)

        self.picture = picture


def execution(id: str = "e-1", **columns: Any) -> Execution:
    return Execution(id=id, flow_id="picture", owner_id="ada", **columns)


@asynccontextmanager
async def drawing(database: str) -> AsyncGenerator[tuple[Drawing, ExecutionWorker, Bench, ExecutionStore]]:
    """An app with a worker's queue, its bench, its store."""
    flows = Drawing()
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        async with Bench(flows.app, database) as bench:
            yield flows, worker, bench, store


async def statuses(store: ExecutionStore, id: str) -> Sequence[str]:
    return [event.data["status"] for event in await ExecutionEventBus(store).history(id) if event.type == "status"]


async def test_a_resumed_execution_goes_on_behind_its_last_node_and_has_not_ended_any_more(database: str) -> None:
    """I4: in its queue, under its limits; what was said of its failure is gone."""
    async with drawing(database) as (flows, worker, bench, store):
        flows.fails.add("sea")
        await worker.get_queue().enqueue(execution())
        failed = await ended(store, "e-1")
        await store.update_failure_info("e-1", 5, "tried by hand")
        flows.fails.clear()

        await flows.picture.retrieve("e-1").resume()

        done = await ended(store, "e-1")
        await bench.settle()
        seen = await statuses(store, "e-1")
        ledger = await bench.fetch_all("SELECT queue_name, completed_at_epoch_ms IS NULL FROM dbos.workflow_queue")
    assert (failed.status, failed.error_node_id, failed.completed_at is None) == ("failed", "sea", False)
    assert (done.status, done.error_message, done.error_node_id, done.failure_count) == ("completed", None, None, 0)
    assert flows.calls == ["sky of e-1", "sea of e-1", "sea of e-1", "boat of e-1"]
    assert seen == ["created", "running", "failed", "created", "running", "completed"]
    assert ledger == [("executions", False)]


async def test_a_resumed_execution_keeps_the_time_of_its_first_start(database: str) -> None:
    """Failed in its queue, and put back twice: its row says when it first ran, its end is the last one."""
    async with drawing(database) as (flows, worker, bench, store):
        flows.fails.add("sea")
        await worker.get_queue().enqueue(execution())
        first = await ended(store, "e-1")
        for _ in range(2):
            await bench.advance(timedelta(hours=1))
            await flows.picture.retrieve("e-1").resume()
            again = await ended(store, "e-1")
            assert again.started_at == first.started_at
        flows.fails.clear()
        await flows.picture.retrieve("e-1").resume()
        done = await ended(store, "e-1")
    assert first.started_at is not None
    assert done.started_at == first.started_at
    assert done.completed_at is not None
    assert done.completed_at - first.started_at > timedelta(hours=2)


async def test_what_a_worker_of_another_program_began_keeps_its_first_start_too(database: str) -> None:
    """Failed, `created` again, claimed and begun once more, also after a claim that was lost; but a time that is given counts."""
    given = datetime(2026, 1, 1, tzinfo=UTC)
    running = UpdateExecutionStatusParams(execution_id="e-1", status=ExecutionStatus.RUNNING)
    async with drawing(database) as (_, _, bench, store):
        await store.create(execution())
        await store.claim_execution("e-1", "w", 60_000)
        await store.update_execution_status(running)
        first = await store.get("e-1")
        await store.update_execution_status(replace(running, status=ExecutionStatus.FAILED))
        await bench.advance(timedelta(hours=1))
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            await acts.resume(connection, "dbos", ["e-1"])
        created = await store.get("e-1")
        await store.claim_execution("e-1", "w", 60_000)
        await store.update_execution_status(running)
        again = await store.get("e-1")
        await store.update_execution_status(replace(running, started_at=given))
        corrected = await store.get("e-1")
    assert first is not None
    assert created is not None
    assert again is not None
    assert corrected is not None
    assert first.started_at is not None
    assert (created.status, created.started_at) == ("created", first.started_at)
    assert (again.status, again.started_at) == ("running", first.started_at)
    assert corrected.started_at == given


async def test_an_execution_that_was_stopped_at_a_breakpoint_is_paused_there_again_when_it_is_resumed(
    database: str,
) -> None:
    async with drawing(database) as (flows, worker, _, store):
        debugger = ExecutionDebugger(store)
        await worker.get_queue().enqueue(execution(options=ExecutionOptions(breakpoints=("sky", "boat"))))
        await until_event(store, "e-1", type="paused", node_id="sky")
        await debugger.resume("e-1")
        await until_event(store, "e-1", type="paused", node_id="boat")
        await debugger.stop("e-1")
        assert await debugger.paused("e-1") is None

        await flows.picture.retrieve("e-1").resume()
        await paused_at(debugger, "boat")

        assert await debugger.resume("e-1")
        assert (await ended(store, "e-1")).status == "completed"
    assert flows.calls == ["sky of e-1", "sea of e-1", "boat of e-1"]


async def test_a_fork_of_an_execution_is_an_execution_of_its_own(database: str) -> None:
    """With the history up to a node, a root whatever the first was; its flow is told its own ID."""
    async with drawing(database) as (flows, worker, bench, store):
        flows.fails.add("boat")
        options = ExecutionOptions(breakpoints=("sky", "boat"))
        await worker.get_queue().enqueue(execution("root"))
        child = execution(
            "child", options=options, parent_execution_id="root", root_execution_id="root", execution_depth=1,
            integration={"size": 3}, external_events=[{"at": 1}],
        )  # fmt: skip
        await worker.get_queue().enqueue(child)
        debugger = ExecutionDebugger(store)
        for node in ("sky", "boat"):
            await until_event(store, "child", type="paused", node_id=node)
            await debugger.resume("child")
        await ended(store, "child")
        flows.fails.clear()
        flows.calls.clear()

        await flows.picture.retrieve("child").fork(from_step=2, id="fork")

        await until_event(store, "fork", type="paused", node_id="boat")
        assert flows.calls == ["sea of fork"]
        await debugger.resume("fork")
        forked = await ended(store, "fork")
        seen = await statuses(store, "fork")
        again = await bench.fetch_all(
            "SELECT forked_from, queue_name FROM dbos.workflow_status WHERE workflow_uuid = 'fork'"
        )
        second = await flows.picture.retrieve("fork").fork(from_step=3, id="second")
        await until_event(store, "second", type="paused", node_id="boat")
        await debugger.resume("second")
        await ended(store, "second")
        result = await second.result()
        roots = [root.execution.id for root in await store.get_root_executions("picture")]
        original = await store.get("child")
    assert again == [("child", "executions")]
    assert (forked.status, forked.owner_id, forked.options) == ("completed", "ada", options)
    assert (forked.integration, forked.external_events) == ({"size": 3}, [{"at": 1}])
    assert (forked.parent_execution_id, forked.root, forked.execution_depth) == (None, "fork", 0)
    assert seen == ["created", "running", "completed"]
    assert flows.calls == ["sea of fork", "boat of fork", "boat of second"]
    assert result == "second"
    assert sorted(roots) == ["fork", "root", "second"]
    assert original is not None
    assert original.status == "failed"


async def test_a_restarted_execution_begins_with_its_first_node(database: str) -> None:
    async with drawing(database) as (flows, worker, _, store):
        await worker.get_queue().enqueue(execution())
        await ended(store, "e-1")

        new = (await flows.picture.retrieve("e-1").restart()).id

        assert (await ended(store, new)).status == "completed"
    assert flows.calls == [f"{node} of {id}" for id in ("e-1", new) for node in ("sky", "sea", "boat")]


async def test_executions_of_workers_outside_are_theirs_or_recoverys_again_when_they_are_put_back_to_work(
    database: str,
) -> None:
    """What no engine has begun has no inputs that one could read: it waits until it is claimed, or enqueued."""
    flows = Drawing()
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app, recover_every=timedelta(milliseconds=1))
        async with Bench(flows.app, database) as bench:
            await store.create(execution())
            await store.claim_execution("e-1", "w", MINUTE)
            for status in (ExecutionStatus.RUNNING, ExecutionStatus.FAILED):
                await store.update_execution_status(UpdateExecutionStatusParams(execution_id="e-1", status=status))
            async with bench.engine.pool.connection() as connection:
                assert (await acts.resume(connection, "dbos", ["e-1"], version="1")).done == ["e-1"]
                assert await forks.fork(connection, "dbos", "e-1", from_step=1, new_id="fork") == "fork"
                assert await forks.restart(connection, "dbos", "e-1", new_id="restarted") == "restarted"
            await bench.settle()

            rows = [await store.get(id) for id in ("e-1", "fork", "restarted")]
            assert [row.status for row in rows if row is not None] == ["created"] * 3
            assert [row.started_at is None for row in rows if row is not None] == [False, True, True]
            assert await store.claim_execution("e-1", "w", MINUTE)
            recovery = ExecutionRecovery(store, worker.call_of, worker_id="rescuer", every=timedelta(milliseconds=1))
            assert await recovery.look() == 2
            for id in ("fork", "restarted"):
                assert (await ended(store, id)).status == "completed"
    assert sorted(flows.calls) == sorted(
        f"{node} of {id}" for id in ("fork", "restarted") for node in ("sky", "sea", "boat")
    )


async def test_a_deleted_execution_leaves_nothing_and_its_id_is_free(database: str) -> None:
    """What has not ended is refused, as of every workflow."""
    flows = Summarising()
    async with ExecutionStore(database) as store, Bench(flows.app, database) as bench:
        waiting = Execution(id="open", flow_id="summarise", owner_id="ada")
        await store.create(waiting)
        await flows.run(store, Execution(id="e-1", flow_id="summarise", owner_id="ada"))
        await ended(store, "e-1")
        await bench.settle()

        async with bench.engine.pool.connection() as connection:
            acted = await acts.delete(connection, "dbos", ["e-1", "open"])

        assert (acted.done, acted.refused) == (["e-1"], {"open": Refusal.OPEN})
        assert await store.get("e-1") is None
        for table in ("execution", "execution_event", "operation_outputs", "workflow_events"):
            left = await bench.fetch_all(f"SELECT workflow_uuid FROM dbos.{table} WHERE workflow_uuid = 'e-1'")  # pyright: ignore[reportArgumentType]  # names of ours
            assert left == [], table
        await flows.run(store, Execution(id="e-1", flow_id="summarise", owner_id="bob"))
        assert (await ended(store, "e-1")).owner_id == "bob"


async def test_executions_are_listed_as_the_workflows_that_they_are(database: str) -> None:
    async with drawing(database) as (flows, worker, _, store):
        await worker.get_queue().enqueue(execution())
        await ended(store, "e-1")
        await store.create(execution("e-2"))

        page = await flows.app.list_workflows(WorkflowFilter(name=["picture"], user="ada"))
    assert {(each.id, str(each.status)) for each in page} == {("e-1", "SUCCESS"), ("e-2", "ENQUEUED")}
