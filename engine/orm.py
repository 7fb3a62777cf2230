"""`tx.session`: a SQLAlchemy session in a transaction that is not its to end (I5).

    session.add(…), await session.execute(…)  ─▶  cursor  ─▶  Transaction.execute  ─▶  the transaction's own connection
    function returns  ─▶  flush  ─▶  checkpoint, fence, COMMIT: the engine's

Everything the session sends goes the way of `tx.execute`, in the order of the calls, so that savepoints, statements that are
refused, and the naming of a failed one are the same. A commit is refused. A rollback is the end of it: the transaction was
to be one, so the step fails. Needs the extra `sqlalchemy`; nobody else imports this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from engine.transaction import TransactionEndedError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.transaction import SyncTransaction, Transaction

Wait = Callable[[Coroutine[Any, Any, "_Answer"]], "_Answer"]

NOT_ITS_TO_END = (
    "the session's transaction commits with the record of its step: return to commit, raise to roll back.\n"
    "  For a part of it that may fail: session.begin_nested(), a savepoint."
)


class _Answer(NamedTuple):
    """What a statement brought."""

    description: Any
    rowcount: int
    rows: Sequence[Any]


class AsyncOrm:
    """The session of an async function."""

    def __init__(self, transaction: Transaction, connection: AsyncConnection[Any]) -> None:
        self._connection = _Connection(connection, transaction.execute, await_only)
        self.session = AsyncSession()
        self.session.sync_session.bind = _connected(self._connection)

    async def begin_savepoint(self) -> None:
        """Send the savepoint that the session is in: it would with its next statement, and what is published is in it."""
        if self.session.in_nested_transaction():
            await self.session.run_sync(Session.connection)

    async def flush(self) -> None:
        """Send what the session has gathered. Raises `TransactionEndedError` if it was rolled back."""
        await self.session.flush()
        self._connection.check()
        self.session.expunge_all()  # of a handler for many records, the next one's function has its own objects

    def end(self) -> None:
        """It sends nothing more."""
        _end(self._connection, self.session.sync_session)


class SyncOrm:
    """The session of a sync function, in its thread; `send` sends what `tx` has gathered before."""

    def __init__(
        self,
        tx: SyncTransaction,
        transaction: Transaction,
        connection: AsyncConnection[Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        def wait(answer: Coroutine[Any, Any, _Answer]) -> _Answer:
            return asyncio.run_coroutine_threadsafe(self._behind(tx, answer), loop).result()

        self._connection = _Connection(connection, transaction.execute, wait)
        self.session = Session(bind=_connected(self._connection))

    async def _behind(self, tx: SyncTransaction, answer: Coroutine[Any, Any, _Answer]) -> _Answer:
        try:
            await tx.send()
        except BaseException:
            answer.close()
            raise
        return await answer

    def begin_savepoint(self) -> None:
        """As of the async one."""
        if self.session.in_nested_transaction():
            self.session.connection()

    def flush(self) -> None:
        """Send what the session has gathered. In the function's thread. Raises `TransactionEndedError` if it was rolled back."""
        self.session.flush()
        self._connection.check()
        self.session.expunge_all()

    def end(self) -> None:
        """It sends nothing more."""
        _end(self._connection, self.session)


def of_driver(error: Exception) -> tuple[Exception, BaseException | None]:
    """The driver's error in SQLAlchemy's, which is its cause from here on; any other as it is, with its own cause.

    What it means for the transaction is decided by the driver's (P25, P26); SQLAlchemy's has the statement.
    """
    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error):
        # It was raised from the driver's, which would be its own cause: a circle.
        error.__cause__ = None
        return error.orig, error
    return error, error.__cause__


# -- what SQLAlchemy takes for a connection of the driver's


