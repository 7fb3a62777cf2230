"""The threads that run sync workflows, and what they have to say to the loop.

    loop ──start──▶ one queue ──▶ threads: each takes a workflow, runs all of its code, takes the next
    loop ◀──hear, once for many── deque ◀──tell── checkpoints, ends of workflows, in order

A thread that has something to say wakes the loop only if nobody has yet: under load one wake-up, which is a system call
and a turn of the loop, serves dozens of workflows. A workflow that waits keeps its thread (P14).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from engine.own_thread import know

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.runner import Run


class HandlerThreads:
    """`executor.threads` of them, from the first sync workflow on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        know(engine)
        self._base = copy_context()
        self._ready: SimpleQueue[Run | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._told: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_telling = False
        self._at_work = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    # -- on the loop --

    def start(self, run: Run) -> None:
        """Run a workflow's code when a thread is free."""
        if not self._threads:
            self._begin()
        self._at_work += 1
        self._quiet.clear()
        self._ready.put(run)

    def ended(self) -> None:
        """The code of a workflow has ended, and its steps have."""
        self._at_work -= 1
        if not self._at_work:
            self._quiet.set()

    async def quiet(self) -> None:
        """Wait until no thread runs a workflow."""
        await self._quiet.wait()

    def stop(self) -> None:
        """End the threads that have nothing to do; the others when they have done it."""
        for _ in self._threads:
            self._ready.put(None)

    def _begin(self) -> None:
        for number in range(self._engine.settings.threads):
            thread = threading.Thread(target=self._work, name=f"handler-{number}")
            self._threads.append(thread)
            thread.start()

    def _hear(self) -> None:
        # First: whoever tells something from now on wakes the loop again.
        self._is_telling = False
        while self._told and not self._engine.stopping.is_set():
            function, arguments = self._told.popleft()
            try:
                function(*arguments)
            except Exception as error:  # noqa: BLE001  # a bug: the workflow would wait for ever
                self._engine.failed(error)

    # -- in the threads --

    def tell(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call on the loop, after what was told before."""
        self._told.append((function, arguments))
        if not self._is_telling:
            self._is_telling = True
            with suppress(RuntimeError):  # the loop has ended
                self._engine.loop.call_soon_threadsafe(self._hear)

    def _work(self) -> None:
        while (run := self._ready.get()) is not None:
            if self._engine.stopping.is_set():
                continue
            try:
                self._base.copy().run(run.code_in_thread)
            except BaseException as error:  # noqa: BLE001  # a crash point's: the engine ends, this thread goes on
                with suppress(RuntimeError):
                    self._engine.loop.call_soon_threadsafe(_pass_on, error)
            del run  # or it would live until the next one


def _pass_on(error: BaseException) -> None:
    """To the loop's exception handler, as what a task raised and nobody awaited."""
    raise error
