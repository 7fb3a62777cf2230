"""How busy the event loop is: the CPU time of its thread since the last call, as DBOS's admin server tells it.

What blocks the loop without computing (a sleep, a slow disk) counts as idle here; `/livez` notices that.
"""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Utilization:
    """Of the loop, in milliseconds; `utilization` is the busy part of the time, 0 to 1."""

    idle: float
    active: float
    utilization: float


class LoopClock:
    """Measures between two calls, both on the loop's thread."""

    def __init__(self) -> None:
        self._wall, self._busy = time.monotonic(), time.thread_time()

    def lap(self) -> Utilization:
        """Since the last call, or since it was made."""
        wall, busy = time.monotonic(), time.thread_time()
        elapsed = max(wall - self._wall, 1e-9)
        active = min(max(busy - self._busy, 0.0), elapsed)
        self._wall, self._busy = wall, busy
        return Utilization((elapsed - active) * 1000, active * 1000, active / elapsed)
