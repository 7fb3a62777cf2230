"""A group's transaction, BEGIN to COMMIT in one pipeline: all of it or nothing, and no error is kept (P5)."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from engine.crashpoints import CrashPoint, armed
from engine.one_commit import one_commit
from engine.pool import connect
from engine.settings import EngineSettings
from tests.fixtures.postgres import Databases


@pytest.fixture(scope="module")
def address(postgres_server: Databases) -> Generator[str]:
    with postgres_server.fresh() as address, psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE thing (n integer PRIMARY KEY, other integer)")
        connection.execute("ALTER TABLE thing ADD FOREIGN KEY (other) REFERENCES thing DEFERRABLE INITIALLY DEFERRED")
        yield address


@pytest_asyncio.fixture
async def connection(address: str) -> AsyncGenerator[AsyncConnection[Any]]:
    async with await connect(EngineSettings(conninfo=address), "test") as connection:
        await connection.execute("TRUNCATE thing")
        yield connection


async def written(connection: AsyncConnection[Any]) -> list[int]:
    """What stands, over a connection that is in no transaction."""
    assert connection.pgconn.transaction_status == TransactionStatus.IDLE
    return [n for (n,) in await (await connection.execute("SELECT n FROM thing ORDER BY n")).fetchall()]


async def test_it_commits_before_it_has_read_an_answer(connection: AsyncConnection[Any]) -> None:
    unanswered: list[bool] = []

    try:
        async with one_commit(connection, CrashPoint.FLUSH_SENT):
            cursor = await connection.execute("INSERT INTO thing SELECT 1 FROM pg_sleep(0.01)")
            armed[CrashPoint.FLUSH_SENT] = lambda _: unanswered.append(cursor.pgresult is None)
    finally:
        armed.clear()

    assert unanswered == [True]
    assert await written(connection) == [1]


async def test_an_error_of_the_server_or_of_the_block_undoes_all(connection: AsyncConnection[Any]) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with one_commit(connection):
            for n in (1, 2, 1):
                await connection.execute("INSERT INTO thing (n) VALUES (%s)", (n,))
    with pytest.raises(ZeroDivisionError):
        async with one_commit(connection):
            await connection.execute("INSERT INTO thing (n) VALUES (3)")
            raise ZeroDivisionError

    assert await written(connection) == []


async def test_an_error_that_was_read_and_kept_is_raised_all_the_same(connection: AsyncConnection[Any]) -> None:
    """The server takes COMMIT for a rollback then, and says so in its tag only."""
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        async with one_commit(connection):
            await connection.execute("INSERT INTO thing (n) VALUES (1)")
            async with connection.pipeline() as pipeline:
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await connection.execute("SELECT 1 / 0")
                    await pipeline.sync()

    assert await written(connection) == []


async def test_an_error_of_the_commit_itself_is_raised(connection: AsyncConnection[Any]) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        async with one_commit(connection):
            await connection.execute("INSERT INTO thing VALUES (1, 2)")

    assert await written(connection) == []


async def test_a_block_may_roll_back(connection: AsyncConnection[Any]) -> None:
    async with one_commit(connection):
        await connection.execute("INSERT INTO thing (n) VALUES (1)")
        raise psycopg.Rollback

    assert await written(connection) == []


async def test_a_connection_that_breaks_is_closed_and_what_broke_it_is_raised(connection: AsyncConnection[Any]) -> None:
    with pytest.raises(psycopg.OperationalError):
        async with one_commit(connection):
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert connection.closed
