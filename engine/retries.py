"""When a failed step or workflow is tried again, and what ends it at once. Pure."""

from dataclasses import dataclass
from datetime import timedelta
from typing import cast


class TerminalError(Exception):
    """Raised by a handler or a step: trying again cannot help. Ends the step and the workflow at once."""


class RetryAfterError(Exception):
    """Raised by a handler or a step: try again, not before `delay`. Counts as an attempt."""

    def __init__(self, delay: timedelta, message: str = "") -> None:
        super().__init__(delay, message)
        self.delay = delay

    def __str__(self) -> str:
        return str(self.args[1]) or f"try again after {self.delay}"


@dataclass(frozen=True, slots=True)
class Retry:
    """How often to try, and how long to wait between tries.

    The wait after the n-th failed try is `first_delay * backoff ** (n - 1)`, at most `max_delay`. The seed's
    `maxAttempts`, `intervalSeconds`, `backoffRate` (StepConfig), with its defaults.

    Attributes:
        attempts: Tries in total, the first included.
        first_delay: Wait after the first failure.
        backoff: Factor from one wait to the next.
        max_delay: Longest wait.
        on: Exception types worth another try; others end it. `TerminalError` always ends it.
    """

    attempts: int = 3
    first_delay: timedelta = timedelta(seconds=1)
    backoff: float = 2.0
    max_delay: timedelta = timedelta(hours=1)
    on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts}): at least one attempt")
        if self.first_delay < timedelta(0) or self.max_delay < timedelta(0):
            raise ValueError("Retry: first_delay and max_delay cannot be negative")
        if self.backoff < 1:
            raise ValueError(f"Retry(backoff={self.backoff}): at least 1")
        if not isinstance(cast("object", self.on), tuple):
            raise ValueError(f"Retry(on={self.on!r}): a tuple of exception types, as (TimeoutError,)")  # noqa: TRY004  # as the others

    def delay_after(self, attempt: int, error: BaseException) -> timedelta | None:
        """The wait before the next try, after `attempt` tries (1-based) of which the last ended in `error`.

        `None`: that was the last one.
        """
        if isinstance(error, TerminalError) or attempt >= self.attempts:
            return None
        if isinstance(error, RetryAfterError):
            return error.delay
        if not isinstance(error, self.on):
            return None
        if not self.first_delay:
            return self.first_delay
        try:
            return min(self.first_delay * float(self.backoff) ** (attempt - 1), self.max_delay)
        except OverflowError:  # longer than any `timedelta`, or than a float can say
            return self.max_delay


NEVER = Retry(attempts=1)
"""One attempt: what a step or workflow without `retry=` gets."""
