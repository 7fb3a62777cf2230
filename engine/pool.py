"""Connections: committers' own, and a pool for transactional steps and claims.

All are in autocommit mode (transactions are opened where they are meant) and bounded in every wait: to connect, for a
statement, and, where user code runs, idle in a transaction.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.pq import PipelineStatus
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait
from psycopg_pool import AsyncConnectionPool

from engine.settings import EngineSettings

Value = TypeVar("Value")

UNREAD_MAX = 100
"""Statements sent in a row before the loop has its turn and results are read."""


class PipelinedConnection(AsyncConnection[TupleRow]):
    """A connection that sends the statements of a pipeline without a turn of the event loop.

    psycopg gives the loop a turn whenever a connection has been busy for 5 ms. With thousands of workflows ready to
    run, a turn is long, and a transaction of a hundred statements that is given one in between holds its locks ten
    times as long. libpq buffers what the socket does not take, so nothing has to be waited for; whatever is fetched is
    waited for as ever.
    """

    _unread = 0

    async def wait(
        self,
        gen: PQGen[Value],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109  # as the one it overrides
    ) -> Value:
        """Consume a generator of psycopg's: at once, as long as it only wants to write."""
        if self.pgconn.pipeline_status == PipelineStatus.OFF or self._unread >= UNREAD_MAX:
            self._unread = 0
            return await super().wait(gen, interval, timeout)
        self._unread += 1
        try:
            wants = next(gen)
            while wants == Wait.RW:
                wants = gen.send(Ready.W)
        except StopIteration as end:
            return end.value
        self._unread = 0
        return await super().wait(_resumed(gen, wants), interval, timeout)


def _resumed(gen: PQGen[Value], wants: Wait) -> PQGen[Value]:
    """The rest of a generator that has begun."""
    try:
        while True:
            wants = gen.send((yield wants))
    except StopIteration as end:
        return end.value


async def connect(settings: EngineSettings, application: str) -> AsyncConnection[TupleRow]:
    """One connection. Raises `psycopg.OperationalError` when the server does not answer in time."""
    connection = await PipelinedConnection.connect(
        settings.conninfo,
        autocommit=True,
        connect_timeout=max(1, int(settings.connect_timeout.total_seconds())),
        application_name=application,
        prepare_threshold=0 if settings.prepare else None,
    )
    try:
        await configure(settings, connection)
    except BaseException:  # cancelled as well: nobody else knows of it
        await connection.close()
        raise
    return connection


async def configure(settings: EngineSettings, connection: AsyncConnection[Any]) -> None:
    """Bounds of a session, where there is one.

    Around a pooler that hands server connections out by transaction (`direct_conninfo` is another address), what is set
    for a session stays with whoever gets that server connection next, and startup options are refused. There the bound
    is the role's (docs/guides/operating.md); what one transaction of ours needs is set in it (`set_config(…, true)`).
    """
    if settings.direct_conninfo not in (None, settings.conninfo):
        return
    statement_ms = int(settings.statement_timeout.total_seconds() * 1000)
    await connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(statement_ms)])


class Pool:
    """The pool for everything that is not a committer."""

    def __init__(self, settings: EngineSettings, application: str) -> None:
        async def configured(connection: AsyncConnection[Any]) -> None:
            await configure(settings, connection)

        self._kwargs: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": max(1, int(settings.connect_timeout.total_seconds())),
            "application_name": application,
            "prepare_threshold": 0 if settings.prepare else None,
        }
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            settings.conninfo,
            connection_class=PipelinedConnection,
            min_size=1,
            max_size=settings.pool_max,
            open=False,
            timeout=settings.statement_timeout.total_seconds(),
            configure=configured,
            kwargs=self._kwargs,
            reconnect_timeout=settings.statement_timeout.total_seconds(),
        )

    async def open(self) -> None:
        """Open at least one connection."""
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection; those in use when they come back."""
        await self._pool.close(timeout=2)

    def rename(self, application: str) -> None:
        """Have only connections of another name from now on; those in use keep theirs until they come back."""
        self._kwargs["application_name"] = application

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection[TupleRow]]:
        """A connection for an `async with` block. Raises `psycopg.OperationalError` if there is none in time.

        What turns out broken is replaced, and the next one tried at once. The pool's own check waits between tries, twice
        as long each time: after a restart of the server with eight idle connections that is half a minute.
        """
        deadline = time.monotonic() + self._pool.timeout
        while True:
            connection = await self._pool.getconn(timeout=max(0.0, deadline - time.monotonic()))
            if self._is_usable(connection):
                break
            await connection.close()
            await self._pool.putconn(connection)
        try:
            async with connection:
                yield connection
        finally:
            await self._pool.putconn(connection)

    def _is_usable(self, connection: AsyncConnection[Any]) -> bool:
        """False of an idle connection of a former name, or that the server has ended.

        No round trip: the server's farewell, and the end, are there or are not.
        """
        try:
            connection.pgconn.consume_input()
            connection.pgconn.consume_input()
        except psycopg.OperationalError:
            return False
        return connection.info.parameter_status("application_name") in (None, self._kwargs["application_name"])

    def snapshot(self) -> dict[str, int]:
        """Sizes and waits, as psycopg_pool counts them."""
        return dict(self._pool.get_stats())
