"""The pool over a server that comes and goes."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import psycopg

from engine.pool import Pool
from engine.settings import EngineSettings

KILL = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pooled'"


async def test_a_server_that_ended_every_idle_connection_is_reached_at_the_first_try(empty_database: str) -> None:
    """P25: after a restart of Postgres nobody waits once for each connection that broke, twice as long each time."""
    settings = EngineSettings(conninfo=empty_database, pool_max=8, statement_timeout=timedelta(seconds=5))
    pool = Pool(settings, "pooled")
    await pool.open()
    try:
        async with AsyncExitStack() as stack:
            held = [await stack.enter_async_context(pool.connection()) for _ in range(8)]
            assert len({connection.info.backend_pid for connection in held}) == 8
        async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as connection:
            assert await (await connection.execute(KILL)).fetchall() == [(True,)] * 8

        async with pool.connection() as connection:  # within the 5 s, or it raises
            cursor = await connection.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)
    finally:
        await pool.close()


async def test_connections_of_a_former_name_are_replaced(empty_database: str) -> None:
    """P2: who was marked dead writes under its new name only."""
    settings = EngineSettings(conninfo=empty_database, pool_max=4)
    pool = Pool(settings, "former")
    await pool.open()
    try:
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(pool.connection())
        pool.rename("later")

        async def name() -> object:
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT current_setting('application_name'), pg_sleep(0.01)")
                row = await cursor.fetchone()
                return row and row[0]

        assert await asyncio.gather(*(name() for _ in range(12))) == ["later"] * 12
    finally:
        await pool.close()