class _Connection:
    """The transaction's connection, as SQLAlchemy calls one."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        execute: Callable[..., Coroutine[Any, Any, psycopg.AsyncCursor[Any]]],
        wait: Wait,
    ) -> None:
        self._connection = connection
        self._execute = execute
        self._wait = wait
        self.is_given = False
        """Whether the session has it: what is done to it before and after is SQLAlchemy's housekeeping."""
        self._rolled_back = False

    @property
    def server_version(self) -> int:
        """As libpq says it."""
        return self._connection.info.server_version

    @property
    def closed(self) -> bool:
        """For SQLAlchemy."""
        return self._connection.closed

    def cursor(self, *names: str) -> _Cursor:
        """A cursor. Raises `TransactionEndedError` for a named one: it would hold what it reads until the commit."""
        if names:
            raise TransactionEndedError("a session in a transaction reads results whole: no stream(), no yield_per()")
        return _Cursor(self)

    def commit(self) -> None:
        """Refused."""
        if self.is_given:
            self._rolled_back = True
            raise TransactionEndedError(NOT_ITS_TO_END)

    def rollback(self) -> None:
        """The end of it: nothing more is sent, and the step fails."""
        self._rolled_back = self._rolled_back or self.is_given

    def close(self) -> None:
        """Nothing: the engine closes it."""

    def check(self) -> None:
        """Raise `TransactionEndedError` if the session has rolled back."""
        if self._rolled_back:
            raise TransactionEndedError(NOT_ITS_TO_END)

    def run(self, query: Any, parameters: Sequence[Any]) -> _Answer:
        """Send a statement, for each of some parameters, and wait for what it brings."""
        self.check()
        return self._wait(self._run(query, parameters))

    async def _run(self, query: Any, parameters: Sequence[Any]) -> _Answer:
        cursors = [await self._execute(query, each) for each in parameters]
        async with self._connection.pipeline():
            pass  # entering a pipeline inside of one waits for every answer
        last = cursors[-1]
        rows = await last.fetchall() if last.description is not None else ()
        return _Answer(last.description, sum(cursor.rowcount for cursor in cursors), rows)


class _Cursor:
    """One statement's rows, read whole."""

    arraysize = 1

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._answer = _Answer(None, -1, ())
        self._read = 0

    @property
    def description(self) -> Any:
        """Columns, if there are rows."""
        return self._answer.description

    @property
    def rowcount(self) -> int:
        """Rows that were touched."""
        return self._answer.rowcount

    def execute(self, query: Any, parameters: Any = None) -> None:
        """Send it, and wait."""
        self._answer, self._read = self._connection.run(query, [parameters]), 0

    def executemany(self, query: Any, parameters: Sequence[Any]) -> None:
        """Send it for each, and wait once."""
        self._answer, self._read = self._connection.run(query, parameters), 0

    def fetchone(self) -> Any:
        """The next row."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """The next rows."""
        first = self._read
        self._read = min(len(self._answer.rows), first + (size or self.arraysize))
        return self._answer.rows[first : self._read]

    def fetchall(self) -> Sequence[Any]:
        """The rows that are left."""
        first, self._read = self._read, len(self._answer.rows)
        return self._answer.rows[first:]

    def close(self) -> None:
        """It has no rows any more."""
        self._answer = self._answer._replace(rows=())

    async def _async_soft_close(self) -> None:
        """For SQLAlchemy."""


_wanted: ContextVar[_Connection] = ContextVar("wanted_connection")
"""The connection that `_connected` asks SQLAlchemy's pool for."""


# With this module, whose import is one thread's: at the first use several would be at it, each with an engine of its own,
# and SQLAlchemy 2.1 fetches greenlet at its first use without a lock (a second thread meets half of it: RecursionError).
in_greenlet()
registry.register("onceflow", "engine.orm_dialect", "Dialect")
_engine: Final = create_engine("onceflow://", creator=_wanted.get, poolclass=NullPool, pool_reset_on_return=None)
"""SQLAlchemy's, of this process: its compiled statements serve every transaction."""


def _connected(connection: _Connection) -> Any:
    token = _wanted.set(connection)
    try:
        made = _engine.connect()
    finally:
        _wanted.reset(token)
    connection.is_given = True
    return made


def _end(connection: _Connection, session: Session) -> None:
    connection.is_given = False
    bind: Any = session.bind
    session.close()
    bind.close()
