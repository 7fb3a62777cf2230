"""Schedules for operators: list, pause, resume, trigger, back-fill. Every act is recorded in `audit`.

An act locks the schedule's row, as a look of the scheduler does: what it says holds from its commit on (decision 0014).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from itertools import count, islice
from typing import Any

from psycopg import AsyncConnection

from engine.cron import CatchUp, Cron
from engine.errors import ConfigurationError, EngineError
from engine.hints import ROWS_CHANNEL
from engine.ids import ExecutorId, WorkflowId
from engine.settings import EngineSettings
from engine.starts import Start
from engine.store import executor, holds, starts
from engine.store import schedules as store
from engine.store.schedules import ListedRow
from engine.store.statement import send
from engine.ticks import instant, tick_start, tick_starts, trigger_id

BACKFILL_MAX = 10_000
"""Ticks of one back-fill: all of them are rows that wait (I10). Do a longer range in parts."""

BACKFILL_BATCH = 500
"""Of them in one commit: as long as it lasts, the schedule's own ticks wait."""

_INLINE_MAX = EngineSettings(conninfo="").inputs_inline_max
"""Inputs of a tick have a hundred characters."""


class ScheduleError(EngineError):
    """An act on a schedule is refused. The message says why, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands. Times are epoch ms.

    Attributes:
        name: Of it, and of its workflow.
        expression, timezone, catch_up: What it is, by the executor that decided last.
        version: Of the code that its next ticks run.
        state: 'active'; 'paused'; 'absent': no live executor has it, so nothing is started.
        registered_at: When an executor had it for the first time.
        changed_at: When it last became another.
        last_tick_at: The time of the newest tick that was started; `None`: none was.
        last_started_at: When that was.
        decided_until: Ticks up to here were started or passed over.
        due_since: The first tick that is due and not started; `None`: there is none.
        next_at: The first tick that is not due yet. `None`: there is none, or this program cannot read the expression.
        paused_at: When it was paused.
        paused_by: Who did it.
        note: And why.
        executors: How many live ones have it.
    """

    name: str
    expression: str
    timezone: str
    catch_up: str
    version: str
    state: str
    registered_at: int
    changed_at: int | None
    last_tick_at: int | None
    last_started_at: int | None
    decided_until: int
    due_since: int | None
    next_at: int | None
    paused_at: int | None
    paused_by: str | None
    note: str | None
    executors: int


@dataclass(frozen=True, slots=True)
class BackFill:
    """What a back-fill did: ticks it started, and ticks that had their workflows already."""

    started: int
    stood: int


async def list_schedules(connection: AsyncConnection[Any], schema: str) -> list[Schedule]:
    """Every schedule that an executor ever had, by name."""
    return [_shown(row) for row in await (await send(connection, schema, store.listed())).fetchall()]


async def pause(
    connection: AsyncConnection[Any], schema: str, name: str, *, note: str, actor: str = "operator"
) -> None:
    """Start no tick from now on, until it is resumed. What was started runs on.

    Raises:
        ScheduleError: There is no such schedule, or it is paused.
    """
    async with connection.transaction():
        row = await _locked(connection, schema, name)
        if await (await send(connection, schema, store.pause(name=name, actor=actor, note=note))).fetchone() is None:
            raise ScheduleError(
                f"schedule {name!r} is paused, since {instant(row.paused_at or 0)} by {row.paused_by}: {row.pause_note}"
            )
        await _audit(connection, schema, "pause schedule", name, detail=note, actor=actor)


async def resume(
    connection: AsyncConnection[Any], schema: str, name: str, *, note: str, actor: str = "operator"
) -> int:
    """Start ticks again, from now on: those of the pause are passed over. Returns since when it was paused, epoch ms.

    Raises:
        ScheduleError: There is no such schedule, or it is not paused.
    """
    async with connection.transaction():
        await _locked(connection, schema, name)
        resumed = await (await send(connection, schema, store.resume(name=name))).fetchone()
        if resumed is None:
            raise ScheduleError(f"schedule {name!r} is not paused")
        since: int = resumed[0]
        detail = f"paused since {instant(since)}; {note}"
        await _audit(connection, schema, "resume schedule", name, detail=detail, actor=actor)
    return since


async def trigger(
    connection: AsyncConnection[Any], schema: str, name: str, *, note: str = "", actor: str = "operator"
) -> WorkflowId:
    """Run it once now, beside its ticks, also while it is paused. Returns the workflow's ID.

    Whoever has the code and room takes it; where nobody has, it waits. `note`: why, if that is to be recorded.

    Raises:
        ScheduleError: There is no such schedule.
    """
    async with connection.transaction():
        row = await _locked(connection, schema, name)
        for at in count(row.now):  # two in one millisecond are two
            workflow_id = trigger_id(name, at)
            start = tick_start(name, row.version, at, at, why="trigger", workflow_id=workflow_id)
            if await _start(connection, schema, [start]):
                detail = _noted(workflow_id, note)
                await _audit(connection, schema, "trigger schedule", name, detail=detail, actor=actor)
                return workflow_id
    raise AssertionError("it counts for ever")


