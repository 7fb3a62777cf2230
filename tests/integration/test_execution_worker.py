"""Workers of executions: a queue with limits, recovery by one of all, kills, lost leases (P22, P29, decision 0016)."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import LiteralString

import psycopg
import pytest

from engine.crashpoints import CrashPoint
from engine.execution_events import ExecutionEventBus
from engine.execution_rows import Execution, ExecutionLimits, ExecutionOptions, ExecutionStatus
from engine.executions import ExecutionStore as EngineStore
from engine.executions import UpdateExecutionStatusParams
from processor import (
    App,
    ConfigurationError,
    Identity,
    NotAuthorizedError,
    WorkflowConflictError,
    acting_as,
    current_workflow,
)
from processor.executions import ExecutionStore, ExecutionWorker, SyncExecutionStore
from processor.testing import Bench
from tests.integration.flows import Summarising, ended, until_event
from tests.integration.interpreting import Interpreter, execution, over, recovery_of
from tests.integration.protocol import FAST, PATIENCE_S


async def test_a_worker_executes_what_is_enqueued(database: str) -> None:
    """The seed's usage, from constructor to stop."""
    store = ExecutionStore(database)
    service = Interpreter()
    worker = ExecutionWorker(store, None, concurrency=100, worker_concurrency=5)
    worker.initialize_execute_flow_step(service)
    assert not worker.is_worker_running()

    await worker.start()
    await worker.start()
    assert worker.is_worker_running()
    assert await worker.get_queue().enqueue(execution("e-1", "anything"))
    assert not await worker.get_queue().enqueue(execution("e-1", "anything"))
    assert await worker.get_queue().enqueue(execution("e-2", "broken"))
    done, failed = await ended(store, "e-1"), await ended(store, "e-2")
    result = await worker.app.retrieve("e-1").result()
    await worker.stop()

    assert (done.status, result) == ("completed", {"ran": "anything"})
    assert (failed.status, failed.error_message, failed.error_node_id) == ("failed", "no such edge", "execute_flow")
    assert not worker.is_worker_running()
    assert not store.is_open
    with pytest.raises(ConfigurationError, match="is not open"):
        await store.get("e-1")
    await worker.start()
    await worker.get_queue().enqueue(execution("e-3", "anything"))
    assert (await ended(store, "e-3")).status == "completed"
    await worker.stop()
    assert sorted(service.executed) == ["e-1", "e-2", "e-3"]


async def test_an_execution_has_its_row_in_the_ledger_from_enqueueing_to_its_end(database: str) -> None:
    """As every member of a queue; also what a worker outside of the engine had first."""
    flows = Summarising()
    ledger: LiteralString = """
        SELECT q.workflow_uuid, q.queue_name, q.started_at_epoch_ms IS NOT NULL, q.completed_at_epoch_ms IS NOT NULL
          FROM dbos.workflow_queue AS q
         ORDER BY q.workflow_uuid
    """
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        await store.create(execution("e-2"))
        await store.claim_execution("e-2", "w", 60_000)
        over(database)
        await worker.get_queue().enqueue(execution("e-1"))
        assert await recovery_of(worker, store).look() == 1

        with psycopg.connect(database) as connection:
            waiting = connection.execute(ledger).fetchall()
        async with Bench(flows.app, database) as bench:
            await bench.settle()
            done = await bench.fetch_all(ledger)
    assert waiting == [("e-1", "executions", False, False), ("e-2", "executions", False, False)]
    assert done == [("e-1", "executions", True, True), ("e-2", "executions", True, True)]


async def test_a_sync_service_has_a_thread(database: str) -> None:
    class Sync:
        def execute(self, execution: Execution, /) -> str:
            return execution.id.upper()

    store = ExecutionStore(database)
    worker = ExecutionWorker(store, Sync())
    await worker.start()
    try:
        await worker.get_queue().enqueue(execution("e-1", "anything"))
        await ended(store, "e-1")
        assert await worker.app.retrieve("e-1").result() == "E-1"
    finally:
        await worker.stop()


async def test_no_more_executions_run_at_a_time_than_a_worker_may(database: str) -> None:
    store = ExecutionStore(database)
    service = Interpreter()
    service.gate.clear()
    worker = ExecutionWorker(store, service, concurrency=3, worker_concurrency=2)
    await worker.start()
    try:
        for number in range(5):
            await worker.get_queue().enqueue(execution(f"e-{number}", "anything"))
        await until_event(store, "e-1", status="running")
        # The third has had its turn when the queue was looked at once more.
        await worker.get_queue().enqueue(execution("last", "anything"))
        assert len(await store.get_active_claims()) == 2
        service.gate.set()
        for name in [*(f"e-{number}" for number in range(5)), "last"]:
            assert (await ended(store, name)).status == "completed"
    finally:
        await worker.stop()


