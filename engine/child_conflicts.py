"""A child's ID that stands already is another workflow's: its parent is told so, and nobody adopts what is not its own (P31).

    flush ─▶ plain INSERT of the children ─▶ an ID stands: all of it is undone
               look what stands ─┬─ this very child, shared by its own ID ─▶ adopted: the checkpoint goes without a row
                                 └─ another's ─▶ the checkpoint says `WorkflowConflictError`, what came behind it is taken
                                                 back, but for steps that have run; the parent rests, due at once,
                                                 and its replay is given the error
             ─▶ flush again

The ID of a child that was given none is its parent's and a number. Anybody whose code may choose IDs can be there first: a
client, another service, an operator. Row and checkpoint of a child come in one commit, so a row that stands where the
checkpoint does not is nobody's child yet, unless it says that it is this call's.

Nobody pays for this where no ID stands: the INSERT finds out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import psycopg

from engine.children import Child
from engine.clock import now_ms
from engine.debounce import Debounced
from engine.desk import handed_on
from engine.effects import Placed
from engine.errors import WorkflowConflictError
from engine.failures import as_recorded
from engine.flush import Flush, Work
from engine.ids import WorkflowId
from engine.payloads import UnreadablePayloadError
from engine.runner import Ending, Phase, Run
from engine.sealed_rows import sealed_checkpoint
from engine.store.operation_outputs import Checkpoint
from engine.store.starts import ExistingRow
from engine.unreadable import put_off

OURS = "DBOS."
"""How the names of the engine's own calls begin, in the history."""

Standing = Callable[[Sequence[str]], Awaitable[Mapping[str, ExistingRow]]]


def is_of_a_row(error: BaseException) -> bool:
    """Whether a workflow's ID stood already, and not a checkpoint's place."""
    return isinstance(error, psycopg.errors.UniqueViolation) and error.diag.table_name == "workflow_status"


async def settled(flush: Flush, standing: Standing) -> list[Flush] | None:
    """The flushes to send instead of one that met a workflow's ID; `None`: it was no child's."""
    placed = _children(work.run for work in flush.works)
    if not placed:
        return None
    rows = await standing([_id(each) for each in placed])
    is_settled = False
    for each in placed:
        if each not in (each.run.effects or ()):
            continue  # taken back with one before it
        row = rows.get(_id(each))
        if row is not None or _id(each) == each.run.id:
            _settle(flush, each, row)
            is_settled = True
    if is_settled:
        return [flush]
    return _apart(flush, placed)


async def settled_alone(run: Run, standing: Standing) -> bool:
    """The same for a late run, whose work is not in a flush; returns whether it may be written now."""
    placed = _children([run])
    rows = dict(await standing([_id(each) for each in placed])) if placed else {}
    for each in placed:
        row = rows.get(_id(each))
        if each not in (run.effects or ()):
            continue  # taken back with one before it
        if row is None and _id(each) != run.id:
            rows[_id(each)] = _as_row(each)  # another call of this run may be given its ID
        elif (ended := _judge(each, row)) is not None:
            run.phase, run.ending = Phase.ENDED, ended
    return bool(placed)


def _children(runs: Iterable[Run]) -> list[Placed]:
    return [each for run in runs for each in run.effects or () if isinstance(each.effect, Child | Debounced)]


def _id(placed: Placed) -> str:
    effect = placed.effect
    assert isinstance(effect, Child | Debounced), "filtered"
    return effect.start.id if isinstance(effect, Child) else effect.call.id


def _settle(flush: Flush, placed: Placed, row: ExistingRow | None) -> None:
    """Judge one child of a flush, whose work becomes what is left of it."""
    run = placed.run
    place = next(place for place, work in enumerate(flush.works) if work.run is run)
    run.unsent = flush.works[place].checkpoints + run.unsent
    ended = _judge(placed, row)
    flush.works[place] = Work(run)
    if ended is not None:
        # Behind this work: its row, with the checkpoint, comes first (P8).
        run.phase, run.ending = Phase.ENDED, ended
    if flush.works[place].is_empty:
        del flush.works[place]
        run.submitted = False
        run.submit()


