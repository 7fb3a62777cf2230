"""`ExecutionStore` for threads, and for programs without an event loop. Each call waits; any thread may make it."""

import asyncio
import threading
from collections.abc import Coroutine
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from engine.errors import ConfigurationError
from engine.execution_rows import Execution, ExecutionClaim, ExecutionTreeNode, RecoveryRecord, RootExecution
from engine.executions import UpdateExecutionStatusParams
from processor.config import Settings
from processor.execution_store import ExecutionStore

R = TypeVar("R")


class SyncExecutionStore:
    """See `ExecutionStore`, whose methods these are. Open it with `with`: it has a thread of its own.

    Args:
        database: As of `ExecutionStore`.
    """

    def __init__(self, database: Settings | str | None = None) -> None:
        self._store = ExecutionStore(database)
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life --

    def open(self) -> None:
        """Start the thread and open the connections. May be called again."""
        if self._loop is not None:
            return
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="executions", daemon=True)
        thread.start()
        self._loop = loop
        self._thread = thread
        try:
            self._wait(self._store.open())
        except BaseException:
            self._end(loop)
            raise

    def close(self) -> None:
        """Give back the recovery locks, close the connections and end the thread."""
        if self._loop is not None:
            loop = self._loop
            try:
                self._wait(self._store.close())
            finally:
                self._end(loop)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- rows --

    def create(self, row: Execution) -> None:
        """Create an execution."""
        self._wait(self._store.create(row))

    def get(self, id: str) -> Execution | None:
        """An execution, or `None`."""
        return self._wait(self._store.get(id))

    def delete(self, id: str) -> bool:
        """Delete an execution with its history and events; whether there was one."""
        return self._wait(self._store.delete(id))

    def update_execution_status(self, params: UpdateExecutionStatusParams) -> bool:
        """Write a status with what comes with it; whether it was written."""
        return self._wait(self._store.update_execution_status(params))

    def update_failure_info(self, execution_id: str, failure_count: int, reason: str) -> bool:
        """Write how often it failed, and why the last time."""
        return self._wait(self._store.update_failure_info(execution_id, failure_count, reason))

    # -- trees --

    def get_root_executions(
        self, flow_id: str, limit: int = 50, after: datetime | Execution | None = None
    ) -> list[RootExecution]:
        """Roots of a flow, newest first."""
        return self._wait(self._store.get_root_executions(flow_id, limit, after))

    def get_child_executions(self, parent_id: str) -> list[Execution]:
        """Executions that this one started."""
        return self._wait(self._store.get_child_executions(parent_id))

    def get_execution_tree(self, root_id: str) -> list[ExecutionTreeNode]:
        """An execution and all below it."""
        return self._wait(self._store.get_execution_tree(root_id))

    # -- claims --

    def claim_execution(self, execution_id: str, worker_id: str, timeout_ms: timedelta | int) -> bool:
        """Make an execution a worker's, for a time."""
        return self._wait(self._store.claim_execution(execution_id, worker_id, timeout_ms))

    def extend_claim(self, execution_id: str, worker_id: str, timeout_ms: timedelta | int) -> bool:
        """Have a claim stand for so long from now on."""
        return self._wait(self._store.extend_claim(execution_id, worker_id, timeout_ms))

    def release_execution(self, execution_id: str, worker_id: str) -> None:
        """Give a claim back."""
        self._wait(self._store.release_execution(execution_id, worker_id))

    def expire_old_claims(self) -> int:
        """End the claims whose time is over; how many."""
        return self._wait(self._store.expire_old_claims())

    def get_active_claims(self) -> list[ExecutionClaim]:
        """Claims that stand."""
        return self._wait(self._store.get_active_claims())

    def get_claim_for_execution(self, execution_id: str) -> ExecutionClaim | None:
        """The claim of an execution, or its last one."""
        return self._wait(self._store.get_claim_for_execution(execution_id))

    # -- recovery --

    def get_executions_needing_recovery(self, limit: int = 100) -> list[Execution]:
        """Executions that nobody has, and to which nobody will come by himself."""
        return self._wait(self._store.get_executions_needing_recovery(limit))

    def record_recovery(
        self,
        execution_id: str,
        worker_id: str,
        reason: str,
        previous_status: str | None = None,
        previous_worker_id: str | None = None,
    ) -> None:
        """Note that a worker took an execution from another one."""
        self._wait(self._store.record_recovery(execution_id, worker_id, reason, previous_status, previous_worker_id))

    def get_recovery_history(self, execution_id: str) -> list[RecoveryRecord]:
        """Every time it was taken from somebody."""
        return self._wait(self._store.get_recovery_history(execution_id))

    def try_acquire_recovery_lock(self, lock_id: int) -> bool:
        """Take a lock that one session of all has; whether it was free."""
        return self._wait(self._store.try_acquire_recovery_lock(lock_id))

    def release_recovery_lock(self, lock_id: int) -> None:
        """Give a lock back."""
        self._wait(self._store.release_recovery_lock(lock_id))

    # -- inside --

    def _wait(self, call: Coroutine[Any, Any, R]) -> R:
        if self._loop is None:
            call.close()
            raise ConfigurationError("the store is not open: `with SyncExecutionStore() as store:`")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()


__all__ = ["SyncExecutionStore"]
