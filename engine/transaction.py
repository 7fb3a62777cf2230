"""What a transactional handler or step writes with: psycopg, inside a transaction that is not its own to end.

Statements are pipelined: `execute` returns when the statement is on its way (it is sent, at the latest, when the function
waits for anything; `engine/statement_queue.py`), and only fetching waits for its result. An error of the server's therefore
may surface at a later statement, at a fetch or at the end of the transaction; it aborts the transaction anyway, and its note
names the statement. What cannot be sent at all is refused at once.

What is published is kept, and written to the outbox by the transaction's last statements before COMMIT (`outgoing`).
"""

from __future__ import annotations

import asyncio
import importlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.abc import Params
from psycopg.rows import AsyncRowFactory, tuple_row
from psycopg.sql import SQL

from engine.errors import ConfigurationError, EngineError, WorkflowNotFoundError
from engine.outgoing import EventTopic, GivenHeaders, Outgoing, Publications, outgoing
from engine.statement_kinds import PLAIN, Kind, Query, kind_of, name_in, text_of
from engine.statement_queue import QueuedCursor, StatementQueue
from engine.store import notifications
from engine.store.statement import rendered

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from engine.messages import Message
    from engine.orm import AsyncOrm, SyncOrm

E = TypeVar("E")
T = TypeVar("T")
Row = TypeVar("Row")
STATEMENTS_NAMED_MAX = 10_000
"""Statements of one transaction that are remembered to name one that failed."""


class TransactionEndedError(EngineError):
    """A transaction was used after its function returned, or its function tried to end it."""


