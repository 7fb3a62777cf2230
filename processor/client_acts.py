"""What a client does with queues, schedules and dead letters: what `processor queues` and its like do, from a program.

Each act is one commit with its row in `audit`, and is not repeated by itself: where Postgres was away meanwhile it raises
`StoreUnavailableError`, and what became of it can be seen. Lists are only read.
"""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeVar

from engine import dead_letters, queue_acts, schedules
from engine.acts import through_pool
from engine.client import Caller
from engine.dead_letters import DeadLetterRow
from engine.errors import ConfigurationError
from engine.schedules import BackFill, Schedule
from engine.store.queues import QueueDepth
from processor.blocking import from_thread
from processor.here import workflow_here

R = TypeVar("R")


class _Acts:
    """Acts of one actor through a client's connections."""

    def __init__(self, caller: Callable[[], Caller], actor: str) -> None:
        self._caller = caller
        self._actor = actor

    def _open(self, what: str) -> Caller:
        workflow_here(what, self._caller)
        return self._caller()

    def wait(self, call: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Make a call from a thread."""
        return from_thread(self._caller, call)


class Queues(_Acts):
    """Queues: what waits in them, and whether they go on."""

    async def list(self) -> Sequence[QueueDepth]:
        """Every queue that an app registered, or in which something waits, by name."""
        return await through_pool(self._open("queues.list()"), queue_acts.list_queues)

    async def pause(self, queue: str, *, note: str) -> None:
        """Start nothing of a queue from now on. What has started goes on. Raises `QueueError`."""
        await self._open("queues.pause()").once(
            lambda connection, schema: queue_acts.pause(connection, schema, queue, note=_noted(note), actor=self._actor)
        )

    async def resume(self, queue: str, *, note: str) -> None:
        """Let a queue go on. Raises `QueueError`."""
        await self._open("queues.resume()").once(
            lambda connection, schema: queue_acts.resume(
                connection, schema, queue, note=_noted(note), actor=self._actor
            )
        )


class Schedules(_Acts):
    """Schedules: what runs when, and whether it goes on."""

    async def list(self) -> Sequence[Schedule]:
        """Every schedule that an executor ever had, by name."""
        return await through_pool(self._open("schedules.list()"), schedules.list_schedules)

    async def pause(self, name: str, *, note: str) -> None:
        """Start no tick from now on, until it is resumed. Raises `ScheduleError`."""
        await self._open("schedules.pause()").once(
            lambda connection, schema: schedules.pause(connection, schema, name, note=_noted(note), actor=self._actor)
        )

    async def resume(self, name: str, *, note: str) -> int:
        """Start ticks again, from now on. Returns since when it was paused, epoch ms. Raises `ScheduleError`."""
        return await self._open("schedules.resume()").once(
            lambda connection, schema: schedules.resume(connection, schema, name, note=_noted(note), actor=self._actor)
        )

    async def trigger(self, name: str, *, note: str = "") -> str:
        """Run it once now, beside its ticks, also while it is paused; returns the workflow's ID. Raises `ScheduleError`."""
        return await self._open("schedules.trigger()").once(
            lambda connection, schema: schedules.trigger(connection, schema, name, note=note, actor=self._actor)
        )

    async def backfill(self, name: str, start: datetime, end: datetime, *, note: str = "") -> BackFill:
        """Start the ticks of a past range that have no workflow; may be repeated. Raises `ScheduleError`."""
        return await through_pool(
            self._open("schedules.backfill()"),
            lambda connection, schema: schedules.backfill(
                connection, schema, name, start, end, note=note, actor=self._actor
            ),
        )


class DeadLetters(_Acts):
    """Dead letters: records and workflows that were given up."""

    async def list(
        self,
        *,
        state: str | None = "OPEN",
        group: str | None = None,
        topic: str | None = None,
        handler: str | None = None,
        reason: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[DeadLetterRow]:
        """Dead letters that pass what is given, oldest first, with their records and errors.

        Args:
            state: OPEN, RETRIED or DISCARDED; `None`: all.
            group: Only of this consumer group.
            topic: Only of this topic.
            handler: Only of this handler.
            reason: Only with this reason.
            after: For paging: the last ID of the page before.
            limit: Of a page, up to 1,000.

        Raises:
            ConfigurationError: `limit` or `state` cannot be.
            UnreadablePayloadError: One is sealed, and this client lacks the key.
        """
        if not 1 <= limit <= dead_letters.LIST_MAX:
            raise ConfigurationError(f"limit={limit}: 1 to {dead_letters.LIST_MAX:,}; after= has the next page")
        if state not in (None, "OPEN", "RETRIED", "DISCARDED"):
            raise ConfigurationError(f"state={state!r}: OPEN, RETRIED, DISCARDED or None")
        caller = self._open("dead_letters.list()")
        found = await through_pool(
            caller,
            lambda connection, schema: dead_letters.list_dead_letters(
                connection,
                schema,
                state=state,
                group=group,
                topic=topic,
                handler=handler,
                reason=reason,
                after=after,
                limit=limit,
            ),
        )
        return [dead_letters.opened(letter, caller.payloads) for letter in found]

    async def show(self, dead_letter_id: int) -> DeadLetterRow:
        """One, with its record and error. Raises `DeadLetterError`, `UnreadablePayloadError`."""
        caller = self._open("dead_letters.show()")
        letter = await through_pool(
            caller, lambda connection, schema: dead_letters.show(connection, schema, dead_letter_id)
        )
        return dead_letters.opened(letter, caller.payloads)

    async def retry(self, *dead_letter_ids: int, note: str = "") -> int:
        """Put the workflows of dead letters back to work, all or none; returns how many. Raises `DeadLetterError`."""
        return await self._open("dead_letters.retry()").once(
            lambda connection, schema: dead_letters.retry(
                connection, schema, dead_letter_ids, note=note, actor=self._actor
            )
        )

    async def discard(self, *dead_letter_ids: int, note: str) -> int:
        """Give dead letters up, all or none; a key they block goes on. Returns how many. Raises `DeadLetterError`."""
        return await self._open("dead_letters.discard()").once(
            lambda connection, schema: dead_letters.discard(
                connection, schema, dead_letter_ids, note=_noted(note), actor=self._actor
            )
        )


def _noted(note: str) -> str:
    if not note.strip():
        raise ConfigurationError("note is empty: say why; it is recorded")
    return note


# -- for threads --


class SyncQueues:
    """`Queues` for threads."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    def list(self) -> Sequence[QueueDepth]:
        """Every queue. See `Queues.list`."""
        return self._queues.wait(self._queues.list)

    def pause(self, queue: str, *, note: str) -> None:
        """Start nothing of it from now on. See `Queues.pause`."""
        self._queues.wait(lambda: self._queues.pause(queue, note=note))

    def resume(self, queue: str, *, note: str) -> None:
        """Let it go on. See `Queues.resume`."""
        self._queues.wait(lambda: self._queues.resume(queue, note=note))


class SyncSchedules:
    """`Schedules` for threads."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    def list(self) -> Sequence[Schedule]:
        """Every schedule. See `Schedules.list`."""
        return self._schedules.wait(self._schedules.list)

    def pause(self, name: str, *, note: str) -> None:
        """Start no tick from now on. See `Schedules.pause`."""
        self._schedules.wait(lambda: self._schedules.pause(name, note=note))

    def resume(self, name: str, *, note: str) -> int:
        """Start ticks again. See `Schedules.resume`."""
        return self._schedules.wait(lambda: self._schedules.resume(name, note=note))

    def trigger(self, name: str, *, note: str = "") -> str:
        """Run it once now. See `Schedules.trigger`."""
        return self._schedules.wait(lambda: self._schedules.trigger(name, note=note))

    def backfill(self, name: str, start: datetime, end: datetime, *, note: str = "") -> BackFill:
        """Start the ticks of a past range that have no workflow. See `Schedules.backfill`."""
        return self._schedules.wait(lambda: self._schedules.backfill(name, start, end, note=note))


class SyncDeadLetters:
    """`DeadLetters` for threads."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters

    def list(
        self,
        *,
        state: str | None = "OPEN",
        group: str | None = None,
        topic: str | None = None,
        handler: str | None = None,
        reason: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[DeadLetterRow]:
        """Dead letters. See `DeadLetters.list`."""
        return self._dead_letters.wait(
            lambda: self._dead_letters.list(
                state=state, group=group, topic=topic, handler=handler, reason=reason, after=after, limit=limit
            )
        )

    def show(self, dead_letter_id: int) -> DeadLetterRow:
        """One. See `DeadLetters.show`."""
        return self._dead_letters.wait(lambda: self._dead_letters.show(dead_letter_id))

    def retry(self, *dead_letter_ids: int, note: str = "") -> int:
        """Put their workflows back to work. See `DeadLetters.retry`."""
        return self._dead_letters.wait(lambda: self._dead_letters.retry(*dead_letter_ids, note=note))

    def discard(self, *dead_letter_ids: int, note: str) -> int:
        """Give them up. See `DeadLetters.discard`."""
        return self._dead_letters.wait(lambda: self._dead_letters.discard(*dead_letter_ids, note=note))


__all__ = ["DeadLetters", "Queues", "Schedules", "SyncDeadLetters", "SyncQueues", "SyncSchedules"]
