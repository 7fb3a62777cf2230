"""Forks: a workflow begun once more under another ID, with the history of the first up to a step (P29).

    orders-3-17    1 charge   2 reserve   3 ship ✗              fork(from_step=3)
    its fork       1 charge   2 reserve   ─▶ runs from here      charge and reserve are not called again

What the first did from that step on is not undone: the fork does it again. It has no source, also where a record started the
first: it holds no key and counts for no partition. A restart is a fork from the first step, by the newest code there is.
"""

import uuid
from typing import Any

from psycopg import AsyncConnection

from engine.acts import WorkflowActError
from engine.errors import WorkflowConflictError, WorkflowNotFoundError
from engine.given_ids import check_chosen
from engine.hints import ROWS_CHANNEL
from engine.store import acts as store
from engine.store import executions
from engine.store.executions import CREATED
from engine.store.executor import notify
from engine.store.statement import send


async def fork(
    connection: AsyncConnection[Any],
    schema: str,
    workflow_id: str,
    *,
    from_step: int,
    new_id: str | None = None,
    is_placed: bool = False,
    version: str | None = None,
    actor: str | None = None,
    note: str = "",
) -> str:
    """Begin a workflow once more from a step on; returns the ID of the fork.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        workflow_id: Of which; running or ended.
        from_step: Function ID of the first step that is not taken over: 1 begins anew, one above the last takes all.
        new_id: Of the fork; a UUID by default. The same again is the same fork.
        is_placed: Whether `new_id` was not chosen: it is that of a call in a workflow.
        version: Of the code that is to run it; `None`: that of the first. Where the history does not fit the code, it fails with
            `NondeterminismError`.
        actor: Who does it, for the audit; `None`: a program, which is not recorded.
        note: Why, for the audit.

    Raises:
        WorkflowNotFoundError: There is no such workflow.
        WorkflowActError: It has no such step.
        WorkflowConflictError: `new_id` is another workflow's.
        ReservedIdError: `new_id` is one that the engine gives: of a record, of a tick, of what a workflow starts.
    """
    async with connection.transaction():
        original = await _original(connection, schema, workflow_id)
        if not 1 <= from_step <= original.last_function_id + 1:
            raise WorkflowActError(
                workflow_id,
                f"from_step={from_step}: it has {original.last_function_id} steps, so 1 to one more than that",
            )
        return await _copied(
            connection,
            schema,
            original,
            from_step=from_step,
            new_id=new_id or str(uuid.uuid4()),
            is_placed=is_placed or new_id is None,
            version=original.version if version is None else version,
            actor=actor,
            action="fork workflow",
            note=note,
        )


async def restart(
    connection: AsyncConnection[Any],
    schema: str,
    workflow_id: str,
    *,
    new_id: str | None = None,
    is_placed: bool = False,
    version: str | None = None,
    actor: str | None = None,
    note: str = "",
) -> str:
    """Begin a workflow anew, from its first step, with the inputs it had; returns the ID of the new one.

    It has no history that would ask for old code: unless a version is given, it is run by that of the process which started last.
    Arguments and errors are as for `fork`.
    """
    async with connection.transaction():
        original = await _original(connection, schema, workflow_id)
        if version is None:
            cursor = await send(connection, schema, store.newest_version(name=original.name))
            newest = await cursor.fetchone()
            version = original.version if newest is None else newest[0]
        return await _copied(
            connection,
            schema,
            original,
            from_step=1,
            new_id=new_id or str(uuid.uuid4()),
            is_placed=is_placed or new_id is None,
            version=version,
            actor=actor,
            action="restart workflow",
            note=note,
        )


async def _original(connection: AsyncConnection[Any], schema: str, workflow_id: str) -> store.OriginalRow:
    cursor = await send(connection, schema, store.original(workflow_id=workflow_id))
    row = await cursor.fetchone()
    if row is None:
        raise WorkflowNotFoundError(workflow_id)
    return row


async def _copied(
    connection: AsyncConnection[Any],
    schema: str,
    original: store.OriginalRow,
    *,
    from_step: int,
    new_id: str,
    is_placed: bool,
    version: str | None,
    actor: str | None,
    action: str,
    note: str,
) -> str:
    if not is_placed:
        await check_chosen(connection, schema, new_id, of_children=actor is None)
    workflow_id = original.workflow_id
    cursor = await send(connection, schema, store.fork(workflow_id=workflow_id, new_id=new_id, version=version))
    if await cursor.fetchone() is None:
        standing = await (await send(connection, schema, store.forked(workflow_id=new_id))).fetchone()
        if standing is None or standing.forked_from != workflow_id:
            raise WorkflowConflictError(new_id, f"it is no fork of {workflow_id}")
        return new_id
    common: dict[str, Any] = {"workflow_id": workflow_id, "new_id": new_id}
    await send(connection, schema, store.copy_inputs(**common))
    if await (await send(connection, schema, store.copy_execution(**common))).fetchone() is not None:
        await send(connection, schema, executions.append_event(execution_id=new_id, event_type="status", data=CREATED))
    for copy in (store.copy_checkpoints, store.copy_events, store.copy_streams):
        await send(connection, schema, copy(**common, below=from_step))
    if actor is not None:
        detail = f"{new_id} from step {from_step} {note}".strip()
        await send(connection, schema, store.audit(actor=actor, action=action, ids=[workflow_id], detail=detail))
    await send(connection, schema, notify(channel=ROWS_CHANNEL, payload="rows"))
    return new_id