class Transaction:
    """A transaction whose commit is the record of the step or handler that uses it (I5).

    Attributes:
        publications: What it publishes when it commits; for unit tests of functions that are given one by hand.

    Args:
        queue: Of the database's transaction, where that is shared with others.
    """

    def __init__(
        self,
        connection: AsyncConnection[Any],
        publications: Publications | None = None,
        queue: StatementQueue | None = None,
    ) -> None:
        self._connection: AsyncConnection[Any] | None = connection
        self._queue = queue or StatementQueue(connection)
        self.publications = publications or Publications()
        self._sent: deque[tuple[AsyncCursor[Any], Query]] = deque(maxlen=STATEMENTS_NAMED_MAX)
        self.lingers = False
        """Whether a statement left something that lasts until the commit: nobody else's statements may follow."""
        self._orm: AsyncOrm | None = None

    @property
    def session(self) -> AsyncSession:
        """A SQLAlchemy session in this transaction, the same at every call: it is flushed when the function returns.

        It commits with the record of the step, and not before: `commit()` and `rollback()` are not its to call. For a
        part that may fail: `begin_nested()`.

        Raises:
            ConfigurationError: SQLAlchemy is not installed.
        """
        if (made := self._orm) is None:
            made = self._orm = cast("AsyncOrm", orm().AsyncOrm(self, self._open()))
        return made.session

    async def called(self, function: Awaitable[T]) -> T:
        """What a function of the user's returns, once its session has sent what it gathered. The engine's to call."""
        try:
            result = await function
            if self._orm is not None:
                await self._orm.flush()
        except Exception as error:
            if self._orm is None:
                raise
            given, cause = orm().of_driver(error)
            raise given from cause
        return result

    async def execute(
        self, query: Query, params: Params | None = None, *, rows: AsyncRowFactory[Any] = tuple_row
    ) -> AsyncCursor[Any]:
        """Send a statement; `await cursor.fetchone()` and the like wait for its rows.

        Args:
            query: A literal string or `psycopg.sql` object; parameters as `%s` or `%(name)s`.
            params: Its parameters.
            rows: psycopg row factory.

        Raises:
            psycopg.Error: It cannot be sent, or an earlier one has failed. Whether this one does is known at a fetch, or later.
        """
        kind = self._admitted(query)
        if kind is not PLAIN:
            return await self._execute_special(kind, query, params, rows)
        return await self._send(query, params, rows)

    async def execute_many(self, query: Query, params: Sequence[Params]) -> None:
        """Send one statement for many parameters."""
        self._admitted(query)
        for each in params:
            await self.execute(query, each)

    async def _send(
        self, query: Query, params: Params | None, rows: AsyncRowFactory[Any], *, special: bool = False
    ) -> AsyncCursor[Any]:
        """A statement's cursor, once it is on its way. `special`: psycopg has to see it."""
        queue = self._queue
        queued = None if special else queue.send(query, params, rows)
        if queued is not None:
            self._sent.append((queued, query))
            if queue.is_full:
                await queue.exchange()
            return queued
        cursor = self.connection.cursor(row_factory=rows)
        self._sent.append((cursor, query))
        return await cursor.execute(query, params)

    async def _execute_special(
        self, kind: Kind, query: Query, params: Params | None, rows: AsyncRowFactory[Any]
    ) -> AsyncCursor[Any]:
        """A statement that does something to those after it."""
        if kind.lasts:
            self.lingers = True
            if kind.savepoint is not None:
                self.publications.savepoint(kind.savepoint)
        elif kind.back_to is not None:
            await self._settle_behind(kind.back_to)
            self.publications.roll_back_to(kind.back_to)
        cursor = await self._send(query, params, rows, special=True)
        if kind.unprepares:
            await _unprepare(self.connection)
        self._queue.forget()
        return cursor

    async def publish(
        self, topic: EventTopic[E], event: E, *, headers: GivenHeaders = (), key: bytes | str | None = None
    ) -> None:
        """Publish an event to Kafka if, and only if, this transaction commits (I9).

        Readers of committed records (`isolation.level=read_committed`) get it exactly once, after those of its key whose
        transactions committed before. It is on its way when the transaction has committed, not when this returns.

        Args:
            topic: A topic by name. Its codec encodes the event, its `key=` says what it is ordered by.
            event: Of the topic's type; `None`, for topics that deliver tombstones: a tombstone.
            headers: Names and values; text is UTF-8.
            key: Instead of the topic's `key=`.

        Raises:
            PublishError: It cannot be encoded, is larger than `outbox.event_bytes_max`, or its topic is no topic.
        """
        self._open()
        if self._orm is not None:
            await self._orm.begin_savepoint()
        bytes_max, tracing = self.publications.bytes_max, self.publications.tracing
        self.add(outgoing(topic, event, headers=headers, key=key, bytes_max=bytes_max, tracing=tracing))

    async def send_message(self, message: Message) -> None:
        """Send a message to a workflow if, and only if, this transaction commits: it is there, and who waits is told.

        Raises:
            WorkflowNotFoundError: It has no receiver.
            ConfigurationError: The transaction is read-only.
        """
        self._open()
        self.publications.require_writable()
        sealed = message.sealed(self.publications.seal)
        statement = notifications.send_aloud(
            destination=sealed.destination, topic=sealed.topic, message=sealed.text, key=sealed.key
        )
        cursor = await self.execute(rendered(statement, self.publications.schema), statement.parameters)
        row = await cursor.fetchone()
        assert row is not None, "one row, whatever was written"
        if not row[0]:
            raise WorkflowNotFoundError(message.destination)

    def add(self, event: Outgoing) -> None:
        """Publish what is encoded already. Raises `PublishError` if the transaction can publish nothing (more)."""
        self._open()
        self.publications.add(event)

    def end(self) -> None:
        """No statement is accepted any more. The engine's to call."""
        self._connection = None
        if self._orm is not None:
            self._orm.end()

    def failed_statement(self) -> str | None:
        """The first statement without a result, after an error: the one that failed."""
        for cursor, query in self._sent:
            if not _is_answered(cursor):
                return text_of(query).strip()
        return None

    def check_open(self) -> None:
        """Raise `TransactionEndedError` unless statements are accepted."""
        self._open()

    async def _settle_behind(self, savepoint: str) -> None:
        """Wait for all answers, and let errors behind a savepoint be: what failed there is about to be undone.

        Behind an error the server skips everything up to a Sync, and would skip the rollback as well.
        """
        connection = self.connection
        try:
            async with connection.pipeline():
                pass  # entering a pipeline inside of one waits for every answer
        except psycopg.Error:
            places = [place for place, (_, query) in enumerate(self._sent) if kind_of(query).savepoint == savepoint]
            if connection.closed or not places or not _is_answered(self._sent[places[-1]][0]):
                raise
        answered = [sent for sent in self._sent if _is_answered(sent[0])]
        self._sent.clear()
        self._sent.extend(answered)

    def _admitted(self, query: Query) -> Kind:
        """What is special about a statement that may be sent.

        Raises:
            TransactionEndedError: None may be any more, or this one would end the transaction.
            psycopg.NotSupportedError: It is one that the connection's other users would feel, or that streams rows.
        """
        self._open()
        kind = kind_of(query)
        if kind.ends:
            raise TransactionEndedError(
                f"{text_of(query).strip()[:60]!r}: the transaction commits with the record of its step; "
                f"return to commit, raise to roll back"
            )
        if kind.outlives:
            raise psycopg.NotSupportedError(
                f"{text_of(query).strip()[:60]!r}: would hold for other transactions, or for what is written with this one; "
                f"SET LOCAL, or set_config(…, true), ends with the function's own"
            )
        if kind.copies:
            raise psycopg.NotSupportedError(
                f"{text_of(query).strip()[:60]!r}: rows are not streamed here; "
                f"INSERT … SELECT * FROM unnest(%s::type[], …) takes as many in one statement"
            )
        return kind

    @property
    def connection(self) -> AsyncConnection[Any]:
        """What it runs on. Raises `TransactionEndedError` when it has ended. The engine's to use."""
        return self._open()

    def _open(self) -> AsyncConnection[Any]:
        if self._connection is None:
            raise TransactionEndedError(
                "the transaction has ended: its function returned, or its process lost the step"
            )
        return self._connection


