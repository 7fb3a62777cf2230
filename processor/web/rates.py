"""How often: a bucket of tokens for each key, filled at a rate, a request takes one. Pure."""

from collections import OrderedDict

KEYS_MAX = 10_000
"""Buckets kept: of those that have not been used for longest it is forgotten that they were (I10)."""


class Rates:
    """At most `per_s` a second for each key in the long run, `burst` at once.

    Args:
        per_s: How fast a bucket fills.
        burst: How full it gets.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until this key may take one; 0: now."""
        return max(0.0, (1.0 - self._level(key, now)) / self._per_s)

    def take(self, key: str, now: float) -> float:
        """Take one, and return 0; or take nothing, and return the seconds until there is one."""
        level = self._level(key, now)
        if level < 1.0:
            return (1.0 - level) / self._per_s
        self._buckets[key] = level - 1.0, now
        self._buckets.move_to_end(key)
        if len(self._buckets) > KEYS_MAX:
            self._buckets.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._buckets)

    def _level(self, key: str, now: float) -> float:
        level, at = self._buckets.get(key, (self._burst, now))
        return min(self._burst, level + max(0.0, now - at) * self._per_s)
