"""How often the poll thread asks the client, for how much, and when it gives up on a group that gives it nothing. Pure.

Instants are seconds of one monotonic clock, which the caller reads once a turn.
"""

from collections.abc import Iterable

from consumers.backpressure import Pauses
from consumers.settings import GroupProtocol, GroupSettings

POLL_S = 0.05
"""Longest wait in `poll`: how late a command is obeyed when nothing arrives. 20 wake-ups a second cost 0.1 % of a core."""

POLL_SOON_S = 0.005
"""The same while something is about to happen: a partition waits for its attach, or is congested."""

SOON_S = 5.0
"""How long after an assignment or a detach an attach is expected. (A halted partition is not worth 200 polls a second.)"""

POSITIONS_S = 0.1
"""Between two looks at the client's positions, which pass control records without a record to show for it."""

REJOIN_MAX_S = 60.0
"""A member that lost everything and was assigned nothing for this long makes a new client (KIP-848, where brokers assign
within a heartbeat; in the classic protocol others may hold a rebalance up for `max_poll_interval`, so twice that). A
commit answered ILLEGAL_GENERATION leaves a KIP-848 member in that state for ever (librdkafka 2.16)."""

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 30.0
"""Wait before another client is made, doubled each time until one is assigned something."""


class Pace:
    """How long a poll waits, how many records a batch has, when positions are looked at."""

    def __init__(self, settings: GroupSettings) -> None:
        self._batch_max = settings.batch_max
        self._batch_bytes_max = settings.batch_bytes_max
        self._record_size = 1.0
        self._soon_until = 0.0
        self._positions_at = 0.0

    def expect(self, now: float) -> None:
        """An attach will follow soon."""
        self._soon_until = now + SOON_S

    def poll_s(self, now: float, pauses: Iterable[Pauses]) -> float:
        """Longest wait of the next poll."""
        soon = now < self._soon_until or any(each.is_short for each in pauses)
        return POLL_SOON_S if soon else POLL_S

    def batch_size(self) -> int:
        """Most records of the next batch."""
        return max(1, min(self._batch_max, int(self._batch_bytes_max / self._record_size)))

    def saw(self, mean_size: float) -> None:
        """Records of this size came. What is larger counts at once, what is smaller bit by bit."""
        self._record_size = max(mean_size, self._record_size + 0.2 * (mean_size - self._record_size))

    def is_positions_due(self, now: float) -> bool:
        """Whether to look at positions now, which counts as looked."""
        if now - self._positions_at < POSITIONS_S:
            return False
        self._positions_at = now
        return True


class Standing:
    """Whether the group still gives this member anything, and how long to wait before it joins anew."""

    def __init__(self, settings: GroupSettings) -> None:
        self.rejoin_max_s = REJOIN_MAX_S
        if settings.protocol is GroupProtocol.CLASSIC:
            self.rejoin_max_s = max(REJOIN_MAX_S, 2 * settings.max_poll_interval.total_seconds())
        self._lost_at: float | None = None
        self._retry_s = RETRY_FIRST_S

    def lost(self, now: float) -> None:
        """Everything was taken without a rebalance."""
        self._lost_at = now

    def assigned(self) -> None:
        """The group gave something."""
        self._lost_at = None
        self._retry_s = RETRY_FIRST_S

    def left(self) -> None:
        """The client was closed."""
        self._lost_at = None

    def is_stranded(self, now: float) -> bool:
        """Whether it has waited long enough for an assignment after a loss; told once."""
        if self._lost_at is None or now - self._lost_at <= self.rejoin_max_s:
            return False
        self._lost_at = None
        return True

    def next_retry_s(self) -> float:
        """The wait before another client is made."""
        retry_s, self._retry_s = self._retry_s, min(self._retry_s * 2, RETRY_MAX_S)
        return retry_s
