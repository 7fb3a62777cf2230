"""What a workflow's code waits on for the engine: in its task, and in the thread of a sync one. Both are told like a future."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.carriers import Carrier

THREAD_LOOKS_AGAIN_S = 1.0
"""Longest a thread sleeps between two looks at whether its last step is durable."""


class Pause:
    """A wait that ends by `set_result`, like a future's. Only for code that a carrier runs: its task is the current one."""

    __slots__ = ("_is_over", "carrier")

    def __init__(self) -> None:
        self._is_over = False
        self.carrier: Carrier | None = None
        """Where the code waits, once it does."""

    def __await__(self) -> Generator[Pause, None, None]:
        if not self._is_over:
            yield self

    def done(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    def set_result(self, result: None) -> None:
        """End it."""
        del result
        self._is_over = True
        if self.carrier is not None:
            self.carrier.driver.woken(self)


class ThreadWaiter:
    """What a thread waits on, told like a future."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> None:
        """Until told, or for a second: whoever waits looks again anyway."""
        self._lock.acquire(timeout=THREAD_LOOKS_AGAIN_S)

    def done(self) -> bool:
        """Whether it was told."""
        return not self._lock.locked()

    def set_result(self, result: None) -> None:
        """Tell it."""
        del result
        self._lock.release()