async def test_two_workers_share_the_queue_and_its_limit(database: str) -> None:
    """Exact over all processes; every execution runs once."""
    stores = [ExecutionStore(database), ExecutionStore(database)]
    services = [Interpreter(), Interpreter()]
    workers = [
        ExecutionWorker(store, service, concurrency=3, worker_concurrency=2)
        for store, service in zip(stores, services, strict=True)
    ]
    for service in services:
        service.gate.clear()
    for worker in workers:
        await worker.start()
    try:
        for number in range(12):
            await workers[number % 2].get_queue().enqueue(execution(f"e-{number}", "anything"))
        async with asyncio.timeout(PATIENCE_S):
            while sum(len(service.executed) for service in services) < 3:
                await asyncio.sleep(0.01)
        assert len(await stores[0].get_active_claims()) == 3
        for service in services:
            service.gate.set()
        for number in range(12):
            assert (await ended(stores[0], f"e-{number}")).status == "completed"
    finally:
        for worker in workers:
            await worker.stop()
    executed = [name for service in services for name in service.executed]
    assert sorted(executed) == sorted(f"e-{number}" for number in range(12))
    assert all(service.executed for service in services)


async def test_a_worker_that_stops_begins_nothing_more_and_waits_for_what_runs(database: str) -> None:
    """What it has executed is recorded, and not executed again by the next worker; what waits is the next one's."""
    service = Interpreter()
    service.gate.clear()
    async with ExecutionStore(database) as other:
        worker = ExecutionWorker(ExecutionStore(database), service, concurrency=1, worker_concurrency=1)
        await worker.start()
        for name in ("e-1", "e-2"):
            await worker.get_queue().enqueue(execution(name, "anything"))
        async with asyncio.timeout(PATIENCE_S):
            while not service.executed:
                await asyncio.sleep(0.01)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.wait({stopping}, timeout=0.1)
        assert not stopping.done()
        service.gate.set()
        await stopping
        assert service.executed == ["e-1"]

        successor = ExecutionWorker(ExecutionStore(database), service, concurrency=1, worker_concurrency=1)
        await successor.start()
        try:
            assert [(await ended(other, name)).status for name in ("e-1", "e-2")] == ["completed", "completed"]
        finally:
            await successor.stop()
    assert service.executed == ["e-1", "e-2"]


async def test_the_workflows_of_an_app_are_flows(database: str) -> None:
    flows = Summarising()
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        async with Bench(flows.app, database):
            await worker.start()
            try:
                limits = ExecutionOptions(execution=ExecutionLimits(flow_timeout_ms=3_600_000))
                await worker.get_queue().enqueue(execution(options=limits))
                assert (await ended(store, "e-1")).status == "completed"
                assert await flows.summarise.retrieve("e-1").result() == "WHY"
                with pytest.raises(
                    ConfigurationError, match="no flow 'translate'; there are gather, in_a_thread, summarise, wait_long"
                ):
                    await worker.get_queue().enqueue(execution("e-2", "translate"))
                with pytest.raises(WorkflowConflictError, match="flow_id 'summarise', not 'gather'"):
                    await worker.get_queue().enqueue(execution("e-1", "gather"))
            finally:
                await worker.stop()
        assert store.is_open


async def test_a_worker_without_flows_says_so(database: str) -> None:
    with pytest.raises(ConfigurationError, match="has no flow"):
        await ExecutionWorker(ExecutionStore(database), app=App("empty")).start()


@pytest.mark.parametrize(
    "point",
    [
        CrashPoint.DEQUEUED,
        CrashPoint.STEP_CALLED,
        CrashPoint.CHECKPOINTED,
        CrashPoint.FLUSH_SENT,
        CrashPoint.FLUSH_DURABLE,
    ],
)
async def test_a_killed_worker_leaves_its_execution_to_the_next(database: str, point: CrashPoint) -> None:
    """P22, P29: at every gap of its way; what was recorded is not repeated, and the history says who took it."""
    flows = Summarising()
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        async with Bench(flows.app, database) as bench:
            bench.crash(at=point)
            await worker.get_queue().enqueue(execution())
            while (done := await store.get("e-1")) is None or done.status != "completed":
                await bench.settle()
            assert bench.crashes == 1
            statuses = [e.data["status"] for e in await ExecutionEventBus(store).history("e-1")]
            assert statuses in (
                ["created", "running", "completed"],
                ["created", "running", "created", "running", "completed"],
            )
    assert max(flows.calls.values()) <= 2
    assert flows.calls["keep"] == 1


