"""Deletes what has ended and is old enough, in one process of all (P30, I10; decision 0010).

    every process      says how long what its handlers leave behind is kept: rows of `retention_policy`
    the first of them  sweeps (engine/sweep.py): batch, rest, batch, … until nothing is due; then waits

The first of the live executors, by its ID, sweeps, as it looks for all in other matters (engine/depths.py). Two that
both believe to be the first do no harm: each deletes what the other has not locked.

Rests are as long as commits of the hot path ask for (engine/pace.py). Whatever goes wrong here is reported and tried
again, and ends nothing else.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from engine.failures import summary
from engine.faults import is_weather_error
from engine.ids import ExecutorId
from engine.keeping import policy_rows
from engine.pace import Pace
from engine.store import retention
from engine.store.statement import send
from engine.sweep import Batch, Sweep
from engine.tasks import end
from engine.telemetry import (
    Event,
    Flushed,
    RetentionDeleted,
    ServiceFailed,
    StoreUnavailable,
    VacuumFreed,
    VacuumStarved,
)
from engine.vacuum import Holders, look

if TYPE_CHECKING:
    from engine.engine import Engine

IDLE_MAX = 6
"""Times `every` between two sweeps where there is nothing to delete: an idle process asks Postgres little."""
RETRY_MAX_S = 60.0
"""Longest wait after a failure."""
LOOK_AT_VACUUM_S = 60.0
"""Between two looks at who keeps deleted rows from being removed."""
DELETING_LATELY_S = 3_600.0
"""For how long after a deletion that matters."""
FORGET_EXECUTORS_S = 3_600.0
EXECUTORS_KEPT = timedelta(days=7)
"""How long the rows of dead executors stay, for people."""
EXECUTORS_MAX = 1_000

TIMED_OUT = ("57014", "55P03")
"""A statement, or a lock, took longer than it may."""


@dataclass(frozen=True, slots=True)
class RetentionSnapshot:
    """Gauges of the process that sweeps.

    Attributes:
        late_s: By how much the oldest row that is due has outlived its policy; 0 where none is left.
        vacuum_held_s: For how long the oldest snapshot has been seen to keep deleted rows from being removed.
        is_paused: Whether an operator has stopped all deleting.
    """

    late_s: float
    vacuum_held_s: float
    is_paused: bool


class Retention:
    """The sweeping service of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings.retention
        self._task: asyncio.Task[None] | None = None
        self._hint = asyncio.Event()
        self._said_as: ExecutorId | None = None
        self._swept_as: ExecutorId | None = None
        self._sweep = Sweep(engine.settings.schema)
        self._pace = Pace(self._settings.rows_max)
        self._holders = Holders()
        self._is_deleting = False
        self._deleted_at: float | None = None
        self._looked_at: float | None = None
        self._forgot_at: float | None = None
        self._late_ms = 0
        self._vacuum_held_s = 0.0
        self._is_paused = False
        self.sweeps = 0
        """Sweeps that came to their end, or that an operator's pause ended."""

    def start(self) -> None:
        """Begin."""
        self._engine.telemetry.add(self._observe)
        self._task = self._engine.loop.create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """End. A batch under way is rolled back, or was committed."""
        if self._task is not None:
            await end(self._task)

    def hint(self) -> None:
        """Sweep now."""
        self._hint.set()

    @property
    def snapshot(self) -> RetentionSnapshot | None:
        """Gauges; `None` in every process but one."""
        if self._swept_as != self._engine.executor_id:
            return None
        return RetentionSnapshot(self._late_ms / 1000, self._vacuum_held_s, self._is_paused)

    def _observe(self, event: Event) -> None:
        if isinstance(event, Flushed) and event.kind != "release":
            self._pace.committed(event.duration_s, beside=self._is_deleting)

    # -- the loop --

    async def _run(self) -> None:
        every_s = self._settings.every.total_seconds()
        wait_s, retry_s = every_s, every_s
        while not self._engine.is_aborted:
            try:
                await self._say_policies()
                if self._engine.lease.is_first:
                    deleted = await self._sweep_all()
                    await self._look_at_vacuum_if_due()
                    await self._forget_executors_if_due()
                    wait_s = every_s if deleted else min(wait_s * 2, every_s * IDLE_MAX)
                else:
                    self._swept_as, wait_s = None, every_s
                retry_s = every_s
            except Exception as error:  # noqa: BLE001  # nothing else is to end for it; it is reported
                self._report(error, retry_s)
                wait_s, retry_s = retry_s, min(retry_s * 2, RETRY_MAX_S)
            try:
                async with asyncio.timeout(wait_s):
                    await self._hint.wait()
            except TimeoutError:
                pass
            self._hint.clear()

    def _report(self, error: Exception, retry_s: float) -> None:
        telemetry = self._engine.telemetry
        if isinstance(error, psycopg.Error) and error.sqlstate in TIMED_OUT and self._pace.timed_out():
            return
        if is_weather_error(error):
            telemetry.emit(StoreUnavailable(summary(error), 0.0))
        else:
            telemetry.emit(ServiceFailed("retention", error, retry_s))

    async def _say_policies(self) -> None:
        """At the start, and again while sweeping: handlers of this app go by this process's settings, others by theirs."""
        engine = self._engine
        rows = policy_rows(self._settings.keep)
        if not rows or (self._said_as == engine.executor_id and not engine.lease.is_first):
            return
        async with engine.pool.connection() as connection:
            await send(connection, engine.settings.schema, retention.write_policies(rows))
        self._said_as = engine.executor_id

    async def _sweep_all(self) -> bool:
        """Sweep to the end. Returns whether anything was deleted."""
        engine = self._engine
        if self._swept_as != engine.executor_id:
            # Another one swept meanwhile, or the database went back (P4): what was walked over is not known.
            self._swept_as, self._sweep = engine.executor_id, Sweep(engine.settings.schema)
        async with engine.pool.connection() as connection:
            policies = await (await send(connection, engine.settings.schema, retention.read_policies())).fetchall()
            now = await self._now(connection)
        self._sweep.begin(policies, now)
        deleted = False
        while engine.lease.is_first and self._swept_as == engine.executor_id and not engine.is_aborted:
            batch = await self._batch()
            if batch is None or batch.paused is not None:
                self.sweeps += 1
                break
            deleted = deleted or batch.count > 0
            await asyncio.sleep(self._pace.rest_s(batch.busy_s))
        return deleted

    async def _batch(self) -> Batch | None:
        """One batch; `None` where nothing is left."""
        engine = self._engine
        started = time.perf_counter()
        async with engine.pool.connection() as connection:
            self._is_deleting = True
            try:
                batch = await self._sweep.step(connection, rows=self._pace.rows)
            finally:
                self._is_deleting = False
        if batch is None:
            self._late_ms = 0
            self._pace.late(None, time.monotonic())
            return None
        self._is_paused = batch.paused is not None
        self._pace.batched(batch.busy_s, is_full=batch.is_full)
        if batch.late_ms is not None:
            self._late_ms = batch.late_ms
            self._pace.late(batch.late_ms, time.monotonic())
        if batch.count:
            self._deleted_at = time.monotonic()
            engine.telemetry.emit(RetentionDeleted(batch.deleted, time.perf_counter() - started))
        return batch

    async def _now(self, connection: AsyncConnection[Any]) -> int:
        """The time in Postgres; and whether an operator has paused, which is asked with it."""
        clock = await (await send(connection, self._engine.settings.schema, retention.clock())).fetchone()
        assert clock is not None, "a look at the clock returns one row"
        self._is_paused = clock.paused is not None
        return clock.now

    # -- rarely --

    async def _look_at_vacuum_if_due(self) -> None:
        now_s = time.monotonic()
        if self._deleted_at is None or now_s - self._deleted_at > DELETING_LATELY_S:
            self._vacuum_held_s = 0.0
        elif self._looked_at is None or now_s - self._looked_at >= LOOK_AT_VACUUM_S:
            await self.look_at_vacuum(now_s)

    async def look_at_vacuum(self, now_s: float) -> None:
        """Look now at who keeps deleted rows from being removed."""
        engine = self._engine
        self._looked_at = now_s
        async with engine.pool.connection() as connection:
            oldest = self._holders.oldest(await look(connection, engine.settings.schema), now_s)
        self._vacuum_held_s = 0.0 if oldest is None else oldest.age_s
        if oldest is not None and oldest.age_s >= self._settings.vacuum_starved_after.total_seconds():
            if self._holders.is_news(oldest, now_s):
                engine.telemetry.emit(VacuumStarved(oldest.kind, oldest.name, oldest.age_s, oldest.transactions))
        elif self._holders.was_said():
            engine.telemetry.emit(VacuumFreed())

    async def _forget_executors_if_due(self) -> None:
        now_s = time.monotonic()
        if self._forgot_at is not None and now_s - self._forgot_at < FORGET_EXECUTORS_S:
            return
        async with self._engine.pool.connection() as connection:
            dead_before = await self._now(connection) - EXECUTORS_KEPT // timedelta(milliseconds=1)
            forgetting = retention.forget_executors(dead_before=dead_before, rows=EXECUTORS_MAX)
            await send(connection, self._engine.settings.schema, forgetting)
        self._forgot_at = now_s
