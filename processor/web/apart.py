"""Long examinations, on an event loop of their own in a thread: nothing of them stands between records and their handlers.

One at a time of each kind: they read logs and tables as fast as they can. Whoever comes meanwhile is told to come back. One whose
request is over, by its time or because the process stops, is cancelled, and waited for: its connections are closed then.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from processor.web.problems import retry_later

Value = TypeVar("Value")

BUSY_AFTER_S = 5.0
"""When to come back."""


class Apart:
    """One kind of examination.

    Args:
        what: It is called, in messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_busy = False

    async def run(self, begin: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Run it, if none of its kind runs.

        Args:
            begin: Makes the coroutine, in the thread.

        Raises:
            Problem: One runs already.
        """
        if self._is_busy:
            raise retry_later(f"{self._what} is under way in this process already", BUSY_AFTER_S)
        self._is_busy = True
        try:
            return await _in_a_thread(begin)
        finally:
            self._is_busy = False


async def _in_a_thread(begin: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    is_over = threading.Event()
    cancels: list[Callable[[], object]] = []

    async def watched() -> Value:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None, "asyncio.run makes one"
        cancels.append(lambda: loop.call_soon_threadsafe(task.cancel))
        if is_over.is_set():
            raise asyncio.CancelledError
        return await begin()

    thread = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(watched())))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        is_over.set()
        for cancel in cancels:
            with suppress(RuntimeError):  # its loop has ended just now
                cancel()
        await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # looked at, or asyncio logs it
        raise


__all__ = ["Apart"]
