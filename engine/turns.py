"""Runs the code of workflows: one task begins many of them, and stays with the first that waits.

    start ─▶ ready ─▶ a task takes one after the other ─▶ its code ended: the next
                                                       └▶ it waits: the task is that workflow's from now on,
                                                          and others take what is left

A task for every workflow costs 3 µs to make, to schedule and to take apart; a workflow whose first wait is the commit of
its last step never needs one of its own. Where workflows do wait, as many tasks are made as there are workflows, so that
all of them begin in the same turn of the loop.

Every workflow has a context of its own, and the task is the current one from its beginning to its end: time-outs, task
groups and cancellations are its own, as in any task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING

from engine.eager import Begun
from engine.runner import Row, Run

if TYPE_CHECKING:
    from engine.engine import Engine


class Turns:
    """The workflows of one engine whose code is to begin."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._base = copy_context()
        """Of whoever started the engine. Never a workflow's: one must not see what another set."""
        self._ready: deque[Run] = deque()
        self._takers = 0
        """Tasks that will take what is ready, in this turn of the loop or the next."""
        self._waits = False
        """Whether the last workflow that began had to wait: the next ones will."""

    def start(self, run: Run) -> None:
        """Begin a workflow's code in the next turn of the loop, behind those that were started before it."""
        self._ready.append(run)
        if not self._takers or (self._waits and self._takers < len(self._ready)):
            self._add_taker()

    def _add_taker(self) -> None:
        self._takers += 1
        myself: list[asyncio.Task[None]] = []
        task = self._engine.loop.create_task(self._take(myself), context=self._base.copy())
        myself.append(task)
        self._engine.tasks.add(task)

    async def _take(self, myself: list[asyncio.Task[None]]) -> None:
        task = myself[0]  # `asyncio.current_task` is Python code up to 3.11
        try:
            begun = self._take_until_one_waits(task)
            if begun is not None:
                await begun
        except Exception as error:  # noqa: BLE001  # whatever the user's code raised is its ending: this is ours
            self._engine.failed(error)
        finally:
            # Not by a callback of the task's: that is another turn of the loop.
            self._engine.tasks.discard(task)

    def _take_until_one_waits(self, task: asyncio.Task[None]) -> Begun | None:
        begun = None
        try:
            while self._ready and begun is None and not task.cancelling():
                begun = self._begin(self._ready.popleft(), task)
                self._waits = begun is not None
        finally:
            self._takers -= 1
            # All at once, if they will wait as well: one after the other would take them a turn of the loop each.
            missing = len(self._ready) if self._waits else 1
            while self._ready and self._takers < missing:
                self._add_taker()
        return begun

    def _begin(self, run: Run, task: asyncio.Task[None]) -> Begun | None:
        """Run a workflow's code until it waits; `None`: it has ended."""
        context = self._base.copy()
        coroutine = run.code(task, context)
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration:
            return None
        if run.row is Row.NONE:
            self._engine.watch(run)
        return Begun(coroutine, waits_for, context)
