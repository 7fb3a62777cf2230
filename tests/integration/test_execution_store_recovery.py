"""`ExecutionStore`: what needs recovery, its history and its lock; and trees of executions."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from engine.execution_rows import ExecutionStatus
from engine.executions import ExecutionStore
from engine.settings import EngineSettings
from tests.integration.storing import MINUTE, execution, let_time_pass, to


@pytest.fixture
async def store(database: str) -> AsyncGenerator[ExecutionStore]:
    async with ExecutionStore(EngineSettings(conninfo=database)) as opened:
        yield opened


@pytest.fixture
async def other(database: str) -> AsyncGenerator[ExecutionStore]:
    """Another process."""
    async with ExecutionStore(EngineSettings(conninfo=database)) as opened:
        yield opened


# -- recovery --


async def test_what_nobody_will_come_to_needs_recovery(store: ExecutionStore, database: str) -> None:
    """The seed's three cases, and their limits."""
    names = ["new", "claimed", "abandoned", "running", "lost", "failed", "given-up", "done"]
    for name in names:
        await store.create(execution(name))
    await store.claim_execution("abandoned", "w", MINUTE)
    await store.claim_execution("lost", "w", MINUTE)
    await store.update_execution_status(to("lost", ExecutionStatus.RUNNING))
    await store.update_failure_info("failed", 4, "why")
    await store.update_failure_info("given-up", 5, "why")
    await store.claim_execution("done", "w", MINUTE)
    await store.update_execution_status(to("done", ExecutionStatus.COMPLETED))
    before = {each.id for each in await store.get_executions_needing_recovery()}
    let_time_pass(database, 2 * MINUTE)
    await store.claim_execution("claimed", "w", MINUTE)
    await store.claim_execution("running", "w", MINUTE)
    await store.update_execution_status(to("running", ExecutionStatus.RUNNING))

    found = [each.id for each in await store.get_executions_needing_recovery()]

    assert before == {"new", "claimed", "running"}
    assert found == ["new", "abandoned", "lost", "failed"]
    assert [each.id for each in await store.get_executions_needing_recovery(2)] == ["new", "abandoned"]


async def test_an_execution_that_was_given_back_half_done_needs_recovery(store: ExecutionStore) -> None:
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    await store.update_execution_status(to("e-1", ExecutionStatus.RUNNING))

    await store.release_execution("e-1", "w")

    [found] = await store.get_executions_needing_recovery()
    assert (found.status, found.processing_worker_id) == ("running", None)


async def test_the_history_of_recovery_is_kept_in_order(store: ExecutionStore) -> None:
    await store.create(execution())
    await store.record_recovery("e-1", "w-2", "claim over", "running", "w-1")
    await store.record_recovery("e-1", "w-3", "asked for")
    await store.record_recovery("nobody", "w-3", "asked for")

    first, second = await store.get_recovery_history("e-1")

    assert (first.worker_id, first.reason, first.previous_status, first.previous_worker_id) == (
        "w-2",
        "claim over",
        "running",
        "w-1",
    )
    assert (second.worker_id, second.previous_status, second.previous_worker_id) == ("w-3", None, None)
    assert await store.get_recovery_history("nobody") == []


async def test_one_session_of_all_has_a_recovery_lock(store: ExecutionStore, other: ExecutionStore) -> None:
    assert await store.try_acquire_recovery_lock(7)
    assert not await other.try_acquire_recovery_lock(7)
    assert not await store.try_acquire_recovery_lock(7)
    assert await other.try_acquire_recovery_lock(2**62)
    await other.release_recovery_lock(7)
    assert not await other.try_acquire_recovery_lock(7)
    assert await store.holds_recovery_lock(7)
    assert not await other.holds_recovery_lock(7)

    await store.release_recovery_lock(7)

    assert await other.try_acquire_recovery_lock(7)
    await store.release_recovery_lock(7)


async def test_a_recovery_lock_ends_with_its_session(
    store: ExecutionStore, other: ExecutionStore, database: str
) -> None:
    """As when its process is killed."""
    await store.try_acquire_recovery_lock(7)

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'onceflow recovery'"
        )
        connection.execute(
            "DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM"
            " pg_database WHERE datname = current_database())) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$"
        )

    assert await other.try_acquire_recovery_lock(7)
    assert not await store.holds_recovery_lock(7)


# -- trees --


async def test_roots_are_paged_newest_first_with_what_is_below_them(store: ExecutionStore) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(5):
        await store.create(execution(f"r-{number}", created_at=at + timedelta(minutes=number // 2)))
    await store.create(execution("other", flow_id="translate"))
    child = {"root_execution_id": "r-1", "parent_execution_id": "r-1", "execution_depth": 1}
    await store.create(execution("c-1", **child))
    await store.create(execution("c-2", **child))
    await store.create(execution("g-1", **{**child, "parent_execution_id": "c-2", "execution_depth": 2}))

    pages = [await store.get_root_executions("summarise", limit=2)]
    while pages[-1]:
        pages.append(await store.get_root_executions("summarise", 2, pages[-1][-1].execution))

    roots = [root for page in pages for root in page]
    assert [root.execution.id for root in roots] == ["r-4", "r-3", "r-2", "r-1", "r-0"]
    assert [(root.levels, root.total_nested) for root in roots if root.execution.id == "r-1"] == [(2, 3)]
    assert {(root.levels, root.total_nested) for root in roots if root.execution.id != "r-1"} == {(0, 0)}
    by_time = await store.get_root_executions("summarise", after=at + timedelta(minutes=1))
    assert [root.execution.id for root in by_time] == ["r-1", "r-0"]


async def test_a_tree_comes_level_by_level(store: ExecutionStore) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    await store.create(execution("root", created_at=at))
    below = {"root_execution_id": "root", "execution_depth": 1, "parent_execution_id": "root"}
    await store.create(execution("b", **below, created_at=at + timedelta(minutes=2)))
    await store.create(execution("a", **below, created_at=at + timedelta(minutes=1)))
    await store.create(execution("b-1", **{**below, "execution_depth": 2, "parent_execution_id": "b"}, created_at=at))

    tree = await store.get_execution_tree("root")

    assert [(node.level, node.id, node.parent_id) for node in tree] == [
        (0, "root", None),
        (1, "a", "root"),
        (1, "b", "root"),
        (2, "b-1", "b"),
    ]
    assert [node.id for node in await store.get_execution_tree("b")] == ["b", "b-1"]
    assert [each.id for each in await store.get_child_executions("root")] == ["a", "b"]
    assert tree[0].execution == replace(execution("root", created_at=at), updated_at=tree[0].execution.updated_at)
