"""Migrations on a real Postgres: whole or not at all, by one process at a time, in any schema, with clear refusals."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

import sql
from engine.errors import ConfigurationError, SchemaMissingError, StoreUnavailableError
from engine.migrations import check, check_rights, migrate, pending
from tests.fixtures.postgres import Databases, address_of
from tests.fixtures.processes import free_ports

ODD = """Odd "schema" of O'Brien {x}"""


@asynccontextmanager
async def connected(address: str) -> AsyncGenerator[AsyncConnection[TupleRow]]:
    async with await AsyncConnection.connect(address, autocommit=True) as conn:
        yield conn


@contextmanager
def role(address: str) -> Generator[str]:
    """The address, as a role without any rights."""
    name = "onceflow_limited"
    with psycopg.connect(address, autocommit=True) as conn:
        database = conn.info.dbname
        conn.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(name)))
        conn.execute(SQL("CREATE ROLE {}").format(Identifier(name)))
        try:
            yield address_of(address, database, options=f"-c role={name}")
        finally:
            conn.execute(SQL("DROP OWNED BY {}").format(Identifier(name)))
            conn.execute(SQL("DROP ROLE {}").format(Identifier(name)))


async def test_an_empty_database_gets_every_migration_once(each_version: Databases) -> None:
    with each_version.fresh() as address:
        lines: list[str] = []

        first = await migrate(address, report=lines.append)
        again = await migrate(address, report=lines.append)

        assert tuple(first) == sql.migrations()
        assert again == []
        assert lines == [f"dbos: applied {migration}" for migration in sql.migrations()]
        async with connected(address) as conn:
            cursor = await conn.execute("SELECT version, name, checksum FROM dbos.processor_migration ORDER BY version")
            assert await cursor.fetchall() == [(m.version, m.name, m.checksum) for m in sql.migrations()]
            await check(conn)
            assert await pending(conn) == []


async def test_any_name_of_a_schema_works_and_two_schemas_do_not_meet(each_version: Databases) -> None:
    with each_version.fresh() as address:
        await migrate(address, ODD)
        await migrate(address, "second")

        async with connected(address) as conn:
            await check(conn, ODD)
            await check(conn, "second")
            cursor = await conn.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' ORDER BY 1"
            )
            assert await cursor.fetchall() == [(ODD,), ("public",), ("second",)]
            statement = sql.fill("SELECT {schema}.now_ms() > 0", ODD)
            assert await (await conn.execute(statement.encode())).fetchone() == (True,)


async def test_processes_that_start_together_migrate_once(empty_database: str) -> None:
    """Every pod of a deployment may call it: one works, the others wait and find nothing left."""
    results = await asyncio.gather(*(migrate(empty_database) for _ in range(4)))

    assert sorted(len(result) for result in results) == [0, 0, 0, len(sql.migrations())]


async def test_a_migrator_waits_for_another_one(empty_database: str) -> None:
    async with connected(empty_database) as other:
        await other.execute("SELECT pg_advisory_lock(hashtextextended('processor migrate dbos', 0))")
        waiting = asyncio.create_task(migrate(empty_database))
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while await (await other.execute(query)).fetchone() == (0,):
            assert not waiting.done()
        await other.execute("SELECT pg_advisory_unlock(hashtextextended('processor migrate dbos', 0))")

        assert len(await waiting) == len(sql.migrations())


async def test_a_migration_that_fails_leaves_nothing_and_those_before_it_stand(empty_database: str) -> None:
    """0002 meets a table of another origin: 0001 is kept, nothing of 0002 is, and a repair lets it go on."""
    async with connected(empty_database) as conn:
        await conn.execute("CREATE SCHEMA dbos")
        await conn.execute("CREATE TABLE dbos.topic_owner ()")

        with pytest.raises(ConfigurationError, match='0002_pre_kafka_sources.*relation "topic_owner" already exists'):
            await migrate(empty_database)

        cursor = await conn.execute("SELECT version FROM dbos.processor_migration")
        assert await cursor.fetchall() == [(1,)]
        cursor = await conn.execute("SELECT to_regclass('dbos.executor'), to_regclass('dbos.workflow_status') IS NULL")
        assert await cursor.fetchone() == (None, False)
        await conn.execute("DROP TABLE dbos.topic_owner")
        assert [m.version for m in await migrate(empty_database)] == [m.version for m in sql.migrations()[1:]]


async def test_a_database_without_the_schema_says_what_to_run(empty_database: str) -> None:
    async with connected(empty_database) as conn:
        assert tuple(await pending(conn)) == sql.migrations()
        with pytest.raises(
            SchemaMissingError, match="(?s)0001_pre_dbos_tables and .* more not applied.*processor migrate"
        ):
            await check(conn)