async def test_an_execution_of_a_worker_that_lost_its_lease_runs_elsewhere_and_the_first_writes_nothing(
    database: str,
) -> None:
    """P1, P2, P7: its process lives, but renews nothing; another takes over, and the history says from whom."""
    one, two = Summarising(), Summarising()
    one.gate.clear()
    settings = replace(FAST, conninfo=database)
    async with ExecutionStore(database) as store:
        worker, _ = ExecutionWorker(store, app=one.app), ExecutionWorker(store, app=two.app)
        async with Bench(one.app, database, executor="one", settings=settings) as first:
            await worker.get_queue().enqueue(execution())
            async with asyncio.timeout(PATIENCE_S):
                while not one.calls:
                    await asyncio.sleep(0.01)
            lost = first.engine.executor_id
            first.engine.lease.is_held_back = True
            async with Bench(two.app, database, executor="two", settings=settings):
                done = await ended(store, "e-1")
                one.gate.set()
                first.engine.lease.is_held_back = False
                [recovery] = await store.get_recovery_history("e-1")
    assert done.status == "completed"
    assert (recovery.previous_worker_id, recovery.previous_status) == (lost, "running")
    assert one.calls == {"fetch 1": 1}
    assert two.calls == {"fetch 1": 1, "ask": 1, "keep": 1}


# -- from threads --


def test_a_program_without_a_loop_works_with_executions(database: str) -> None:
    """The same 19 methods."""
    store = SyncExecutionStore(database)
    with pytest.raises(ConfigurationError, match="is not open"):
        store.get("e-1")
    with store, SyncExecutionStore(database) as other:
        store.create(execution())
        child = execution("e-2", root_execution_id="e-1", parent_execution_id="e-1", execution_depth=1)
        store.create(child)
        assert [each.id for each in store.get_child_executions("e-1")] == ["e-2"]
        assert [root.total_nested for root in store.get_root_executions("summarise")] == [1]
        assert [node.level for node in store.get_execution_tree("e-1")] == [0, 1]
        assert {each.id for each in store.get_executions_needing_recovery()} == {"e-1", "e-2"}
        assert store.claim_execution("e-1", "w", timedelta(minutes=1))
        assert not other.claim_execution("e-1", "v", 60_000)
        assert store.extend_claim("e-1", "w", 60_000)
        assert [claim.worker_id for claim in other.get_active_claims()] == ["w"]
        assert other.get_claim_for_execution("e-1") == store.get_active_claims()[0]
        running = UpdateExecutionStatusParams(execution_id="e-1", status=ExecutionStatus.RUNNING)
        assert not other.update_execution_status(running)
        assert store.update_execution_status(running)
        assert store.update_failure_info("e-1", 1, "why")
        store.record_recovery("e-1", "w", "asked for", "running", "v")
        assert [each.reason for each in other.get_recovery_history("e-1")] == ["asked for"]
        assert store.try_acquire_recovery_lock(1)
        assert not other.try_acquire_recovery_lock(1)
        store.release_recovery_lock(1)
        assert other.try_acquire_recovery_lock(1)
        store.release_execution("e-1", "w")
        assert store.expire_old_claims() == 0
        found = store.get("e-1")
        assert found is not None
        assert (found.status, found.failure_count, found.processing_worker_id) == ("running", 1, None)
        assert store.delete("e-1")


def test_the_sync_store_has_every_method_of_the_store() -> None:
    """The seed's 19; what is beside them is for the bus, the debugger and the worker."""
    public = {name for name in vars(SyncExecutionStore) if not name.startswith("_")} - {"open", "close"}
    beside = {name for base in EngineStore.__mro__ for name in vars(base) if not name.startswith("_")} - public

    assert len(public) == 19
    assert beside == {
        *("open", "close", "is_open", "connection", "transaction", "one", "first", "all"),
        *("hint", "locked", "sealed", "token_of", "holds_recovery_lock"),
    }


async def test_a_flow_that_requires_a_role_is_enqueued_by_who_has_it_and_is_theirs(database: str) -> None:
    """Decision 0021: the rule is the workflow's, however it is started. Nothing of a refused one is written."""
    app = App("roles", required_roles=["editor"])
    seen: list[Identity | None] = []

    @app.workflow(version="1")
    async def publish(execution: Execution) -> None:
        seen.append(current_workflow().identity)

    worker = ExecutionWorker(ExecutionStore(database), app=app)
    async with Bench(app, database) as bench, ExecutionStore(database) as store:
        queue = worker.get_queue()
        await worker.start()
        for who in (None, Identity("bob", ("reader",))):
            acting = contextlib.nullcontext() if who is None else acting_as(who)
            with acting, pytest.raises(NotAuthorizedError, match="'publish'.*editor"):
                await queue.enqueue(execution("e-1", "publish"))
        assert await store.get("e-1") is None
        with acting_as(Identity("ada", ("reader", "editor"))):
            assert await queue.enqueue(execution("e-1", "publish"))
        assert (await ended(store, "e-1")).status == "completed"
        row = await bench.fetch_all("SELECT authenticated_user, assumed_role FROM dbos.workflow_status")
        await worker.stop()

    assert row == [("ada", "editor")]
    assert seen == [Identity("ada", ("reader", "editor"), "editor")]
