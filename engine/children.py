"""Workflows started and awaited by workflows (P31): the child's row comes in the flush of the checkpoint that says so.

    start   ─▶ checkpoint 'name of the child', child_workflow_id; effect: the child's row ─▶ the parent goes on at once
    result  ─▶ in memory or at rest until the child has ended ─▶ checkpoint with its result, or its error

A child's ID is its parent's and the function ID of the call, unless it is given one: who stands there is another workflow, and
that is an error of the call, whoever came first (engine/child_conflicts.py). An ID that is given may be taken:
by the same workflow, then it is that one (so that a key of the user's makes one run of several calls), or by another one,
then it is an error of the call, and recorded as such.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from engine.clock import now_ms
from engine.effects import Placed, Rows, add, admit
from engine.errors import DeduplicatedError, WorkflowConflictError
from engine.failures import decode_error
from engine.given_errors import record_error
from engine.identity import NotAuthorizedError
from engine.ids import WorkflowId
from engine.results import value_of
from engine.row_flush import own
from engine.runner import Phase, Run
from engine.sealed_rows import sealed_starts
from engine.signals import Signal
from engine.starts import Start
from engine.states import OPEN, WorkflowStatus
from engine.store import queues
from engine.store import starts as store
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement, send
from engine.timers import Place, place_of, waits_of
from engine.unreadable import once_readable
from engine.waits import Outcome
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.reach import Reach

GET_RESULT = "DBOS.getResult"
DEDUPLICATE = "DBOS.deduplicate"

UNDURABLE_MAX = 1_000
"""Checkpoints of one workflow that may wait for their flush before it starts more children (I10)."""


@dataclass(slots=True)
class Child:
    """The row of a workflow that its parent's checkpoint starts. `is_shared`: it was given its ID, as others may be."""

    start: Start
    is_shared: bool = False
    touches: Sequence[str] = ()
    wakes: Sequence[Signal] = ()

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any]:
        """New rows, joined to their parents' checkpoints. Who runs them is decided by the room there is now."""
        starts = _starts(placed)
        own(engine.commons, starts)
        return store.start(
            sealed_starts(starts, engine.payloads.seal),
            executor_id=engine.executor_id,
            inputs_inline_max=engine.settings.inputs_inline_max,
            parents=[(each.run.id, each.function_id) for each in placed],
        )

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """Run those that are ours."""
        inserted = {row[0] for row in rows}
        for start in _starts(placed):
            if start.id in inserted:
                inserted.discard(start.id)  # of several under one ID, the first is the row
                engine.commons.adopt(start)


def _starts(placed: Sequence[Placed]) -> list[Start]:
    return [each.effect.start for each in placed if isinstance(each.effect, Child)]


def child_id(run: Run, function_id: int) -> WorkflowId:
    """The ID of a child that was given none."""
    return WorkflowId(f"{run.id}-{function_id}")


async def start_child(
    run: Run, start: Start, *, function_id: int, has_own_id: bool, refused: NotAuthorizedError | None = None
) -> None:
    """Start a workflow from a workflow: goes on at once, its row comes with the next flush.

    Raises:
        WorkflowConflictError: The ID it was given is another workflow's.
        NotAuthorizedError: It is `refused`; remembered, whatever roles are required later.
        Suspended: The run may not go on here.
    """
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        if recorded.output is not None:
            start.id = WorkflowId(json.loads(recorded.output))  # in a fork, its original's child
        return
    await admit(run, undurable_max=0 if has_own_id else UNDURABLE_MAX)
    if (tracing := run.home.engine.tracing) is not None:
        tracing.starting(start)
    start.within_ms = run.deadline_ms
    now = now_ms()
    is_new = True
    if has_own_id or refused is not None:
        try:
            if refused is not None:
                raise refused
            is_new = await once_readable(run, lambda: stands(run.home.engine, start)) is None
        except (WorkflowConflictError, NotAuthorizedError) as error:
            raise record_error(run, function_id, start.name, error, now) from None
    if is_new:
        add(run, function_id, Child(start, is_shared=has_own_id))
    run.checkpoint(Checkpoint(run.id, function_id, start.name, json.dumps(start.id), None, now, now, start.id))


async def start_outside(reach: Reach, start: Start) -> WorkflowStatus:
    """Start a workflow that no workflow starts; returns when its row is durable, this one's or that of its first start.

    What it returns is the status of that row, as it was then.

    Raises:
        WorkflowConflictError: The ID is another workflow's, or this one's with other inputs.
        DeduplicatedError: Another workflow of its queue has its deduplication ID.
        UnreadablePayloadError: The ID has a row whose inputs cannot be opened.
        EngineStoppedError: The engine does not run.
    """
    if reach.tracing is not None:
        reach.tracing.starting(start)
    while not await reach.insert(start):
        if (status := await stands(reach, start)) is not None:
            return status
        if start.deduplication_id is not None and (holder := await deduplicated_by(reach, start)) is not None:
            raise DeduplicatedError(start.queue or "", start.deduplication_id, holder)
    return start.status


