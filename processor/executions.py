"""Executions of flows: a store, a worker, an event bus, a debugger (decision 0016, docs/guides/executions.md).

    store = ExecutionStore()
    worker = ExecutionWorker(store, app=app, concurrency=100, worker_concurrency=5)

    @app.workflow()
    async def summarise(execution: Execution) -> str: ...     a flow; its steps are nodes

    await worker.start()
    await worker.get_queue().enqueue(Execution(id="e-1", flow_id="summarise", owner_id="ada"))

An execution is a workflow of its ID: whatever works with workflows works with executions.
"""

from engine.execution_debugger import ExecutionDebugger, ExecutionPause
from engine.execution_events import ExecutionEvent, ExecutionEventBus, ExecutionNotFoundError
from engine.execution_rows import (
    ClaimStatus,
    Execution,
    ExecutionClaim,
    ExecutionFailedError,
    ExecutionLimits,
    ExecutionOptions,
    ExecutionStatus,
    ExecutionTreeNode,
    RecoveryRecord,
    RootExecution,
)
from engine.executions import UpdateExecutionStatusParams
from processor.execution_store import ExecutionStore
from processor.execution_sync import SyncExecutionStore
from processor.execution_worker import ExecutionQueue, ExecutionService, ExecutionWorker

__all__ = [
    "ClaimStatus",
    "Execution",
    "ExecutionClaim",
    "ExecutionDebugger",
    "ExecutionEvent",
    "ExecutionEventBus",
    "ExecutionFailedError",
    "ExecutionLimits",
    "ExecutionNotFoundError",
    "ExecutionOptions",
    "ExecutionPause",
    "ExecutionQueue",
    "ExecutionService",
    "ExecutionStatus",
    "ExecutionStore",
    "ExecutionTreeNode",
    "ExecutionWorker",
    "RecoveryRecord",
    "RootExecution",
    "SyncExecutionStore",
    "UpdateExecutionStatusParams",
]
