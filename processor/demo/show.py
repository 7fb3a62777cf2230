"""What the demo says while it runs: one line that renews itself on a terminal, plain lines elsewhere."""

import sys
import time
from dataclasses import dataclass

PLAIN_EVERY_S = 5.0
"""Between two lines where they stay."""


@dataclass(frozen=True, slots=True)
class State:
    """The run at one moment. `lag` is what Kafka has and the tables do not."""

    produced: int
    done: int
    rate: float
    lag: int
    in_flight: int
    dead_letters: int
    kills: int
    workers: int

    def __str__(self) -> str:
        return (
            f"{self.done:>7,} done of {self.produced:,} produced  {self.rate:>6,.0f}/s  lag {self.lag:,}  "
            f"in flight {self.in_flight:,}  dead letters {self.dead_letters}  kills {self.kills}  workers {self.workers}"
        )


class Show:
    """Writes to standard output."""

    def __init__(self) -> None:
        self._renews = sys.stdout.isatty()
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
            text = f"          {state}"
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
        sys.stdout.write(text)
        sys.stdout.flush()
