"""What one process knows of a queue it takes from: what was said of it, how many of it run here, what is left. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.store.operation_outputs import CheckpointRow
from engine.store.queues import Outlook
from engine.store.turns import QueuedRow

if TYPE_CHECKING:
    from engine.queues import QueueSpec

KEYS_MAX = 200
"""Partition keys of one turn: each has its places counted. The next turn goes on behind them."""


@dataclass(slots=True)
class Wants:
    """What there may be to take from a queue.

    Attributes:
        every: Something ready, of any partition key.
        freed: Something ready, of these: a run of theirs has ended here.
        due: Something at rest and due.
        dead: Something of these executors, which are gone.
    """

    every: bool = False
    freed: set[str] = field(default_factory=set[str])
    due: bool = False
    dead: set[str] = field(default_factory=set[str])

    def __bool__(self) -> bool:
        return bool(self.every or self.freed or self.due or self.dead)

    def add(self, other: Wants) -> None:
        """And what another one says."""
        self.every, self.freed = self.every or other.every, self.freed | other.freed
        self.due, self.dead = self.due or other.due, self.dead | other.dead


class ListenedQueue:
    """What this process knows of a queue it takes from."""

    def __init__(self, spec: QueueSpec) -> None:
        self.spec = spec
        self.here: Counter[str] = Counter()
        """Runs by partition key."""
        self.wants = Wants()
        """Said since the last turn began."""
        self.after: str | None = None
        """The key at which the last turn stopped, if it did not come to the end."""
        self.outlook = Outlook(has_ready=True, has_due=True, has_dead=False, retry_at=None, now=0)
        """What the last turn left behind."""
        self.dead: set[str] = set()
        """Executors that have left something, for which there was no room."""
        self.is_paused = False
        self.is_starved = False
        """Whether the process had no room."""
        self.refused = 0
        """Turns in a row that met a row which something else had at that moment."""

    def left(self, key: str) -> None:
        """A run has ended here: there is room for another, first of all for those that have their places."""
        self.here[key] -= 1
        if not self.here[key]:
            del self.here[key]
        if self.dead or self.outlook.has_due or (self.outlook.has_ready and not self.is_paused):
            self.wants.freed.add(key)

    def begin(self) -> Wants:
        """What a turn is about; what is said from now on is another's."""
        wants, self.wants = self.wants, Wants()
        wants.every = wants.every or len(wants.freed) > KEYS_MAX
        # What has its place goes before what has none, whatever was the occasion.
        wants.dead |= self.dead
        wants.due = wants.due or self.outlook.has_due
        return wants

    def follow(self, turn: Turned) -> None:
        """What is to be taken next, after a turn: at once, where it did not take all there was."""
        wants, is_full = turn.wants, len(turn.rows) >= turn.limit
        self.outlook, self.is_paused = turn.outlook, turn.is_paused
        if wants.dead:
            self.dead = wants.dead if turn.outlook.has_dead else set()
        if turn.kind != "ready":
            rest = replace(wants, dead=set[str](), due=False, every=wants.every or is_full)
            self.wants.add(rest)
            return
        has_more_keys = wants.every and len(turn.keys) == KEYS_MAX
        self.after = turn.keys[-1] if has_more_keys else None
        if has_more_keys or (is_full and not turn.is_paused):
            self.wants.every = True


@dataclass(frozen=True, slots=True)
class Turned:
    """A turn that is durable. `kind`: what it took, 'ready', 'due' or 'dead'."""

    wants: Wants
    kind: str
    keys: Sequence[str]
    limit: int
    rows: Sequence[QueuedRow]
    histories: Sequence[CheckpointRow]
    outlook: Outlook
    is_paused: bool
