"""Ends one thread's wait for a connection from other threads."""

import os
import select
import threading
from contextlib import suppress


class Bell:
    """A pipe that is waited for beside a connection. `ring` and `close` may be called by any thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._lock = threading.Lock()
        self._is_open = True

    def ring(self) -> None:
        """End the wait, or the next one. Waits for nobody."""
        with self._lock:
            if self._is_open:
                with suppress(BlockingIOError):  # full: it rings already
                    os.write(self._write, b"!")

    def wait(self, fileno: int, timeout_s: float) -> None:
        """Wait until the connection has something to read, the bell rings, or the time is over."""
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        poll.register(self._read, select.POLLIN)
        poll.poll(timeout_s * 1000)
        with suppress(BlockingIOError):
            os.read(self._read, 64)

    def close(self) -> None:
        """Close the pipe, once nobody waits any more."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._read)
                os.close(self._write)


__all__ = ["Bell"]
