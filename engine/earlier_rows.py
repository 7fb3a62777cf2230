"""What a flush writes of rows that were persisted earlier: as statements, and who of them turned out to be no longer ours. Pure.

    goes on          its checkpoints, where the row is still ours
    has ended        its outcome; with it its last checkpoint, where there is one and no more: nearly always
    comes to rest    ownerless, until it is due

Each statement writes only where the row is PENDING under the owner that is given (P7), and answers with NULL where that was
so for all of them, as it nearly always is; else with those whose was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.ids import WorkflowId
from engine.sealed_rows import outcome
from engine.store import blame, owned_rows

if TYPE_CHECKING:
    from engine.flush import Work
    from engine.store.statement import Statement

RECORD, FINISH_RECORDED, FINISH, REST = "record", "finish_recorded", "finish", "rest"


def earlier_rows(works: Sequence[Work]) -> list[tuple[str, Statement[Any]]]:
    """The statements about these works' rows, each with its name."""
    made: list[tuple[str, Statement[Any]]] = []
    by_name = _by_name(works)
    if going := by_name[RECORD]:
        made.append((RECORD, _record(going)))
    if forgiven := [work.run for work in works if work.run.recovery_attempts and work.checkpoints]:
        ids, owners = [run.id for run in forgiven], [run.owner for run in forgiven]
        made.append(("reset_blame", blame.reset_blame(ids=ids, owners=owners)))
    if recorded := by_name[FINISH_RECORDED]:
        made.append((FINISH_RECORDED, _finish_recorded(recorded)))
    if ended := by_name[FINISH]:
        made.append((FINISH, _finish(ended)))
    if resting := by_name[REST]:
        made.append((REST, _rest(resting)))
    return made


def lost(works: Sequence[Work], answers: Mapping[str, Sequence[tuple[Any, ...]]]) -> Collection[WorkflowId]:
    """Whose row was not PENDING under their owner any more, by what the statements answered: nothing of them was written."""
    found: set[WorkflowId] = set()
    for name in (RECORD, FINISH_RECORDED, FINISH, REST):
        if (answer := answers.get(name)) and (written := answer[0][0]) is not None:
            earlier = [work for work in works if not work.inserts]
            found.update({work.run.id for work in _by_name(earlier)[name]}.difference(written))
    return found


def _by_name(works: Sequence[Work]) -> dict[str, list[Work]]:
    made: dict[str, list[Work]] = {RECORD: [], FINISH_RECORDED: [], FINISH: [], REST: []}
    going, recorded, ended, resting = made.values()
    for work in works:
        if work.ending is not None and work.ending.wake_at is None:
            if len(work.checkpoints) == 1:
                recorded.append(work)
                continue
            ended.append(work)
        elif work.rests:
            resting.append(work)
        if work.checkpoints:
            going.append(work)
    return made


def _record(works: Sequence[Work]) -> Statement[Any]:
    return owned_rows.record(
        [checkpoint for work in works for checkpoint in work.checkpoints],
        owners=[work.run.home.token for work in works for _ in work.checkpoints],
    )


def _finish_recorded(works: Sequence[Any]) -> Statement[Any]:
    outcomes = [outcome(work.ending, work.run.home.seal) for work in works]
    return owned_rows.finish_recorded(
        [work.checkpoints[0] for work in works],
        owners=[work.run.owner for work in works],
        statuses=[work.ending.status for work in works],
        results=[output for output, _ in outcomes],
        failures=[error for _, error in outcomes],
    )


def _finish(works: Sequence[Any]) -> Statement[Any]:
    outcomes = [outcome(work.ending, work.run.home.seal) for work in works]
    return owned_rows.finish(
        ids=[work.run.id for work in works],
        owners=[work.run.owner for work in works],
        statuses=[work.ending.status for work in works],
        results=[output for output, _ in outcomes],
        failures=[error for _, error in outcomes],
    )


def _rest(works: Sequence[Any]) -> Statement[Any]:
    return owned_rows.rest(
        ids=[work.run.id for work in works],
        owners=[work.run.owner for work in works],
        attempts=[work.ending.attempt if work.ending else None for work in works],
        wakes=[work.ending.wake_at if work.ending else None for work in works],
        ended=[work.ending is not None for work in works],
        asleep=[work.ending is not None and work.ending.asleep for work in works],
        keys=[work.run.key if work.ending is not None else None for work in works],
    )
