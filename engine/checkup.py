"""Whether a Postgres is one that this engine can keep its promises on: what is wrong, and what to do about it.

Each check is one line for an operator. Nothing is written. What a check cannot see is said by none: the commits of a
server whose disk lies about fsync, or what a pooler does to the second of two sessions.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from psycopg import AsyncConnection

from engine import migrations
from engine.addresses import explained, session_address, variable
from engine.errors import EngineError
from engine.pool import connect
from engine.poolers import pooling
from engine.progress import Progress
from engine.settings import EngineSettings
from engine.store import checkup as store
from engine.store.checkup import ServerRow
from engine.store.statement import send

VERSION_MIN = 16
"""The oldest Postgres that CI runs."""

CLOCK_MAX_S = 1.0
"""Between this machine's clock and the server's. Leases are measured by each process's own; timers and schedules are not."""

IDLE_MAX_S = 60
"""A transaction that does nothing for so long holds locks, and vacuum up."""

XID_AGE_MAX = 1_500_000_000
"""Of the oldest row that was not frozen; Postgres stops taking writes at 2.1 thousand million."""

OWN_CONNECTIONS = 2
"""Of a process, beside its pool and two for each committer: leases, notifications."""


class Level(StrEnum):
    """How bad it is."""

    FINE = "ok"
    WARNING = "warning"
    """It works, and will not for ever, or less well than it could."""
    PROBLEM = "problem"
    """It does not work, or a promise is not kept."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        level: How it is.
        subject: What was looked at.
        message: How it was found.
        advice: What to do; '' where nothing is.
    """

    level: Level
    subject: str
    message: str
    advice: str = ""


def fine(subject: str, message: str) -> Check:
    """Nothing to do."""
    return Check(Level.FINE, subject, message)


def warning(subject: str, message: str, advice: str) -> Check:
    """Something to do some day."""
    return Check(Level.WARNING, subject, message, advice)


def problem(subject: str, message: str, advice: str) -> Check:
    """Something to do now."""
    return Check(Level.PROBLEM, subject, message, advice)


def problem_of(subject: str, error: EngineError) -> Check:
    """An error that says in its further lines what to do."""
    message, _, advice = str(error).partition("\n")
    return problem(subject, message, " ".join(advice.split()))


@dataclass(slots=True)
class Examined:
    """What an examination found: checks, and the progress of every partition where it could be read."""

    checks: list[Check]
    progress: list[tuple[str, str, str, Progress]]


async def examine(settings: EngineSettings) -> Examined:
    """Look at the database of these settings."""
    examined = Examined([], [])
    checks = examined.checks
    try:
        async with _session(settings) as connection:
            checks += await _server(connection, settings)
            schema_is_there = await _schema(connection, settings, checks)
            if schema_is_there:
                checks += await _at_work(connection, settings)
                for group, key, handler, value in await _all(connection, settings.schema, store.progress()):
                    examined.progress.append((group, key, handler, Progress.decode(value, f"{group}, {key}")))
    except EngineError as error:
        checks.append(problem_of("postgres", error))
    return examined


def judge_server(row: ServerRow, settings: EngineSettings) -> list[Check]:
    """What a server says of itself. Pure."""
    found: list[Check] = []
    if row.is_standby or row.is_read_only:
        what = "a standby" if row.is_standby else "read-only (default_transaction_read_only)"
        advice = "add target_session_attrs=read-write to postgres.dsn, with every host of the cluster"
        found.append(problem("postgres role", f"this server is {what}", advice))
    if row.encoding != "UTF8":
        found.append(problem("encoding", f"the database has {row.encoding}", "create it with ENCODING 'UTF8'"))
    for name, promise in (
        ("fsync", "a crash of its machine damages the database"),
        ("full_page_writes", "a crash of its machine may damage the database"),
        ("synchronous_commit", "a crash of the server takes commits back that were answered, and steps run again"),
    ):
        if row.settings.get(name, "on") == "off":
            found.append(problem(name, f"{name} is off: {promise}", f"set {name} = on"))
        else:
            found.append(fine(name, row.settings.get(name, "on")))
    if row.settings.get("autovacuum") == "off":
        found.append(warning("autovacuum", "autovacuum is off: tables only grow", "set autovacuum = on"))
    else:
        found.append(fine("autovacuum", "on"))
    if row.xid_age > XID_AGE_MAX:
        advice = "find what keeps vacuum from freezing (processor_retention_vacuum_held_seconds), and VACUUM"
        found.append(problem("transaction IDs", f"the oldest is {row.xid_age:,} transactions old", advice))
    if settings.brakes.replica_lag_max is not None and not row.sees_standbys:
        what = "backpressure.replica_lag_max does nothing: this role is not told how far standbys are"
        found.append(warning("standbys", what, "GRANT pg_monitor TO this role"))
    found.append(_idle_time_out(row, settings))
    found.append(judge_connections(row, settings))
    return found


