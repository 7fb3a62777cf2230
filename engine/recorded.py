"""Values that a workflow takes from the world and remembers: the time, a random number, an identifier (I4).

In the history they are steps like others; making one is no effect, so that nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from engine.clock import now_ms
from engine.effects import admit
from engine.store.operation_outputs import Checkpoint

if TYPE_CHECKING:
    from engine.runner import Run

NOW, RANDOM, UUID = "DBOS.now", "DBOS.random", "DBOS.randomUUID"

UNDURABLE_MAX = 1_000
"""Checkpoints of one workflow that may wait for their flush before it takes more values (I10)."""


def recorded(run: Run, name: str, make: Callable[[], str]) -> Coroutine[Any, Any, str]:
    """A value as JSON text: made once, the same in every replay.

    Raises:
        Suspended: The run may not go on here.
    """
    return _recorded(run, run.next_function_id(name), name, make)


async def _recorded(run: Run, function_id: int, name: str, make: Callable[[], str]) -> str:
    if run.history is not None and (standing := run.history.get(function_id)) is not None:
        assert standing.output is not None, "a value is recorded"
        return standing.output
    await admit(run, undurable_max=UNDURABLE_MAX)
    started = now_ms()
    text = make()
    run.checkpoint(Checkpoint(run.id, function_id, name, text, None, started, now_ms()))
    return text
