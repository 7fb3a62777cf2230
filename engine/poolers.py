"""What a pooler between us and Postgres does to sessions, found out by trying: nothing that it says of itself tells.

first client    a statement on server connection S; then it rests
second client   begins a transaction, and is given S, if connections are handed out by transaction
first client    its next statement is on another one: what it had prepared on S is there, or the pooler does not track it
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection

PROBE_S = 10.0
"""A pool of one connection lets the first client wait for the second: then nothing is known."""


_NOT_KEPT = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)
"""It is not there; or somebody else's of that name is."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """What was found.

    Attributes:
        by_transaction: Whether two transactions of one client are on different server connections.
        keeps_prepared: Whether statements that a client has prepared follow it there.
    """

    by_transaction: bool
    keeps_prepared: bool


async def pooling(conninfo: str) -> Pooling | None:
    """Try it. `None`: a session is a session here, or the pool is too small to find out.

    Raises:
        psycopg.OperationalError: Nobody answers.
    """
    async with await _open(conninfo) as first, await _open(conninfo) as second:
        try:
            async with asyncio.timeout(PROBE_S):
                return await _tried(first, second)
        except TimeoutError:
            return None
        except _NOT_KEPT:
            return Pooling(by_transaction=True, keeps_prepared=False)


async def _tried(first: AsyncConnection[Any], second: AsyncConnection[Any]) -> Pooling | None:
    await first.execute("SELECT 1", prepare=True)
    before = await _backend(first)
    async with second.transaction():
        await second.execute("SELECT 1", prepare=False)
        try:
            await first.execute("SELECT 1", prepare=True)
        except _NOT_KEPT:
            await second.execute("DEALLOCATE ALL", prepare=False)  # S is clean again, for whoever has it next
            raise
        after = await _backend(first)
    return Pooling(by_transaction=True, keeps_prepared=True) if before != after else None


async def is_pooled(connection: AsyncConnection[Any]) -> bool:
    """Whether there is one: it tells its clients a process number of its own, to cancel by."""
    return connection.info.backend_pid != await _backend(connection)


async def _open(conninfo: str) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=round(PROBE_S))


async def _backend(connection: AsyncConnection[Any]) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()", prepare=False)).fetchone()
    assert row is not None, "one row"
    return int(row[0])


__all__ = ["Pooling", "is_pooled", "pooling"]