async def backfill(
    connection: AsyncConnection[Any],
    schema: str,
    name: str,
    start: datetime,
    end: datetime,
    *,
    note: str = "",
    actor: str = "operator",
) -> BackFill:
    """Start the ticks of a past range that have no workflow, by the schedule as it is now, oldest first.

    Their IDs are those of ticks: one that has run, or is started by the schedule itself at this moment, runs once. (One
    whose workflow was deleted since, by retention, runs again.) So it may be repeated, and ranges may overlap.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        name: Of the schedule.
        start: Of the range; with a zone.
        end: Of the range, not in it; with a zone, and not later than now.
        note: Why, if that is to be recorded.
        actor: Who does it.

    Raises:
        ScheduleError: There is no such schedule, or the range is none, is not over, or has more than BACKFILL_MAX ticks.
    """
    row = await _listed(connection, schema, name)
    after, until = _ms(start) - 1, _ms(end) - 1
    if until <= after:
        raise ScheduleError(f"from {start} to {end} is no time")
    if _ms(end) > row.now:
        raise ScheduleError(
            f"{end} has not come: ticks that are due later start by themselves; now is {instant(row.now)}"
        )
    cron = _cron(row)
    if cron is None:
        raise ScheduleError(
            f"schedule {name!r} is {row.expression!r} in {row.timezone}, which this program cannot read"
        )
    ticks = list(islice(cron.between(after, until), BACKFILL_MAX + 1))
    if len(ticks) > BACKFILL_MAX:
        raise ScheduleError(f"from {start} to {end} there are more than {BACKFILL_MAX} ticks: do it in parts")
    started = 0
    for at in range(0, len(ticks), BACKFILL_BATCH):
        batch = ticks[at : at + BACKFILL_BATCH]
        async with connection.transaction():
            row = await _locked(connection, schema, name)
            new = await _start(connection, schema, tick_starts(name, row.version, batch, row.now, why="backfill"))
            detail = _noted(f"{instant(batch[0])} to {instant(batch[-1])}: {new} of {len(batch)} started", note)
            await _audit(connection, schema, "back-fill schedule", name, detail=detail, actor=actor)
        started += new
    return BackFill(started, len(ticks) - started)


async def _listed(connection: AsyncConnection[Any], schema: str, name: str) -> ListedRow:
    row = await (await send(connection, schema, store.listed(name=name))).fetchone()
    if row is None:
        known = [each.name for each in await (await send(connection, schema, store.listed())).fetchall()]
        nearest = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ": processor schedules list shows them"
        raise ScheduleError(f"there is no schedule {name!r}{hint}")
    return row


async def _locked(connection: AsyncConnection[Any], schema: str, name: str) -> ListedRow:
    """Lock its row, then read it: behind the lock, so that nothing of it changes any more."""
    await send(connection, schema, store.lock_one(name=name))
    return await _listed(connection, schema, name)


async def _start(connection: AsyncConnection[Any], schema: str, wanted: Sequence[Start]) -> int:
    """Rows at rest, due at once; returns how many are new."""
    starting = starts.start(wanted, executor_id=ExecutorId(""), inputs_inline_max=_INLINE_MAX)
    new = len(await (await send(connection, schema, starting)).fetchall())
    await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload="schedule"))
    return new


def _noted(detail: str, note: str) -> str:
    return f"{detail}; {note}" if note.strip() else detail


async def _audit(
    connection: AsyncConnection[Any], schema: str, action: str, name: str, *, detail: str, actor: str
) -> None:
    await send(connection, schema, holds.audit(actor=actor, action=action, subject=name, detail=detail))


def _shown(row: ListedRow) -> Schedule:
    cron = _cron(row)
    due = None if cron is None else next(cron.between(row.last, row.now), None)
    return Schedule(
        name=row.name,
        expression=row.expression,
        timezone=row.timezone,
        catch_up=row.catch_up,
        version=row.version,
        state="paused" if row.paused_at is not None else "active" if row.executors else "absent",
        registered_at=row.registered_at,
        changed_at=row.changed_at,
        last_tick_at=row.last_tick_at,
        last_started_at=row.last_started_at,
        decided_until=row.last,
        due_since=due if row.paused_at is None else None,
        next_at=None if cron is None else next(cron.after(row.now), None),
        paused_at=row.paused_at,
        paused_by=row.paused_by,
        note=row.pause_note,
        executors=row.executors,
    )


def _cron(row: ListedRow) -> Cron | None:
    """What it is; `None` if it is of another release, and this one cannot read it."""
    try:
        return Cron(row.expression, row.timezone, CatchUp(row.catch_up))
    except (ConfigurationError, ValueError):
        return None


def _ms(at: datetime) -> int:
    if at.tzinfo is None:
        raise ScheduleError(f"{at.isoformat()} has no zone: write {at.isoformat()}Z, or as +02:00")
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


__all__ = [
    "BACKFILL_MAX",
    "BackFill",
    "Schedule",
    "ScheduleError",
    "backfill",
    "list_schedules",
    "pause",
    "resume",
    "trigger",
]