class SyncTransaction:
    """`Transaction` for sync functions: the same, from a thread.

    Statements are gathered in the thread and sent together when a result is asked for or the function returns.
    """

    def __init__(self, transaction: Transaction, loop: asyncio.AbstractEventLoop) -> None:
        self._transaction = transaction
        self._loop = loop
        self._gathered: list[tuple[SyncResult[Any], Query, Params | None, Any] | Outgoing] = []
        self._orm: SyncOrm | None = None

    @property
    def session(self) -> Session:
        """A SQLAlchemy session in this transaction, for its function's thread. See `Transaction.session`."""
        if (made := self._orm) is None:
            made = cast("SyncOrm", orm().SyncOrm(self, self._transaction, self._transaction.connection, self._loop))
            self._orm = made
        return made.session

    def called(self, function: Callable[[], T]) -> T:
        """What a function of the user's returns, once its session has sent what it gathered. In its thread; the engine's to call."""
        try:
            result = function()
            if self._orm is not None:
                self._orm.flush()
        except Exception as error:
            if self._orm is None:
                raise
            given, cause = orm().of_driver(error)
            raise given from cause
        return result

    def end(self) -> None:
        """Its session sends nothing more. The engine's to call."""
        if self._orm is not None:
            self._orm.end()

    def execute(self, query: Query, params: Params | None = None, *, rows: Any = tuple_row) -> SyncResult[Any]:
        """Gather a statement; fetching sends it. See `Transaction.execute`."""
        self._transaction.check_open()
        result: SyncResult[Any] = SyncResult(self)
        self._gathered.append((result, query, params, rows))
        return result

    def execute_many(self, query: Query, params: Sequence[Params]) -> None:
        """Gather one statement for many parameters."""
        for each in params:
            self.execute(query, each)

    def publish(
        self, topic: EventTopic[E], event: E, *, headers: GivenHeaders = (), key: bytes | str | None = None
    ) -> None:
        """Publish an event to Kafka if, and only if, this transaction commits (I9). See `Transaction.publish`."""
        self._transaction.check_open()
        publications = self._transaction.publications
        bytes_max, tracing = publications.bytes_max, publications.tracing
        event_out = outgoing(topic, event, headers=headers, key=key, bytes_max=bytes_max, tracing=tracing)
        self._transaction.publications.check(event_out)
        if self._orm is not None:
            self._orm.begin_savepoint()
        # In its place among the statements: a savepoint before it, a rollback behind it.
        self._gathered.append(event_out)

    def send_message(self, message: Message) -> None:
        """Send a message to a workflow if, and only if, this transaction commits. See `Transaction.send_message`."""

        async def sent() -> None:
            await self.send()
            await self._transaction.send_message(message)

        self._transaction.check_open()
        asyncio.run_coroutine_threadsafe(sent(), self._loop).result()

    async def send(self) -> None:
        """Send what was gathered. Loop only; the engine's to call at the end."""
        gathered, self._gathered = self._gathered, []
        for each in gathered:
            if isinstance(each, Outgoing):
                self._transaction.add(each)
            else:
                result, query, params, rows = each
                result.cursor = await self._transaction.execute(query, params, rows=rows)

    def fetch(self, result: SyncResult[Any], size: int | None) -> list[Any]:
        """Send everything up to a statement and wait for its rows; `size` None: all."""

        async def fetched() -> list[Any]:
            await self.send()
            assert result.cursor is not None, "sent just now"
            if size is None:
                return await result.cursor.fetchall()
            return await result.cursor.fetchmany(size)

        return asyncio.run_coroutine_threadsafe(fetched(), self._loop).result()


