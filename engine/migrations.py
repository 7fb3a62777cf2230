"""Bring a schema up to what this release needs, and refuse to run on another one.

    migrate ──▶ lock (one migrator per schema) ──▶ what is applied? ──▶ plan ──▶ one transaction per migration

Each migration and its row in `processor_migration` are one commit, so a crash leaves whole migrations. Forward only.
`plan` decides, without I/O; `migrate` runs. Both phases in one go need the old code stopped; a rolling upgrade runs
`pre`, rolls out the code, then runs `post` (sql/README.md).
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import TupleRow, class_row

import sql
from engine.addresses import DIRECT_DSN, DSN, explained, variable
from engine.errors import ConfigurationError, SchemaMissingError, StoreUnavailableError
from engine.poolers import is_pooled, pooling
from sql import Migration

__all__ = ["DEFAULT_SCHEMA", "Applied", "PhaseChoice", "check", "migrate", "pending", "plan"]

DEFAULT_SCHEMA = "dbos"

PhaseChoice = Literal["all", "pre", "post"]

_CONNECT_TIMEOUT_S = 10
_OTHER_MIGRATOR = timedelta(minutes=5)
"""How long to wait while another process migrates the same schema: pods start together, one of them works."""
_TABLE_LOCK = timedelta(seconds=10)
"""How long a migration may queue for a table: whoever comes later queues behind it, the hot path included."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What the database says of one migration."""

    version: int
    name: str
    checksum: str


def plan(
    known: Sequence[Migration], applied: Mapping[int, Applied], *, schema: str, phase: PhaseChoice = "all"
) -> list[Migration]:
    """Which migrations to apply, in order. Pure.

    Raises:
        ConfigurationError: An applied migration was changed afterwards, or `phase` would overtake an earlier
            migration of the other phase.
        SchemaMissingError: The database has migrations that this release does not know.
    """
    _refuse_changed(known, applied, schema)
    newest = known[-1].version
    if unknown := [row for version, row in sorted(applied.items()) if version > newest]:
        raise _newer(schema, unknown)
    todo = [migration for migration in known if migration.version not in applied]
    if phase == "all":
        return todo
    chosen = [migration for migration in todo if migration.phase == phase]
    overtaken = [other for other in todo if other.phase != phase and chosen and other.version < chosen[-1].version]
    if overtaken:
        raise ConfigurationError(
            f"schema {schema!r}: {overtaken[0]} comes before {chosen[-1]} and is not applied.\n"
            f"  Run `processor migrate --phase {overtaken[0].phase}` first, or, with every process stopped,\n"
            f"  `processor migrate`, which applies all in order."
        )
    return chosen


async def migrate(
    conninfo: str,
    schema: str = DEFAULT_SCHEMA,
    *,
    phase: PhaseChoice = "all",
    report: Callable[[str], None] | None = None,
    setting: str = DSN,
) -> list[Migration]:
    """Apply what is missing, in order, each migration in its own transaction.

    Any number of processes may call it at once: one works, the others wait up to 5 minutes and find nothing left.
    Needs a connection with a session of its own (a session advisory lock): through a pooler in transaction mode it is refused.

    Args:
        conninfo: Connection string of a role that may create in the schema, or create the schema.
        schema: Schema of the tables; created if it does not exist.
        phase: `pre` before a rolling upgrade, `post` after it, `all` for both in order.
        report: Called with one line per migration applied.
        setting: What `conninfo` is called in the settings, for messages.

    Returns:
        The migrations this call applied.

    Raises:
        ConfigurationError: A privilege is missing, the schema has tables of another origin, an applied migration
            was changed, or a lock was not to be had in time; or the server does not let us in, or there is a pooler in
            transaction mode.
        StoreUnavailableError: Postgres does not answer.
    """
    quoted = _quote(schema)
    async with _connected(conninfo, setting) as conn:
        await _refuse_pooler(conn, conninfo, setting)
        try:
            async with _alone(conn, schema):
                await _prepare(conn, schema, quoted)
                todo = plan(sql.migrations(), await _applied(conn, quoted), schema=schema, phase=phase)
                for migration in todo:
                    await _apply(conn, migration, schema, quoted)
                    if report:
                        report(f"{schema}: applied {migration}")
                return todo
        except errors.InsufficientPrivilege as error:
            raise await _privilege_missing(conn, schema, quoted, error) from error


async def pending(conn: AsyncConnection[TupleRow], schema: str = DEFAULT_SCHEMA) -> list[Migration]:
    """The migrations this release has and the schema has not, both phases. Reads only.

    Raises:
        SchemaMissingError: The database has migrations that this release does not know.
        ConfigurationError: An applied migration was changed afterwards, or the schema cannot be read.
    """
    return plan(sql.migrations(), await _read(conn, schema), schema=schema)


