"""Steps that their workflow's own code cuts off: `asyncio.timeout`, `wait_for`, a task group, `task.cancel()` (decision 0031).

    first time   step called ─▶ runs ─▶ CancelledError ─▶ checkpoint: an error of a marked kind ─▶ CancelledError
    replay       step called ─▶ that checkpoint ─▶ waits, and runs nothing, until it is cancelled again

A replay waits, rather than raise at once, since a `CancelledError` that nobody asked for is not turned into the time-out
that the code saw: `asyncio.timeout` and `wait_for` do so only once their own timer has fired. Those timers are not durable:
a replay waits for them anew. A step that raised `CancelledError` of itself raises it at once.

Nothing is recorded where the cut is not the code's: its run is to rest, was cancelled or released, its process ends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from engine.clock import now_ms
from engine.errors import Suspended
from engine.runner import Run, Standing
from engine.store.operation_outputs import Checkpoint

if TYPE_CHECKING:
    from engine.store.operation_outputs import CheckpointRow

T = TypeVar("T")

CUT_OFF = "onceflow:CutOff"
"""The type in the record of a step that was cancelled."""

CANCELLED_ITSELF = "onceflow:CancelledItself"
"""The same of one that raised `CancelledError`, and nobody had cancelled it."""


def is_own(run: Run) -> bool:
    """Whether a cancellation is the code's: nobody else has a reason for one."""
    engine = run.home.engine
    is_ending = engine.stopping.is_set() or engine.is_aborted
    return run.standing is Standing.ACTIVE and run.doom is None and not is_ending


def record(run: Run, name: str, function_id: int, started_ms: int | None = None) -> None:
    """Note that a step was cut off, whether or not it had begun: no replay calls it. The caller raises on."""
    if not is_own(run):
        return
    task = asyncio.current_task()
    kind = CUT_OFF if task is not None and task.cancelling() else CANCELLED_ITSELF
    error = json.dumps(
        {"type": kind, "name": "CancelledError", "message": f"step {name!r} was cut off by the code of its workflow"}
    )
    now = now_ms()
    run.checkpoint(Checkpoint(run.id, function_id, name, None, error, now if started_ms is None else started_ms, now))
    run.error_given = True


async def again(run: Run, recorded: CheckpointRow) -> None:
    """In a replay: if this step was cut off, wait until it is cancelled. Returns if it was not.

    Raises:
        asyncio.CancelledError: It was, and is again.
        Suspended: The run may not go on here.
    """
    error = recorded.error or ""
    if CUT_OFF not in error and CANCELLED_ITSELF not in error:
        return
    kind = json.loads(error).get("type")
    if kind not in (CUT_OFF, CANCELLED_ITSELF):
        return
    run.error_given = True
    if kind == CANCELLED_ITSELF:
        raise asyncio.CancelledError
    while run.standing is Standing.ACTIVE and run.doom is None:
        await _woken(run)
    run.was_suspended = True
    raise Suspended(run.id)


async def _woken(run: Run) -> None:
    """Until its waiters are told to look again. While one waits the run does not rest: the code's timer would begin anew."""
    waiter = run.home.loop.create_future()
    waiters = run.waiters = [] if run.waiters is None else run.waiters
    waiters.append(waiter)
    try:
        await waiter
    finally:
        if waiter in waiters:
            waiters.remove(waiter)


async def known(run: Run, outcome: Awaitable[T]) -> T:
    """What became of a commit, however often who waits for it is cancelled by its own code meanwhile (P17)."""
    task = asyncio.ensure_future(outcome)
    try:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(task)
            if not is_own(run):
                break
        if not task.done():
            raise asyncio.CancelledError
        return task.result()
    finally:
        task.cancel()