def _judge(placed: Placed, row: ExistingRow | None) -> Ending | None:
    """Adopt what is this very child, or take the run back to its call. Returns how it then ends here, if its code has ended."""
    run = placed.run
    try:
        if row is None:
            raise WorkflowConflictError(run.id, "it is the workflow that would start it")
        _must_be_own(placed, row)
    except WorkflowConflictError as error:
        return _taken_back(placed, handed_on(run), as_recorded(error)[0])
    except UnreadablePayloadError as error:
        return _taken_back(placed, put_off(run, error), None)
    assert run.effects is not None, "it is one of them"
    run.effects.remove(placed)
    return None


def _must_be_own(placed: Placed, row: ExistingRow) -> None:
    """Raise `WorkflowConflictError` unless what stands is this child."""
    effect = placed.effect
    if not isinstance(effect, Child):
        raise WorkflowConflictError(
            row.workflow_id, f"it is a {row.name!r} that was there before what this debounces to"
        )
    start = effect.start
    if not effect.is_shared and row.request != start.request:
        raise WorkflowConflictError(start.id, f"it is a {row.name!r} that this workflow has not started")
    inputs = placed.run.home.engine.payloads.open(row.inputs, f"workflow {start.id}: inputs")
    start.must_be(name=row.name, inputs=inputs, instance=row.instance, user=row.user)


def _taken_back(placed: Placed, ending: Ending, error: str | None) -> Ending | None:
    """A run keeps what it has recorded of calls before this one, and its error, if there is one; it goes on from there, by a replay.

    Of calls behind it, it keeps the steps that have run: they were called beside it, since none begins behind a call that is not
    durable (P17), so that the replay calls them in the same places, and they are not called twice (I4). What has no effect but
    its row is taken back: the code may not come there again.
    """
    run = placed.run
    place = [each.function_id for each in run.unsent].index(placed.function_id)
    kept = [each for each in run.unsent if each.function_id < placed.function_id or _has_run(run, each)]
    if error is not None:
        verdict = run.unsent[place]._replace(output=None, error=error, child=None, ended_ms=now_ms())
        seal = run.home.seal
        kept.append(verdict if seal is None else sealed_checkpoint(verdict, seal))
    before = {each.function_id for each in kept} - {placed.function_id}
    run.effects = [each for each in run.effects or () if each.function_id in before]
    run.unsent, run.recorded = kept, run.durable + len(kept)
    if run.phase is Phase.RUNNING and run.is_running:
        run.doom = ending
        run.wake_waiters()
        return None
    run.phase, run.ending = Phase.RUNNING, None
    return ending


def _has_run(run: Run, checkpoint: Checkpoint) -> bool:
    """Whether it is of a step, and not of what the engine does itself."""
    is_start = checkpoint.child is not None or any(
        each.function_id == checkpoint.function_id and isinstance(each.effect, Child | Debounced)
        for each in run.effects or ()
    )
    return not is_start and not checkpoint.name.startswith(OURS)


def _apart(flush: Flush, placed: Sequence[Placed]) -> list[Flush] | None:
    """Nothing stands any more, or two of this flush want one ID: then one of them comes first."""
    wanted = Counter([*map(_id, placed), *flush.new_ids])
    twice = {workflow_id for workflow_id, count in wanted.items() if count > 1}
    if not twice:
        return None if flush.new_ids else [flush]
    if len(flush.works) > 1 or len(flush.new_ids) > sum(work.inserts for work in flush.works):
        return flush.halves()
    first: dict[str, Placed] = {}
    for each in placed:
        if (before := first.setdefault(_id(each), each)) is not each and each in (each.run.effects or ()):
            _settle(flush, each, _as_row(before))
    return [flush]


def _as_row(placed: Placed) -> ExistingRow:
    """What will stand of a child."""
    effect = placed.effect
    if isinstance(effect, Debounced):
        call = effect.call
        return ExistingRow(WorkflowId(call.id), "", call.name, None, None, None, call.inputs, call.request)
    assert isinstance(effect, Child), "filtered"
    start = effect.start
    return ExistingRow(
        start.id, start.status, start.name, None, start.config_name, start.user, start.inputs, start.request
    )


__all__ = ["is_of_a_row", "settled", "settled_alone"]
