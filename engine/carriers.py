"""Tasks that workflows' code runs in, and waits that need no task.

    a task ──▶ its first turn: begins what is ready ──▶ parked ◀─────────────────────────────┐
                                                          │ code waits for the engine: `Pause` │ `go_on`, `begin`: the code
                                                          │ nobody's code: idle                 │ runs on behalf of the task,
                                                          ▼                                     │ which stays where it is
                                              code waits for anything else: the task is woken, and waits for that

Most of what a workflow waits for is the commit of its last step. As an asyncio future that costs 10 µs: the future, its
callback, a turn of the loop and the task's own, and with three steps it happens twice a record. A `Pause` is an object that
the code yields to whoever runs it; when the commit is there, its `Carrier` runs the code on, for hundreds in one turn. The
task is the current one meanwhile, and a cancellation reaches the code where it waits: time-outs, task groups and
cancellations are those of any task.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol

from engine.waiters import Pause

IDLE: Any = object()
"""What a carrier waits for without code."""
OVER: Any = object()
"""Its task is to end."""


class Driver(Protocol):
    """Who gives carriers their work."""

    def woken(self, pause: Pause) -> None:
        """What a workflow's code waits for is there: go on with it soon."""
        ...

    def next_for(self, carrier: Carrier) -> None:
        """Code has ended in a carrier's own turn: begin more, or keep it for later."""
        ...

    def failed(self, error: Exception) -> None:
        """Code let an error out: ours, since the users' are their workflows' endings."""
        ...


class Carrier:
    """One task, given by whoever makes it. It begins its first code in its own first turn."""

    __slots__ = ("_code", "_context", "_loop", "_parked", "_waits_for", "driver", "task")

    task: asyncio.Task[None]

    def __init__(self, driver: Driver, loop: asyncio.AbstractEventLoop) -> None:
        self.driver = driver
        self._loop = loop
        self._code: Coroutine[Any, Any, None] | None = None
        self._context: Context | None = None
        self._parked: asyncio.Future[None] | None = None
        self._waits_for: Any = IDLE

    @property
    def has_code(self) -> bool:
        """Whether somebody's code waits in it."""
        return self._code is not None

    @property
    def is_idle(self) -> bool:
        """Whether it can take code: it has none, and nobody has cancelled its task."""
        if self._waits_for is not IDLE or self.task.cancelling():
            return False
        return self._parked is None or not self._parked.done()

    # -- in its own turn --

    def begin_here(self, code: Coroutine[Any, Any, None], context: Context) -> None:
        """Run code until it waits or ends. Its task is running."""
        self._code, self._context = code, context
        self._run(code.send, None)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait on behalf of the code, until the task is to end."""
        while (waits_for := self._waits_for) is not OVER:
            if waits_for is IDLE or type(waits_for) is Pause:
                parked = self._parked = self._loop.create_future()
                try:
                    yield from parked
                    self._parked = None
                except BaseException as error:  # noqa: BLE001  # a cancellation
                    self._parked = None
                    self._interrupted(error)
            else:
                if asyncio.isfuture(waits_for):
                    waits_for._asyncio_future_blocking = True  # noqa: SLF001  # as `Future.__await__` says that it is awaited
                try:
                    value = yield waits_for
                except BaseException as error:  # noqa: BLE001  # thrown in: a cancellation
                    assert self._code is not None, "only code waits for anything"
                    self._run(self._code.throw, error)
                else:
                    assert self._code is not None, "only code waits for anything"
                    self._run(self._code.send, value)
            if self._waits_for is IDLE:
                self.driver.next_for(self)

    def _interrupted(self, error: BaseException) -> None:
        """The parked task was cancelled."""
        code, waits_for = self._code, self._waits_for
        if code is None:
            raise error
        if asyncio.isfuture(waits_for) and waits_for.cancel():
            return  # its code began to wait for it in the same turn: it hears of it from there
        self._run(code.throw, error)

    # -- from outside --

    def begin(self, code: Coroutine[Any, Any, None], context: Context) -> None:
        """Run code until it waits or ends, on behalf of the task, which is idle."""
        self._code, self._context = code, context
        self._on_behalf(code)

    def go_on(self, pause: Pause) -> bool:
        """Run the code that waits for this, if it still does: a cancellation may have come first. Returns whether it ended."""
        code = self._code
        if code is None or self._waits_for is not pause or self._parked is None or self._parked.done():
            return False
        self._on_behalf(code)
        return self._code is None

    def end(self) -> None:
        """Let the task end. It has no code."""
        self._waits_for = OVER
        self._unpark()

    def _on_behalf(self, code: Coroutine[Any, Any, None]) -> None:
        loop, task = self._loop, self.task
        _enter_task(loop, task)
        try:
            self._run(code.send, None)
        finally:
            _leave_task(loop, task)
        waits_for = self._waits_for
        if waits_for is not IDLE and type(waits_for) is not Pause:
            self._unpark()

    def _unpark(self) -> None:
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def _run(self, call: Callable[[Any], Any], value: Any) -> None:
        assert self._context is not None, "code has its context"
        try:
            waits_for = self._context.run(call, value)
        except StopIteration:
            self._code = self._context = None
            self._waits_for = IDLE
            return
        except Exception as error:  # noqa: BLE001  # whatever the user's code raised is its ending: this is ours
            self._code = self._context = None
            self._waits_for = IDLE
            self.driver.failed(error)
            return
        self._waits_for = waits_for
        if type(waits_for) is Pause:
            waits_for.carrier = self
            if waits_for.done():
                self.driver.woken(waits_for)
