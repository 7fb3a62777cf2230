"""The event bus of executions: rows for history, NOTIFY for speed, a look every second for the rest (decision 0016).

    status changes ─▶ trigger ─┐
    pauses, resumes ───────────┼─▶ execution_event, in the same commit ─▶ subscribers, from the place they name on
    publish ───────────────────┘                    └─ NOTIFY ─▶ one listening connection for each bus

A subscriber that comes late, or was away, reads on where it was: nothing is lost, and nothing comes twice to who
remembers its place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from engine.errors import ConfigurationError, EngineError
from engine.execution_database import ExecutionDatabase
from engine.execution_rows import json_text, moment
from engine.listening import listen
from engine.store import execution_events as store
from engine.store import executions
from engine.store.execution_events import EventRow, Seen
from engine.tasks import end

CHANNEL: Final = "processor_executions"

PAGE: Final = 500
"""Events read at once: they are in memory until they are taken."""

LOOK_S: Final = 1.0
"""Between two looks where nobody says anything."""

SETTLE_FIRST_S: Final = 0.005
"""Before the second look whether all transactions have ended that may have drawn a smaller number; then twice as long."""

TYPE_MAX: Final = 100
"""Characters of an event's type."""

OWN_TYPES: Final = frozenset({"status", "paused", "resumed"})
"""What only the engine and its debugger say."""


