"""Finds sequences of durable calls that race each other, in the run that makes them.

Places in the history are given in call order. That order is the same in every replay for calls that a workflow makes
itself, for tasks that make one call each (`asyncio.gather`), and for a task whose calls stand next to each other. It is not
where a task goes on calling while another one calls as well: in a replay, whose answers are there at once, the first task
would take the places, and the results, of the second (I4). That is refused at the call that would take such a place. So that a
replay of an interrupted run calls in the same order, and is refused as well, steps and sleeps let other tasks call first,
whether they are answered by the history or not.

The limits (decision 0032): a task that waits for something else before its first call (`asyncio.sleep`, a socket), one that
makes a single call while the workflow's own code makes several, tasks of one call each that wait for each other, and code
that goes by which answer came first are not found; nor, in the replay of an interrupted run, are sequences of other waits
(`recv`, results). A workflow's own calls cost one look at the current task. Threads are not looked at: a sync
workflow has one.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import ref

from engine.errors import RacingStepsError
from engine.misfits import ended_by

if TYPE_CHECKING:
    from engine.runner import Run


class Caller:
    """A task beside the workflow's own that has made a durable call. Holds nothing that leads back to its context."""

    __slots__ = ("calls", "last", "parent", "task")

    def __init__(self, task: asyncio.Task[object], parent: Caller | None) -> None:
        self.task = ref(task)
        self.parent = parent
        """The caller whose task made this one's; `None`: the workflow's own code did."""
        self.last = 0
        self.calls = 0

    @property
    def is_over(self) -> bool:
        """Whether it makes no further call, as far as anybody can tell."""
        task = self.task()
        return task is None or task.done() or task.cancelling() > 0

    def is_below(self, other: Caller) -> bool:
        """Whether `other` made it, or one of those who made it."""
        above = self.parent
        while above is not None and above is not other:
            above = above.parent
        return above is not None


class Callers:
    """Who beside the workflow's own code has made which call of an attempt."""

    __slots__ = ("by_place", "race")

    def __init__(self) -> None:
        self.by_place: dict[int, Caller] = {}
        self.race: str | None = None
        """The call that was refused: every later one is as well, and the attempt fails, whoever caught the error."""


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def check_turn(run: Run, name: str) -> None:
    """Refuse the next durable call of a run if its place would be another one's in a replay.

    Raises:
        RacingStepsError: It would be.
    """
    # Of its loop, since asking which one runs is a call of the kernel's up to Python 3.11. In a thread that is somebody
    # else's task, or by chance the workflow's own, whose look at the others does no harm.
    if asyncio.current_task(run.home.loop) is run.task:
        if run.callers is not None:
            _check_own(run, run.callers, name)
        return
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread, which calls one after the other
        return
    if task is None:
        if run.callers is not None:
            _check_own(run, run.callers, name)
        return
    if run.callers is None:
        run.callers = Callers()
    callers, caller = run.callers, _caller.get()
    if callers.race is not None:
        raise RacingStepsError(run.id, called=callers.race)
    if caller is None or caller.task() is not task:
        caller = Caller(task, caller)
        _caller.set(caller)
    elif any(_is_beside(callers, place, caller) for place in range(caller.last + 1, run.function_id + 1)):
        callers.race = name
        raise ended_by(run, RacingStepsError(run.id, called=name))
    caller.last = run.function_id + 1
    caller.calls += 1
    callers.by_place[caller.last] = caller


def race_of(run: Run) -> RacingStepsError | None:
    """The race that was found in this attempt."""
    if run.callers is None or run.callers.race is None:
        return None
    return RacingStepsError(run.id, called=run.callers.race)


def _check_own(run: Run, callers: Callers, name: str) -> None:
    """A call of the workflow's own code: beside no task that is in the middle of a sequence."""
    if callers.race is None:
        living = {place: caller for place, caller in callers.by_place.items() if not caller.is_over}
        if all(caller.calls == 1 for caller in living.values()):
            callers.by_place = living
            if not living:
                run.callers = None
            return
        callers.race = name
    raise ended_by(run, RacingStepsError(run.id, called=callers.race))


def _is_beside(callers: Callers, place: int, caller: Caller) -> bool:
    """Whether the call at a place was made by somebody for whom `caller` has not waited."""
    other = callers.by_place.get(place)
    return other is None or not other.is_over or not other.is_below(caller)
