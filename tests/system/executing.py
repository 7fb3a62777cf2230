"""A worker of executions in a process of its own: `python -m tests.system.executing`; or one outside of the engine: `… outside ID`.

With HOLD=1 a node that its execution names waits for ever, with its effect made and not recorded: a test kills it there.
"""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import LiteralString

from psycopg import AsyncConnection

from processor import App, Transaction, current_step
from processor.executions import (
    Execution,
    ExecutionStatus,
    ExecutionStore,
    ExecutionWorker,
    SyncExecutionStore,
    UpdateExecutionStatusParams,
)

app = App("executing")
CLAIM = timedelta(seconds=1)


async def outside(sql: LiteralString, *values: str) -> None:
    async with await AsyncConnection.connect(os.environ["PROCESSOR_POSTGRES_DSN"], autocommit=True) as connection:
        await connection.execute(sql, values)


async def hold(execution: Execution, node: str) -> None:
    if os.environ.get("HOLD") and (execution.integration or {}).get("hold") == node:
        await outside("INSERT INTO held VALUES (%s)", node)
        await asyncio.Event().wait()


async def call(execution: Execution, node: str) -> None:
    """A step that reaches the outside: at least once, and its effect once, by its key."""
    key = current_step().idempotency_key
    await outside("INSERT INTO called VALUES (%s, %s)", execution.id, node)
    await outside("INSERT INTO effect VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", key, execution.id, node)
    await hold(execution, node)


@app.step()
async def pick(execution: Execution) -> None:
    await call(execution, "pick")


# Of another isolation than most: such a transaction is never in a group, where the others would wait for the one that is held.
@app.transaction(isolation="repeatable read")
async def book(tx: Transaction, execution: Execution) -> None:
    booking = await tx.execute(
        "INSERT INTO effect VALUES (%s, %s, 'book') RETURNING key", (f"{execution.id} book", execution.id)
    )
    await booking.fetchone()
    await hold(execution, "book")


@app.step()
async def tell(execution: Execution) -> None:
    await call(execution, "tell")


@app.workflow(version="1")
async def ship(execution: Execution) -> None:
    await pick(execution)
    await book(execution)
    await tell(execution)


def worker_of(store: ExecutionStore) -> ExecutionWorker:
    return ExecutionWorker(store, app=app, recover_every=timedelta(milliseconds=200))


async def work() -> None:
    """Until it is killed."""
    await worker_of(ExecutionStore()).start()
    await asyncio.Event().wait()


def work_outside(execution_id: str) -> None:
    """Create, claim, begin, and be killed."""
    with SyncExecutionStore() as store:
        # Created so late that recovery takes it for new until it is claimed, however slow this process is.
        late = datetime(2100, 1, 1, tzinfo=UTC)
        store.create(Execution(id=execution_id, flow_id="ship", owner_id="ada", created_at=late))
        assert store.claim_execution(execution_id, "outside", CLAIM)
        assert store.update_execution_status(
            UpdateExecutionStatusParams(execution_id=execution_id, status=ExecutionStatus.RUNNING)
        )
        while store.extend_claim(execution_id, "outside", CLAIM):
            time.sleep(0.2)


if __name__ == "__main__":
    if sys.argv[1:2] == ["outside"]:
        work_outside(sys.argv[2])
    else:
        asyncio.run(work())