class SyncResult(Generic[Row]):
    """A statement's rows, for a thread."""

    def __init__(self, transaction: SyncTransaction) -> None:
        self._transaction = transaction
        self.cursor: AsyncCursor[Any] | None = None

    def fetchone(self) -> Row | None:
        """The next row, or None."""
        rows = self._transaction.fetch(self, 1)
        return cast("Row", rows[0]) if rows else None

    def fetchmany(self, size: int) -> list[Row]:
        """At most `size` rows."""
        return self._transaction.fetch(self, size)

    def fetchall(self) -> list[Row]:
        """The rows that are left."""
        return self._transaction.fetch(self, None)

    @property
    def rowcount(self) -> int:
        """Rows the statement touched."""
        self._transaction.fetch(self, 0)
        assert self.cursor is not None, "sent just now"
        return self.cursor.rowcount


@lru_cache(maxsize=1)
def orm() -> Any:
    """The module of sessions. Raises `ConfigurationError` where SQLAlchemy is not installed."""
    try:
        return importlib.import_module("engine.orm")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("sqlalchemy", "greenlet"):
            raise
        raise ConfigurationError(
            "tx.session needs SQLAlchemy, which is not installed: pip install 'onceflow[sqlalchemy]'"
        ) from None


async def _unprepare(connection: AsyncConnection[Any]) -> None:
    """Have psycopg deallocate what it has prepared before it prepares anything else.

    It does so behind the first statement after it has read the tag. In a pipeline that statement may be prepared by then,
    and would be remembered under a name that is gone (psycopg 3.3, `PrepareManager.maintain_gen`).
    """
    async with connection.pipeline() as pipeline:
        await pipeline.sync()
        await connection.execute("SELECT", prepare=False)


def _is_answered(cursor: AsyncCursor[Any]) -> bool:
    """Whether the server has done what its statement says."""
    if isinstance(cursor, QueuedCursor):
        return cursor.is_answered
    return cursor.pgresult is not None and not cursor.pgresult.error_message


def name_statement(error: BaseException, transaction: Transaction) -> None:
    """Note on a database error which statement it is about; pipelined errors surface later than they happen."""
    if isinstance(error, psycopg.Error) and (statement := transaction.failed_statement()):
        name_in(error, statement)


async def begin_user_transaction(
    connection: AsyncConnection[Any], *, isolation: str = "read committed", read_only: bool = False, idle_ms: int
) -> None:
    """First statements of a transaction that runs user code: its mode, and an end to idling before the lease (design 6)."""
    if isolation != "read committed" or read_only:
        mode = "READ ONLY" if read_only else "READ WRITE"
        await connection.execute(
            SQL("SET TRANSACTION ISOLATION LEVEL {}, {}").format(SQL(_ISOLATION[isolation]), SQL(mode))
        )
    await connection.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, true)", [str(idle_ms)])


_ISOLATION: dict[str, Any] = {
    "read committed": "READ COMMITTED",
    "repeatable read": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
}
