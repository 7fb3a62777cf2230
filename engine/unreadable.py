"""A stored value whose key is not here fails nobody's workflow: whoever needs it waits, and says so (decision 0012).

a partition's own row    ─▶ the partition halts (engine/open_rows.py)
a row without a source   ─▶ rests for a while, for whoever has the key            engine/commons.py
another workflow's row   ─▶ the one that asked waits for a while, and asks again  here
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from engine.clock import now_ms
from engine.payloads import UnreadablePayloadError
from engine.runner import Ending
from engine.states import WorkflowStatus
from engine.telemetry import PayloadUnreadable
from engine.timers import waits_of

if TYPE_CHECKING:
    from engine.runner import Run

AGAIN_MS = 60_000
"""Between two tries. A process learns of a key when it starts; until then others may have it, and take the row."""

T = TypeVar("T")


async def once_readable(run: Run, read: Callable[[], Awaitable[T]]) -> T:
    """What `read` returns, once what it opens can be opened; the workflow rests meanwhile, if nothing else of it runs.

    Raises:
        Suspended: It rests, or may not go on here.
    """
    while True:
        try:
            return await read()
        except UnreadablePayloadError as error:
            run.home.engine.telemetry.emit(PayloadUnreadable(run.id, str(error)))
            await waits_of(run).until(run, now_ms() + AGAIN_MS)


def put_off(run: Run, error: UnreadablePayloadError) -> Ending:
    """The rest of a run whose own row cannot be opened: nothing of it is forgotten, no attempt is counted."""
    run.home.engine.telemetry.emit(PayloadUnreadable(run.id, str(error)))
    return Ending(WorkflowStatus.PENDING, attempt=run.attempt, wake_at=now_ms() + AGAIN_MS, asleep=True)