def judge_connections(row: ServerRow, settings: EngineSettings) -> Check:
    """Whether one more process would still get its connections. Pure."""
    needed = settings.pool_max + 2 * settings.committers + OWN_CONNECTIONS
    reserved = [int(row.settings.get(name, "0")) for name in ("superuser_reserved_connections", "reserved_connections")]
    limits = [("max_connections", int(row.settings["max_connections"]) - sum(reserved), row.connections)]
    if row.database_limit >= 0:
        limits.append(("the database's CONNECTION LIMIT", row.database_limit, row.connections))
    if row.role_limit >= 0:
        limits.append(("the role's CONNECTION LIMIT", row.role_limit, row.role_connections))
    name, limit, used = min(limits, key=lambda each: each[1] - each[2])
    said = f"a process takes up to {needed} connections (postgres.pool_max, executor.committers); {name} leaves {limit - used} of {limit}"
    if limit < needed:
        return problem("connections", said, f"raise {name}, or lower postgres.pool_max")
    if limit - used < needed:
        return warning(
            "connections",
            said,
            f"not enough for one process more: raise {name}, lower postgres.pool_max, or put PgBouncer between",
        )
    return fine("connections", said)


def judge_clock(subject: str, ahead_s: float) -> Check:
    """A clock that is so much ahead of ours. Pure."""
    said = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    if abs(ahead_s) <= CLOCK_MAX_S:
        return fine(subject, said)
    return warning(subject, said, "keep both in step (chrony, NTP): timers, schedules and latencies are off by as much")


async def _server(connection: AsyncConnection[Any], settings: EngineSettings) -> list[Check]:
    version = connection.info.server_version
    shown = f"{version // 10_000}.{version % 10_000}"
    checks = [
        fine(
            "postgres",
            f"version {shown}, {connection.info.host}:{connection.info.port}, database {connection.info.dbname!r}",
        )
    ]
    if version < VERSION_MIN * 10_000:
        checks = [warning("postgres", f"version {shown}", f"upgrade: nobody tests this before {VERSION_MIN}")]
    before = time.time()
    (row,) = await _all(connection, settings.schema, store.server())
    ahead_s = row.now_ms / 1000 - (before + time.time()) / 2
    checks += judge_server(row, settings)
    checks.append(judge_clock("postgres clock", ahead_s))
    checks += await _pooler(connection, row, settings)
    for pid, name, seconds in await _all(connection, settings.schema, store.idle_in_transaction(seconds=IDLE_MAX_S)):
        checks.append(
            warning(
                "idle transactions",
                f"process {pid} ({name}) has a transaction open and does nothing, for {seconds:.0f} s",
                f"mend that program, or SELECT pg_terminate_backend({pid})",
            )
        )
    return checks


