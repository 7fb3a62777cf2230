"""The time of day, as rows have it. One function, so that tests can move it; order never depends on it."""

import time

_moved_ms = 0


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000 + _moved_ms


def move(by_ms: int) -> None:
    """Let time pass. For tests; the clock of the database's rows is `now_ms()` of the schema."""
    global _moved_ms  # noqa: PLW0603  # one clock for the process
    _moved_ms += by_ms


def moved_ms() -> int:
    """How far it was moved."""
    return _moved_ms