async def check(conn: AsyncConnection[TupleRow], schema: str = DEFAULT_SCHEMA) -> None:
    """Whether this release can run on the schema. Reads only.

    It can when every `pre` migration is applied; `post` ones come after the code. A newer release's `pre` migrations
    are no obstacle either (they leave the previous release working, or a pod that restarts during a rolling upgrade
    would not come back); its `post` ones are.

    Raises:
        SchemaMissingError: Migrations are missing, or the database is too new for this release. Says what to run.
        ConfigurationError: An applied migration was changed afterwards, or the schema cannot be read.
    """
    known = sql.migrations()
    applied = await _read(conn, schema)
    _refuse_changed(known, applied, schema)
    newest = known[-1].version
    if unknown := [row for version, row in sorted(applied.items()) if version > newest and row.name[:4] != "pre_"]:
        raise _newer(schema, unknown)
    if missing := [m for m in known if m.version not in applied and m.phase == "pre"]:
        first = f"{missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise SchemaMissingError(
            f"schema {schema!r}: {first} not applied.\n"
            f"  Run `processor migrate` (or, before a rolling upgrade, `processor migrate --phase pre`)."
        )


async def check_rights(conn: AsyncConnection[TupleRow], schema: str = DEFAULT_SCHEMA) -> None:
    """Whether this role may write every table of the schema, as an engine must.

    Raises:
        ConfigurationError: It may not. Names the tables, and the GRANT.
    """
    cursor = await conn.execute(
        """
        SELECT string_agg(c.relname, ', ' ORDER BY c.relname)
          FROM pg_class AS c
          JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = %(schema)s
           AND c.relkind IN ('r', 'p')
           AND c.relname NOT IN ('processor_migration', 'dbos_migrations')
           AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
        """,
        {"schema": schema},
    )
    row = await cursor.fetchone()
    if row is not None and row[0] is not None:
        raise await _refused(conn, schema, f"may not write the tables {row[0]}")


async def not_allowed(
    conn: AsyncConnection[TupleRow], schema: str, error: errors.InsufficientPrivilege
) -> ConfigurationError:
    """What to tell a user whose role may not do what it is asked to."""
    return await _refused(conn, schema, f"may not do this: {error.diag.message_primary}")


async def _refused(conn: AsyncConnection[TupleRow], schema: str, what: str) -> ConfigurationError:
    role, _, _ = await _who_and_where(conn, schema)
    quoted = _quote(schema)
    return ConfigurationError(
        f"schema {schema!r}: role {role} {what}.\n"
        f"  Run: GRANT USAGE ON SCHEMA {quoted} TO {role};\n"
        f"       GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {quoted} TO {role};"
    )


# -- the steps of `migrate`


@asynccontextmanager
async def _connected(conninfo: str, setting: str) -> AsyncGenerator[AsyncConnection[TupleRow]]:
    with explained(conninfo, setting):
        conn = await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)
    async with conn:
        try:
            yield conn
        except psycopg.OperationalError as error:
            if not conn.broken:
                raise
            raise StoreUnavailableError(
                f"Postgres went away; nothing of a migration under way is kept: {error}"
            ) from error


async def _refuse_pooler(conn: AsyncConnection[TupleRow], conninfo: str, setting: str) -> None:
    """The migrators' lock would stay with a server connection that is somebody else's by then."""
    if await is_pooled(conn) and await pooling(conninfo) is not None:
        raise ConfigurationError(
            f"{setting} leads to a pooler that hands connections out by transaction, and migrations need a session of their own:\n"
            f"  set {DIRECT_DSN} ({variable(DIRECT_DSN)}) to the server itself."
        )


@asynccontextmanager
async def _alone(conn: AsyncConnection[TupleRow], schema: str) -> AsyncGenerator[None]:
    """Hold the migrators' lock of this schema. A session lock: a crash frees it with the connection."""
    key = f"processor migrate {schema}"
    await conn.execute(f"SET lock_timeout = {_milliseconds(_OTHER_MIGRATOR)}".encode())
    try:
        await conn.execute("SELECT pg_advisory_lock(hashtextextended(%(key)s, 0))", {"key": key})
    except errors.LockNotAvailable as error:
        raise ConfigurationError(
            f"schema {schema!r}: another process has been migrating it for {_OTHER_MIGRATOR}.\n"
            f"  It shows in pg_stat_activity with the advisory lock in pg_locks."
        ) from error
    try:
        yield
    finally:
        if not conn.closed:
            await conn.execute("SELECT pg_advisory_unlock(hashtextextended(%(key)s, 0))", {"key": key})


async def _prepare(conn: AsyncConnection[TupleRow], schema: str, quoted: str) -> None:
    """The schema and the list of what is applied; both only where missing, so that they need no rights they have."""
    cursor = await conn.execute("SELECT 1 FROM pg_namespace AS n WHERE n.nspname = %(schema)s", {"schema": schema})
    if not await cursor.fetchone():
        await conn.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted}".encode())
    if not await _has_list(conn, quoted):
        await conn.execute(
            f"""
            CREATE TABLE {quoted}.processor_migration (
                version integer PRIMARY KEY,
                name text NOT NULL,
                checksum text NOT NULL,
                applied_at bigint NOT NULL
            )
            """.encode()
        )


