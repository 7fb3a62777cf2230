"""Sessions' settings, with and without a pooler that hands out server connections by transaction."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from engine.pool import Pool, connect
from engine.settings import EngineSettings


async def bounds(connection: AsyncConnection[Any]) -> dict[str, str]:
    cursor = await connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name LIKE '%timeout' AND source = 'session'"
    )
    return dict(await cursor.fetchall())


@pytest.mark.parametrize("has_pooler", [False, True])
async def test_statements_are_bounded_by_the_session_only_where_there_is_one(
    database: str, *, has_pooler: bool
) -> None:
    """What a session sets behind a pooler bounds whoever gets its server connection next."""
    settings = EngineSettings(conninfo=database, statement_timeout=timedelta(seconds=7))
    if has_pooler:
        settings = replace(settings, direct_conninfo=f"{database}?application_name=direct")
    pool = Pool(settings, "test")

    async with await connect(settings, "test") as connection:
        own = await bounds(connection)
    await pool.open()
    async with pool.connection() as connection:
        pooled = await bounds(connection)
    await pool.close()

    assert own == pooled == ({} if has_pooler else {"statement_timeout": "7000"})


async def test_a_bound_of_the_role_holds_behind_a_pooler(database: str) -> None:
    """As the guide says: nothing of ours overrides it there."""
    with psycopg.connect(database, autocommit=True) as owner:
        name = owner.info.dbname
        owner.execute(f'ALTER DATABASE "{name}" SET statement_timeout = 50'.encode())
    settings = EngineSettings(conninfo=database, direct_conninfo=f"{database}?application_name=direct")

    async with await connect(settings, "test") as connection:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await connection.execute("SELECT pg_sleep(30)")
