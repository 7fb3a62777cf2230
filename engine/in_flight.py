"""What of the engine's bounds a run takes: counted from when it may run until it has ended, or rests (I10)."""

from collections.abc import Iterable

from engine.runner import Run


def count(run: Run, size: int | None = None) -> None:
    """It is in flight, with so many bytes, or those of its record."""
    if run.counted is None:
        engine = run.home.engine
        run.counted = size if size is not None else 0 if run.record is None else run.record.size
        engine.in_flight += 1
        engine.in_flight_bytes += run.counted


def uncount(run: Run) -> None:
    """It is not any more."""
    if run.counted is not None:
        engine = run.home.engine
        engine.in_flight -= 1
        engine.in_flight_bytes -= run.counted
        run.counted = None


def uncount_all(runs: Iterable[Run]) -> None:
    """Whatever is still counted leaves with its source."""
    for run in runs:
        uncount(run)
