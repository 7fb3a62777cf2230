"""The store of executions, for programs of any kind: 19 methods over rows that are workflows (decision 0016).

    create ─▶ created ─▶ claim ─▶ running ─▶ completed | failed | stopped
                 ▲         │ extend …
                 └─ release┘   its time is over: nobody's, and whoever takes it has another token

A store remembers the tokens of the claims it took. What it writes of these executions counts under the token, so that a
worker that was stopped for too long, and wakes, changes nothing (P7). It needs no engine in its process.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from engine.errors import ConfigurationError, WorkflowConflictError
from engine.execution_claims import ExecutionClaims
from engine.execution_rows import (
    Execution,
    ExecutionFailedError,
    ExecutionStatus,
    ExecutionTreeNode,
    RootExecution,
    StoredExecution,
    bounded,
    check_limit,
    epoch_ms,
    execution_of,
    json_text,
    options_text,
    reason_text,
)
from engine.failures import encode_error
from engine.ids import OwnerToken
from engine.store import executions as store
from engine.store.executions import LockedExecution, StatusChange

LEVELS_MAX: Final = 1_000
"""Depth of a tree that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateExecutionStatusParams:
    """What `update_execution_status` writes; `None`: it stays as it is.

    Attributes:
        execution_id: Of which execution.
        status: The new one.
        error_message, error_node_id: Why it failed, and where.
        started_at: By default when it was first `running`, if it was before, and now otherwise.
        completed_at: Now by default, for an end.
    """

    execution_id: str
    status: ExecutionStatus
    error_message: str | None = None
    error_node_id: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


