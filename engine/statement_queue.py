"""User statements on their way to Postgres: through libpq's buffer, without a psycopg cursor until one is looked at.

    execute ─▶ compiled once a text ─▶ prepared by psycopg already? ─ yes ─▶ libpq's buffer, place in psycopg's pipeline
                                                                   └ no ──▶ a psycopg cursor: prepares it
    64 sent, a fetch, the loop's next turn, the end ─▶ the socket         answers ─▶ cursors, in order

psycopg's pipeline stays what it is, with its order, its errors and its prepared statements; what is left out for a statement
it knows is a cursor, an adapter map, a look-up and a write (decision 0026). That much of its inside is used here, and nowhere
else: of version 3.3. With any other one, all statements go through its cursors.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from inspect import getattr_static
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor, generators
from psycopg.adapt import Transformer
from psycopg.pq import Format
from psycopg.sql import Composable
from psycopg.waiting import Ready

from engine.statement_kinds import name_in

if TYPE_CHECKING:
    from psycopg import AsyncPipeline
    from psycopg.abc import Params
    from psycopg.pq.abc import PGresult
    from psycopg.rows import AsyncRowFactory

    from engine.statement_kinds import Query

KNOWS_PSYCOPG = psycopg.__version__.startswith("3.3.")
"""Whether the inside of psycopg is the one that is meant here."""

if TYPE_CHECKING or KNOWS_PSYCOPG:
    from psycopg._queries import PostgresQuery

SENT_MAX = 64
"""Statements in libpq's buffer before they are written and answers are read: Postgres works on them meanwhile."""

TURN_EVERY = 1_024
"""Statements in a row before the event loop has a turn: about 5 ms."""


TEXTS_MAX = 256
"""Texts of one transaction that stay compiled, each with the values it was sent with last."""


def _begun(name: str) -> Any:
    """An attribute of a cursor that users may set: it begins to be one before they do."""

    def get(cursor: QueuedCursor) -> Any:
        return getattr_static(AsyncCursor, name).__get__(cursor)

    def put(cursor: QueuedCursor, value: Any) -> None:
        cursor.begin()
        getattr_static(AsyncCursor, name).__set__(cursor, value)

    return property(get, put)


class QueuedCursor(AsyncCursor[Any]):
    """The cursor of a statement that was sent without one.

    It begins to be one when any of its slots is looked at: until then they are not set, and most never are.
    """

    __slots__ = ("_answer", "_connection", "_rows", "is_answered")

    arraysize = _begun("arraysize")
    format = _begun("format")
    row_factory = _begun("row_factory")  # pyright: ignore[reportIncompatibleMethodOverride]  # the same, begun first

    def __init__(self, connection: AsyncConnection[Any], rows: AsyncRowFactory[Any]) -> None:
        # Not super's: that is what is put off.
        self._connection: AsyncConnection[Any] | None = connection
        self._rows = rows
        self._answer: list[PGresult] | None = None
        self.is_answered = False

    def __getattr__(self, name: str) -> Any:
        """Called for slots that are not set."""
        if self._connection is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.begin()
        return getattr(self, name)

    def begin(self) -> None:
        """Become a cursor, with the answer if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            super().__init__(connection, row_factory=self._rows)
            self._tx = Transformer(self)
            if self._answer is not None:
                super()._set_results(self._answer)

    def _set_results(self, results: list[PGresult]) -> None:
        """The answer is there: psycopg's pipeline says so, behind `_check_results`, which raises if it is an error."""
        self.is_answered = True
        if self._connection is None:
            super()._set_results(results)
        else:
            self._answer = results