async def _pooler(connection: AsyncConnection[Any], row: ServerRow, settings: EngineSettings) -> list[Check]:
    """A pooler tells its clients a process number of its own, to cancel by."""
    is_pooled = connection.info.backend_pid != row.backend_pid
    setting = f"postgres.direct_dsn ({variable('postgres.direct_dsn')})"
    if settings.direct_conninfo is None:
        if not is_pooled:
            return [fine("pooler", "none between")]
        advice = f"set {setting} to the server itself: migrations and notifications need a session"
        return [problem("pooler", "postgres.dsn leads to a pooler (PgBouncer)", advice)]
    conninfo, name = session_address(settings)
    try:
        with explained(conninfo, name):
            direct = await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=10)
    except EngineError as error:
        return [problem_of("direct connection", error)]
    async with direct:
        (own,) = await _all(direct, settings.schema, store.server())
        is_same = direct.info.dbname == connection.info.dbname and own.is_standby == row.is_standby
        if direct.info.backend_pid != own.backend_pid:
            return [
                problem(
                    "direct connection",
                    "postgres.direct_dsn leads to a pooler too",
                    f"set {setting} to the server itself",
                )
            ]
        if not is_same:
            return [
                problem(
                    "direct connection",
                    "it leads to another database",
                    f"{setting} and postgres.dsn must name the same one",
                )
            ]
    if is_pooled and settings.prepare and (found := await pooling(settings.conninfo)) and not found.keeps_prepared:
        # Idle, it hands out the same server connection again and again: it fails first under load.
        name = "postgres.prepared_statements"
        return [
            problem(
                "prepared statements",
                "the pooler hands connections out by transaction, and does not know what its clients have prepared",
                f"set {name} ({variable(name)}) to false, or use PgBouncer 1.21 or later with max_prepared_statements",
            )
        ]
    said = (
        "PgBouncer or the like, with a direct connection beside it"
        if is_pooled
        else "none between, though there is a direct_dsn"
    )
    return [fine("pooler", said)]


async def _schema(connection: AsyncConnection[Any], settings: EngineSettings, checks: list[Check]) -> bool:
    try:
        await migrations.check(connection, settings.schema)
    except EngineError as error:
        checks.append(problem_of("migrations", error))
        return False
    later = await migrations.pending(connection, settings.schema)
    if later:
        names = ", ".join(map(str, later))
        checks.append(warning("migrations", f"not applied: {names}", "when the old code is gone: processor migrate"))
    else:
        checks.append(fine("migrations", f"schema {settings.schema!r} has all of this release"))
    try:
        await migrations.check_rights(connection, settings.schema)
    except EngineError as error:
        checks.append(problem_of("privileges", error))
        return False
    checks.append(fine("privileges", "this role may write every table"))
    return True


async def _at_work(connection: AsyncConnection[Any], settings: EngineSettings) -> list[Check]:
    processes = [
        each
        for each in await _all(connection, settings.schema, store.executors(all_of_them=False))
        if each.claim_of is None
    ]
    live = [each for each in processes if each.died_at is None and each.lease_ms > 0]
    checks: list[Check] = []
    for each in processes:
        if each.died_at is None and each.lease_ms <= 0:
            said = (
                f"executor {each.executor_id} ({each.name}) has not renewed its lease for {-each.lease_ms / 1000:.0f} s"
            )
            advice = "a live process declares it dead; where none runs: processor executors end"
            checks.append(warning("leases", said, advice))
        elif each.died_at is not None and (each.partitions or each.in_flight):
            said = f"executor {each.executor_id} ({each.name}) is dead, and has {each.partitions} partitions and {each.in_flight} workflows"
            checks.append(warning("leases", said, "start a process that runs its handlers: it takes them over"))
    if not live:
        checks.append(warning("leases", "no process is alive", "start one: processor run MODULE:app"))
    else:
        versions = len({each.version for each in live})
        checks.append(fine("leases", f"{len(live)} live processes of {versions} version{'s' * (versions > 1)}"))
    ((held,),) = await _all(connection, settings.schema, store.held_partitions())
    if held:
        checks.append(warning("holds", f"{held} partitions are halted or paused", "processor partitions list says why"))
    return checks


def _idle_time_out(row: ServerRow, settings: EngineSettings) -> Check:
    subject = "idle_in_transaction_session_timeout"
    timeout_ms = int(row.settings.get(subject, "0"))
    if 0 < timeout_ms < settings.statement_timeout.total_seconds() * 1000:
        said = f"{timeout_ms / 1000:g} s: a handler that waits longer between two statements loses its transaction"
        return warning(subject, said, "raise it for this role; transactions of ours have a bound of their own")
    return fine(subject, "off" if timeout_ms == 0 else f"{timeout_ms / 1000:g} s")


@asynccontextmanager
async def _session(settings: EngineSettings) -> AsyncGenerator[AsyncConnection[Any]]:
    with explained(settings.conninfo):
        # Unprepared: behind a pooler that loses what was prepared, that is to be found, and not to end the search.
        connection = await connect(replace(settings, prepare=False), "onceflow doctor")
    async with connection:
        yield connection


async def _all(connection: AsyncConnection[Any], schema: str, statement: Any) -> Sequence[Any]:
    return await (await send(connection, schema, statement)).fetchall()
