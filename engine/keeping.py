"""How long what has ended is kept, and where a sweep looks for what may go. Pure.

    Keep          what a handler's settings say: a time for each way to end, or for ever
    PolicyRow     the same as a row of `retention_policy`: one process deletes for all, also for apps it does not know
    Age           all that is kept equally long, whatever handler: one walk over the index of creation times
    Frontier      how far that walk has come, and what it has to come back for

A walk visits each row once: rows become due in about the order of their creation. What it cannot delete yet (open,
ended late, spared, locked) makes it come back, rarely, from the oldest of those.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from engine.states import WorkflowStatus

_MS = timedelta(milliseconds=1)

COME_BACK_MAX_MS = 6 * 3_600_000
"""Longest until what stayed is looked at again; a tenth of its time where that is shorter."""


class Kind(StrEnum):
    """What a policy is about: workflows by how they ended, and dead letters that were decided."""

    SUCCESS = WorkflowStatus.SUCCESS
    ERROR = WorkflowStatus.ERROR
    CANCELLED = WorkflowStatus.CANCELLED
    MAX_RECOVERY_ATTEMPTS_EXCEEDED = WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED
    DEAD_LETTER = "DEAD_LETTER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long what a handler leaves behind is kept after it has ended. `None`: for ever.

    Attributes:
        success: Workflows in SUCCESS.
        error: Those in ERROR or MAX_RECOVERY_ATTEMPTS_EXCEEDED. One with an open dead letter stays, however old.
        cancelled: Those in CANCELLED.
        dead_letters: Dead letters, since they were retried or discarded. Open ones stay.
    """

    success: timedelta | None = None
    error: timedelta | None = None
    cancelled: timedelta | None = None
    dead_letters: timedelta | None = None

    def of(self, kind: Kind) -> timedelta | None:
        """For one kind."""
        match kind:
            case Kind.SUCCESS:
                return self.success
            case Kind.CANCELLED:
                return self.cancelled
            case Kind.DEAD_LETTER:
                return self.dead_letters
            case Kind.ERROR | Kind.MAX_RECOVERY_ATTEMPTS_EXCEEDED:
                return self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """How long what has ended is kept, and how it is deleted.

    Attributes:
        keep: For each handler. What has ended of a handler that no process ever named here is kept for ever.
        every: Between two sweeps; up to six times as long while there is nothing to delete.
        rows_max: Rows of one batch.
        vacuum_starved_after: How long an old snapshot may keep deleted rows from being removed before it is reported.
    """

    keep: Mapping[str, Keep] = field(default_factory=dict[str, Keep])
    every: timedelta = timedelta(seconds=10)
    rows_max: int = 5_000
    vacuum_starved_after: timedelta = timedelta(minutes=30)

    def __post_init__(self) -> None:
        if self.rows_max < 1:
            raise ValueError("retention: rows_max must be at least 1")


class PolicyRow(NamedTuple):
    """A row of `retention_policy`. `keep_ms`: since it ended; `None`: for ever."""

    handler: str
    kind: str
    keep_ms: int | None


def policy_rows(keeps: Mapping[str, Keep]) -> list[PolicyRow]:
    """What a process says of its handlers."""
    return [
        PolicyRow(handler, kind.value, None if (keep := keeps[handler].of(kind)) is None else keep // _MS)
        for handler in sorted(keeps)
        for kind in Kind
    ]


@dataclass(frozen=True, slots=True)
class Age:
    """What is kept equally long.

    Attributes:
        keep_ms: How long.
        handlers, kinds: Whose, and how it ended: pairs, one beside the other.
        of_letters: Whether these are dead letters; else workflows.
    """

    keep_ms: int
    handlers: tuple[str, ...]
    kinds: tuple[str, ...]
    of_letters: bool


def ages(policies: Iterable[PolicyRow]) -> list[Age]:
    """Policies by their time, shortest first; what is kept for ever is in none."""
    pairs: dict[tuple[int, bool], list[tuple[str, str]]] = {}
    for handler, kind, keep_ms in policies:
        if keep_ms is not None:
            pairs.setdefault((keep_ms, kind == Kind.DEAD_LETTER), []).append((handler, kind))
    found: list[Age] = []
    for (keep_ms, of_letters), members in sorted(pairs.items()):
        handlers, kinds = zip(*sorted(members), strict=True)
        found.append(Age(keep_ms, handlers, kinds, of_letters))
    return found


class Span(NamedTuple):
    """What a walk has before it: rows of one age by creation time, epoch ms.

    Attributes:
        handlers, kinds: Pairs, one beside the other.
        start: First creation time that was not looked at.
        end: What was created, and has ended, before it is old enough.
    """

    handlers: tuple[str, ...]
    kinds: tuple[str, ...]
    start: int
    end: int


class Frontier:
    """How far the walk over one age has come.

    Positions are creation times (of dead letters: when they were decided), epoch ms: everything below was looked at.
    """

    __slots__ = ("_back_at", "_left", "_reached", "age", "position")

    def __init__(self, age: Age) -> None:
        self.age = age
        self.position = 0
        self._reached = 0
        self._left: int | None = None
        self._back_at: int | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether the walk is where it never was: what it finds there is as old as what arrives now becomes due."""
        return self.position >= self._reached

    def before(self, now: int) -> Span | None:
        """What is to be looked at; `None`: nothing, what was created since cannot be old enough."""
        end = now - self.age.keep_ms
        return Span(self.age.handlers, self.age.kinds, self.position, end) if self.position < end else None

    def begin(self, now: int) -> None:
        """A sweep begins: come back for what stayed, if it is time."""
        if self._back_at is None:
            self._back_at = now + self._come_back_ms
        elif now >= self._back_at:
            self._back_at = now + self._come_back_ms
            if self._left is not None:
                self.position, self._left = min(self._left, self.position), None

    def passed(self, upto: int, left: int | None) -> None:
        """Everything up to and including a position was looked at; `left` is that of the oldest that has to go later."""
        self.position = upto + 1
        self._reached = max(self._reached, self.position)
        if left is not None:
            self._left = left if self._left is None else min(self._left, left)

    @property
    def _come_back_ms(self) -> int:
        return min(self.age.keep_ms // 10, COME_BACK_MAX_MS)
