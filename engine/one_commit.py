"""A group's transaction in one pipeline: BEGIN to COMMIT without waiting for anything but what is fetched.

    BEGIN ─ users' statements ─ ours, with a fence that raises ─ COMMIT ─ Sync        one write, if nobody fetches

psycopg's `transaction()` in a pipeline reads all answers before it sends COMMIT: a round trip more, and a turn of a busy
loop, in which all that is locked stays locked. Here the server decides, as in a flush without a group: behind an error it
skips everything up to the Sync, COMMIT included (P5).
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from engine.crashpoints import CrashPoint, reach


@asynccontextmanager
async def one_commit(connection: AsyncConnection[Any], sent: CrashPoint | None = None) -> AsyncGenerator[None]:
    """A transaction that commits with the end of the block; `psycopg.Rollback` in it rolls back.

    Args:
        connection: In autocommit mode, in no pipeline.
        sent: Reached when COMMIT is on its way.

    Raises:
        psycopg.Error: Of the first statement that failed: nothing was written. Where the connection is closed
            afterwards, nobody knows (P23, P24).
    """
    try:
        async with connection.pipeline():
            await connection.execute("BEGIN", prepare=False)
            yield
            committed = await connection.execute("COMMIT", prepare=False)
            if sent is not None:
                reach(sent)
        # An error that somebody has read and kept to himself makes COMMIT a rollback, which the server calls no error.
        if committed.statusmessage != "COMMIT":
            raise psycopg.errors.InFailedSqlTransaction("an earlier statement of the transaction failed")
    except BaseException as error:
        await _roll_back(connection)
        if not isinstance(error, psycopg.Rollback):
            raise


async def _roll_back(connection: AsyncConnection[Any]) -> None:
    """Psycopg forgets what it has prepared with it."""
    if not connection.closed:
        with suppress(
            psycopg.OperationalError
        ):  # it breaks: the server rolls back, and what was meant is raised already
            await connection.rollback()
