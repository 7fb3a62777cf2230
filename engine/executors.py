"""Processes as operators see them: who is at work with what; and the end of one that is gone.

    live      its lease runs
    silent    its lease is over, and nobody has declared it dead: nobody else is there to, or Postgres was away
    dead      declared so, or it left; what it had is anybody's who can run it (P2, P12, P29)

A live process is not ended from here: stop it where it runs. What this can do is what any other process does after a
lease (P2): declare one dead that is silent, so that a claim need not wait until somebody has watched it for long enough.
"""

from enum import StrEnum
from typing import Any

from psycopg import AsyncConnection

from engine.audited import record
from engine.errors import EngineError
from engine.ids import ExecutorId
from engine.source import CLAIM_CHANNEL
from engine.store import checkup as store
from engine.store import executor
from engine.store.checkup import ExecutorRow
from engine.store.statement import send


class ExecutorActError(EngineError):
    """An executor does not exist, or cannot be ended. The message says why; nothing was changed."""


class State(StrEnum):
    """What an executor is, by its row and Postgres's clock."""

    LIVE = "live"
    SILENT = "silent"
    DEAD = "dead"


def state_of(row: ExecutorRow) -> State:
    """Pure."""
    if row.died_at is not None:
        return State.DEAD
    return State.LIVE if row.lease_ms > 0 else State.SILENT


async def list_executors(
    connection: AsyncConnection[Any], schema: str, *, all_of_them: bool = False
) -> list[ExecutorRow]:
    """Executors, and claims of executions: live ones and silent ones first, and of the dead those that still have something.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        all_of_them: Also the other dead; they are kept for a week.
    """
    return await (await send(connection, schema, store.executors(all_of_them=all_of_them))).fetchall()


async def end_executor(
    connection: AsyncConnection[Any], schema: str, executor_id: str, *, note: str, actor: str
) -> None:
    """Declare an executor dead whose lease is over (P2), and end what sessions it has left.

    Should it live after all, it finds itself dead with its next heartbeat, drops everything and registers anew; by its own
    clock it has begun no effect since its lease ended (P1).

    Raises:
        ExecutorActError: There is none, it is dead already, or its lease still runs.
    """
    async with connection.transaction():
        row = await (await send(connection, schema, store.lock_executor(executor_id=executor_id))).fetchone()
        if row is None:
            raise ExecutorActError(f"there is no executor {executor_id!r}: see `processor executors list`")
        lease_ms, died_at = row
        if died_at is not None:
            raise ExecutorActError(f"executor {executor_id} is dead already; what it had is taken by who can run it")
        if lease_ms > 0:
            raise ExecutorActError(
                f"executor {executor_id} lives: its lease runs for {lease_ms / 1000:.1f} s more.\n"
                f"  Stop the process; it hands over what it has. Killed, it is ended a lease later, by the others or by this."
            )
        await send(connection, schema, executor.condemn(executor_id=ExecutorId(executor_id)))
        await record(connection, schema, actor=actor, action="end executor", subject=executor_id, detail=note)
        hint = executor.notify(channel=CLAIM_CHANNEL, payload=f"died {executor_id}")
        await send(connection, schema, hint)
    await send(connection, schema, executor.end_sessions())
