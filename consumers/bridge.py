"""Between the loop and the poll thread: commands one way, calls the other, each in order.

loop ──ask──▶ queue ──obey──▶ thread          `wake` ends a rest of the thread early
loop ◀── call_soon_threadsafe ◀──tell── thread
"""

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue


class Bridge:
    """Of one poll thread.

    Args:
        failed: Called on the loop with what a call raised there: the loop would log it, and go on without what the call
            was for.
        alone: Called in the thread when the loop is closed: the process ends, or a test forgot us.
    """

    def __init__(self, *, failed: Callable[[BaseException], None], alone: Callable[[], None]) -> None:
        self._failed = failed
        self._alone = alone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake = threading.Event()

    # -- on the loop

    def open(self) -> None:
        """The running loop is the one."""
        self._loop = asyncio.get_running_loop()

    def ask(self, command: Callable[[], None]) -> None:
        """Have the thread do something."""
        self._commands.put(command)
        self._wake.set()

    def wake(self) -> None:
        """End a rest of the thread."""
        self._wake.set()

    # -- in the thread

    def tell(self, function: Callable[..., None], *arguments: object) -> None:
        """Call on the loop, after what was told before."""
        assert self._loop is not None, "opened"
        try:
            self._loop.call_soon_threadsafe(self._call, function, *arguments)
        except RuntimeError:  # the loop is closed
            self._alone()

    def obey(self) -> None:
        """Do what was asked for."""
        while True:
            try:
                command = self._commands.get_nowait()
            except Empty:
                return
            command()

    def rest(self, seconds: float) -> None:
        """Wait, unless something is asked for or woken for."""
        self._wake.wait(seconds)
        self._wake.clear()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001  # whoever listens ends: what follows would go on over a gap
            self._failed(error)
