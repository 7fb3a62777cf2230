"""Begins a coroutine on behalf of a task that waits: until it waits itself, without a turn of the loop. Pure asyncio.

What `asyncio.eager_task_factory` does for new tasks, for one that is there: the coroutine runs in the task's context,
and whoever asks for the current task gets that one, so that time-outs, task groups and context variables belong where
they should. If the coroutine waits, the task goes on with it.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]
from collections.abc import Coroutine, Generator
from contextvars import Context
from functools import partial
from typing import Any

NOT_BEGUN: Any = object()


class Begun:
    """A coroutine that waits for something, to be awaited by its task.

    Args:
        coroutine: What was begun.
        waits_for: What it waits for, as it has yielded it; `NOT_BEGUN`: its task does all of it.
        context: Where it runs, if not in its task's.
    """

    __slots__ = ("_context", "_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any, context: Context | None = None) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._context = context

    def __await__(self) -> Generator[Any, Any, None]:
        send, throw, waits_for = self._coroutine.send, self._coroutine.throw, self._waits_for
        if (context := self._context) is not None:
            send, throw = partial(context.run, send), partial(context.run, throw)
        try:
            if waits_for is NOT_BEGUN:
                waits_for = send(None)
            elif asyncio.isfuture(waits_for):
                waits_for._asyncio_future_blocking = True  # noqa: SLF001  # as `Future.__await__` says that it is awaited
            while True:
                try:
                    value = yield waits_for
                except BaseException as error:  # noqa: BLE001  # thrown in: a cancellation
                    waits_for = throw(error)
                else:
                    waits_for = send(value)
        except StopIteration:
            return

    def cancel(self) -> None:
        """Its task was cancelled before it went on."""
        self._coroutine.close()


def begin(
    coroutine: Coroutine[Any, Any, None], *, on_behalf_of: asyncio.Task[Any], context: Context | None
) -> Begun | None:
    """Run a coroutine until it waits; `None`: it has returned. Raises what it raises. The task must not be running.

    Without a context it is not begun: its task does all of it.
    """
    if context is None:
        return Begun(coroutine, NOT_BEGUN)
    here = asyncio.current_task()
    assert here is not None, "somebody's task begins it"
    loop = on_behalf_of.get_loop()
    _leave_task(loop, here)
    _enter_task(loop, on_behalf_of)
    try:
        return Begun(coroutine, context.run(coroutine.send, None))
    except StopIteration:
        return None
    finally:
        _leave_task(loop, on_behalf_of)
        _enter_task(loop, here)


def context_of(task: asyncio.Task[Any]) -> Context | None:
    """The context a task runs in; `None` on Python 3.11, which does not say."""
    get = getattr(task, "get_context", None)
    return None if get is None else get()
