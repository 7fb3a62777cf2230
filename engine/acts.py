"""Acts on workflows that anybody with a connection may do: cancel, resume, delete; forks are in engine/forks.py.

    resume   CANCELLED, ERROR, attempts exceeded ─▶ back to work under its own ID, over its history
    delete   an ended workflow without a source, with its children if asked: as if it had never been

Each is some transactions of at most `ACT_MAX` workflows, says of every workflow what became of it, and may be repeated: a
second time it finds nothing left to do. Whoever runs workflows finds out by a hint, or at its next look.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import AsyncConnection

from engine.errors import EngineError
from engine.hints import ROWS_CHANNEL, cancelled_hints
from engine.ids import parts_of
from engine.states import OPEN, WorkflowStatus
from engine.store import acts as store
from engine.store import cancels
from engine.store.executor import notify
from engine.store.statement import send
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.reach import Reach

Value = TypeVar("Value")

ACT_MAX = 500
"""Workflows of one transaction: their rows are locked together."""

FAMILY_MAX = 10_000
"""Most workflows that one act follows children to (I10)."""


class Refusal(StrEnum):
    """Why an act was not done to a workflow."""

    UNKNOWN = "there is no such workflow"
    OPEN = "it has not ended"
    ENDED = "it has ended"
    SUCCEEDED = "it has succeeded: fork or restart it"
    OF_RECORD = "a record started it, and its row stands for that record; retention deletes it"


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of an act.

    Attributes:
        done: Workflows it was done to.
        refused: Those it was not done to, and why.
    """

    done: list[str] = field(default_factory=list[str])
    refused: dict[str, Refusal] = field(default_factory=dict[str, Refusal])


class WorkflowActError(EngineError):
    """An act on a workflow was refused, and nothing was changed. The message says why."""

    def __init__(self, workflow_id: str, reason: str) -> None:
        super().__init__(workflow_id, reason)
        self.workflow_id = workflow_id
        self.reason = reason

    def __str__(self) -> str:
        return f"workflow {self.workflow_id}: {self.reason}"


async def cancel(
    connection: AsyncConnection[Any],
    schema: str,
    ids: Sequence[str],
    *,
    interrupt: bool = False,
    actor: str | None = None,
    note: str = "",
) -> Acted:
    """Cancel workflows that have not ended; whoever runs one hears of it at once, and begins no further step.

    Args:
        connection: In autocommit mode, as for all acts.
        schema: Of the system tables.
        ids: Which.
        interrupt: Also cancel async steps that run, where they wait next.
        actor: Who does it, for the audit; `None`: a program, which is not recorded.
        note: Why, for the audit.
    """
    acted = Acted()
    for some in _portions(ids):
        async with connection.transaction():
            cursor = await send(connection, schema, cancels.cancel(ids=some, interrupt=interrupt))
            done: list[str] = [row.workflow_id for row in await cursor.fetchall()]
            left = await _locked(connection, schema, [i for i in some if i not in done])
            await _record(connection, schema, done, action="cancel workflow", actor=actor, note=note)
            for payload in cancelled_hints(done, interrupt=interrupt):
                await send(connection, schema, notify(channel=ROWS_CHANNEL, payload=payload))
        acted.done.extend(done)
        for workflow_id in some:
            if workflow_id not in done:
                acted.refused[workflow_id] = Refusal.ENDED if workflow_id in left else Refusal.UNKNOWN
    return acted


async def resume(
    connection: AsyncConnection[Any],
    schema: str,
    ids: Sequence[str],
    *,
    version: str | None = None,
    actor: str | None = None,
    note: str = "",
) -> Acted:
    """Put workflows that were cancelled, failed or given up back to work, under their IDs and over their histories.

    The step that one failed by runs again; what succeeded stands (I4). Time-outs begin anew. One of a record waits behind
    what was open of its key, or goes first where it blocked the key (P18, decision 0003), and its dead letter counts as
    retried; one of a queue goes back to its queue.

    Args:
        connection: As for `cancel`.
        schema: As for `cancel`.
        ids: Which.
        version: Of the code that is to go on with them; `None`: the one they had. Where the history does not fit the code, they fail
            with `NondeterminismError`. Records' workflows go on in whatever code their partition's owner has.
        actor: As for `cancel`.
        note: As for `cancel`.
    """
    acted = Acted()
    for some in _portions(ids):
        async with connection.transaction():
            rows = await _locked(connection, schema, some)
            ended: list[store.LockedRow] = []
            for workflow_id in some:
                row = rows.get(workflow_id)
                if refusal := _why_not_resumed(row):
                    acted.refused[workflow_id] = refusal
                elif row is not None:
                    ended.append(row)
            if not ended:
                continue
            failed = [row.workflow_id for row in ended if row.status == WorkflowStatus.ERROR]
            await send(connection, schema, store.forget_errors(ids=failed))
            if free := [row.workflow_id for row in ended if row.source is None]:
                await send(connection, schema, store.resume(ids=free, version=version))
            if of_records := [row for row in ended if row.source is not None]:
                await _resume_records(connection, schema, of_records)
            done: list[str] = [row.workflow_id for row in ended]
            await _renew_below(connection, schema, done)
            await _record(connection, schema, done, action="resume workflow", actor=actor, note=note)
            await send(connection, schema, notify(channel=ROWS_CHANNEL, payload="rows"))
        acted.done.extend(done)
    return acted


