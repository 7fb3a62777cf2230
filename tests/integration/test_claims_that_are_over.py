"""A worker whose claim is over ends an execution if, and only if, nobody has had it since: the row decides, not the clock (P7).

Whoever takes it changes its token in the commit that takes it, under the row's lock: of two that come at once, one is first,
and the other changes nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import timedelta

import psycopg
import pytest

from engine import acts
from engine.execution_rows import ExecutionStatus
from engine.executions import ExecutionStore
from engine.settings import EngineSettings
from processor.executions import ExecutionStore as UsersStore
from processor.executions import ExecutionWorker
from processor.testing import Bench
from tests.integration.flows import Summarising, ended
from tests.integration.interpreting import over, recovery_of
from tests.integration.protocol import until
from tests.integration.storing import MINUTE, execution, got, let_time_pass, to


@pytest.fixture
async def store(database: str) -> AsyncGenerator[ExecutionStore]:
    async with ExecutionStore(EngineSettings(conninfo=database)) as opened:
        yield opened


@pytest.fixture
async def other(database: str) -> AsyncGenerator[ExecutionStore]:
    """Another process."""
    async with ExecutionStore(EngineSettings(conninfo=database)) as opened:
        yield opened


async def begun(store: ExecutionStore, id: str = "e-1") -> None:
    await store.create(execution(id))
    await store.claim_execution(id, "w", MINUTE)
    await store.update_execution_status(to(id, ExecutionStatus.RUNNING))


@pytest.mark.parametrize("end", [ExecutionStatus.COMPLETED, ExecutionStatus.FAILED])
async def test_an_end_and_a_claim_at_the_same_time_are_one_of_the_two(
    store: ExecutionStore, other: ExecutionStore, database: str, end: ExecutionStatus
) -> None:
    """Never both: what has ended is not claimed, what is claimed is not ended by who had it before."""
    ids = [f"e-{number}" for number in range(6)]
    for id in ids:
        await begun(store, id)
    let_time_pass(database, 2 * MINUTE)
    for id in ids:
        has_ended, is_claimed = await asyncio.gather(
            store.update_execution_status(to(id, end)), other.claim_execution(id, "v", MINUTE)
        )

        assert has_ended is not is_claimed
        found = await got(store, id)
        assert (found.status, found.processing_worker_id) == ((end, None) if has_ended else ("running", "v"))
        assert await store.update_execution_status(to(id, end)) is False


async def stop_and_resume(store: ExecutionStore, database: str) -> None:
    await store.update_execution_status(to("e-1", ExecutionStatus.STOPPED))
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        assert (await acts.resume(connection, "dbos", ["e-1"])).done == ["e-1"]


async def claim_and_release(store: ExecutionStore, database: str) -> None:
    del database
    assert await store.claim_execution("e-1", "v", MINUTE)
    await store.release_execution("e-1", "v")


async def claim_and_lose(store: ExecutionStore, database: str) -> None:
    assert await store.claim_execution("e-1", "w", MINUTE)
    let_time_pass(database, 4 * MINUTE)
    await store.expire_old_claims()


@pytest.mark.parametrize("had_by", [stop_and_resume, claim_and_release, claim_and_lose])
async def test_who_lost_an_execution_that_others_had_ends_it_never(
    store: ExecutionStore,
    other: ExecutionStore,
    database: str,
    had_by: Callable[[ExecutionStore, str], Coroutine[None, None, None]],
) -> None:
    """Though it is nobody's again: what they did of it is not known to the first. It is there for the next claim."""
    await begun(store)
    let_time_pass(database, 2 * MINUTE)
    await had_by(other, database)
    before = await got(store)

    for end in (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CREATED):
        assert not await store.update_execution_status(to("e-1", end, error_message="late"))
    await store.release_execution("e-1", "w")

    assert await got(store) == before
    assert await other.claim_execution("e-1", "v", MINUTE)


async def test_what_recovery_gave_to_an_engine_is_ended_by_the_engine_alone(database: str) -> None:
    """Taken into the queue, running there, and done: at no moment does the first worker's end count. Its result stands once."""
    flows = Summarising()
    flows.gate.clear()
    async with UsersStore(database) as store, UsersStore(database) as other:
        worker = ExecutionWorker(other, app=flows.app)
        await store.create(execution())
        await store.claim_execution("e-1", "w", timedelta(minutes=1))
        await store.update_execution_status(to("e-1", ExecutionStatus.RUNNING))
        over(database)
        assert await recovery_of(worker, other).look() == 1
        assert not await store.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))
        async with Bench(flows.app, database):
            await until(lambda: flows.at_work)
            assert not await store.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))
            flows.gate.set()
            done = await ended(other, "e-1")
            assert not await store.update_execution_status(to("e-1", ExecutionStatus.FAILED))
            result = await flows.summarise.retrieve("e-1").result()
            assert await got(store) == done
    assert (done.status, done.failure_count, result) == ("completed", 1, "WHY")
    assert flows.calls == {"fetch 1": 1, "ask": 1, "keep": 1}
