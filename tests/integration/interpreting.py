"""What tests of executions' workers share: a service that interprets flows, executions for it, and their recovery."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg

from engine.execution_recovery import ExecutionRecovery
from engine.execution_rows import Execution
from processor.executions import ExecutionStore, ExecutionWorker

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def execution(id: str = "e-1", flow: str = "summarise", **columns: object) -> Execution:
    return Execution(id=id, flow_id=flow, owner_id="ada", **columns)  # pyright: ignore[reportArgumentType]


class Interpreter:
    """A service that executes flows which are no workflows."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def execute(self, execution: Execution, /) -> dict[str, str]:
        self.executed.append(execution.id)
        await self.gate.wait()
        if execution.flow_id == "broken":
            raise ValueError("no such edge")
        return {"ran": execution.flow_id}


def recovery_of(worker: ExecutionWorker, store: ExecutionStore) -> ExecutionRecovery:
    return ExecutionRecovery(store, worker.call_of, worker_id="rescuer", every=timedelta(seconds=30))


def over(database: str) -> None:
    """The time of every claim is over."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE dbos.executor SET lease_until = 0 WHERE claim_of IS NOT NULL")
