"""Flows that people start, watch, pause and stop; a worker of another program that claims some of them.

processor dev examples.executions:app        (in a clone)
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

from processor import App
from processor.executions import (
    Execution,
    ExecutionDebugger,
    ExecutionEventBus,
    ExecutionLimits,
    ExecutionOptions,
    ExecutionStatus,
    ExecutionStore,
    ExecutionWorker,
    UpdateExecutionStatusParams,
)

CLAIM = timedelta(seconds=30)

app = App("research")


@app.step()
async def search(topic: str) -> list[str]:
    return [f"{topic}, volume {volume}" for volume in (1, 2, 3)]


@app.step()
async def read(book: str) -> str:
    return f"{book}: read"


@app.workflow()
async def research(execution: Execution) -> list[str]:
    """A flow: a workflow whose argument is the execution. Its steps are the nodes."""
    books = await search((execution.integration or {})["topic"])
    return list(await asyncio.gather(*(read(book) for book in books)))


def worker_of(store: ExecutionStore) -> ExecutionWorker:
    """Every process that runs the app takes from the queue; one of them also recovers what nobody has."""
    return ExecutionWorker(store, app=app, concurrency=100, worker_concurrency=5)


async def start_research(worker: ExecutionWorker, id: str, topic: str, owner_id: str, *, watched: bool = False) -> None:
    """For a web handler: durable when it returns; the same ID again is the same execution."""
    options = ExecutionOptions(
        breakpoints=("read",) if watched else (),
        execution=ExecutionLimits(flow_timeout_ms=3_600_000, node_timeout_ms=60_000, max_concurrency=2),
    )
    execution = Execution(id=id, flow_id="research", owner_id=owner_id, options=options, integration={"topic": topic})
    await worker.get_queue().enqueue(execution)


async def watch(store: ExecutionStore, id: str) -> AsyncGenerator[str]:
    """For a page that shows an execution: all that has happened, then each change, to its end."""
    async with aclosing(ExecutionEventBus(store).subscribe(id)) as events:
        async for event in events:
            yield event.data["status"] if event.type == "status" else f"{event.type} at {event.data['node_id']}"


async def go_on(store: ExecutionStore, id: str, actor: str) -> str | None:
    """Has a paused execution go on to its next breakpoint; before which node it was."""
    debugger = ExecutionDebugger(store)
    pause = await debugger.paused(id)
    return pause.node_id if pause is not None and await debugger.resume(id, actor=actor) else None


async def work_elsewhere(store: ExecutionStore, worker_id: str, id: str) -> bool:
    """A worker of another program, in whatever it is written: claim, heartbeat, status, release."""
    if not await store.claim_execution(id, worker_id, CLAIM):
        return False  # somebody has it
    await store.update_execution_status(UpdateExecutionStatusParams(execution_id=id, status=ExecutionStatus.RUNNING))
    for _ in range(3):
        if not await store.extend_claim(id, worker_id, CLAIM):
            return False  # too late: it is another's now, and nothing that is written here counts
    done = UpdateExecutionStatusParams(execution_id=id, status=ExecutionStatus.COMPLETED)
    return await store.update_execution_status(done)