async def test_a_changed_migration_is_refused_by_name(database: str) -> None:
    async with connected(database) as conn:
        await conn.execute("UPDATE dbos.processor_migration SET checksum = 'x' WHERE version = 2")

        with pytest.raises(ConfigurationError, match="0002_pre_kafka_sources is not what was applied"):
            await check(conn)
        with pytest.raises(ConfigurationError, match="0002_pre_kafka_sources is not what was applied"):
            await migrate(database)


async def test_a_newer_schema_is_refused_except_for_what_leaves_this_release_working(database: str) -> None:
    """During a rolling upgrade a pod of the old release restarts on the new one's `pre` migrations, and must come up."""
    async with connected(database) as conn:
        await conn.execute("INSERT INTO dbos.processor_migration VALUES (1001, 'pre_more', 'x', 0)")
        await check(conn)
        with pytest.raises(SchemaMissingError, match="1001_pre_more"):
            await migrate(database)

        await conn.execute("INSERT INTO dbos.processor_migration VALUES (1002, 'post_less', 'x', 0)")
        with pytest.raises(SchemaMissingError, match="does not know: 1002_post_less"):
            await check(conn)


async def test_missing_rights_name_the_grant_that_helps(empty_database: str) -> None:
    """Each refusal names one GRANT; with all of them given, the role migrates."""
    with psycopg.connect(empty_database, autocommit=True) as owner, role(empty_database) as limited:
        with pytest.raises(ConfigurationError, match="GRANT CREATE ON DATABASE onceflow_[0-9_]+ TO onceflow_limited;"):
            await migrate(limited)

        owner.execute("CREATE SCHEMA dbos")
        with pytest.raises(ConfigurationError, match='GRANT USAGE, CREATE ON SCHEMA "dbos" TO onceflow_limited;'):
            await migrate(limited)
        owner.execute("GRANT USAGE, CREATE ON SCHEMA dbos TO onceflow_limited")
        await migrate(limited)


async def test_a_role_that_may_not_read_the_schema_is_told_so(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as owner, role(database) as limited:
        async with connected(limited) as conn:
            with pytest.raises(ConfigurationError, match='GRANT USAGE ON SCHEMA "dbos" TO onceflow_limited;'):
                await check(conn)

            owner.execute("GRANT USAGE ON SCHEMA dbos TO onceflow_limited")
            owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dbos TO onceflow_limited")
            await check(conn)


async def test_a_role_that_may_only_read_is_told_which_tables_it_may_not_write(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as owner, role(database) as limited:
        owner.execute("GRANT USAGE ON SCHEMA dbos TO onceflow_limited")
        owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA dbos TO onceflow_limited")
        owner.execute("GRANT INSERT, UPDATE, DELETE ON dbos.executor TO onceflow_limited")
        async with connected(limited) as conn:
            await check(conn)
            with pytest.raises(ConfigurationError, match="may not write the tables audit, .*workflow_status") as told:
                await check_rights(conn)

            owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dbos TO onceflow_limited")
            await check_rights(conn)

    assert " executor," not in str(told.value)


async def test_a_refused_check_leaves_the_callers_transaction_usable(database: str) -> None:
    with role(database) as limited:
        async with connected(limited) as conn, conn.transaction():
            with pytest.raises(ConfigurationError):
                await check(conn)
            assert await (await conn.execute("SELECT 1")).fetchone() == (1,)


async def test_tables_of_another_role_name_that_role(database: str) -> None:
    """As after a restore under another name: ALTER needs the owner, no GRANT on the table replaces it."""
    with psycopg.connect(database, autocommit=True) as owner, role(database) as limited:
        owner.execute("GRANT ALL ON SCHEMA dbos TO onceflow_limited")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA dbos TO onceflow_limited")
        owner.execute("DELETE FROM dbos.processor_migration WHERE version > 1")

        with pytest.raises(ConfigurationError, match="GRANT postgres TO onceflow_limited;"):
            await migrate(limited)


@pytest.mark.parametrize("schema", ["", "x" * 64])
async def test_an_impossible_name_of_a_schema_is_refused(empty_database: str, schema: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 63 bytes"):
        await migrate(empty_database, schema)


async def test_a_server_that_does_not_answer_is_not_a_wrong_setting() -> None:
    [port] = free_ports(1)

    with pytest.raises(StoreUnavailableError, match="Check the address"):
        await migrate(f"postgresql://postgres@127.0.0.1:{port}/postgres")
    with pytest.raises(ConfigurationError, match="connection string"):
        await migrate("no connection string")
