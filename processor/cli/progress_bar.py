"""How far a long command is: one line on a terminal, written over and over; nothing where nobody looks."""

import sys
import time
from types import TracebackType
from typing import Self

EVERY_S = 0.1
"""Between two lines: a terminal far away is slow."""

_WIDTH = 24


class ProgressBar:
    """On standard error, where it is a terminal.

    Args:
        what: Is counted.
        total: How many there will be.
        is_shown: Instead of what standard error is.
    """

    def __init__(self, what: str, total: int = 0, *, is_shown: bool | None = None) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._is_shown = sys.stderr.isatty() if is_shown is None else is_shown
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def expect(self, total: int) -> None:
        """There will be so many."""
        self._total = total

    def advance(self, by: int) -> None:
        """So many more are done."""
        self._done = min(self._done + by, self._total) if self._total else self._done + by
        now = time.monotonic()
        if self._is_shown and now - self._shown_at >= EVERY_S:
            self._shown_at = now
            share = min(self._done / self._total, 1.0) if self._total else 1.0
            bar = "#" * int(share * _WIDTH)
            sys.stderr.write(f"\r{self._what} [{bar:<{_WIDTH}}] {share:4.0%}  {self._done:,} of {self._total:,}\x1b[K")
            sys.stderr.flush()
