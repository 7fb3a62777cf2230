"""Durable sleep: the wake-up time is a checkpoint, the wait costs a row.

sleep ─▶ checkpoint (the time) ─▶ in memory, or at rest (engine/waits.py) ─▶ goes on
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from engine.clock import now_ms
from engine.runner import Run
from engine.signals import FOREVER_MS
from engine.store.operation_outputs import Checkpoint
from engine.waits import Waits

SLEEP = "DBOS.sleep"
"""In the history, as the seed calls it; so with the other names of this form."""


async def sleep_until(run: Run, until: int) -> None:
    """Sleep until a `deadline` (I4).

    Raises:
        Suspended: The workflow rests; its code runs again from the beginning, over its history, when it wakes.
    """
    if run.callers is not None:
        await asyncio.sleep(0)  # also where its time has come: engine/races.py
    await waits_of(run).until(run, until)


def deadline(run: Run, duration: timedelta) -> int:
    """Epoch ms of a time that is the same in every replay. Takes a place in the history."""
    function_id = run.next_function_id(SLEEP)
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        return int(recorded.output or "0")
    now = now_ms()
    until = now + max(0, int(duration.total_seconds() * 1000))
    run.checkpoint(Checkpoint(run.id, function_id, SLEEP, str(until), None, now, now))
    return until


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call that waits stands in the history: given at the call, in call order. `until` in epoch ms."""

    function_id: int
    until: int

    @property
    def time_place(self) -> int | None:
        """The place of the end of its time; `None`: it has none."""
        return None if self.until == FOREVER_MS else self.function_id + 1


def place_of(run: Run, name: str, timeout: timedelta | None) -> Place:
    """Take the place of a call that waits, and one for the end of its time if it has one."""
    function_id = run.next_function_id(name)
    return Place(function_id, FOREVER_MS if timeout is None else deadline(run, timeout))


def waits_of(run: Run) -> Waits:
    """Where a run's waits are kept."""
    return run.home.engine.waits
