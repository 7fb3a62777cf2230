"""Starts the ticks of schedules that are due, each once, whichever process is first (decision 0014).

    look    lock the rows of schedules that nobody else looks at ─▶ read: last tick, definition, Postgres's clock
            ─▶ plan (engine/ticks.py) ─▶ rows of ticks, last tick ── one commit ─▶ whoever has room takes the rows
    wait    until the next tick, at most a minute

What is due is decided by Postgres's clock and by what stands. This process's clock says when to look again, and a look
that is early finds nothing; so nothing has to be remembered from one look to the next, and a lost reply needs no answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from engine.clock import now_ms
from engine.crashpoints import CrashPoint, reach
from engine.cron import CatchUp, Cron
from engine.errors import ConfigurationError
from engine.failures import summary
from engine.faults import Fault, fault_of
from engine.handlers import Handler
from engine.ids import ExecutorId
from engine.starts import Start
from engine.store import schedules as store
from engine.store import starts, workflow_status
from engine.store.schedules import ScheduleRow
from engine.store.statement import send
from engine.tasks import end
from engine.telemetry import (
    ScheduleChanged,
    ServiceFailed,
    StoreUnavailable,
    TickRefused,
    TicksPassedOver,
    TicksStarted,
)
from engine.ticks import BATCH_MAX, COUNT_MAX, Plan, plan, tick_id, tick_starts

if TYPE_CHECKING:
    from engine.engine import Engine

LOOK_EVERY_S = 60.0
"""Longest between two looks: the base under timers, which stand still while the machine sleeps, and for whose definition counts."""

LOCKED_RETRY_S = 0.2
"""Another process looks at a schedule at this moment: it is done in milliseconds, or dies."""

HELD_RETRY_S = 1.0
"""Too many ticks wait to be taken, or Postgres is away."""

EARLY_RETRY_S = 0.005
"""Shortest wait: a timer that fires before Postgres's clock is there."""

