"""`ExecutionWorker` recovers what workers outside of the engine leave (I8, P29, decision 0016)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import psycopg

from engine.execution_recovery import BATCH_MAX, ExecutionRecovery
from engine.execution_rows import ExecutionStatus
from engine.executions import ExecutionStore as EngineStore
from engine.executions import UpdateExecutionStatusParams
from engine.payloads import PayloadKeys
from engine.settings import EngineSettings
from engine.telemetry import Event, ServiceFailed, WorkflowsTaken
from processor.executions import ExecutionStore, ExecutionWorker
from processor.testing import Bench
from tests.integration.flows import Summarising, ended
from tests.integration.interpreting import LONG_AGO, execution, over, recovery_of
from tests.integration.protocol import FAST, PATIENCE_S


async def test_what_a_worker_outside_left_is_executed_by_an_engine(database: str) -> None:
    """Counted, noted, and the worker that wakes is fenced (P7)."""
    flows = Summarising()
    async with ExecutionStore(database) as outside, ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        await outside.create(execution())
        await outside.claim_execution("e-1", "w", 60_000)
        await outside.update_execution_status(
            UpdateExecutionStatusParams(execution_id="e-1", status=ExecutionStatus.RUNNING)
        )
        over(database)
        async with Bench(flows.app, database):
            assert await recovery_of(worker, store).look() == 1
            done = await ended(store, "e-1")

            assert not await outside.extend_claim("e-1", "w", 60_000)
            assert not await outside.update_execution_status(
                UpdateExecutionStatusParams(execution_id="e-1", status=ExecutionStatus.FAILED)
            )
        [noted] = await store.get_recovery_history("e-1")
    assert (done.status, done.failure_count, done.last_failure_reason) == ("completed", 1, "worker w was lost")
    assert (noted.worker_id, noted.previous_status, noted.previous_worker_id) == ("rescuer", "running", "w")


async def test_what_was_created_and_forgotten_is_enqueued_but_not_what_is_new(database: str) -> None:
    flows = Summarising()
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        await store.create(execution("old", created_at=LONG_AGO))
        await store.create(execution("new"))
        await store.create(execution("other", "translate", created_at=LONG_AGO))

        assert await recovery_of(worker, store).look() == 1
        assert await recovery_of(worker, store).look() == 0

        needing = {each.id for each in await store.get_executions_needing_recovery()}
        assert needing == {"new", "other"}
        async with Bench(flows.app, database):
            done = await ended(store, "old")
    assert (done.status, done.failure_count) == ("completed", 0)


async def test_flows_that_nobody_here_knows_hide_none_behind_them(database: str) -> None:
    """I8: however many there are; each look goes on where the last one ended."""
    flows = Summarising()
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        for number in range(BATCH_MAX + 1):
            await store.create(execution(f"other-{number}", "translate", created_at=LONG_AGO))
        await store.create(execution("ours", created_at=LONG_AGO))

        assert await recovery_of(worker, store).look() == 1

        needing = {each.id for each in await store.get_executions_needing_recovery()}
    assert "ours" not in needing
    assert len(needing) == 100


async def test_an_execution_that_cannot_be_opened_is_said_and_hides_none_behind_it(database: str) -> None:
    """I8: its key may come; the others have theirs."""
    flows = Summarising()
    told: list[Event] = []
    keys = PayloadKeys({"theirs": bytes(32)}, "theirs")
    async with (
        ExecutionStore(database) as store,
        EngineStore(EngineSettings(conninfo=database, payload_keys=keys)) as sealing,
    ):
        worker = ExecutionWorker(store, app=flows.app)
        await sealing.create(execution("sealed", created_at=LONG_AGO, integration={"question": "why"}))
        await store.create(execution("readable", created_at=LONG_AGO))
        recovery = ExecutionRecovery(
            store, worker.call_of, worker_id="rescuer", every=timedelta(seconds=30), tell=told.append
        )

        assert await recovery.look() == 1

        [left] = await sealing.get_executions_needing_recovery()
    assert left.id == "sealed"
    [taken, failed] = told
    assert taken == WorkflowsTaken("left", 1)
    assert isinstance(failed, ServiceFailed)
    assert "execution sealed: integration is sealed with key 'theirs'" in str(failed.error)


async def test_a_lock_of_the_programs_own_does_not_keep_workers_from_recovering(database: str) -> None:
    flows = Summarising()
    async with ExecutionStore(database) as store, ExecutionStore(database) as other:
        assert await other.try_acquire_recovery_lock(1)
        await store.create(execution(created_at=LONG_AGO))

        assert await recovery_of(ExecutionWorker(store, app=flows.app), store).look() == 1


async def test_an_execution_that_loses_its_worker_too_often_is_given_up(database: str) -> None:
    flows = Summarising()
    async with ExecutionStore(database) as store:
        worker = ExecutionWorker(store, app=flows.app)
        await store.create(execution(failure_count=4, last_failure_at=LONG_AGO))
        await store.claim_execution("e-1", "w", 60_000)
        over(database)

        assert await recovery_of(worker, store).look() == 1

        failed = await store.get("e-1")
        [noted] = await store.get_recovery_history("e-1")
        assert await recovery_of(worker, store).look() == 0
    assert failed is not None
    assert (failed.status, failed.failure_count) == ("failed", 5)
    assert failed.error_message == "given up: its worker was lost 5 times"
    assert noted.reason == "worker w was lost, given up"


async def test_one_of_all_recovers_and_its_successor_comes_when_it_is_gone(database: str) -> None:
    flows, others = Summarising(), Summarising()
    async with ExecutionStore(database) as store, ExecutionStore(database) as other:
        first = recovery_of(ExecutionWorker(store, app=flows.app), store)
        second = recovery_of(ExecutionWorker(other, app=others.app), other)
        assert await first.look() == 0
        await store.create(execution(created_at=LONG_AGO))

        assert await second.look() == 0
        await store.close()
        async with asyncio.timeout(PATIENCE_S):
            while await second.look() == 0:
                await asyncio.sleep(0.02)
        assert await other.get_executions_needing_recovery() == []


async def test_a_worker_that_claims_while_it_is_recovered_keeps_it(database: str) -> None:
    """The lock of the row decides, not what was read before."""
    flows = Summarising()
    async with ExecutionStore(database) as store, ExecutionStore(database) as outside:
        worker = ExecutionWorker(store, app=flows.app)
        for number in range(20):
            await store.create(execution(f"e-{number}", created_at=LONG_AGO))
        recovery = recovery_of(worker, store)

        results = await asyncio.gather(
            recovery.look(), *(outside.claim_execution(f"e-{number}", "w", 60_000) for number in range(20))
        )

        claimed = {f"e-{number}" for number, won in enumerate(results[1:]) if won}
        active = {claim.execution_id for claim in await store.get_active_claims()}
        assert claimed == active
        with psycopg.connect(database) as connection:
            rows = connection.execute(
                "SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'ENQUEUED' AND queue_name IS NOT NULL"
            )
            assert {row[0] for row in rows.fetchall()} == {f"e-{number}" for number in range(20)} - claimed


async def test_claims_of_workers_outside_do_not_disturb_engines(database: str) -> None:
    """None of them is ever the first that lives, or buried for a silent counter (P2)."""
    flows = Summarising()
    async with ExecutionStore(database) as store:
        await store.create(execution("e-1"))
        await store.create(execution("e-2"))
        await store.claim_execution("e-1", "w", 3_600_000)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE dbos.executor SET executor_id = '0' || executor_id")
            connection.execute(
                "UPDATE dbos.workflow_status SET executor_id = '0' || executor_id WHERE executor_id IS NOT NULL"
            )
        async with Bench(flows.app, database, settings=replace(FAST, conninfo=database)) as bench:
            await store.claim_execution("e-2", "w", 1)
            until = bench.engine.lease.renewals + 8
            async with asyncio.timeout(PATIENCE_S):
                while bench.engine.lease.renewals < until:
                    await asyncio.sleep(0.02)
            assert bench.engine.lease.is_first
            claims = [claim.execution_id for claim in await store.get_active_claims()]
            dead = await bench.fetch_all("SELECT claim_of FROM dbos.executor WHERE died_at IS NOT NULL")
    assert claims == ["e-1"]
    assert dead == [("e-2",)]
