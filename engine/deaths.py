"""Which executors live, as far as this one has seen: a counter that stood still for a lease is a death (P2). Pure.

    look, about every second ──┐
    own renewal ───────────────┴─▶ counter moved? ─▶ seen now          silent a full lease after that, on our own clock

A counter moves every few seconds and is looked at every second, so a death is told at most that second later than the
lease would have ended, however our own heartbeats fall.
"""

import threading
from collections.abc import Iterable


class Deaths:
    """Counters of other executors, and since when each stands still. Used by the loop and the lease's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, float]] = {}

    def saw(self, alive: Iterable[tuple[str, int]], now: float) -> None:
        """The counters of all that live, from a statement that was answered before `now`."""
        with self._lock:
            before = self._seen
            self._seen = {
                name: seen if (seen := before.get(name)) is not None and seen[0] == counter else (counter, now)
                for name, counter in alive
            }

    def silent(self, now: float, lease_s: float) -> list[tuple[str, int]]:
        """Those that stood still for more than a lease, with their counters. They are told once, and seen anew if they live."""
        with self._lock:
            silent = [(name, counter) for name, (counter, at) in self._seen.items() if now - at > lease_s]
            for name, _ in silent:
                del self._seen[name]
        return silent

    def next_at(self, lease_s: float) -> float | None:
        """When the first of them will have stood still for a lease, unless it moves; `None` without any."""
        with self._lock:
            return min((at + lease_s for _, at in self._seen.values()), default=None)

    def clear(self) -> None:
        """Nobody was observed: our own renewals failed meanwhile."""
        with self._lock:
            self._seen.clear()
