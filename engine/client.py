"""The client's end: a program that starts, awaits and asks for workflows, and runs none (`processor.Client`).

    open ─▶ schema checked, pool           no executor row, no lease, no thread
    start ─▶ row at rest, NOTIFY ─────────▶ whoever has its code and room
    wait ─▶ LISTEN, on one connection more ◀── NOTIFY; a poll with back-off up to a second is the base
    close

What it writes is a row, a message or an act, each in one commit that may be repeated where its reply was lost: an ID is chosen
before, a message knows its transaction (P24). What may not be repeated is not: `once`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from engine import migrations
from engine.crashpoints import CrashPoint, reach
from engine.errors import ClientClosedError, ConfigurationError, EngineError, StoreUnavailableError
from engine.failures import summary
from engine.faults import Fault, fault_of
from engine.hints import BROUGHT_CHANNELS, ROWS_CHANNEL, heard_brought
from engine.ids import ExecutorId
from engine.inspection import connected
from engine.listening import listen
from engine.pool import Pool
from engine.queues import INTERNAL, QueueSpec
from engine.reach import Reach
from engine.sealed_rows import sealed_starts
from engine.settings import EngineSettings
from engine.signals import Signal
from engine.starts import Start
from engine.store import registered, starts
from engine.store.executor import notify
from engine.store.statement import Statement, send
from engine.tasks import end
from engine.tracing import Tracing
from engine.weather import through_weather

Value = TypeVar("Value")

APPLICATION = "onceflow client"


class ClientPool(Pool):
    """The client's pool: closed, it says so, and nobody waits for it as for a server that is away."""

    is_open = False

    def connection(self) -> Any:
        """As the pool's. Raises `ClientClosedError`."""
        if not self.is_open:
            raise ClientClosedError
        return super().connection()


