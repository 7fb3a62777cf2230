"""Takes less in while the database cannot follow (I10): a share of the limit in flight for each reason (decision 0036).

    commits     take longer than `commit_max`, and are faster with less: a sixteenth at least
    replicas    are further behind than `replica_lag_max`
    vacuum      has been kept from removing rows for longer than `vacuum_held_max`

Halved at every look at which it is too much, a quarter more when it is half of that; the least share counts. It holds up
records that have not begun. What has begun goes on, and so does what workflows start and wait for: a brake must not lock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg

from engine.failures import summary
from engine.faults import is_weather
from engine.store import replicas
from engine.store.statement import send
from engine.tasks import end
from engine.telemetry import Event, Flushed, IntakeRestored, IntakeSlowed, StoreUnavailable
from engine.vacuum import Holders, look

if TYPE_CHECKING:
    from engine.engine import Engine

LOOK_S = 1.0
REPLICAS_S = 5.0
"""Between two looks at replicas: a query each."""
VACUUM_S = 60.0
LEAST = 16
"""Workflows that may always be in flight: one that takes its time does not stop all others."""
LEAST_FOR_COMMITS = 1 / 16
"""Below it a commit is its own time: less in it makes none faster."""
NO_HELP = 0.8
"""Commits that still take this share of their time with a quarter of the work are slow for another reason."""
NO_HELP_S = 300.0
"""For how long they are not held against the work then."""


class Brake:
    """The share for one reason. Pure."""

    def __init__(self, allowed: timedelta, *, least: float = 0.0) -> None:
        self.share = 1.0
        self._max_s = allowed.total_seconds()
        self._least = least

    def look(self, measured_s: float | None) -> None:
        """Take note of a measurement; `None`: there was nothing to measure."""
        if measured_s is not None and measured_s > self._max_s:
            self.share = max(self._least, self.share / 2)
        elif measured_s is None or measured_s <= self._max_s / 2:
            self.share = min(1.0, self.share * 1.25)


class CommitBrake(Brake):
    """The share for slow commits, given back where less work does not make them faster. Pure."""

    def __init__(self, allowed: timedelta) -> None:
        super().__init__(allowed, least=LEAST_FOR_COMMITS)
        self._before_s = 0.0
        """What a commit took when the brake was first put on."""
        self._again_at = 0.0

    def take(self, mean_s: float | None, now_s: float) -> None:
        """Take note of the commits since the last time."""
        if now_s < self._again_at:
            return
        if mean_s is not None and self.share == 1.0:
            self._before_s = mean_s
        elif mean_s is not None and self.share <= 0.25 and mean_s > max(self._max_s, NO_HELP * self._before_s):
            self.share, self._again_at = 1.0, now_s + NO_HELP_S
            return
        self.look(mean_s)
        self._again_at = now_s + 2 * (mean_s or 0.0)  # commits of before the change do not tell what it did


class Brakes:
    """The looks of one process. All methods belong to the engine's loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = settings = engine.settings.brakes
        self._commits = None if settings.commit_max is None else CommitBrake(settings.commit_max)
        self._replicas = None if settings.replica_lag_max is None else Brake(settings.replica_lag_max)
        self._vacuum = None if settings.vacuum_held_max is None else Brake(settings.vacuum_held_max)
        self._holders = Holders()
        self._took_s = 0.0
        self._count = 0
        self._looked_at: dict[str, float] = {}
        self._slowed_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if there is anything to look at."""
        if self.brakes:
            self._engine.telemetry.add(self._observe)
            self._task = self._engine.loop.create_task(self._look_for_ever(), name="brakes")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await end(self._task)

    @property
    def brakes(self) -> dict[str, Brake]:
        """By reason: those that are set."""
        every = {"commits": self._commits, "replicas": self._replicas, "vacuum": self._vacuum}
        return {reason: brake for reason, brake in every.items() if brake is not None}

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """(reason, share of the limit in flight that it leaves)."""
        return tuple((reason, brake.share) for reason, brake in self.brakes.items())

    def _observe(self, event: Event) -> None:
        if isinstance(event, Flushed) and event.kind != "release":
            self._took_s += event.duration_s
            self._count += 1

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look(time.monotonic())
            except psycopg.Error as error:
                if not is_weather(error.sqlstate):
                    self._engine.failed(error)
                    raise
                self._engine.telemetry.emit(StoreUnavailable(summary(error), 0.0))

    async def look(self, now_s: float) -> None:
        """Measure what is due, and say how much may be in flight from now on."""
        measured: dict[str, float | None] = {}
        if self._commits is not None:
            measured["commits"] = self._took_s / self._count if self._count else None
            self._took_s, self._count = 0.0, 0
            self._commits.take(measured["commits"], now_s)
        if self._replicas is not None and self._is_due("replicas", now_s, REPLICAS_S):
            measured["replicas"] = await self._replica_lag_s()
            self._replicas.look(measured["replicas"])
        if self._vacuum is not None and self._is_due(
            "vacuum", now_s, VACUUM_S if self._vacuum.share == 1.0 else LOOK_S
        ):
            measured["vacuum"] = await self._vacuum_held_s(now_s)
            self._vacuum.look(measured["vacuum"])
        self._tell(measured, now_s)
        self._apply()

    def _is_due(self, reason: str, now_s: float, every_s: float) -> bool:
        if now_s - self._looked_at.get(reason, -every_s) < every_s:
            return False
        self._looked_at[reason] = now_s
        return True

    async def _replica_lag_s(self) -> float | None:
        async with self._engine.pool.connection() as connection:
            row = await (await send(connection, self._engine.settings.schema, replicas.lag())).fetchone()
        return None if row is None else row[0]

    async def _vacuum_held_s(self, now_s: float) -> float | None:
        async with self._engine.pool.connection() as connection:
            oldest = self._holders.oldest(await look(connection, self._engine.settings.schema), now_s)
        return None if oldest is None else oldest.age_s

    def _tell(self, measured: dict[str, float | None], now_s: float) -> None:
        """Once when less is taken in, and once when as much as ever is."""
        emit = self._engine.telemetry.emit
        for reason, brake in self.brakes.items():
            if brake.share < 1.0 and reason not in self._slowed_at:
                self._slowed_at[reason] = now_s
                emit(IntakeSlowed(reason, measured.get(reason) or 0.0))
            elif brake.share == 1.0 and reason in self._slowed_at:
                emit(IntakeRestored(reason, now_s - self._slowed_at.pop(reason)))

    def _apply(self) -> None:
        engine = self._engine
        share = min((brake.share for brake in self.brakes.values()), default=1.0)
        limit = engine.settings.in_flight_max
        before, engine.intake_max = engine.intake_max, min(limit, max(LEAST, round(limit * share)))
        if engine.intake_max > before:
            engine.pump()


__all__ = ["Brake", "Brakes", "CommitBrake"]
