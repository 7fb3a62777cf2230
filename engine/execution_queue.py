"""Hands executions to engines, and brings back to work what workers left behind (decision 0016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from engine.execution_claims import FAILURES_MAX
from engine.execution_database import ExecutionDatabase
from engine.execution_events import ExecutionNotFoundError
from engine.execution_rows import Execution, ExecutionFailedError, ExecutionStatus, StoredExecution, reason_text
from engine.failures import encode_error
from engine.identity import Identity, roles_text
from engine.store import execution_claims as claims
from engine.store import execution_queue as store
from engine.store import executions
from engine.store.executions import StatusChange


@dataclass(frozen=True, slots=True)
class FlowCall:
    """How an engine runs an execution.

    Attributes:
        name, version: Of the workflow.
        inputs: Its arguments, as JSON text.
        queue: Where it waits; `None`: nowhere, it starts at once.
        identity: Who asks for it; `None`: who asked before, or nobody.
    """

    name: str
    version: str
    inputs: str
    queue: str | None
    identity: Identity | None = None


async def enqueue(database: ExecutionDatabase, execution_id: str, call: FlowCall) -> bool:
    """Hand an execution to engines. `False`: they have it already, a worker has it, or it has ended.

    Raises:
        ExecutionNotFoundError: There is none.
    """
    statement = _statement(database, execution_id, call, again=False)

    async def act(connection: AsyncConnection[Any]) -> bool:
        if await database.one(connection, executions.lock(execution_id=execution_id)) is None:
            raise ExecutionNotFoundError(execution_id)
        return await database.one(connection, statement) is not None

    enqueued = await database.transaction(act)
    if enqueued:
        await _say(database, call)
    return enqueued


async def recover(database: ExecutionDatabase, execution: Execution, call: FlowCall, *, worker_id: str) -> bool:
    """Bring an execution back to work that nobody has; one that failed too often ends. Returns whether it was done.

    In one commit with its history, and only if it is still so: whoever has claimed it meanwhile keeps it.
    """
    requeue = _statement(database, execution.id, call, again=True)

    async def act(connection: AsyncConnection[Any]) -> bool:
        if await database.locked(connection, execution.id) is None:
            return False
        row = await database.one(connection, executions.read(ids=[execution.id]))
        assert row is not None, "it is locked"
        if await database.one(connection, requeue) is None:
            return False
        await _note(database, connection, row, worker_id)
        return True

    done = await database.transaction(act)
    if done:
        await _say(database, call)
    return done


async def _note(
    database: ExecutionDatabase, connection: AsyncConnection[Any], row: StoredExecution, worker_id: str
) -> None:
    """Count the worker that was lost, if one was, give up after too many, and write the history. `row`: as it was before."""
    lost = row.worker
    count = row.failure_count + (1 if lost is not None else 0)
    reason = "nobody had it" if lost is None else f"worker {lost} was lost"
    gives_up = count >= FAILURES_MAX
    if lost is not None:
        sealed = database.sealed(reason_text(reason))
        assert sealed is not None, "the reason is text"
        await database.one(connection, executions.update_failure(execution_id=row.id, count=count, reason=sealed))
    if gives_up:
        error = encode_error(ExecutionFailedError(f"given up: its worker was lost {count} times"))
        failed = StatusChange(ExecutionStatus.FAILED.stored, None, None, database.sealed(error), None)
        await database.one(connection, executions.change(execution_id=row.id, to=failed))
    recorded = claims.record(
        execution_id=row.id,
        worker_id=worker_id,
        reason=f"{reason}, given up" if gives_up else reason,
        previous_status=row.status,
        previous_worker_id=lost,
    )
    await database.one(connection, recorded)


def _statement(database: ExecutionDatabase, execution_id: str, call: FlowCall, *, again: bool) -> Any:
    inputs = database.sealed(call.inputs)
    assert inputs is not None, "there are inputs"
    return store.enqueue(
        execution_id=execution_id,
        name=call.name,
        version=call.version,
        inputs=inputs,
        inline_max=database.settings.inputs_inline_max,
        queue=call.queue,
        again=again,
        user=None if (identity := call.identity) is None else identity.user,
        role=None if identity is None else identity.role,
        roles=None if identity is None else roles_text(identity),
    )


async def _say(database: ExecutionDatabase, call: FlowCall) -> None:
    await database.hint("rows" if call.queue is None else f"queue {call.queue}")
