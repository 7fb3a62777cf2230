"""One transaction in one round trip: all its statements in one write, all its answers in one read.

    BEGIN │ statement … │ COMMIT │ Sync ──one write──▶ server
    rows of each statement ◀──────────one read──────── server      the first error undoes all of it

What psycopg's pipeline does for any statement, for a committer's, which are known beforehand: it writes to the socket at
each statement and waits for the loop several times, 0.7 ms of processor time a flush of five statements; this takes
0.2 ms, and at a thousand flushes a second that is the latency. Adaptation of values and rows is psycopg's own.

A connection is one committer's. If anything but an error of the server's happens on the way, it is closed: nobody knows
what of it the server has (P23).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, TransactionStatus

from engine.crashpoints import CrashPoint, reach
from engine.store.statement import rendered

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from engine.store.statement import Statement

_PARAMETER = re.compile(rb"%(?:\((\w+)\)([sb])|(%))")

_NO_CURSOR: Any = None
"""For row factories that only call a class: those of our statements."""


@dataclass(slots=True)
class _Command:
    """SQL with numbered parameters; their values, types and formats."""

    text: bytes
    statement: Statement[Any] | None = None
    values: list[bytes | None] = field(default_factory=list[bytes | None])
    types: list[int] = field(default_factory=list[int])
    formats: list[int] = field(default_factory=list[int])


_BEGIN = _Command(b"BEGIN")
_COMMIT = _Command(b"COMMIT")


class RoundTrip:
    """Transactions of a connection, one after the other."""

    def __init__(self, connection: AsyncConnection[Any], schema: str, *, prepare: bool) -> None:
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._schema = schema
        self._prepare = prepare
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._new: list[tuple[bytes, tuple[int, ...]]] = []
        """Prepared in the transaction under way."""
        self._names = 0

    async def run(self, statements: Sequence[Statement[Any]]) -> list[list[Any]]:
        """Run statements in one transaction. Returns the rows of each.

        Raises:
            psycopg.Error: Of the first statement that failed: nothing was written. Where the connection is closed
                afterwards, nobody knows.
        """
        # Before anything is sent: a value that cannot be written is its record's fault, not the connection's.
        commands = [_BEGIN, *[self._command(statement) for statement in statements], _COMMIT]
        try:
            return await self._run(commands)
        except errors.InvalidSqlStatementName:
            # Somebody has deallocated what was prepared here: psycopg does, after a rollback of its own (fused handlers).
            self._prepared.clear()
            return await self._run(commands)

    async def _run(self, commands: Sequence[_Command]) -> list[list[Any]]:
        try:
            failed, answers = await self._sent_and_answered(commands)
            if self._pgconn.transaction_status != TransactionStatus.IDLE:
                await self._roll_back()
        except BaseException:
            self._pgconn.finish()
            raise
        if failed is not None:
            # What stands behind the error was not even parsed; which that is, is not worth finding out.
            for key in self._new:
                del self._prepared[key]
        self._new.clear()
        if failed is not None:
            raise errors.error_from_result(failed)
        return answers

    # -- sending --

    async def _sent_and_answered(self, commands: Sequence[_Command]) -> tuple[PGresult | None, list[list[Any]]]:
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        expected: list[Statement[Any] | None] = []
        for command in commands:
            expected += self._send(command)
        pgconn.pipeline_sync()
        while pgconn.flush():
            await self._ready(also_to_write=True)
            pgconn.consume_input()
        reach(CrashPoint.FLUSH_SENT)
        failed: PGresult | None = None
        answers: list[list[Any]] = []
        for statement in expected:
            result = await self._result()
            if result.status == ExecStatus.FATAL_ERROR:
                failed = failed or result
            if statement is not None:
                answers.append(self._rows(statement, result))
            while await self._next() is not None:
                pass
        while (end := await self._result()).status != ExecStatus.PIPELINE_SYNC:
            failed = failed or end
            await self._next()
        pgconn.exit_pipeline_mode()
        return failed, answers

    def _send(self, command: _Command) -> list[Statement[Any] | None]:
        """Returns whose answers are to come; `None`: nobody's."""
        pgconn = self._pgconn
        if not self._prepare:
            pgconn.send_query_params(command.text, command.values, command.types, command.formats)
            return [command.statement]
        key = (command.text, tuple(command.types))
        if (name := self._prepared.get(key)) is not None:
            pgconn.send_query_prepared(name, command.values, command.formats)
            return [command.statement]
        self._names += 1
        name = self._prepared[key] = b"onceflow_%d" % self._names
        self._new.append(key)
        pgconn.send_prepare(name, command.text, command.types)
        pgconn.send_query_prepared(name, command.values, command.formats)
        return [None, command.statement]

    def _command(self, statement: Statement[Any]) -> _Command:
        text, names = _numbered(rendered(statement, self._schema))
        command = _Command(text, statement)
        for name, is_binary in names:
            value = statement.parameters[name]
            oid = binary = 0
            if value is None:
                data = None
            elif isinstance(value, str):
                data = _utf8(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                data = b"%d" % value
            else:
                dumper = self._transformer.get_dumper(value, PyFormat.BINARY if is_binary else PyFormat.AUTO)
                dumped = dumper.dump(value)
                data = None if dumped is None else bytes(dumped)
                oid, binary = dumper.oid, int(dumper.format)
            command.values.append(data)
            command.types.append(oid)
            command.formats.append(binary)
        return command

    # -- answers --

    def _rows(self, statement: Statement[Any], result: PGresult) -> list[Any]:
        if result.status != ExecStatus.TUPLES_OK or not result.ntuples:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, statement.rows(_NO_CURSOR))

    async def _result(self) -> PGresult:
        result = await self._next()
        assert result is not None, "every command is answered"
        return result

    async def _next(self) -> PGresult | None:
        pgconn = self._pgconn
        while pgconn.is_busy():
            await self._ready()
            pgconn.consume_input()
        return pgconn.get_result()

    async def _roll_back(self) -> None:
        """After an error of the server's the transaction stands open, failed."""
        self._pgconn.send_query(b"ROLLBACK")
        while self._pgconn.flush():
            await self._ready(also_to_write=True)
        while await self._next() is not None:
            pass

    async def _ready(self, *, also_to_write: bool = False) -> None:
        """Wait until the socket can be read, or written to."""
        loop, socket = asyncio.get_running_loop(), self._pgconn.socket
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(socket, _tell, ready)
        if also_to_write:
            loop.add_writer(socket, _tell, ready)
        try:
            await ready
        finally:
            loop.remove_reader(socket)
            if also_to_write:
                loop.remove_writer(socket)


def _tell(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _utf8(text: str) -> bytes:
    if "\x00" in text:
        raise psycopg.DataError("PostgreSQL text cannot contain NUL (0x00)")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise psycopg.DataError(f"not a text: {error.reason}") from None


@lru_cache(maxsize=1024)
def _numbered(text: bytes) -> tuple[bytes, tuple[tuple[str, bool], ...]]:
    """`%(name)s` as `$1`, and the names in that order with whether they travel in binary."""
    places: dict[tuple[str, bool], int] = {}

    def number(match: re.Match[bytes]) -> bytes:
        if match[3]:
            return b"%"
        place = places.setdefault((match[1].decode(), match[2] == b"b"), len(places) + 1)
        return b"$%d" % place

    return _PARAMETER.sub(number, text), tuple(places)
