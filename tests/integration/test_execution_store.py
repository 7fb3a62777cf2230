"""The store of executions: 19 methods over rows that are workflows, and who may write (decision 0016)."""

from collections.abc import AsyncGenerator
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from engine.execution_rows import ClaimStatus, Execution, ExecutionLimits, ExecutionOptions, ExecutionStatus
from engine.executions import ExecutionStore
from engine.payloads import PayloadKeys
from engine.settings import EngineSettings
from processor import ConfigurationError, WorkflowConflictError
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


# -- rows --


async def test_every_column_comes_back_as_it_was_given(store: ExecutionStore) -> None:
    """The seed's 21 columns."""
    at = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
    root = execution("root")
    given = Execution(
        id="e-1",
        flow_id="summarise",
        owner_id="ada",
        root_execution_id="root",
        parent_execution_id="root",
        execution_depth=1,
        status=ExecutionStatus.FAILED,
        created_at=at,
        updated_at=at + timedelta(seconds=1),
        started_at=at + timedelta(seconds=2),
        completed_at=at + timedelta(seconds=3),
        error_message="no such model",
        error_node_id="ask",
        options=ExecutionOptions(("ask",), debug=True, execution=ExecutionLimits(1_000, 2_000, 3)),
        integration={"chat": {"id": 7, "title": "Été"}},
        external_events=[{"name": "message", "data": None}],
        failure_count=2,
        last_failure_at=at + timedelta(seconds=4),
        last_failure_reason="worker lost",
    )

    await store.create(root)
    await store.create(given)

    assert await store.get("e-1") == given
    assert len(fields(Execution)) == 21


async def test_what_is_not_there_is_none_and_false(store: ExecutionStore) -> None:
    assert await store.get("e-1") is None
    assert not await store.delete("e-1")
    assert not await store.update_execution_status(to("e-1", ExecutionStatus.RUNNING))
    assert not await store.update_failure_info("e-1", 1, "why")
    assert not await store.claim_execution("e-1", "w", MINUTE)
    assert not await store.extend_claim("e-1", "w", MINUTE)
    assert await store.get_claim_for_execution("e-1") is None
    assert await store.get_execution_tree("e-1") == []
    assert await store.get_recovery_history("e-1") == []
    await store.release_execution("e-1", "w")


async def test_the_same_execution_again_is_that_one_and_another_is_a_conflict(
    store: ExecutionStore, database: str
) -> None:
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)

    await store.create(execution())

    assert (await got(store)).processing_worker_id == "w"
    with pytest.raises(WorkflowConflictError, match="flow_id 'summarise', not 'translate'"):
        await store.create(execution(flow_id="translate"))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name) VALUES ('w-1', 'SUCCESS', 'x')"
        )
    with pytest.raises(WorkflowConflictError, match="a workflow that is no execution"):
        await store.create(execution("w-1"))
    assert await store.get("w-1") is None
    assert not await store.delete("w-1")


@pytest.mark.parametrize(
    "columns, says",
    [
        ({"id": ""}, "1 to 512 characters"),
        ({"flow_id": ""}, "flow_id=''"),
        ({"owner_id": "a\x00b"}, "owner_id="),
        ({"status": "paused"}, "status='paused'; there are created, running"),
        ({"created_at": datetime(2026, 1, 1)}, "created_at=.*time zone"),  # noqa: DTZ001  # what is refused
        ({"processing_worker_id": "w"}, "only a claim gives it"),
        ({"failure_count": -1}, "failure_count=-1"),
        ({"execution_depth": 1}, "without a parent it is a root"),
        ({"root_execution_id": "other"}, "without a parent it is a root"),
        ({"parent_execution_id": "e-1", "execution_depth": 1}, "its own"),
        ({"parent_execution_id": "nobody", "root_execution_id": "nobody", "execution_depth": 1}, "is no execution"),
        (
            {"parent_execution_id": "root", "root_execution_id": "e-0", "execution_depth": 1},
            "its parent's root is 'root'",
        ),
        ({"parent_execution_id": "root", "root_execution_id": "root", "execution_depth": 2}, "its parent has 0"),
        ({"integration": {"n": float("nan")}}, "integration cannot be written as JSON"),
        ({"external_events": [{1: 2}]}, "external_events cannot be written as JSON"),
    ],
)
async def test_a_row_that_cannot_be_is_refused_by_its_column(
    store: ExecutionStore, columns: dict[str, object], says: str
) -> None:
    await store.create(execution("root"))

    with pytest.raises(ConfigurationError, match=says):
        await store.create(execution(**columns))  # pyright: ignore[reportArgumentType]  # what is refused

    assert await store.get("e-1") is None


