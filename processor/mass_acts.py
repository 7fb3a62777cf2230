"""Acts on many workflows or dead letters, chosen by a filter: for the commands and for the admin API.

What was chosen is a list of IDs, made before anything is done: a dry run shows it, and who comes meanwhile is not in it.
Of each it is said what became of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from engine import acts, forks
from engine.acts import Acted, Refusal
from engine.dead_letters import LIST_MAX as LETTERS_MAX
from engine.dead_letters import DeadLetterError, discard, list_dead_letters, retry
from engine.errors import WorkflowNotFoundError
from engine.listing import WorkflowFilter, list_workflows
from engine.states import OPEN, WorkflowStatus


class Act(StrEnum):
    """What may be done to many workflows."""

    CANCEL = "cancel"
    RESUME = "resume"
    RESTART = "restart"
    DELETE = "delete"


class LetterAct(StrEnum):
    """What may be done to many dead letters."""

    RETRY = "retry"
    DISCARD = "discard"


FITS: Mapping[Act, frozenset[WorkflowStatus]] = {
    Act.CANCEL: OPEN,
    Act.RESUME: frozenset(WorkflowStatus) - OPEN - {WorkflowStatus.SUCCESS},
    Act.RESTART: frozenset(WorkflowStatus),
    Act.DELETE: frozenset(WorkflowStatus) - OPEN,
}
"""What a filter without a status chooses for an act."""


async def fitting(connection: Any, schema: str, act: Act, chosen: WorkflowFilter, *, limit: int) -> list[str]:
    """The oldest workflows that a filter passes and the act is for."""
    chosen = replace(
        chosen,
        status=chosen.status or sorted(FITS[act]),
        is_of_record=False if act is Act.DELETE else chosen.is_of_record,
    )
    return [info.id for info in await list_workflows(connection, schema, chosen, limit=limit, payloads=None)]


async def act_on_workflows(
    connection: Any,
    schema: str,
    act: Act,
    ids: Sequence[str],
    *,
    actor: str,
    note: str,
    interrupt: bool = False,
    children: bool = False,
    version: str | None = None,
) -> tuple[Acted, dict[str, str]]:
    """Do it. Returns what became of each, and the IDs of those that were begun anew (`restart`).

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        act: What.
        ids: To which; for a `cancel` with `children` their family (`acts.family`).
        actor: Who, for the audit.
        note: Why, for the audit.
        interrupt: Of `cancel`: also async steps that run.
        children: Of `cancel` and `delete`: also what they started.
        version: Of `resume` and `restart`: of the code that is to go on with them.
    """
    new_ids: dict[str, str] = {}
    match act:
        case Act.CANCEL:
            acted = await acts.cancel(connection, schema, ids, interrupt=interrupt, actor=actor, note=note)
            if children:  # of those that a family has, some have ended
                acted = Acted(acted.done, {i: why for i, why in acted.refused.items() if why != Refusal.ENDED})
        case Act.RESUME:
            acted = await acts.resume(connection, schema, ids, version=version, actor=actor, note=note)
        case Act.DELETE:
            acted = await acts.delete(connection, schema, ids, children=children, actor=actor, note=note)
        case Act.RESTART:
            acted = Acted()
            for workflow_id in ids:
                try:
                    new_ids[workflow_id] = await forks.restart(
                        connection, schema, workflow_id, version=version, actor=actor, note=note
                    )
                    acted.done.append(workflow_id)
                except WorkflowNotFoundError:
                    acted.refused[workflow_id] = Refusal.UNKNOWN
    return acted, new_ids


async def open_letters(connection: Any, schema: str, chosen: Mapping[str, str], *, limit: int) -> list[int]:
    """The oldest open dead letters that pass a filter: `topic`, `handler`, `reason`."""
    ids: list[int] = []
    while len(ids) < limit:
        after = ids[-1] if ids else 0
        rows = min(LETTERS_MAX, limit - len(ids))
        page = await list_dead_letters(connection, schema, after=after, limit=rows, **dict(chosen))
        ids += [letter.dead_letter_id for letter in page]
        if len(page) < rows:
            break
    return ids


async def act_on_letters(
    connection: Any,
    schema: str,
    act: LetterAct,
    ids: Sequence[int],
    *,
    actor: str,
    note: str,
    all_or_none: bool = False,
) -> dict[int, str]:
    """Do it, in one transaction if none refuses, else one by one. Returns those that were refused, and why.

    Raises:
        DeadLetterError: One was refused, of those that are all to be done or none.
    """
    try:
        await _act(connection, schema, act, ids, actor=actor, note=note)
    except DeadLetterError:
        if all_or_none:
            raise
    else:
        return {}
    refused: dict[int, str] = {}
    # Somebody decided about one since they were listed.
    for each in ids:
        try:
            await _act(connection, schema, act, [each], actor=actor, note=note)
        except DeadLetterError as error:
            refused[each] = str(error)
    return refused


async def _act(connection: Any, schema: str, act: LetterAct, ids: Sequence[int], *, actor: str, note: str) -> None:
    if act is LetterAct.RETRY:
        await retry(connection, schema, ids, actor=actor, note=note)
    else:
        await discard(connection, schema, ids, note=note, actor=actor)
