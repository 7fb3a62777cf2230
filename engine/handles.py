"""A workflow as its row says, for whoever holds its ID: in this process, in another program, in a workflow."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection

from engine.errors import WorkflowNotFoundError
from engine.payloads import Payloads
from engine.sealed_rows import opened_request
from engine.states import WorkflowStatus
from engine.store import handles as store
from engine.store.handles import StepRow, WorkflowRow
from engine.store.statement import send
from engine.weather import through_weather

Connect = Callable[[], AbstractAsyncContextManager[AsyncConnection[Any]]]
"""A connection for one read: `pool.connection`."""


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A workflow as its row says at one moment.

    Attributes:
        id, name, version: Which workflow it is, and of which code.
        status: Where it stands.
        created_at, updated_at, started_at: Of its row; when it first ran.
        wake_at: At rest until then.
        deadline: When it will be cancelled, by its own time-out or that of an open workflow above it; `None`: never, or no such
            time has begun.
        executor_id: Who runs it, or ran it last.
        recovery_attempts: Deaths of its executors since its last checkpoint.
        class_name, instance: Of a method: its class, and the name of its object.
        source: Partition whose record started it; `None`: a call, a parent, a queue or a schedule did.
        queue, priority, partition_key, deduplication_id: In its queue.
        forked_from: Whose history it began with.
        user, role, roles: Whose identity it has.
        request: What asked for it, as JSON text.
        inputs: `{"args": [...], "kwargs": {...}}` as JSON text; `None` where a list was asked for without.
        output, error: Its outcome as JSON text.
    """

    id: str
    name: str
    version: str | None
    status: WorkflowStatus
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    wake_at: datetime | None
    deadline: datetime | None
    executor_id: str | None
    recovery_attempts: int
    class_name: str | None
    instance: str | None
    source: str | None
    queue: str | None
    priority: int
    partition_key: str | None
    deduplication_id: str | None
    forked_from: str | None
    user: str | None
    role: str | None
    roles: str | None
    request: str | None
    inputs: str | None
    output: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A recorded step.

    Attributes:
        function_id, name: Its place in the history, from 1; the function's name.
        output, error: JSON text, one of them.
        child: The workflow it started or awaited.
        started_at, ended_at: From call to final value or error.
    """

    function_id: int
    name: str
    output: str | None
    error: str | None
    child: str | None
    started_at: datetime | None
    ended_at: datetime | None


async def read(connect: Connect, schema: str, payloads: Payloads | None, workflow_id: str) -> WorkflowInfo:
    """A workflow's row; without `payloads` as it is stored, sealed or not, for who looks at the rest of it.

    Raises `WorkflowNotFoundError`, or `UnreadablePayloadError` where it cannot be opened.
    """

    async def attempt() -> WorkflowRow | None:
        async with connect() as connection:
            cursor = await send(connection, schema, store.read(ids=[workflow_id]))
            return await cursor.fetchone()

    row = await through_weather(attempt)
    if row is None:
        raise WorkflowNotFoundError(workflow_id)
    return info_of(row if payloads is None else opened_row(row, payloads))


async def steps(connect: Connect, schema: str, payloads: Payloads | None, workflow_id: str) -> list[StepInfo]:
    """A workflow's history, in order; nothing for one that has none or does not exist. As `read`."""

    async def attempt() -> list[StepInfo]:
        async with connect() as connection:
            return await steps_of(connection, schema, payloads, workflow_id)

    return await through_weather(attempt)


async def steps_of(
    connection: AsyncConnection[Any], schema: str, payloads: Payloads | None, workflow_id: str
) -> list[StepInfo]:
    """`steps` on a connection."""
    cursor = await send(connection, schema, store.steps(workflow_id=workflow_id))
    opened = _as_stored if payloads is None else payloads.open_if
    return [
        StepInfo(
            function_id=row.function_id,
            name=row.name,
            output=opened(row.output, f"{_step(workflow_id, row)}: output"),
            error=opened(row.error, f"{_step(workflow_id, row)}: error"),
            child=row.child,
            started_at=instant(row.started_ms),
            ended_at=instant(row.ended_ms),
        )
        for row in await cursor.fetchall()
    ]


def info_of(row: WorkflowRow) -> WorkflowInfo:
    """A row for people."""
    created, updated = instant(row.created_ms), instant(row.updated_ms)
    assert created is not None, "the column is NOT NULL"
    assert updated is not None, "the column is NOT NULL"
    return WorkflowInfo(
        id=row.workflow_id,
        name=row.name,
        version=row.version,
        status=WorkflowStatus(row.status),
        created_at=created,
        updated_at=updated,
        started_at=instant(row.started_ms),
        wake_at=instant(row.wake_ms or None),
        deadline=instant(row.deadline_ms),
        executor_id=row.executor_id,
        recovery_attempts=row.recovery_attempts,
        class_name=row.class_name,
        instance=row.config_name,
        source=row.source,
        queue=row.queue_name,
        priority=row.priority,
        partition_key=row.partition_key,
        deduplication_id=row.deduplication_id,
        forked_from=row.forked_from,
        user=row.user,
        role=row.role,
        roles=row.roles,
        request=row.request,
        inputs=row.inputs,
        output=row.output,
        error=row.error,
    )


def opened_row(row: WorkflowRow, payloads: Payloads) -> WorkflowRow:
    """A row as it was before it was sealed. Raises `UnreadablePayloadError`."""
    where = f"workflow {row.workflow_id}"
    return row._replace(
        request=None if row.request is None else opened_request(row.request, payloads, where),
        inputs=payloads.open_if(row.inputs, f"{where}: inputs"),
        output=payloads.open_if(row.output, f"{where}: output"),
        error=payloads.open_if(row.error, f"{where}: error"),
    )


def _as_stored(text: str | None, where: str) -> str | None:
    del where
    return text


def _step(workflow_id: str, row: StepRow) -> str:
    return f"workflow {workflow_id}: step {row.function_id} {row.name!r}"


def instant(epoch_ms: int | None) -> datetime | None:
    """Epoch ms as an instant in UTC; one beyond all calendars (`FOREVER_MS`) is none."""
    if epoch_ms is None or epoch_ms > 253_402_300_799_000:
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
