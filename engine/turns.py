"""Runs the code of workflows: begins what is ready, goes on with what waited for the engine, all of it in one turn.

    start ─▶ ready ─┐
                    ├─▶ a turn of the loop: each runs until it waits or ends, on behalf of a task of its own
    woken ──────────┘                       (engine/carriers.py)

A task for every workflow costs 3 µs to make, to schedule and to take apart. So a task whose workflow has ended takes the
next one, and where workflows do not wait, one task does for all. Where they do, as many are made as there are workflows, so
that all of them begin in the same turn.

Every workflow has a context of its own, and its task is the current one from its beginning to its end: time-outs, task
groups and cancellations are its own, as in any task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from engine.carriers import Carrier, Pause
from engine.runner import Row, Run

if TYPE_CHECKING:
    from engine.engine import Engine

IDLE_MAX = 2_000
"""Tasks that are kept for the next workflows. 1 KiB each."""


class Turns:
    """The workflows of one engine whose code is to begin, or to go on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._base = copy_context()
        """Of whoever started the engine. Never a workflow's: one must not see what another set."""
        self._ready: deque[Run] = deque()
        self._woken: deque[Pause] = deque()
        self._idle: list[Carrier] = []
        self._is_due = False
        """Whether a turn is asked for."""
        self._takers = 0
        """New tasks that will take what is ready, in the next turn of the loop."""
        self._waits = False
        """Whether the last workflow that began had to wait: the next ones will."""

    def start(self, run: Run) -> None:
        """Begin a workflow's code in the next turn of the loop, behind those that were started before it."""
        self._ready.append(run)
        if not self._is_due:
            self._ask()

    def woken(self, pause: Pause) -> None:
        """Go on with the code that waits for this in the next turn of the loop."""
        self._woken.append(pause)
        if not self._is_due:
            self._ask()

    def failed(self, error: Exception) -> None:
        """Our own code around a workflow's has failed."""
        self._engine.failed(error)

    def _ask(self) -> None:
        self._is_due = True
        self._engine.loop.call_soon(self._turn, context=self._base)

    def _turn(self) -> None:
        self._is_due = False
        woken, ready = self._woken, self._ready
        for _ in range(len(woken)):  # what is woken meanwhile goes on in the next turn
            pause = woken.popleft()
            if (carrier := pause.carrier) is not None and carrier.go_on(pause):
                self._keep(carrier)
        while ready and self._idle:
            carrier = self._idle.pop()
            while ready and carrier.is_idle:
                self._begin(ready.popleft(), carrier, carrier.begin)
            if not carrier.has_code:
                self._keep(carrier)
        self._add_takers()

    def _add_takers(self) -> None:
        """All at once, if workflows will wait: one after the other would take them a turn of the loop each."""
        missing = len(self._ready) if self._waits else 1
        while self._ready and self._takers < missing:
            self._takers += 1
            carrier = Carrier(self, self._engine.loop)
            carrier.task = self._engine.loop.create_task(self._carry(carrier), context=self._base.copy())
            self._engine.tasks.add(carrier.task)

    async def _carry(self, carrier: Carrier) -> None:
        try:
            self._takers -= 1
            self.next_for(carrier)
            self._add_takers()
            await carrier
        except Exception as error:  # noqa: BLE001  # not a workflow's: those are caught where their code runs
            self._engine.failed(error)
        finally:
            # Not by a callback of the task's: that is another turn of the loop.
            self._engine.tasks.discard(carrier.task)

    def next_for(self, carrier: Carrier) -> None:
        """A task of ours is running, and has no code: begin what is ready, until something waits."""
        while self._ready and carrier.is_idle:
            self._begin(self._ready.popleft(), carrier, carrier.begin_here)
        if not carrier.has_code:
            self._keep(carrier)

    def _begin(self, run: Run, carrier: Carrier, begin: Callable[[Coroutine[Any, Any, None], Context], None]) -> None:
        context = self._base.copy()
        begin(run.code(carrier.task, context), context)
        self._waits = carrier.has_code
        if self._waits and run.row is Row.NONE:
            self._engine.watch(run)

    def let_go(self) -> None:
        """End the tasks that have nothing to do: whoever waits for the others knows them by what is left (P22)."""
        while self._idle:
            self._idle.pop().end()

    def _keep(self, carrier: Carrier) -> None:
        if carrier.is_idle and len(self._idle) < IDLE_MAX and not self._engine.suspects.is_closed:
            self._idle.append(carrier)
        else:
            carrier.end()