async def _resume_records(connection: AsyncConnection[Any], schema: str, rows: Sequence[store.LockedRow]) -> None:
    ids = [row.workflow_id for row in rows]
    # In this order: a reader that misses the hold sees the row (decision 0003).
    cursor = await send(connection, schema, store.lift_blocks(ids=ids))
    lifted = {row[0] for row in await cursor.fetchall()}
    places = [parts_of(row.source or "") for row in rows]
    resuming = store.resume_records(
        ids=ids,
        services=["" if place is None else place.service_name for place in places],
        keys=["" if place is None else place.key for place in places],
        keep_place=[workflow_id in lifted for workflow_id in ids],
    )
    await send(connection, schema, resuming)
    await send(connection, schema, store.retry_dead_letters(ids=ids))


async def _renew_below(connection: AsyncConnection[Any], schema: str, ids: Sequence[str]) -> None:
    """What they started has no deadline of the time before.

    Whoever starts something more waits for a row that is locked by now, or has done so already: each look is a generation ahead.
    """
    while (await send(connection, schema, cancels.renew_below(ids=ids))).rowcount:
        pass


async def delete(
    connection: AsyncConnection[Any],
    schema: str,
    ids: Sequence[str],
    *,
    children: bool = False,
    actor: str | None = None,
    note: str = "",
) -> Acted:
    """Delete workflows that have ended: rows, histories, inputs, messages, events, streams. Their IDs are free again.

    What has not ended is refused: cancel it first. So is a record's workflow: its row is what keeps its record from running
    again (I1, I2), and goes with the horizon (P30).

    Args:
        connection: As for `cancel`.
        schema: As for `cancel`.
        ids: Which.
        children: Also what they started, and so on; all of a family are deleted, or none.
        actor: As for `cancel`.
        note: As for `cancel`.
    """
    acted = Acted()
    if not children:
        for some in _portions(ids):
            await _delete(connection, schema, some, acted, actor=actor, note=note)
        return acted
    for workflow_id in dict.fromkeys(ids):
        members = await family(connection, schema, [workflow_id])
        await _delete(connection, schema, members, acted, whole=True, actor=actor, note=note)
    return acted


async def _delete(
    connection: AsyncConnection[Any],
    schema: str,
    ids: Sequence[str],
    acted: Acted,
    *,
    whole: bool = False,
    actor: str | None,
    note: str,
) -> None:
    async with connection.transaction():
        rows = await _locked(connection, schema, ids)
        refused = {i: why for i in ids if i not in acted.done and (why := _why_not_deleted(rows.get(i))) is not None}
        acted.refused.update(refused)
        done = [] if whole and refused else [row for row in rows if row not in refused]
        if done:
            await send(connection, schema, store.delete(ids=done))
            await _record(connection, schema, done, action="delete workflow", actor=actor, note=note)
    acted.done.extend(done)


async def family(connection: AsyncConnection[Any], schema: str, ids: Sequence[str]) -> list[str]:
    """Workflows with what they started, and so on, parents first.

    Raises:
        WorkflowActError: More than `FAMILY_MAX`.
    """
    cursor = await send(connection, schema, store.family(ids=ids, limit=FAMILY_MAX + 1))
    found: list[str] = [row[0] for row in await cursor.fetchall()]
    if len(found) > FAMILY_MAX:
        raise WorkflowActError(ids[0], f"it has more than {FAMILY_MAX:,} descendants: act on them in portions")
    return found


async def through_pool(reach: Reach, act: Callable[[AsyncConnection[Any], str], Coroutine[Any, Any, Value]]) -> Value:
    """Do an act on a connection of this process's, again where Postgres was away: a second time it finds itself done."""

    async def attempt() -> Value:
        async with reach.pool.connection() as connection:
            return await act(connection, reach.settings.schema)

    return await through_weather(attempt)


# -- inside --


def _portions(ids: Sequence[str]) -> Iterator[list[str]]:
    unique = list(dict.fromkeys(ids))
    for start in range(0, len(unique), ACT_MAX):
        yield unique[start : start + ACT_MAX]


async def _locked(connection: AsyncConnection[Any], schema: str, ids: Sequence[str]) -> dict[str, store.LockedRow]:
    if not ids:
        return {}
    cursor = await send(connection, schema, store.lock(ids=ids))
    return {row.workflow_id: row for row in await cursor.fetchall()}


def _why_not_resumed(row: store.LockedRow | None) -> Refusal | None:
    if row is None:
        return Refusal.UNKNOWN
    if row.status in OPEN:
        return Refusal.OPEN
    return Refusal.SUCCEEDED if row.status == WorkflowStatus.SUCCESS else None


def _why_not_deleted(row: store.LockedRow | None) -> Refusal | None:
    if row is None:
        return Refusal.UNKNOWN
    if row.source is not None:
        return Refusal.OF_RECORD
    return Refusal.OPEN if row.status in OPEN else None


async def _record(
    connection: AsyncConnection[Any], schema: str, ids: Sequence[str], *, action: str, actor: str | None, note: str
) -> None:
    if actor is not None and ids:
        await send(connection, schema, store.audit(actor=actor, action=action, ids=ids, detail=note))
