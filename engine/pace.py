"""How much retention deletes at once, and how long it rests in between, so that it yields to the hot path. Pure.

    batch    as many rows as take about `BATCH_S`; half as many after a time-out
    rest     as long as the batch took, times a factor: doubled while commits of the hot path are slower beside
             deleting than without it, halved while they are not
    growing  while rows become due faster than they go, the factor falls below 1: a table must not grow for ever

A loaded server makes a batch take longer, and so its rest: where nothing is known of commits, that is what yields.
"""

from dataclasses import dataclass

BATCH_S = 0.2
"""What a batch aims to take: commits that queue behind its writes wait about so long at most."""
ROWS_MIN = 100
FACTOR_MIN, FACTOR_MAX = 0.1, 16.0
REST_MAX_S = 5.0
SLOWED = 1.5
"""Commits so many times as slow beside deleting as without it are slowed down by it."""
SLOWED_MIN_S = 0.002
"""A difference below it is noise."""
WEIGHT = 0.1
"""Of the newest commit in the averages."""
GROWING_S = 30.0
"""How long the oldest due row is watched before it is said to grow older."""


@dataclass(slots=True)
class _Average:
    value: float | None = None

    def take(self, value: float) -> None:
        self.value = value if self.value is None else self.value + WEIGHT * (value - self.value)


class Pace:
    """Of one process's retention.

    Attributes:
        rows: For the next batch.
        factor: Of the next rest.
        is_growing: Whether what is due grows older although it is deleted.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._beside, self._without = _Average(), _Average()
        self._late: tuple[float, int] | None = None
        self.rows = min(rows_max, max(ROWS_MIN, rows_max // 4))
        self.factor = 1.0
        self.is_growing = False

    def committed(self, duration_s: float, *, beside: bool) -> None:
        """The hot path committed, beside a batch or without one."""
        (self._beside if beside else self._without).take(duration_s)

    def batched(self, duration_s: float, *, is_full: bool) -> None:
        """A batch is done. `is_full`: it had all the rows it was to have, so its time says something."""
        if duration_s > BATCH_S:
            self.rows = max(min(ROWS_MIN, self._rows_max), int(self.rows * max(0.5, BATCH_S / duration_s)))
        elif is_full and duration_s < BATCH_S / 2:
            self.rows = min(self._rows_max, self.rows * 2)
        slowest = 1.0 if self.is_growing else FACTOR_MAX
        fastest = FACTOR_MIN if self.is_growing else 1.0
        wanted = self.factor * 2 if self._slows() else self.factor / 2
        self.factor = min(slowest, max(fastest, wanted))

    def timed_out(self) -> bool:
        """A statement took too long. Returns whether a smaller batch may help."""
        if self.rows <= ROWS_MIN:
            return False
        self.rows = max(ROWS_MIN, self.rows // 2)
        return True

    def late(self, late_ms: int | None, now_s: float) -> None:
        """By how much the oldest due row has outlived its policy; `None`: nothing is due any more."""
        if late_ms is None:
            self._late, self.is_growing = None, False
        elif self._late is None:
            self._late = (now_s, late_ms)
        elif now_s - self._late[0] >= GROWING_S:
            self.is_growing = late_ms > self._late[1]
            self._late = (now_s, late_ms)

    def rest_s(self, duration_s: float) -> float:
        """How long to rest after a batch that took so long."""
        return min(REST_MAX_S, duration_s * self.factor)

    def _slows(self) -> bool:
        beside, without = self._beside.value, self._without.value
        if beside is None or without is None:
            return False
        return beside > without * SLOWED and beside - without > SLOWED_MIN_S
