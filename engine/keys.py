"""Who has which ordering key of a partition, and who waits behind whom (I7, P18).

A key's *holder* is its first open workflow; the others wait behind it by place, then offset. A key that is blocked, by
an operator or a failure policy, keeps its holder: nobody starts. A holder that sleeps, with nobody behind it, is no run
in memory but its ID: 100,000 of them are a table of 20 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from engine.ids import OrderingKey, WorkflowId
from engine.runner import Phase, Row, Run


class Asleep(NamedTuple):
    """A workflow that sleeps, and keeps its key."""

    workflow_id: WorkflowId
    offset: int
    place: int
    wake_at: int


class Keys:
    """The keys of one claim of one partition. `recall` makes a run of one that sleeps, since somebody waits behind it."""

    def __init__(self, recall: Callable[[OrderingKey, Asleep], Run]) -> None:
        self.blocked: set[OrderingKey] = set()
        self.asleep: dict[OrderingKey, Asleep] = {}
        self._holders: dict[OrderingKey, Run] = {}
        self._recall = recall

    def holder(self, key: OrderingKey | None) -> Run | None:
        """Who has it."""
        return None if key is None else self._holders.get(key)

    def holders(self) -> Iterable[Run]:
        """Everybody who has one."""
        return self._holders.values()

    def is_taken(self, key: OrderingKey | None) -> bool:
        """Whether somebody has it."""
        return key is not None and (key in self._holders or key in self.asleep)

    def take(self, run: Run) -> bool:
        """Give a run its key if that is free, or a place behind its holder. Returns whether it has it."""
        key = run.key
        if key is None:
            return True
        if self.asleep and key in self.asleep:
            asleep = self.asleep.pop(key)
            if asleep.workflow_id != run.id:
                self._holders[key] = self._recall(key, asleep)
        holder = self._holders.setdefault(key, run)
        if holder is run:
            return True
        if key in self.blocked and by_place(run) < by_place(holder) and _has_not_begun(holder):
            # What blocked the key, put back to work by an operator: nothing of the key ran since (P18).
            self._holders[key] = run
            run.followers, holder.followers = [holder, *(holder.followers or ())], None
            return True
        _follow(holder, run)
        return False

    def lay_down(self, run: Run) -> bool:
        """A run sleeps: keep its key without it. False: somebody waits behind it."""
        key = run.key
        if run.followers:
            return False
        if key is not None:
            assert self._holders.get(key) is run, "who slept had its key"
            del self._holders[key]
            self.asleep[key] = Asleep(run.id, run.offset, run.place, run.wake_at or 0)
        return True

    def has(self, run: Run) -> bool:
        """Whether nobody is before this run."""
        return run.key is None or self._holders.get(run.key) is run

    def may_go(self, run: Run) -> bool:
        """Whether nobody is before this run, and its key is not blocked."""
        return run.key is None or (self._holders.get(run.key) is run and run.key not in self.blocked)

    def leave(self, run: Run) -> Run | None:
        """A run has finished: take its key from it, unless that is blocked and somebody waits. Returns who has it now."""
        key = run.key
        if run.followers:
            return None if key in self.blocked and self.has(run) else self.pass_on(run)
        if key is not None and self._holders.get(key) is run:
            del self._holders[key]
        return None

    def pass_on(self, run: Run) -> Run | None:
        """Take the key from its holder, and give it to who waits first. Returns that one."""
        key = run.key
        if key is None or self._holders.get(key) is not run:
            return None
        followers, run.followers = run.followers, None
        if not followers:
            del self._holders[key]
            return None
        following = followers.pop(0)
        following.followers = followers or None
        self._holders[key] = following
        return following

    def unblock(self, keys: set[OrderingKey]) -> list[Run]:
        """Lift blocks. Returns the holders, finished or not, that go on."""
        lifted = keys & self.blocked
        self.blocked -= lifted
        return [self._holders[key] for key in lifted if key in self._holders]


def by_place(run: Run) -> tuple[int, int]:
    """The order of a key: place, then offset (P18)."""
    return run.place, run.offset


def _has_not_begun(holder: Run) -> bool:
    """Whether a holder waits, and nothing of it is under way but perhaps its row at rest."""
    return holder.phase in (Phase.WAITING, Phase.RESTING) and holder.row in (Row.NONE, Row.REST)


def _follow(holder: Run, run: Run) -> None:
    """Queue behind a holder: nearly always at the end."""
    followers = holder.followers
    if followers is None:
        holder.followers = [run]
        return
    if by_place(followers[-1]) <= by_place(run):
        followers.append(run)
        return
    index = next(i for i, follower in enumerate(followers) if by_place(follower) > by_place(run))
    followers.insert(index, run)