class Caller(Reach):
    """The connections of one client, from one `open` to the `close` behind it."""

    def __init__(self, settings: EngineSettings, tracing: Tracing | None = None) -> None:
        super().__init__(settings, tracing)
        self._listener: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            ConfigurationError: The database does not let us in, or lacks our schema; the message says what to do.
            StoreUnavailableError: It does not answer.
        """
        self._prepare(APPLICATION)
        self.pool = pool = ClientPool(self.settings, APPLICATION)
        async with connected(self.settings):
            pass  # it is there, and of a release that fits
        await pool.open()
        pool.is_open = True

    async def close(self) -> None:
        """Tell others what is left to tell, and disconnect. Who still waits gets `ClientClosedError`."""
        await self.hints.flush()
        self.stopping.set()
        self.pool.is_open = False
        self.waits.end()
        for task in tuple(self._spawned):
            await end(task)
        await self.pool.close()

    # -- writing --

    async def insert(self, start: Start) -> bool:
        """Give a workflow its row, at rest or in its queue; returns when that is durable, and whether it is new."""
        reach(CrashPoint.STARTING)
        inserting = starts.start(
            sealed_starts([start], self.payloads.seal),
            executor_id=ExecutorId(""),
            inputs_inline_max=self.settings.inputs_inline_max,
        )
        hint = notify(channel=ROWS_CHANNEL, payload="rows" if start.queue is None else f"queue {start.queue}")

        async def attempt() -> bool:
            async with self.pool.connection() as connection, connection.pipeline(), connection.transaction():
                cursor = await send(connection, self.settings.schema, inserting)
                await send(connection, self.settings.schema, hint)
                return await cursor.fetchone() is not None

        is_new = await through_weather(attempt)
        reach(CrashPoint.STARTED)
        return is_new

    async def once(self, act: Callable[[AsyncConnection[Any], str], Coroutine[Any, Any, Value]]) -> Value:
        """An act that may not be repeated blindly: a second time it would do more, or find itself done and be refused.

        Raises:
            StoreUnavailableError: Postgres was away, before it or while its reply was on its way: what became of it is not known.
            ConfigurationError: The database user lacks a privilege for it.
        """
        schema = self.settings.schema
        try:
            async with self.pool.connection() as connection:
                try:
                    return await act(connection, schema)
                except psycopg.errors.InsufficientPrivilege as error:
                    raise await migrations.not_allowed(connection, schema, error) from error
        except psycopg.Error as error:
            if fault_of(error) is not Fault.WEATHER:
                raise
            raise StoreUnavailableError(
                f"Postgres was away: {summary(error)}\n  The act may have been done or not: look before it is repeated."
            ) from error

    # -- what apps have registered --

    async def version_of(self, name: str, instance: str | None, version: str | None) -> str:
        """The version that a workflow is started in: as it is given, that of the live executor which started last, or the latest.

        Raises:
            ConfigurationError: No executor ever had a workflow of this name, or live ones have it of other objects.
        """
        found = await self._one(registered.workflow(name=name, instance=instance))
        assert found is not None, "one row, whatever is known"
        if found.latest is None:
            unknown = await self._unknown("workflow", name, registered.workflow_names())
            found = await self._one(registered.workflow(name=name, instance=instance))
            if found is None or found.latest is None:  # nor was it registered in between
                raise ConfigurationError(unknown)
        if found.instances and (instance or "") not in found.instances:
            raise ConfigurationError(_wrong_object(name, instance, found.instances))
        return version or found.live or found.latest

    async def queue(self, name: str) -> QueueSpec:
        """A queue as a place to enter. Raises `ConfigurationError` if no app registered it."""
        if name == INTERNAL:
            return QueueSpec(name)
        shape = await self._one(registered.queue(name=name))
        if shape is None:
            raise ConfigurationError(await self._unknown("queue", name, registered.queue_names()))
        return QueueSpec(name, priority=shape.has_priority, partitioned=shape.is_partitioned)

    async def _unknown(self, what: str, name: str, naming: Statement[tuple[str]]) -> str:
        async def read() -> list[str]:
            async with self.pool.connection() as connection:
                return [row[0] for row in await (await send(connection, self.settings.schema, naming)).fetchall()]

        known = await through_weather(read)
        nearest = get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"there is no {what} {name!r}: no app that has run on this database registers it{hint}"

    async def _one(self, statement: Statement[Value]) -> Value | None:
        async def read() -> Value | None:
            async with self.pool.connection() as connection:
                return await (await send(connection, self.settings.schema, statement)).fetchone()

        return await through_weather(read)

    # -- for the parts --

    def listens(self) -> None:
        """Somebody waits: from now on hints are heard."""
        if self._listener is None or self._listener.done():
            channels = (ROWS_CHANNEL, *BROUGHT_CHANNELS)
            listening = listen(self.settings, APPLICATION, channels, listening=self.waits.hinted, heard=self._heard)
            self._listener = self.spawn(listening)

    def _heard(self, channel: str, payload: str) -> None:
        if (kind := BROUGHT_CHANNELS.get(channel)) is not None:
            heard_brought(self, kind, payload)
            return
        word, _, rest = payload.partition(" ")
        match word:
            case "ended" | "cancelled" | "interrupted" if rest:
                self.waits.signalled([Signal("result", workflow_id) for workflow_id in rest.split()])
            case "queue":
                pass  # for those who take from it
            case _:
                self.waits.hinted()

    def is_at_work_on(self, workflow_id: str) -> bool:
        """Never."""
        del workflow_id
        return False

    def look_for_rows(self) -> None:
        """It runs none."""

    def cancelled_here(self, ids: Sequence[str], *, interrupt: bool) -> None:
        """It runs none."""

    def gone(self) -> EngineError:
        """What to tell who waits when it closes."""
        return ClientClosedError()

    def troubled(self, what: str, error: psycopg.Error) -> None:
        """Postgres refused a task of its own: who waits hears of it."""
        self.failed(error, what)

    def failed(self, error: BaseException, what: str = "a task") -> None:
        """A task of its own failed: who waits hears of it, and the loop's exception handler."""
        if self.stopping.is_set():
            return  # it met the closed pool
        self.waits.end(error)
        self.loop.call_exception_handler({"message": f"{APPLICATION}: {what} failed", "exception": error})


def _wrong_object(name: str, instance: str | None, instances: Sequence[str]) -> str:
    named = ", ".join(repr(each) for each in instances if each)
    if not named:
        return f"workflow {name!r} is a function, and no method of an object: leave instance={instance!r} out"
    if instance is None:
        return f"workflow {name!r} is a method: instance= says of which object: {named}"
    return f"workflow {name!r}: no live process has the object {instance!r}; there is {named}"


__all__ = ["Caller"]
