"""For operators: where executions are paused, and what has them go on (engine/execution_gates.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from engine.execution_database import ExecutionDatabase
from engine.execution_gates import CONTINUE, STEP
from engine.execution_rows import ExecutionStatus, bounded, moment
from engine.executions import ExecutionStore, UpdateExecutionStatusParams
from engine.store import execution_pauses as store
from engine.store import executions, waiting


@dataclass(frozen=True, slots=True)
class ExecutionPause:
    """Where an execution is paused.

    Attributes:
        execution_id: Which.
        node_id, place: Before which node, and where that stands in the history.
        paused_at: Since when.
    """

    execution_id: str
    node_id: str
    place: int
    paused_at: datetime


class ExecutionDebugger:
    """Has paused executions go on.

    Args:
        store: Through whose connections.
    """

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store

    async def paused(self, execution_id: str) -> ExecutionPause | None:
        """Where an execution is paused; `None`: it is not, or there is none."""
        row = await self._store.first(store.paused(execution_id=execution_id))
        return (
            None if row is None else ExecutionPause(execution_id, row.node_id, row.function_id, moment(row.paused_ms))
        )

    async def resume(self, execution_id: str, *, actor: str = "operator") -> bool:
        """Have it go on to its next breakpoint, also one that was run step by step. Returns whether it was paused."""
        return await _command(self._store, execution_id, CONTINUE, actor)

    async def step(self, execution_id: str, *, actor: str = "operator") -> bool:
        """Have it go on to its next node. Returns whether it was paused."""
        return await _command(self._store, execution_id, STEP, actor)

    async def stop(self, execution_id: str) -> bool:
        """Stop it, whoever runs it. Returns whether it had not ended."""
        return await self._store.update_execution_status(
            UpdateExecutionStatusParams(execution_id=execution_id, status=ExecutionStatus.STOPPED)
        )


async def _command(database: ExecutionDatabase, execution_id: str, word: str, actor: str) -> bool:
    value = json.dumps({"command": word, "actor": bounded(actor)})

    async def say(connection: AsyncConnection[Any]) -> bool:
        if await database.locked(connection, execution_id) is None:
            return False
        pause = await database.one(connection, store.paused(execution_id=execution_id))
        if pause is None:
            return False
        place = pause.function_id
        saying = store.command(execution_id=execution_id, function_id=place, value=value)
        if await database.one(connection, saying) is None:
            return False
        data = json.dumps({"node_id": pause.node_id, "place": place, "command": word, "actor": bounded(actor)})
        resumed = executions.append_event(execution_id=execution_id, event_type="resumed", data=data)
        await database.one(connection, resumed)
        key = f"{store.COMMAND_KEY}{place}"
        await database.one(connection, waiting.wake(kinds=["event"], targets=[execution_id], names=[key]))
        return True

    said = await database.transaction(say)
    if said:
        await database.hint("rows")
    return said


__all__ = ["ExecutionDebugger", "ExecutionPause"]
