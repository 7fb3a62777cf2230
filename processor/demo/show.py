"""What the demo says while it runs: one line that renews itself on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from dataclasses import dataclass
from typing import TextIO

PLAIN_EVERY_S = 5.0
"""Between two lines where they stay."""


@dataclass(frozen=True, slots=True)
class State:
    """The run at one moment: `done` of those that are `produced` so far. `lag` is what Kafka has and the tables do not."""

    produced: int
    done: int
    rate: float
    lag: int
    in_flight: int
    dead_letters: int
    kills: int
    workers: int

    def __str__(self) -> str:
        return "  ".join(self._parts())

    def fitted(self, columns: int) -> str:
        """As much of it as one line of a terminal has room for; what matters least is left out first."""
        parts = self._parts()
        whole = f"{INDENT}{self}"
        if len(whole) < columns:
            return whole
        shown = sorted(range(len(parts)), key=MATTERS.index)
        while len(shown) > 1 and len("  ".join(parts[i] for i in shown)) >= columns:
            shown.pop()
        # The last column stays empty: some terminals go to the next line when it is written.
        return "  ".join(parts[i] for i in sorted(shown)).strip()[: columns - 1]

    def _parts(self) -> tuple[str, ...]:
        return (
            f"{self.done:>7,} done of {self.produced:,}",
            f"{self.rate:>6,.0f}/s",
            f"lag {self.lag:,}",
            f"in flight {self.in_flight:,}",
            f"dead letters {self.dead_letters}",
            f"kills {self.kills}",
            f"workers {self.workers}",
        )


INDENT = " " * 10
"""The width of the time before a line that stays."""

MATTERS = (0, 5, 1, 2, 4, 3, 6)
"""Places in `_parts`, what matters most first."""


class Show:
    """Writes to standard output, or to `output`."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self._renews = self._output.isatty()
        self._written_at = float("-inf")
        self._width = 0
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._write(f"{time.monotonic() - self._began:6.1f} s  {text}\n")

    def end(self, text: str) -> None:
        """The last line, for programs."""
        self._clear()
        self._write(f"{text}\n")

    def state(self, state: State) -> None:
        """Where the run is."""
        if self._renews:
            self._clear()
            text = state.fitted(shutil.get_terminal_size().columns)
            self._width = len(text)
            self._write(text)
        elif time.monotonic() - self._written_at >= PLAIN_EVERY_S:
            self._written_at = time.monotonic()
            self.say(str(state))

    def _clear(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
