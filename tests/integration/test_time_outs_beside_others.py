"""Expiry and the resume of a family beside other sessions: rows that somebody has locked, two looks at once, kills within and behind.

a ─▶ a-m ─▶ a-b     rows of a program that nobody runs here: only the first has a deadline, which is over
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from engine import acts
from engine.store import cancels
from engine.store.statement import send
from tests.integration.protocol import PATIENCE_S

Session = AsyncConnection[Any]
ALL = {"a", "a-m", "a-b"}


@asynccontextmanager
async def session(database: str) -> AsyncGenerator[Session]:
    """A process, as Postgres sees it."""
    connection = await AsyncConnection.connect(database, autocommit=True)
    try:
        yield connection
    finally:
        await connection.close()


async def family(at: Session, top: str, *, status: str = "PENDING") -> None:
    """Three generations; the lower ones have `status` PENDING."""
    for function_id, (child, parent) in enumerate([(top, None), (f"{top}-m", top), (f"{top}-b", f"{top}-m")]):
        request = None if parent is None else f'{{"parent": "{parent}", "function_id": {function_id}}}'
        await at.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_version, inputs, request,"
            " workflow_deadline_epoch_ms, created_at, updated_at)"
            " VALUES (%s, %s, 'gone', '0', '{}', %s, CASE WHEN %s THEN dbos.now_ms() - 1 END, 1, 1)",
            [child, status if parent is None else "PENDING", request, parent is None],
        )
        if parent is not None:
            await at.execute(
                "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, child_workflow_id)"
                " VALUES (%s, %s, 'gone', %s)",
                [parent, function_id, child],
            )


async def lock(at: Session, workflow_id: str) -> None:
    """Have a row, as a flush of its run has."""
    await at.execute("BEGIN")
    await at.execute("SELECT FROM dbos.workflow_status WHERE workflow_uuid = %s FOR NO KEY UPDATE", [workflow_id])


async def expire(at: Session) -> set[str]:
    """What one look of a process cancels. It waits for nobody."""
    async with asyncio.timeout(PATIENCE_S):
        cursor = await send(at, "dbos", cancels.expire(limit=100))
        return {row.workflow_id for row in await cursor.fetchall()}


async def open_rows(at: Session) -> set[str]:
    cursor = await at.execute("SELECT workflow_uuid FROM dbos.workflow_status WHERE status <> 'CANCELLED'")
    return {row[0] for row in await cursor.fetchall()}


async def deadlines(at: Session) -> dict[str, int | None]:
    return dict(
        await (
            await at.execute("SELECT workflow_uuid, workflow_deadline_epoch_ms FROM dbos.workflow_status")
        ).fetchall()
    )


async def until_blocked(at: Session, backend: int) -> None:
    """Until a session waits for a row that another has."""
    async with asyncio.timeout(PATIENCE_S):
        while (await (await at.execute("SELECT pg_blocking_pids(%s)", [backend])).fetchone()) == ([],):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("locked", ["a-m", "a-b"])
async def test_a_workflow_stays_as_long_as_something_below_it_is_locked(database: str, locked: str) -> None:
    """Else nothing would lead there afterwards; families beside it do not wait, nor does what is free below."""
    async with session(database) as run, session(database) as look:
        await family(look, "a")
        await family(look, "b")
        await lock(run, locked)

        assert await expire(look) == {"b", "b-m", "b-b", *(ALL - {"a", locked})}
        assert await open_rows(look) == {"a", locked}
        assert await expire(look) == set()
        await run.execute("COMMIT")
        assert await expire(look) == {"a", locked}
        assert await open_rows(look) == set()


async def test_what_is_locked_itself_waits_with_all_below_it(database: str) -> None:
    async with session(database) as run, session(database) as look:
        await family(look, "a")
        await lock(run, "a")

        assert await expire(look) == set()
        await run.execute("COMMIT")
        assert await expire(look) == ALL


async def test_what_ended_while_it_was_locked_is_left_as_it_ended(database: str) -> None:
    """Its outcome was written first: what is above it and below has not, and is cancelled."""
    async with session(database) as run, session(database) as look:
        await family(look, "a")
        await lock(run, "a-m")
        await expire(look)
        await run.execute("UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = 'a-m'")
        await run.execute("COMMIT")

        assert await expire(look) == {"a"}
        assert await open_rows(look) == {"a-m"}


@pytest.mark.parametrize("is_killed", [False, True])
async def test_of_two_processes_that_look_at_once_one_cancels_a_family(database: str, is_killed: bool) -> None:
    """All of it, in one commit: the other finds it locked, then over, or, where the first died before its commit, its own."""
    async with session(database) as one, session(database) as two:
        await family(two, "a")
        await one.execute("BEGIN")
        assert await expire(one) == ALL

        assert await expire(two) == set()
        if is_killed:
            await two.execute("SELECT pg_terminate_backend(%s, 10000)", [one.info.backend_pid])
        else:
            await one.execute("COMMIT")
        assert await expire(two) == (ALL if is_killed else set())
        assert await open_rows(two) == set()


async def test_a_resume_that_is_killed_while_it_renews_changes_nothing_and_is_made_again(database: str) -> None:
    """One commit: the parent is not open under deadlines of the time before, nor are those gone under a parent that is not."""
    async with session(database) as run, session(database) as look, session(database) as operator:
        await family(look, "a", status="CANCELLED")
        await look.execute("UPDATE dbos.workflow_status SET workflow_deadline_epoch_ms = dbos.now_ms() + 3600000")
        before = await deadlines(look)
        await lock(run, "a-b")
        resuming = asyncio.create_task(acts.resume(operator, "dbos", ["a"]))
        await until_blocked(look, operator.info.backend_pid)
        await look.execute("SELECT pg_terminate_backend(%s, 10000)", [operator.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            await resuming

        assert await deadlines(look) == before
        assert await open_rows(look) == {"a-m", "a-b"}
        await run.execute("COMMIT")
        assert (await acts.resume(look, "dbos", ["a"])).done == ["a"]
        assert await deadlines(look) == dict.fromkeys(ALL)
        assert await open_rows(look) == ALL


async def test_a_family_is_not_expired_by_a_deadline_that_a_resume_is_taking_away(database: str) -> None:
    """Two sessions: the look passes over rows that the resume has, and finds them without deadlines afterwards."""
    async with session(database) as operator, session(database) as look:
        await family(look, "a", status="CANCELLED")
        await look.execute("UPDATE dbos.workflow_status SET workflow_deadline_epoch_ms = dbos.now_ms() - 1")
        await operator.execute("BEGIN")
        await acts.resume(operator, "dbos", ["a"])  # a savepoint of the open transaction

        assert await expire(look) == set()
        await operator.execute("COMMIT")
        assert await expire(look) == set()
        assert await open_rows(look) == ALL