class ExecutionStore(ExecutionClaims):
    """Executions in Postgres, for one event loop; open it with `async with`.

    Args:
        settings: Where they are; `pool_max` connections at most, and one for each recovery lock.
    """

    # -- rows --

    async def create(self, row: Execution) -> None:
        """Create an execution. The same again is the same execution: nothing happens.

        Its parent must be there; its root and depth must be what the parent's say.

        Raises:
            ConfigurationError: Names the column that cannot be, and why.
            WorkflowConflictError: The ID is another execution's, or a workflow's that is none.
        """
        row.check()
        status = ExecutionStatus(row.status)
        stored = self._stored(row)
        options = row.options
        creating = store.create(
            row=stored,
            workflow_status=status.stored,
            inputs=self.sealed('{"args": [], "kwargs": {}}') or "",
            timeout_ms=None if options is None else options.execution.flow_timeout_ms,
        )

        async def create(connection: AsyncConnection[Any]) -> bool:
            if row.parent_execution_id is not None:
                await self._check_parent(connection, row)
            if await self.one(connection, creating) is None:
                return False
            event = f'{{"status": "{status}", "previous": null}}'
            await self.one(connection, store.append_event(execution_id=row.id, event_type="status", data=event))
            return True

        if await self.transaction(create):
            return
        found = await self.get(row.id)
        if found is None:
            raise WorkflowConflictError(row.id, "it is a workflow that is no execution")
        for name in ("flow_id", "owner_id", "parent_execution_id", "root"):
            if getattr(found, name) != getattr(row, name):
                given, there = getattr(row, name), getattr(found, name)
                raise WorkflowConflictError(row.id, f"it is an execution with {name} {there!r}, not {given!r}")

    async def get(self, id: str) -> Execution | None:
        """An execution, or `None`. Raises `UnreadablePayloadError` where it is sealed and cannot be opened."""
        row = await self.first(store.read(ids=[id]))
        return None if row is None else execution_of(row, self.payloads)

    async def delete(self, id: str) -> bool:
        """Delete an execution with its history and events; whether there was one.

        Whoever runs it writes nothing any more. Executions that it started stay.
        """

        async def delete(connection: AsyncConnection[Any]) -> bool:
            if await self.one(connection, store.lock(execution_id=id)) is None:
                return False
            return await self.one(connection, store.delete(execution_id=id)) is not None

        self.claimed.pop(id, None)
        return await self.transaction(delete)

    async def update_execution_status(self, params: UpdateExecutionStatusParams) -> bool:
        """Write a status with what comes with it, without a read first. Returns whether it was written.

        Not where it has ended, nor where somebody has had it since this store's claim, nor, without a claim, where somebody
        else has it; but `stopped` without a claim is written whoever has it: it is cancelled. `running` wants a claim where engines
        run the execution.

        A claim whose time is over counts until another takes the execution: the row decides, under its lock, not the clock (P7). So
        no end is doubled or written over another's work, and work that was done is not thrown away. The limit: what two workers
        did outside of Postgres between the end of the first one's time and this call.

        Raises:
            ConfigurationError: A time without a zone.
        """
        status = ExecutionStatus(params.status)
        message = params.error_message
        error = None if message is None else self.sealed(encode_error(ExecutionFailedError(bounded(message))))
        to = StatusChange(
            stored=status.stored,
            started_ms=epoch_ms(params.started_at),
            completed_ms=epoch_ms(params.completed_at),
            error=error,
            error_node=params.error_node_id,
        )
        changing = store.change(execution_id=params.execution_id, to=to)
        held = self.token_of(params.execution_id)
        sent = False

        async def change(connection: AsyncConnection[Any]) -> bool:
            nonlocal sent
            locked = await self.locked(connection, params.execution_id)
            if locked is None:
                return False
            if not _may_change(locked, status, held):
                # The reply to the COMMIT was lost, and it is what we wrote.
                return sent and locked.status == status and locked.owner is None
            sent = True
            return await self.one(connection, changing) is not None

        changed = await self.transaction(change)
        if changed and status is not ExecutionStatus.RUNNING:
            self.claimed.pop(params.execution_id, None)
        if changed and status.is_terminal:
            word = "cancelled" if status is ExecutionStatus.STOPPED else "ended"
            await self.hint(f"{word} {params.execution_id}")
        return changed

    async def update_failure_info(self, execution_id: str, failure_count: int, reason: str) -> bool:
        """Write how often it failed, and why the last time, which is now. Returns whether there is such an execution."""
        if type(failure_count) is not int or failure_count < 0:
            raise ConfigurationError(f"failure_count={failure_count!r}: 0 or more")
        sealed = self.sealed(reason_text(reason))
        assert sealed is not None, "the reason is text"
        updating = store.update_failure(execution_id=execution_id, count=failure_count, reason=sealed)
        return await self.first(updating) is not None

    # -- trees --

    async def get_root_executions(
        self, flow_id: str, limit: int = 50, after: datetime | Execution | None = None
    ) -> list[RootExecution]:
        """Roots of a flow, newest first.

        Args:
            flow_id: Whose.
            limit: At most so many.
            after: For the next page: the last one of the page before, or its `created_at` (which passes over others of
                the same millisecond).
        """
        check_limit(limit)
        before_id = after.id if isinstance(after, Execution) else None
        before = after.created_at if isinstance(after, Execution) else after
        rows = await self.all(
            store.roots(flow_id=flow_id, limit=limit, before_ms=epoch_ms(before), before_id=before_id)
        )
        return [RootExecution(execution_of(row.execution, self.payloads), row.levels, row.nested) for row in rows]

    async def get_child_executions(self, parent_id: str) -> list[Execution]:
        """Executions that this one started, oldest first."""
        return [execution_of(row, self.payloads) for row in await self.all(store.children(parent_id=parent_id))]

    async def get_execution_tree(self, root_id: str) -> list[ExecutionTreeNode]:
        """An execution and all below it: level by level, oldest first. Nothing where there is no such execution."""
        nodes: list[ExecutionTreeNode] = []
        for row in await self.all(store.tree(root_id=root_id, levels_max=LEVELS_MAX)):
            execution = execution_of(row.execution, self.payloads)
            parent = execution.parent_execution_id if row.level else None
            nodes.append(ExecutionTreeNode(execution.id, parent, row.level, execution))
        return nodes

    # -- inside --

    def _stored(self, row: Execution) -> StoredExecution:
        created, updated = epoch_ms(row.created_at), epoch_ms(row.updated_at)
        assert created is not None, "checked"
        assert updated is not None, "checked"
        message, reason = row.error_message, row.last_failure_reason
        return StoredExecution(
            id=row.id,
            flow_id=row.flow_id,
            owner_id=row.owner_id,
            root_id=row.root_execution_id,
            parent_id=row.parent_execution_id,
            depth=row.execution_depth,
            status=row.status,
            created_ms=created,
            updated_ms=updated,
            started_ms=epoch_ms(row.started_at),
            completed_ms=epoch_ms(row.completed_at),
            error=None if message is None else self.sealed(encode_error(ExecutionFailedError(bounded(message)))),
            error_node=row.error_node_id,
            options=options_text(row.options),
            integration=self.sealed(json_text(row.id, "integration", row.integration)),
            external_events=self.sealed(json_text(row.id, "external_events", row.external_events)),
            failure_count=row.failure_count,
            failed_ms=epoch_ms(row.last_failure_at),
            failure_reason=None if reason is None else self.sealed(reason_text(reason)),
            processing_ms=None,
            worker=None,
        )

    async def _check_parent(self, connection: AsyncConnection[Any], row: Execution) -> None:
        assert row.parent_execution_id is not None, "asked only then"
        parent = await self.one(connection, store.parent(execution_id=row.parent_execution_id))
        if parent is None:
            raise ConfigurationError(
                f"execution {row.id}: its parent_execution_id {row.parent_execution_id!r} is no execution"
            )
        if row.root_execution_id != parent.root:
            raise ConfigurationError(
                f"execution {row.id}: root_execution_id={row.root_execution_id!r}; its parent's root is {parent.root!r}"
            )
        if row.execution_depth != parent.depth + 1:
            raise ConfigurationError(
                f"execution {row.id}: execution_depth={row.execution_depth}; its parent has {parent.depth}"
            )


def _may_change(locked: LockedExecution, to: ExecutionStatus, held: OwnerToken | None) -> bool:
    """Whether a status may be written. `held`: the token of our claim, lost or not."""
    if ExecutionStatus(locked.status).is_terminal:
        return False
    if held is not None:
        return locked.owner == held
    if to is ExecutionStatus.STOPPED:
        return True
    if to is ExecutionStatus.RUNNING and locked.is_engines:
        return False
    return locked.owner is None or locked.is_gone


__all__ = ["ExecutionStore", "UpdateExecutionStatusParams"]
