"""What a transactional handler or step writes with: psycopg, inside a transaction that is not its own to end.

Statements are pipelined: `execute` returns when the statement is sent, and only fetching waits for its result
(28,000 statements/s against 5,000 with a round trip each). An error therefore may surface at a later statement, at a
fetch or at the end of the transaction; it aborts the transaction anyway, and its message names the statement.

What is published is kept, and written to the outbox by the transaction's last statements before COMMIT (`outgoing`).
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, LiteralString, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.abc import Params
from psycopg.rows import AsyncRowFactory, tuple_row
from psycopg.sql import SQL, Composed

from engine.errors import ConfigurationError, EngineError, WorkflowNotFoundError
from engine.outgoing import EventTopic, GivenHeaders, Outgoing, Publications, outgoing
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
Query = LiteralString | bytes | SQL | Composed
"""What `execute` takes: text that stands in the program, or `psycopg.sql` objects; never text made of values."""

STATEMENTS_NAMED_MAX = 10_000
"""Statements of one transaction that are remembered to name one that failed."""


class _Lasting(Enum):
    """What a statement does to those after it."""

    NOTHING = 0
    UNTIL_COMMIT = 1
    """A setting, a temporary table, a cursor."""
    ENDS = 2
    """It ends the transaction."""


_LEAD = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_NAME = r'(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>\w+))'


def _begins(pattern: str) -> re.Pattern[str]:
    """Statements that begin so, behind blanks and comments."""
    return re.compile(_LEAD + pattern, re.IGNORECASE | re.DOTALL)


_ENDS = _begins(
    r"(?:begin|start\s+transaction|commit|end|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b)|abort|prepare\s+transaction)\b"
)
_LASTS = _begins(
    r"(?:(?:set|reset|declare|savepoint)\b|create\s+(?:(?:local|global)\s+)?temp)"
    r"|.*\bset_config\b"
)
_SAVEPOINT = _begins(rf"savepoint\s+{_NAME}")
_BACK_TO = _begins(rf"rollback\s+(?:(?:work|transaction)\s+)?to\s+(?:savepoint\s+)?{_NAME}")
_UNPREPARES = _begins(r"(?:drop|alter|rollback|discard|deallocate)\b")
"""Statements at whose tag psycopg deallocates all that it has prepared."""


class TransactionEndedError(EngineError):
    """A transaction was used after its function returned, or its function tried to end it."""


class Transaction:
    """A transaction whose commit is the record of the step or handler that uses it (I5).

    Attributes:
        publications: What it publishes when it commits; for unit tests of functions that are given one by hand.
    """

    def __init__(self, connection: AsyncConnection[Any], publications: Publications | None = None) -> None:
        self._connection: AsyncConnection[Any] | None = connection
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
            psycopg.Error: Of this statement, or of an earlier one.
        """
        connection = self._admit(query)
        cursor = connection.cursor(row_factory=rows)
        self._sent.append((cursor, query))
        await cursor.execute(query, params)
        if _unprepares(query):
            await _unprepare(connection)
        return cursor

    async def execute_many(self, query: Query, params: Sequence[Params]) -> None:
        """Send one statement for many parameters."""
        connection = self._admit(query)
        cursor = connection.cursor()
        self._sent.append((cursor, query))
        await cursor.executemany(query, params)
        if _unprepares(query):
            await _unprepare(connection)

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
            if cursor.pgresult is None or cursor.pgresult.error_message:
                return str(query).strip()
        return None

    def check_open(self) -> None:
        """Raise `TransactionEndedError` unless statements are accepted."""
        self._open()

    def _admit(self, query: Query) -> AsyncConnection[Any]:
        """The connection, for a statement that may be sent on it."""
        connection = self._open()
        match _lasting(query):
            case _Lasting.ENDS:
                raise TransactionEndedError(
                    f"{_text(query).strip()[:60]!r}: the transaction commits with the record of its step; "
                    f"return to commit, raise to roll back"
                )
            case _Lasting.UNTIL_COMMIT:
                self.lingers = True
                if (name := _name_in(_SAVEPOINT, query)) is not None:
                    self.publications.savepoint(name)
            case _Lasting.NOTHING:
                if self.publications.has_savepoints and (name := _name_in(_BACK_TO, query)) is not None:
                    self.publications.roll_back_to(name)
        return connection

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


def _text(query: Query) -> str:
    if isinstance(query, str):
        return query
    return query.decode(errors="replace") if isinstance(query, bytes) else query.as_string()


def _lasting(query: Query) -> _Lasting:
    return _lasting_text(query if isinstance(query, str) else _text(query))


def _name_in(pattern: re.Pattern[str], query: Query) -> str | None:
    """The savepoint a statement names, as Postgres folds it."""
    match = pattern.match(query if isinstance(query, str) else _text(query))
    if match is None:
        return None
    return match["quoted"].replace('""', '"') if match["quoted"] else match["plain"].lower()


@lru_cache(maxsize=1024)
def _lasting_text(text: str) -> _Lasting:
    if _ENDS.match(text):
        return _Lasting.ENDS
    return _Lasting.UNTIL_COMMIT if _LASTS.match(text) else _Lasting.NOTHING


def _unprepares(query: Query) -> bool:
    return _unprepares_text(query if isinstance(query, str) else _text(query))


@lru_cache(maxsize=1024)
def _unprepares_text(text: str) -> bool:
    return _UNPREPARES.match(text) is not None


async def _unprepare(connection: AsyncConnection[Any]) -> None:
    """Have psycopg deallocate what it has prepared before it prepares anything else.

    It does so behind the first statement after it has read the tag. In a pipeline that statement may be prepared by then,
    and would be remembered under a name that is gone (psycopg 3.3, `PrepareManager.maintain_gen`).
    """
    async with connection.pipeline() as pipeline:
        await pipeline.sync()
        await connection.execute("SELECT", prepare=False)


def name_statement(error: Exception, transaction: Transaction) -> None:
    """Note on a database error which statement it is about; pipelined errors surface later than they happen."""
    if isinstance(error, psycopg.Error) and (statement := transaction.failed_statement()):
        note = f"in the statement: {statement[:500]}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


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