class StatementQueue:
    """The statements of one transaction, whoever sends them. For the event loop's thread."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._names: OrderedDict[tuple[bytes, tuple[int, ...]], bytes] = (
            connection._prepared._names if KNOWS_PSYCOPG else OrderedDict()
        )
        self._prepares = connection.prepare_threshold is not None
        self._waiting = 0
        """Statements in libpq's buffer, or so."""
        self._in_a_row = 0
        self._is_due = False
        """Whether the loop's next turn sends what waits."""
        self.forget()

    def forget(self) -> None:
        """Compile every text anew: a statement may have changed how values and texts are written."""
        self._transformer = Transformer(self._connection)
        self._compiled: dict[str | bytes, PostgresQuery] = {}
        self._constant: dict[str | bytes, PostgresQuery] = {}

    @property
    def is_full(self) -> bool:
        """Whether `exchange` is due."""
        return self._waiting >= SENT_MAX

    def send(self, query: Query, params: Params | None, rows: AsyncRowFactory[Any]) -> QueuedCursor | None:
        """Hand a statement to libpq; `None`: it has to go through a psycopg cursor.

        Raises:
            psycopg.Error: It cannot be sent, and was not: its parameters are too many or few, or cannot be written.
            TypeError: Its parameters are none.
        """
        connection = self._connection
        pipeline: AsyncPipeline | None = connection._pipeline
        # Locked: another task is in the middle of a fetch, and would wait for an answer that nobody has asked to be sent.
        if not KNOWS_PSYCOPG or pipeline is None or connection.lock.locked():
            return None
        if isinstance(query, str | bytes):
            text = query
        elif isinstance(query, Composable):  # pyright: ignore[reportUnnecessaryIsInstance]  # a t-string is psycopg's to take
            text = query.as_bytes(self._transformer)
        else:
            return None
        try:
            compiled = self._compiled_with(text, params)
        except psycopg.Error as error:
            name_in(error, query)
            raise
        name = None
        if self._prepares:
            name = self._names.get(key := (compiled.query, compiled.types))
            if name is None:
                return None
            self._names.move_to_end(key)  # psycopg deallocates the first
        if pipeline.command_queue:
            self._step(pipeline)
        if name is None:
            self._pgconn.send_query_params(
                compiled.query, compiled.params, compiled.types, compiled.formats, Format.TEXT
            )
        else:
            self._pgconn.send_query_prepared(name, compiled.params, compiled.formats, Format.TEXT)
        cursor = QueuedCursor(connection, rows)
        pipeline.result_queue.append((cursor, None))
        self._waiting += 1
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._write)
        return cursor

    async def exchange(self) -> None:
        """Write what waits, and read what is there. Raises the error of whichever statement had one."""
        self._in_a_row += self._waiting
        self._waiting = 0
        pipeline: AsyncPipeline | None = self._connection._pipeline
        if pipeline is not None and not self._connection.lock.locked():
            self._step(pipeline)
        if self._pgconn.flush():
            async with self._connection.lock:
                await self._connection.wait(generators.send(self._pgconn))
        elif self._in_a_row >= TURN_EVERY:
            self._in_a_row = 0
            await asyncio.sleep(0)

    def _compiled_with(self, text: str | bytes, params: Params | None) -> PostgresQuery:
        known = self._constant if params is None else self._compiled
        compiled = known.get(text)
        if compiled is None:
            compiled = PostgresQuery(self._transformer)
            compiled.convert(text, params)  # pyright: ignore[reportArgumentType]  # a Query, or what one was
            if len(known) >= TEXTS_MAX:
                known.clear()
            known[text] = compiled
        elif params is not None:
            compiled.dump(params)
        return compiled

    @staticmethod
    def _step(pipeline: AsyncPipeline) -> None:
        """What psycopg has to send, what libpq has, and what has been answered: as far as that goes without waiting."""
        communication = pipeline._communicate_gen()
        try:
            next(communication)
            while True:
                communication.send(Ready.RW)
        except StopIteration:
            return

    def _write(self) -> None:
        """In the loop's next turn: the function waits for something, and what it has sent is not to wait with it."""
        self._is_due = False
        self._in_a_row = 0
        with suppress(psycopg.OperationalError):  # it broke: who asks for an answer hears of it
            self._pgconn.flush()
