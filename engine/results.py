"""How workflows ended: rows read, and waited for. Reads of one turn of the loop are one statement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.asked import Asked
from engine.errors import RecoveryExceededError, WorkflowCancelledError, WorkflowNotFoundError
from engine.failures import decode_error
from engine.given_ids import is_of_a_record
from engine.ids import WorkflowId
from engine.payloads import Payloads
from engine.signals import Signal
from engine.states import OPEN, WorkflowStatus
from engine.store import handles as store
from engine.store.statement import send
from engine.waits import Outcome
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.reach import Reach
    from engine.runner import Ending

UNKNOWN_WAIT_S = 2.0
"""How long the row of a known topic's record is waited for: it comes with the record's first need (P8)."""

UNKNOWN_LOOK_S = 0.05


class Results:
    """Reads outcomes for this process."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._asked: Asked[str, Outcome] = Asked(reach, self._outcomes)

    def ended(self, workflow_id: WorkflowId, ending: Ending) -> None:
        """A workflow without a source ended here, durably."""
        outcome = Outcome(ending.status, ending.output, ending.error)
        self._reach.waits.signalled((Signal("result", workflow_id),), outcome)
        self._reach.hints.ended(workflow_id)

    async def outcome(self, workflow_id: str, *, timeout_s: float | None = None) -> Outcome:
        """How a workflow ended, once it has.

        Raises:
            WorkflowNotFoundError: There is none of this ID.
            TimeoutError: It has not ended in time.
        """
        signal = Signal("result", workflow_id)
        async with asyncio.timeout(timeout_s):
            while True:
                if not self._reach.is_at_work_on(workflow_id):
                    found = await self.look(workflow_id)
                    if found.status not in OPEN:
                        return found
                brought = await self._reach.waits.outside((signal,), None)
                if isinstance(brought, Outcome):
                    return brought

    async def look(self, workflow_id: str) -> Outcome:
        """A workflow's status now, with its outcome if it has one. Waits for the row of a known topic's record (P8).

        Raises:
            WorkflowNotFoundError: There is none of this ID.
        """
        found = await self._asked.get(workflow_id)
        if found is None and await through_weather(lambda: self.may_come(workflow_id)):
            until = time.monotonic() + UNKNOWN_WAIT_S
            while found is None and time.monotonic() < until:
                await asyncio.sleep(UNKNOWN_LOOK_S)
                found = await self._asked.get(workflow_id)
        if found is None:
            raise WorkflowNotFoundError(workflow_id)
        return found

    async def _outcomes(self, ids: Sequence[str]) -> dict[str, Outcome]:
        async with self._reach.pool.connection() as connection:
            cursor = await send(connection, self._reach.settings.schema, store.outcomes(ids=ids))
            return {row[0]: Outcome(WorkflowStatus(row[1]), row[2], row[3]) for row in await cursor.fetchall()}

    async def may_come(self, workflow_id: str) -> bool:
        """Whether the ID is of a record of a topic that some group has registered."""
        async with self._reach.pool.connection() as connection:
            return await is_of_a_record(connection, self._reach.settings.schema, workflow_id)


def value_of(workflow_id: str, outcome: Outcome, payloads: Payloads) -> str:
    """The result as JSON text.

    Raises:
        WorkflowCancelledError: It was cancelled.
        RecoveryExceededError: It was given up.
        UnreadablePayloadError: It cannot be opened here.
        Exception: What the workflow raised, as its row has it.
    """
    match outcome.status:
        case WorkflowStatus.SUCCESS:
            return payloads.open(outcome.output or "null", f"workflow {workflow_id}: output")
        case WorkflowStatus.CANCELLED:
            raise WorkflowCancelledError(workflow_id)
        case WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED if not outcome.error:
            raise RecoveryExceededError(workflow_id, 0)
        case _:
            raise decode_error(payloads.open(outcome.error or "{}", f"workflow {workflow_id}: error"))
