"""Why a partition is not fetched for a while: a set of reasons, not a flag. Pure.

With a flag, whoever resumes for one reason un-pauses what another paused (case 13). The set belongs to the attachment;
the client's own pause outlives an unassign (unlike Java's), so every attach resumes first and applies the set again.

Pausing throws away what the client has prefetched, and resuming fetches it again. So a stop that is over in a moment
is better waited out: while *every* partition is congested, the poll thread stops polling for up to `PATIENCE_S`
before it pauses anything; and a pause lasts at least `PAUSE_MIN_S`.
"""

from dataclasses import dataclass, field
from enum import Enum

PATIENCE_S = 0.1
"""Polling may rest this long: heartbeats have their own thread, and a rebalance waits no longer than that."""

PAUSE_MIN_S = 0.1
"""Shorter pauses cost more in fetching again than they save. The engine's backlog of a partition (4,000 records) lasts
longer than this at any rate measured."""


class PauseReason(Enum):
    """Why."""

    CONGESTED = "congested"
    """The engine has enough of this partition."""
    BEHIND = "behind"
    """The event loop has not taken what was handed over."""
    OPERATOR = "operator"


@dataclass(slots=True)
class Pauses:
    """The reasons of one attachment, and since when."""

    reasons: set[PauseReason] = field(default_factory=set[PauseReason])
    since: float = 0.0

    @property
    def is_short(self) -> bool:
        """Whether it may be over at any moment."""
        return bool(self.reasons) and PauseReason.OPERATOR not in self.reasons

    def set(self, reason: PauseReason, on: bool, now: float) -> bool | None:
        """Add or take away a reason. Returns True: pause the client now; False: resume it; None: nothing changes."""
        if on == (reason in self.reasons):
            return None
        if on:
            self.reasons.add(reason)
            if len(self.reasons) > 1:
                return None
            self.since = now
            return True
        if len(self.reasons) == 1 and reason is not PauseReason.OPERATOR and now - self.since < PAUSE_MIN_S:
            return None
        self.reasons.discard(reason)
        return None if self.reasons else False


class Patience:
    """How long polling has rested because nothing can be taken."""

    def __init__(self) -> None:
        self._since: float | None = None

    def rest(self, blocked: bool, now: float) -> bool:
        """Whether to rest instead of polling. Once patience is used up, partitions are to be paused, until unblocked."""
        if not blocked:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since < PATIENCE_S