async def stands(reach: Reach, start: Start) -> WorkflowStatus | None:
    """The status of this very workflow, if it has its row already.

    Raises:
        WorkflowConflictError: Another one has its ID.
        UnreadablePayloadError: It has a row whose inputs cannot be opened.
    """

    async def read() -> store.ExistingRow | None:
        async with reach.pool.connection() as connection:
            cursor = await send(connection, reach.settings.schema, store.existing(ids=[start.id]))
            return await cursor.fetchone()

    row = await through_weather(read)
    if row is None:
        return None
    inputs = reach.payloads.open(row.inputs, f"workflow {start.id}: inputs")
    start.must_be(name=row.name, inputs=inputs, instance=row.instance, user=row.user)
    return WorkflowStatus(row.status)


async def deduplicated_by(reach: Reach, start: Start) -> str | None:
    """Who has the deduplication ID of a start now; nobody, if that has ended meanwhile."""

    async def read() -> str | None:
        async with reach.pool.connection() as connection:
            asked = queues.holder(queue=start.queue or "", deduplication_id=start.deduplication_id or "")
            row = await (await send(connection, reach.settings.schema, asked)).fetchone()
            return None if row is None else row[0]

    return await through_weather(read)


async def decide_deduplicated(run: Run, start: Start, *, start_id: int, verdict_id: int) -> None:
    """Behind `start_child`, of a workflow with a deduplication ID: waits until it is decided which of the two it is.

    Its row comes with the checkpoint of the call, unless the ID is taken (P31). Whether it came is looked at behind that
    commit, and remembered as well: a replay gets the same answer, though the other may have ended since.

    Raises:
        DeduplicatedError: Another workflow of the queue has the ID.
        WorkflowConflictError: Another workflow has its workflow ID.
        Suspended: The run may not go on here.
    """
    if run.history is not None and (recorded := run.history.get(verdict_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        return
    await run.ready()
    engine, now = run.home.engine, now_ms()
    try:
        if await stands(engine, start):
            run.checkpoint(Checkpoint(run.id, verdict_id, DEDUPLICATE, "true", None, now, now_ms()))
            return
        error: Exception = DeduplicatedError(
            start.queue or "", start.deduplication_id or "", await deduplicated_by(engine, start)
        )
    except WorkflowConflictError as conflict:
        error = conflict  # both its ID and its deduplication ID are taken, by two others
    # With the start, which has brought no row: who resumes it enqueues again.
    raise record_error(run, verdict_id, DEDUPLICATE, error, now, beside=start_id)


def place_of_result(run: Run, timeout: timedelta | None) -> Place:
    """Take the place of a call for a result."""
    return place_of(run, GET_RESULT, timeout)


async def result_in_workflow(run: Run, workflow_id: str, place: Place) -> str:
    """Another workflow's result as JSON text, or its error, awaited and remembered.

    Raises:
        TimeoutError: It has not ended in time; remembered as well.
        WorkflowCancelledError, WorkflowNotFoundError: There is none.
        Exception: What the workflow raised.
        Suspended: This one rests until there is one.
    """
    function_id = place.function_id
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        return recorded.output or "null"
    started = now_ms()
    try:
        output = await once_readable(run, lambda: _awaited(run, workflow_id, place.until))
    except (asyncio.CancelledError, psycopg.Error):
        raise  # nothing is known of it
    except Exception as error:  # noqa: BLE001  # what the other workflow raised: remembered, and given
        given = record_error(run, function_id, GET_RESULT, error, started, child=workflow_id, beside=place.time_place)
        raise given from given.__cause__
    run.checkpoint(Checkpoint(run.id, function_id, GET_RESULT, output, None, started, now_ms(), workflow_id))
    return output


async def _awaited(run: Run, workflow_id: str, until: int) -> str:
    engine = run.home.engine
    while True:
        if not run.is_ready():
            await run.ready()  # a child's row comes with a flush of ours
        if not engine.commons.is_at_work_on(workflow_id):
            outcome = await engine.results.look(workflow_id)
            if outcome.status not in OPEN:
                return value_of(workflow_id, outcome, engine.payloads)
        brought = await waits_of(run).until(run, until, (Signal("result", workflow_id),))
        if isinstance(brought, Outcome):
            return value_of(workflow_id, brought, engine.payloads)
        if until <= now_ms():
            raise TimeoutError(f"workflow {workflow_id} has not ended in time")


def require_workflow_code(run: Run, what: str) -> None:
    """Refuse in a fused handler, which has no history of its own: its transaction is all it does."""
    if run.phase is Phase.ENDED:
        from engine.checkpoint import MixedCallError

        raise MixedCallError(
            f"workflow {run.id}: {what} in a handler that is one transaction.\n"
            f"  Make it a workflow with a transactional step: only workflows have a history to remember it in."
        )