async def _apply(conn: AsyncConnection[TupleRow], migration: Migration, schema: str, quoted: str) -> None:
    try:
        async with conn.transaction():
            await conn.execute(f"SET LOCAL lock_timeout = {_milliseconds(_TABLE_LOCK)}".encode())
            await conn.execute(sql.fill(migration.text, schema).encode())
            await conn.execute(
                f"""
                INSERT INTO {quoted}.processor_migration (version, name, checksum, applied_at)
                VALUES (%(version)s, %(name)s, %(checksum)s, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint)
                """.encode(),
                {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
            )
    except (errors.DuplicateTable, errors.DuplicateFunction, errors.DuplicateColumn) as error:
        raise ConfigurationError(
            f"schema {schema!r}: {migration} found what it creates already there: {error.diag.message_primary}.\n"
            f"  Nothing of it is kept. The schema belongs to something else: choose another one for the processor."
        ) from error
    except errors.LockNotAvailable as error:
        raise ConfigurationError(
            f"schema {schema!r}: {migration} waited {_TABLE_LOCK} for a table that a long transaction uses.\n"
            f"  Nothing of it is kept. End that transaction (pg_stat_activity, oldest xact_start) and run again."
        ) from error


async def _privilege_missing(
    conn: AsyncConnection[TupleRow], schema: str, quoted: str, error: errors.InsufficientPrivilege
) -> ConfigurationError:
    """Say who lacks what, and what to GRANT."""
    role, database, owner = await _who_and_where(conn, schema)
    if owner is None:
        remedy = f"GRANT CREATE ON DATABASE {database} TO {role};"
    elif "must be owner" in str(error):
        remedy = f"GRANT {owner} TO {role};  -- the tables belong to who migrated first"
    else:
        remedy = f"GRANT USAGE, CREATE ON SCHEMA {quoted} TO {role};"
    return ConfigurationError(
        f"schema {schema!r}: role {role} may not migrate it: {error.diag.message_primary}.\n  Run: {remedy}"
    )


async def _who_and_where(conn: AsyncConnection[TupleRow], schema: str) -> tuple[str, str, str | None]:
    """Role, database and owner of the schema (`None`: there is no schema), quoted for SQL."""
    cursor = await conn.execute(
        """
        SELECT quote_ident(current_user), quote_ident(current_database()),
               (SELECT quote_ident(pg_get_userbyid(n.nspowner)) FROM pg_namespace AS n WHERE n.nspname = %(schema)s)
        """,
        {"schema": schema},
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1], row[2]


# -- reading


async def _read(conn: AsyncConnection[TupleRow], schema: str) -> dict[int, Applied]:
    quoted = _quote(schema)
    try:
        # A savepoint, where the caller has a transaction: its connection stays usable for the message below.
        async with conn.transaction():
            return await _applied(conn, quoted) if await _has_list(conn, quoted) else {}
    except errors.InsufficientPrivilege as error:
        raise await not_allowed(conn, schema, error) from error


async def _has_list(conn: AsyncConnection[TupleRow], quoted: str) -> bool:
    cursor = await conn.execute("SELECT to_regclass(%(name)s) IS NOT NULL", {"name": f"{quoted}.processor_migration"})
    return await cursor.fetchone() == (True,)


async def _applied(conn: AsyncConnection[TupleRow], quoted: str) -> dict[int, Applied]:
    async with conn.cursor(row_factory=class_row(Applied)) as cursor:
        await cursor.execute(
            f"SELECT m.version, m.name, m.checksum FROM {quoted}.processor_migration AS m ORDER BY m.version".encode()
        )
        return {row.version: row for row in await cursor.fetchall()}


def _refuse_changed(known: Sequence[Migration], applied: Mapping[int, Applied], schema: str) -> None:
    for migration in known:
        row = applied.get(migration.version)
        if row and (row.name, row.checksum) != (migration.name, migration.checksum):
            raise ConfigurationError(
                f"schema {schema!r}: {migration} is not what was applied as {row.version:04}_{row.name}: it was changed\n"
                f"  afterwards. Restore the file of the release; a change of the schema is a new migration."
            )


def _newer(schema: str, unknown: Sequence[Applied]) -> SchemaMissingError:
    names = ", ".join(f"{row.version:04}_{row.name}" for row in unknown)
    return SchemaMissingError(
        f"schema {schema!r}: it has migrations that this release does not know: {names}.\n"
        f"  A newer release migrated it: run that one. Migrations are not taken back."
    )


def _quote(schema: str) -> str:
    try:
        return sql.quote(schema)
    except ValueError as error:
        raise ConfigurationError(f"schema: {error}") from error


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