@pytest.mark.parametrize("limits", [{"flow_timeout_ms": 0}, {"node_timeout_ms": 1.5}, {"max_concurrency": True}])
def test_a_limit_that_is_none_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(limits))):
        ExecutionLimits(**limits)


async def test_what_is_of_users_is_sealed(database: str, store: ExecutionStore) -> None:
    """Decision 0012: options and IDs are readable, what users say is not."""
    keys = PayloadKeys({"k": bytes(32)}, "k")
    async with ExecutionStore(EngineSettings(conninfo=database, payload_keys=keys)) as sealing:
        secret = execution(
            integration={"a": "secret"},
            external_events=[{"b": "secret"}],
            last_failure_reason="secret",
            status=ExecutionStatus.FAILED,
            error_message="secret",
            started_at=datetime(2026, 1, 1, tzinfo=UTC),
            completed_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        await sealing.create(secret)

        found = await got(sealing)

    assert (found.integration, found.external_events) == (secret.integration, secret.external_events)
    assert (found.last_failure_reason, found.error_message) == ("secret", "secret")
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT x::text, w::text FROM dbos.execution x JOIN dbos.workflow_status w USING (workflow_uuid)"
        )
        assert "secret" not in str(rows.fetchall())


async def test_a_deleted_execution_takes_its_claim_and_its_events_with_it(store: ExecutionStore, database: str) -> None:
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)

    assert await store.delete("e-1")

    assert await store.get("e-1") is None
    assert await store.get_active_claims() == []
    assert not await store.extend_claim("e-1", "w", MINUTE)
    assert not await store.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM dbos.execution), (SELECT count(*) FROM dbos.execution_event)"
        )
        assert row.fetchone() == (0, 0)


# -- status --


async def test_a_worker_runs_an_execution_from_its_claim_to_its_end(store: ExecutionStore) -> None:
    await store.create(execution())
    assert (await got(store)).status == "created"

    assert await store.claim_execution("e-1", "w", MINUTE)
    claimed = await got(store)
    assert (claimed.status, claimed.processing_worker_id, claimed.started_at) == ("created", "w", None)
    assert await store.update_execution_status(to("e-1", ExecutionStatus.RUNNING))
    running = await got(store)
    assert (running.status, running.processing_worker_id) == ("running", "w")
    assert running.started_at is not None
    assert await store.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))
    await store.release_execution("e-1", "w")

    done = await got(store)
    assert (done.status, done.processing_worker_id, done.processing_started_at) == ("completed", None, None)
    assert done.started_at == running.started_at
    assert done.completed_at is not None
    assert done.completed_at >= running.started_at


async def test_a_failure_is_written_with_message_node_and_times(store: ExecutionStore) -> None:
    began, ended = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    await store.update_execution_status(to("e-1", ExecutionStatus.RUNNING, started_at=began))

    await store.update_execution_status(
        to("e-1", ExecutionStatus.FAILED, error_message="no\x00answer", error_node_id="ask", completed_at=ended)
    )
    assert await store.update_failure_info("e-1", 1, "no answer")

    found = await got(store)
    assert (found.status, found.error_message, found.error_node_id) == ("failed", "no\\x00answer", "ask")
    assert (found.started_at, found.completed_at) == (began, ended)
    assert (found.failure_count, found.last_failure_reason) == (1, "no answer")
    assert found.last_failure_at is not None


@pytest.mark.parametrize("end", [status for status in ExecutionStatus if status.is_terminal])
async def test_what_has_ended_stays_as_it_is(store: ExecutionStore, end: ExecutionStatus) -> None:
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    assert await store.update_execution_status(to("e-1", end))
    ended = await got(store)

    for status in ExecutionStatus:
        assert not await store.update_execution_status(to("e-1", status, error_message="late"))

    assert await got(store) == ended
    assert not await store.claim_execution("e-1", "w", MINUTE)


async def test_nobody_writes_an_execution_that_another_worker_has_but_anybody_stops_it(
    store: ExecutionStore, other: ExecutionStore
) -> None:
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    await store.update_execution_status(to("e-1", ExecutionStatus.RUNNING))

    for status in (ExecutionStatus.CREATED, ExecutionStatus.RUNNING, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED):
        assert not await other.update_execution_status(to("e-1", status))
    assert await other.update_execution_status(to("e-1", ExecutionStatus.STOPPED))

    assert (await got(store)).status == "stopped"
    assert not await store.extend_claim("e-1", "w", MINUTE)
    assert not await store.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))


# -- claims --