class ExecutionNotFoundError(EngineError):
    """There is no execution of this ID. Nothing was done."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(execution_id)
        self.execution_id = execution_id

    def __str__(self) -> str:
        return f"there is no execution {self.execution_id!r}"


@dataclass(frozen=True, slots=True)
class ExecutionEvent:
    """Something that happened to an execution.

    Attributes:
        execution_id: To which.
        index: Its place among that execution's, from 0, without gaps.
        type: `status` (data: `status`, `previous`), `paused`, `resumed` (data: `node_id`, `place`), or what was published.
        data: What there is to say.
        created_at: When.
        position: Its place among all executions' events: where a subscriber to all goes on.
    """

    execution_id: str
    index: int
    type: str
    data: dict[str, Any]
    created_at: datetime
    position: int


class ExecutionEventBus:
    """Events of executions, for programs of any kind.

    Args:
        store: Through whose connections; open as long as the bus is used.
    """

    def __init__(self, store: ExecutionDatabase) -> None:
        self._store = store
        self._waiting: dict[str, set[asyncio.Event]] = {}
        """Subscribers by execution; under '' those to all."""
        self._listener: asyncio.Task[None] | None = None

    async def publish(self, execution_id: str, event_type: str, data: dict[str, Any]) -> int | None:
        """Add an event of the program's own; returns its place. At least once, where the reply to a commit is lost.

        `None`: this store's claim of the execution was lost, and the event is not written.

        Raises:
            ConfigurationError: No type, one of the engine's own, or data that are no JSON.
            ExecutionNotFoundError: There is no such execution.
        """
        if not event_type or len(event_type) > TYPE_MAX or not event_type.isprintable() or event_type in OWN_TYPES:
            raise ConfigurationError(
                f"event_type={event_type[:TYPE_MAX]!r}: 1 to {TYPE_MAX} printable characters, none of {', '.join(sorted(OWN_TYPES))}"
            )
        sealed = self._store.sealed(json_text(execution_id, "data", data))
        assert sealed is not None, "there are data"
        appending = executions.append_event(execution_id=execution_id, event_type=event_type, data=sealed)
        held = self._store.token_of(execution_id)

        async def append(connection: AsyncConnection[Any]) -> int | None:
            locked = await self._store.locked(connection, execution_id)
            if locked is None:
                raise ExecutionNotFoundError(execution_id)
            if held is not None and locked.owner != held:
                return None
            row = await self._store.one(connection, appending)
            return None if row is None else row[0]

        return await self._store.transaction(append)

    async def history(self, execution_id: str, *, from_index: int = 0) -> list[ExecutionEvent]:
        """Events so far, from a place on."""
        events: list[ExecutionEvent] = []
        while page := await self._page(execution_id, from_index + len(events)):
            events += page
        return events

    async def subscribe(self, execution_id: str, *, from_index: int = 0) -> AsyncGenerator[ExecutionEvent]:
        """Events of an execution, in order, from a place on: those there are, then each as it comes. Ends with its end.

        Raises:
            ExecutionNotFoundError: There is no such execution, or not any more.
        """
        woken = self._enter(execution_id)
        try:
            while True:
                woken.clear()
                standing = await self._store.first(store.standing(execution_id=execution_id))
                if standing is None:
                    raise ExecutionNotFoundError(execution_id)
                if standing.events > from_index:
                    for event in await self._page(execution_id, from_index):
                        from_index = event.index + 1
                        yield event
                elif standing.is_open:
                    await _until(woken)
                else:
                    return
        finally:
            await self._leave(execution_id, woken)

    async def subscribe_all(self, *, after: int = 0) -> AsyncGenerator[ExecutionEvent]:
        """Events of all executions, each execution's in order, behind a position. Does not end.

        A transaction that somebody leaves open delays what was committed since it began.
        """
        woken = self._enter("")
        try:
            while True:
                woken.clear()
                seen = await self._store.first(store.seen(after=after, limit=PAGE))
                if seen is None or seen.last_id is None:
                    await _until(woken)
                    continue
                await self._settled(seen)
                for row in await self._store.all(store.of_all(after=after, last_id=seen.last_id)):
                    yield self._event(row)
                after = seen.last_id
        finally:
            await self._leave("", woken)

    async def position(self) -> int:
        """The position of what has happened so far: behind it comes only what happens from now on.

        Waits for transactions that are under way.
        """
        seen = await self._store.first(store.newest())
        if seen is None or seen.last_id is None:
            return 0
        await self._settled(seen)
        return seen.last_id

    async def close(self) -> None:
        """End listening. Subscribers that are still there look every second."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await end(listener)

    # -- inside --

    async def _settled(self, seen: Seen) -> None:
        """Wait until no event of a smaller number can still be committed."""
        wait_s = SETTLE_FIRST_S
        assert seen.xid is not None, "asked only where there is something"
        while True:
            row = await self._store.first(store.is_settled(xid=seen.xid))
            if row is not None and row[0]:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LOOK_S)

    async def _page(self, execution_id: str, from_index: int) -> list[ExecutionEvent]:
        asked = store.of_execution(execution_id=execution_id, from_index=from_index, limit=PAGE)
        return [self._event(row) for row in await self._store.all(asked)]

    def _event(self, row: EventRow) -> ExecutionEvent:
        where = f"execution {row.execution_id}: event {row.event_index}"
        data = json.loads(self._store.payloads.open(row.data, where))
        return ExecutionEvent(row.execution_id, row.event_index, row.type, data, moment(row.created_ms), row.event_id)

    def _enter(self, execution_id: str) -> asyncio.Event:
        woken = asyncio.Event()
        self._waiting.setdefault(execution_id, set()).add(woken)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="execution events")
        return woken

    async def _leave(self, execution_id: str, woken: asyncio.Event) -> None:
        waiting = self._waiting[execution_id]
        waiting.discard(woken)
        if not waiting:
            del self._waiting[execution_id]
        if not self._waiting:
            await self.close()

    async def _listen(self) -> None:
        """One connection for all subscribers of this bus. Without it they look every second."""

        def listening() -> None:
            for waiting in self._waiting.values():
                _wake(waiting)

        def heard(channel: str, execution_id: str) -> None:
            del channel
            _wake(self._waiting.get(execution_id, ()))
            _wake(self._waiting.get("", ()))

        await listen(self._store.settings, "onceflow events", [CHANNEL], listening=listening, heard=heard)


def _wake(waiting: Any) -> None:
    for woken in waiting:
        woken.set()


async def _until(woken: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_S):
            await woken.wait()


__all__ = ["ExecutionEvent", "ExecutionEventBus", "ExecutionNotFoundError"]
