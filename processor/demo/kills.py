"""Which worker is killed, and when: as long as orders come, and never so often that nothing else happens.

    started ──▶ first order finished ──▶ worked for long enough ──▶ seen with work in flight: SIGKILL, started anew

The workers have their turn, one every few seconds. By the clock alone, a machine on which a start takes longer than
that would see two workers that start, and are killed, and start. So each works as long as its start took, and twice as
long when enough kills have hit, or the run would take long. One that has nothing in flight is left alone: nothing
would be interrupted.

Once a worker is left dead instead of started at once, until the other has taken its partitions over.
"""

import asyncio
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Protocol

from processor.demo.show import Show

KILLS_MIN = 5
"""Fewer would prove little: the run fails."""

AWAY_AT = 3
"""The kill after which the worker stays away: all that is usual has been shown by then."""

LOOK_EVERY_S = 0.05
"""Between two looks for work in flight, which lasts for milliseconds at a low rate."""

LOOKS_MAX = 200
"""At one worker, before it is the other's turn."""

UNRIPE_S = 0.5
"""Wait after a look at a worker that still starts, which has better things to do than to answer."""


class Victim(Protocol):
    """A worker, as far as it is killed."""

    name: str
    started_at: float
    worked_at: float | None

    async def in_flight(self) -> int:
        """Workflows it has taken and not finished, now."""
        ...

    async def kill(self) -> None:
        """SIGKILL."""
        ...

    def start(self) -> None:
        """Start it anew."""
        ...


def is_ripe(started_at: float, worked_at: float | None, now: float, kills: int) -> bool:
    """Whether a worker that finished its first order at `worked_at` has worked for long enough, after so many kills."""
    if worked_at is None:
        return False
    times = 1 if kills < KILLS_MIN else 2
    return now - worked_at >= times * (worked_at - started_at)


class Killer:
    """Kills workers in turn.

    Args:
        workers: Which.
        show: Where it is said.
        every_s: Between two kills, at least.
        away_s: How long the one that is left dead stays away.
        look_every_s, unripe_s: See the constants.
    """

    def __init__(
        self,
        workers: Sequence[Victim],
        show: Show,
        *,
        every_s: float,
        away_s: float,
        look_every_s: float = LOOK_EVERY_S,
        unripe_s: float = UNRIPE_S,
    ) -> None:
        self._workers = workers
        self._show = show
        self._every_s = every_s
        self._away_s = away_s
        self._look_every_s = look_every_s
        self._unripe_s = unripe_s
        self.kills = 0
        """Each of a worker that had work in flight a moment before."""

    async def run(self) -> None:
        """Kill, until this is cancelled."""
        await asyncio.sleep(self._every_s)
        for worker in cycle(self._workers):
            if in_flight := await self._at_work(worker):
                await self._kill(worker, in_flight)
                await asyncio.sleep(self._every_s)

    async def _at_work(self, worker: Victim) -> int:
        """How much work a ripe worker has in flight, in the first moment with any; 0 if none came, or it is not ripe."""
        for _ in range(LOOKS_MAX):
            in_flight = await worker.in_flight()
            if not is_ripe(worker.started_at, worker.worked_at, time.monotonic(), self.kills):
                await asyncio.sleep(self._unripe_s)
                return 0
            if in_flight:
                return in_flight
            await asyncio.sleep(self._look_every_s)
        return 0

    async def _kill(self, worker: Victim, in_flight: int) -> None:
        await worker.kill()
        self.kills += 1
        if self.kills == AWAY_AT:
            self._show.say(f"killed {worker.name}, {in_flight} in flight; it stays away, the other takes over")
            await asyncio.sleep(self._away_s)
            self._show.say(f"{worker.name} comes back")
        else:
            self._show.say(f"killed {worker.name}, {in_flight} in flight; started anew")
        worker.start()
