"""Brings executions back to work that nobody has and nobody will come to: one process of all, under a lock (decision 0016).

    every so often ─▶ the recovery lock ─▶ claims past their time end ─▶ each that needs recovery ─▶ the queue, or given up

The lock saves work; it decides nothing: each act looks again, under the execution's lock, whether it is still so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from engine.execution_claims import ExecutionClaims, needing_recovery
from engine.execution_queue import FlowCall, recover
from engine.execution_rows import Execution, ExecutionStatus, StoredExecution, execution_of
from engine.faults import Fault, fault_of
from engine.payloads import UnreadablePayloadError
from engine.tasks import end
from engine.telemetry import Event, ServiceFailed, WorkflowsTaken

LOCK_ID: Final = int.from_bytes(b"onceflow")
"""Of the recovery of executions, in each schema: a number that no program takes for a lock of its own."""

BATCH_MAX: Final = 100
"""Executions read at once."""

LOOK_MAX: Final = 10_000
"""Executions of one look. Where there are more, of flows that nobody here knows, the next look goes on behind them."""

Tell = Callable[[Event], None]


class ExecutionRecovery:
    """The recovering service of one process.

    Args:
        store: Of this service alone: nobody else takes its lock.
        call_of: How an execution is run here; `None`: not at all, its flow is another program's.
        worker_id: Who, in the history of recovery.
        every: Between two looks. Also how old a new execution is before it is taken for forgotten.
        tell: What is done, and what could not be.
        failed: A bug: nothing would be recovered any more, and nobody see why.
    """

    def __init__(
        self,
        store: ExecutionClaims,
        call_of: Callable[[Execution], FlowCall | None],
        *,
        worker_id: str,
        every: timedelta,
        tell: Tell = lambda _event: None,
        failed: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:
        self._store = store
        self._call_of = call_of
        self._worker_id = worker_id
        self._every = every
        self._tell = tell
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._behind: tuple[int, str] | None = None
        """Where the next look begins."""

    @property
    def is_running(self) -> bool:
        """Whether it looks."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin looking."""
        self._task = asyncio.create_task(self._look_for_ever(), name="execution recovery")

    async def stop(self) -> None:
        """End, and give the lock back."""
        if self._task is None:
            return
        task, self._task = self._task, None
        await end(task)
        await self._store.release_recovery_lock(LOCK_ID)

    async def look(self) -> int:
        """Recover what needs it, unless another process is at it. Returns how many were brought back to work, or given up."""
        if not (await self._store.holds_recovery_lock(LOCK_ID) or await self._store.try_acquire_recovery_lock(LOCK_ID)):
            return 0
        await self._store.expire_old_claims()
        recovered = seen = 0
        unreadable: UnreadablePayloadError | None = None
        while seen < LOOK_MAX:
            page = await self._store.all(needing_recovery(BATCH_MAX, self._behind))
            done = 0
            for row in page:
                try:
                    done += await self._recover(row.execution)
                except UnreadablePayloadError as error:
                    unreadable = unreadable or error
            recovered += done
            seen += len(page)
            if done:
                self._tell(WorkflowsTaken("left", done))
            if len(page) < BATCH_MAX:
                self._behind = None
                break
            self._behind = page[-1].entered_ms, page[-1].execution.id
        if unreadable is not None:
            # Somebody else has the key, or will: nothing is lost, and it is said at every look.
            self._tell(ServiceFailed("execution recovery", unreadable, self._every.total_seconds()))
        return recovered

    async def _recover(self, row: StoredExecution) -> bool:
        """Bring one back to work, if it is run here. Raises `UnreadablePayloadError`."""
        execution = execution_of(row, self._store.payloads)
        call = None if self._is_new(execution) else self._call_of(execution)
        return call is not None and await recover(self._store, execution, call, worker_id=self._worker_id)

    def _is_new(self, execution: Execution) -> bool:
        """Whether whoever created it may still be about to enqueue or claim it."""
        is_fresh = execution.created_at > datetime.now(UTC) - self._every
        return is_fresh and execution.status == ExecutionStatus.CREATED and execution.processing_worker_id is None

    async def _look_for_ever(self) -> None:
        while True:
            try:
                await self.look()
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    self._failed(error)
                    raise
            except Exception as error:
                self._failed(error)
                raise
            await asyncio.sleep(self._every.total_seconds())