async def test_of_workers_that_claim_at_the_same_time_one_has_it(store: ExecutionStore, other: ExecutionStore) -> None:
    """Also where they wait for each other's locks."""
    import asyncio

    for number in range(20):
        await store.create(execution(f"e-{number}"))
        claimed = await asyncio.gather(
            *(each.claim_execution(f"e-{number}", f"w-{n}", MINUTE) for n in range(4) for each in (store, other))
        )
        assert claimed.count(True) == 1, number


async def test_a_claim_shows_its_times_and_a_heartbeat_moves_them(store: ExecutionStore, database: str) -> None:
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    before = await store.get_claim_for_execution("e-1")
    assert before is not None
    assert (before.worker_id, before.status) == ("w", ClaimStatus.ACTIVE)
    assert before.expires_at == before.claimed_at + timedelta(minutes=1)
    assert await store.get_active_claims() == [before]

    let_time_pass(database, 30_000)
    assert await store.extend_claim("e-1", "w", timedelta(minutes=2))
    assert not await store.extend_claim("e-1", "another", MINUTE)

    after = await store.get_claim_for_execution("e-1")
    assert after is not None
    assert after.claimed_at == before.claimed_at
    assert after.heartbeat_at >= before.heartbeat_at + timedelta(seconds=30)
    assert after.expires_at == after.heartbeat_at + timedelta(minutes=2)


async def test_a_released_execution_waits_for_the_next_worker(store: ExecutionStore, other: ExecutionStore) -> None:
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    await other.release_execution("e-1", "another")
    assert (await got(store)).processing_worker_id == "w"

    await store.release_execution("e-1", "w")

    claim = await store.get_claim_for_execution("e-1")
    assert claim is None or claim.status == ClaimStatus.RELEASED
    assert (await got(store)).status == "created"
    assert await other.claim_execution("e-1", "another", MINUTE)


async def test_claims_end_by_the_clock_of_postgres(store: ExecutionStore, database: str) -> None:
    for number in range(3):
        await store.create(execution(f"e-{number}"))
        await store.claim_execution(f"e-{number}", "w", MINUTE * (number + 1))
    assert await store.expire_old_claims() == 0

    let_time_pass(database, 2 * MINUTE + 1_000)

    claim = await store.get_claim_for_execution("e-0")
    assert claim is not None
    assert claim.status == ClaimStatus.EXPIRED
    assert [claim.execution_id for claim in await store.get_active_claims()] == ["e-2"]
    assert not await store.extend_claim("e-0", "w", MINUTE)
    assert await store.expire_old_claims() == 2
    assert await store.expire_old_claims() == 0


async def test_a_stalled_worker_that_wakes_is_fenced(
    store: ExecutionStore, other: ExecutionStore, database: str
) -> None:
    """P7: its token is no longer the row's, whatever it writes; and its successor's claim stands."""
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    await store.update_execution_status(to("e-1", ExecutionStatus.RUNNING))
    let_time_pass(database, 2 * MINUTE)
    assert await other.claim_execution("e-1", "w", MINUTE)

    assert not await store.extend_claim("e-1", "w", MINUTE)
    for status in ExecutionStatus:
        assert not await store.update_execution_status(to("e-1", status))
    await store.release_execution("e-1", "w")

    assert (await got(store)).processing_worker_id == "w"
    assert await other.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))


async def test_a_stalled_worker_is_fenced_also_when_its_successor_is_gone_too(
    store: ExecutionStore, other: ExecutionStore, database: str
) -> None:
    """P7: nobody's, and still not the one's who lost it."""
    await store.create(execution())
    await store.claim_execution("e-1", "w-1", MINUTE)
    let_time_pass(database, 2 * MINUTE)
    await other.claim_execution("e-1", "w-2", MINUTE)
    await other.release_execution("e-1", "w-2")

    assert not await store.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))

    assert (await got(store)).status == "created"


async def test_a_worker_whose_time_is_over_still_ends_what_nobody_has_taken(
    store: ExecutionStore, database: str
) -> None:
    """As an engine's flush does: the row decides, not the clock."""
    await store.create(execution())
    await store.claim_execution("e-1", "w", MINUTE)
    let_time_pass(database, 2 * MINUTE)
    await store.expire_old_claims()

    assert await store.update_execution_status(to("e-1", ExecutionStatus.COMPLETED))

    assert (await got(store)).status == "completed"


@pytest.mark.parametrize("timeout", [0, -1, timedelta(0), 1.5, True])
async def test_a_claim_without_time_is_refused(store: ExecutionStore, timeout: int) -> None:
    with pytest.raises(ConfigurationError, match="timeout_ms"):
        await store.claim_execution("e-1", "w", timeout)
    with pytest.raises(ConfigurationError, match="timeout_ms"):
        await store.extend_claim("e-1", "w", timeout)