WAITING_MAX = 1_000
"""Due and not taken workflows of a schedule, at which it starts no more (I10): 500 are taken at once."""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What the last look of this process found.

    Attributes:
        next_at: The next tick, or the first that is due and not started; epoch ms by Postgres's clock. `None`: none.
        is_paused: Whether an operator has paused it.
        read_at: When Postgres's clock was read (`now`), by this process's monotonic clock.
    """

    next_at: int | None
    is_paused: bool
    now: int
    read_at: float

    @property
    def overdue_s(self) -> float:
        """For how long a tick has been due and not been started, as far as this process knows; 0: none is."""
        if self.next_at is None or self.is_paused:
            return 0.0
        return max((self.now - self.next_at) / 1000 + time.monotonic() - self.read_at, 0.0)


@dataclass(slots=True)
class _Look:
    """What one look decides: parallel to its schedules, and the rows to write."""

    read_at: float = 0.0
    rows: list[ScheduleRow] = field(default_factory=list[ScheduleRow])
    plans: list[Plan] = field(default_factory=list[Plan])
    crons: list[Cron] = field(default_factory=list[Cron])
    changed: list[bool] = field(default_factory=list[bool])
    starts: list[Start] = field(default_factory=list[Start])
    states: dict[str, ScheduleState] = field(default_factory=dict[str, ScheduleState])

    def add(self, row: ScheduleRow, cron: Cron, decided: Plan, version: str, *, changed: bool) -> None:
        self.rows.append(row)
        self.plans.append(decided)
        self.crons.append(cron)
        self.changed.append(changed)
        self.starts += tick_starts(row.name, version, decided.ticks, row.now, why="tick")


class Scheduler:
    """The scheduling service of one process. All methods belong to the engine's loop."""

    def __init__(self, engine: Engine, handlers: Mapping[str, Handler]) -> None:
        self._engine = engine
        self._handlers = {name: handler for name, handler in handlers.items() if handler.cron is not None}
        self._announced_as: ExecutorId | None = None
        self._announced_at = 0.0
        self._hint = asyncio.Event()
        self._is_looking = False
        """Whether a look was asked for that is not over."""
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.states: dict[str, ScheduleState] = {}
        """By name, of the last look."""

    def start(self) -> None:
        """Begin looking, if there are schedules."""
        if self._handlers:
            self._task = self._engine.loop.create_task(self._look_for_ever(), name="scheduler")

    async def stop(self) -> None:
        """End. A look under way is cut off: what it has not committed, another process does."""
        if self._task is not None:
            await end(self._task)

    def hint(self) -> None:
        """Look now."""
        self._is_looking = True
        self._hint.set()

    async def until_looked(self) -> None:
        """Until the first look is over, or there will be none: from it on, new schedules have begun. For tests."""
        if self._task is not None:
            looked = self._engine.loop.create_task(self._looked.wait())
            await asyncio.wait({looked, self._task}, return_when=asyncio.FIRST_COMPLETED)
            await end(looked)

    def is_this_task(self) -> bool:
        """Whether the caller is a look of this scheduler. For tests with several."""
        return self._task is not None and asyncio.current_task() is self._task

    def unsettled(self) -> list[str]:
        """Schedules with a tick that is due, or may be, and that this process may start. For tests."""
        now = now_ms()
        return [
            name
            for name in self._handlers
            if self._is_looking
            or (state := self.states.get(name)) is None
            or (state.next_at is not None and state.next_at <= now and not state.is_paused)
        ]

    async def _look_for_ever(self) -> None:
        engine = self._engine
        while True:
            await engine.until_alive()
            self._hint.clear()
            try:
                wait_s = await self._look()
                self._is_looking = self._hint.is_set()
                self._looked.set()
            except psycopg.Error as error:
                wait_s = HELD_RETRY_S
                match fault_of(error):
                    case Fault.WEATHER:
                        engine.telemetry.emit(StoreUnavailable(summary(error), 0.0))
                    case Fault.WENT_BACK:
                        engine.went_back(str(error))
                    case _:
                        engine.failed(error)
                        raise
            except Exception as error:
                engine.failed(error)
                raise
            try:
                async with asyncio.timeout(wait_s):
                    await self._hint.wait()
            except TimeoutError:
                pass

    async def _look(self) -> float:
        """Start what is due. Returns for how many seconds there is nothing to do."""
        engine = self._engine
        names = sorted(self._handlers)
        looked = _Look()
        async with engine.pool.connection() as connection:
            if self._announced_as != engine.executor_id or time.monotonic() - self._announced_at > LOOK_EVERY_S:
                await self._announce(connection)
            async with connection.transaction():
                locked, rows = await self._read(connection, names)
                looked.read_at = time.monotonic()
                for row in rows:
                    self._decide(row, looked)
                inserted = await self._write(connection, looked)
                standing = await self._standing(connection, looked.starts, inserted)
                if looked.starts:
                    reach(CrashPoint.TICKS_WRITTEN)
            if looked.starts:
                reach(CrashPoint.TICKS_DURABLE)
        self._tell(looked, inserted, standing)
        waits = [self._wait_for(row) for row in rows]
        if len(locked) < len(names):
            waits.append(LOCKED_RETRY_S)
        return max(min([*waits, LOOK_EVERY_S]), EARLY_RETRY_S)

    async def _announce(self, connection: AsyncConnection[Any]) -> None:
        """Say what this executor has; now and then again, should somebody have emptied a table."""
        executor_id = self._engine.executor_id
        names = sorted(self._handlers)
        crons = [_cron_of(self._handlers[name]) for name in names]
        announcing = store.announce(
            executor_id=executor_id,
            names=names,
            expressions=[cron.expression for cron in crons],
            timezones=[cron.timezone for cron in crons],
            catch_ups=[cron.catch_up.value for cron in crons],
            versions=[self._handlers[name].version for name in names],
        )
        await send(connection, self._engine.settings.schema, announcing)
        self._announced_as, self._announced_at = executor_id, time.monotonic()

    async def _read(self, connection: AsyncConnection[Any], names: Sequence[str]) -> tuple[set[str], list[ScheduleRow]]:
        """Lock what nobody else has, in a database that has not gone back (P4), and read it behind the lock."""
        database, schema = self._engine.database, self._engine.settings.schema
        async with connection.pipeline():
            fence = workflow_status.fence_database(timeline=database.timeline, lsn=database.lsn)
            fenced = await send(connection, schema, fence)
            locking = await send(connection, schema, store.lock(names=names))
            reading = await send(connection, schema, store.read(names=names, waiting_max=WAITING_MAX))
            position = await fenced.fetchone()
            assert position is not None, "fence_database returns a row or raises"
            database.saw(position[0])
            locked = {name for (name,) in await locking.fetchall()}
            return locked, [row for row in await reading.fetchall() if row.name in locked]

    def _decide(self, row: ScheduleRow, looked: _Look) -> None:
        """What becomes of one schedule."""
        if row.decided_version is None or row.decided_expression is None:
            return  # no live executor has it: this one is dead, and does not know it yet
        former = (row.expression, row.timezone, row.catch_up)
        try:
            cron = _cron(row.decided_expression, row.decided_timezone or "", row.decided_catch_up or "")
        except ConfigurationError as error:  # of a newer release: who has it can read it
            self._engine.telemetry.emit(ServiceFailed(f"schedule {row.name}", error, LOOK_EVERY_S))
            return
        changed = former != (cron.expression, cron.timezone, cron.catch_up.value)
        decided = self._plan(row, _cron_or_none(*former) if changed else cron)
        if changed:
            # Of the former definition, one batch of what was due; of the new one, nothing before now.
            missed = decided.missed
            if (before := _cron_or_none(*former)) is not None and not row.is_paused:
                missed += before.count(decided.decided, row.now, limit=COUNT_MAX)
            decided = Plan(decided.ticks, row.now, missed)
        if changed or decided.decided > row.last or row.version != row.decided_version:
            looked.add(row, cron, decided, row.decided_version, changed=changed)
        due = decided.has_more or row.waiting >= WAITING_MAX
        following = next(cron.after(decided.decided if due else max(decided.decided, row.now)), None)
        looked.states[row.name] = ScheduleState(following, row.is_paused, row.now, looked.read_at)

    def _plan(self, row: ScheduleRow, cron: Cron | None) -> Plan:
        """What is due of a schedule that is neither paused nor has too many ticks waiting."""
        room = min(BATCH_MAX, WAITING_MAX - row.waiting)
        if cron is None or row.is_paused or room <= 0:
            return Plan((), row.last)
        return plan(
            cron,
            last=row.last,
            now=row.now,
            late_before=row.now - self._lease_ms,
            active_since=row.now if row.active_since is None else row.active_since,
            room=room,
        )

    async def _write(self, connection: AsyncConnection[Any], looked: _Look) -> set[str]:
        """The rows of ticks and what was decided; returns the rows that are new."""
        engine = self._engine
        schema = engine.settings.schema
        if not looked.rows:
            return set()
        deciding = store.decide(
            names=[row.name for row in looked.rows],
            lasts=[each.decided for each in looked.plans],
            ticks=[each.ticks[-1] if each.ticks else None for each in looked.plans],
            now=max(row.now for row in looked.rows),
            expressions=[cron.expression for cron in looked.crons],
            timezones=[cron.timezone for cron in looked.crons],
            catch_ups=[cron.catch_up.value for cron in looked.crons],
            versions=[row.decided_version or row.version for row in looked.rows],
            changed=looked.changed,
        )
        async with connection.pipeline():
            starting = None
            if looked.starts:
                statement = starts.start(
                    looked.starts,
                    executor_id=engine.executor_id,
                    inputs_inline_max=engine.settings.inputs_inline_max,
                )
                starting = await send(connection, schema, statement)
            await send(connection, schema, deciding)
            return set() if starting is None else {row[0] for row in await starting.fetchall()}

    async def _standing(
        self, connection: AsyncConnection[Any], wanted: Sequence[Start], inserted: set[str]
    ) -> dict[str, str]:
        """Of ticks whose IDs stood already: whose workflow it is."""
        ids = [each.id for each in wanted if each.id not in inserted]
        if not ids:
            return {}
        cursor = await send(connection, self._engine.settings.schema, starts.existing(ids=ids))
        return {row.workflow_id: row.name for row in await cursor.fetchall()}

    def _tell(self, looked: _Look, inserted: set[str], standing: Mapping[str, str]) -> None:
        """Say what is durable now."""
        self.states |= looked.states
        emit = self._engine.telemetry.emit
        for row, decided, cron, changed in zip(looked.rows, looked.plans, looked.crons, looked.changed, strict=True):
            if changed:
                before = f"{row.expression} {row.timezone} {row.catch_up}"
                emit(ScheduleChanged(row.name, before, f"{cron.expression} {cron.timezone} {cron.catch_up}"))
            if decided.missed:
                emit(TicksPassedOver(row.name, decided.missed))
            delays = [row.now - tick for tick in decided.ticks if tick_id(row.name, tick) in inserted]
            if delays:
                late = sum(delay >= self._lease_ms for delay in delays)
                emit(TicksStarted(row.name, tuple(delay / 1000 for delay in delays), late))
        for each in looked.starts:
            if (name := standing.get(each.id, each.name)) != each.name:
                emit(TickRefused(each.name, each.id, f"its ID is that of a {name!r}"))
        if inserted:
            self._engine.hints.rows()

    def _wait_for(self, row: ScheduleRow) -> float:
        """Seconds until the next look is due for one schedule."""
        state = self.states.get(row.name)
        if state is None or state.next_at is None:
            return LOOK_EVERY_S
        if row.waiting >= WAITING_MAX and not row.is_paused:
            return HELD_RETRY_S
        return (state.next_at - row.now) / 1000 - (time.monotonic() - state.read_at)

    @property
    def _lease_ms(self) -> int:
        return int(self._engine.settings.lease.total_seconds() * 1000)


def _cron_of(handler: Handler) -> Cron:
    assert handler.cron is not None, "a scheduler has no other handlers"
    return handler.cron


@lru_cache(maxsize=1024)
def _cron(expression: str, timezone: str, catch_up: str) -> Cron:
    """A stored definition. Raises `ConfigurationError` if this process cannot read it."""
    try:
        chosen = CatchUp(catch_up)
    except ValueError:
        raise ConfigurationError(f"Cron({expression!r}): catch_up={catch_up!r} is not known here") from None
    return Cron(expression, timezone, chosen)


def _cron_or_none(expression: str, timezone: str, catch_up: str) -> Cron | None:
    """A definition that no longer counts, if this process can still read it."""
    try:
        return _cron(expression, timezone, catch_up)
    except ConfigurationError:
        return None


__all__ = ["ScheduleState", "Scheduler"]
