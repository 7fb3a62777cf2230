"""The admin API of what runs beside workflows: queues, schedules, retention, the outbox. What the commands of their names do.

viewer     what there is                                             GET /admin/queues, /admin/schedules, …
operator   pause and resume queues and schedules, run a tick,        POST /admin/queues/{queue}/pause, …
back-fill; pause retention
admin      what deletes, gives up or publishes again                 POST /admin/retention/run, /admin/outbox/resume, …
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime, Field
from starlette.requests import Request

from engine import audited, outbox, queue_acts, retention_acts, schedules
from engine.engine import Engine
from processor.web.admin import BIGINT_MAX, Limit, Named, Text, WithPayloads, check_payloads, given
from processor.web.guard import caller_of
from processor.web.models import Done, Reason
from processor.web.models_services import (
    Due,
    Filled,
    Forked,
    Kept,
    ShownEvent,
    ShownQueue,
    ShownRelay,
    ShownRetention,
    ShownSchedule,
)
from processor.web.statements import Statements

DISCARDED_MAX = 1_000
"""Events that one request gives up."""


class Range(Reason):
    """A range of the past; `to` is not in it, and is now unless it is said."""

    since: AwareDatetime
    to: AwareDatetime | None = None


class Events(Reason):
    """Which events, all or none."""

    events: list[Annotated[int, Field(ge=1, le=BIGINT_MAX)]] = Field(min_length=1, max_length=DISCARDED_MAX)


class Services:
    """Answers operators about queues, schedules, retention and the outbox.

    Args:
        engine: Of this process.
        statements: Through which the database is read and acted on.
    """

    def __init__(self, engine: Callable[[], Engine], statements: Statements) -> None:
        self._engine = engine
        self._db = statements

    # -- queues --

    async def queues(self) -> list[ShownQueue]:
        """Every queue that an app registered, or in which something waits, by name."""
        return [ShownQueue.of(row) for row in await self._db.read(queue_acts.list_queues)]

    async def pause_queue(self, queue: Named, http__request: Request, reason: Reason) -> Done:
        """Start nothing of a queue from now on; what has started goes on."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(lambda c, schema: queue_acts.pause(c, schema, queue, note=note, actor=actor))
        return Done(done=True)

    async def resume_queue(self, queue: Named, http__request: Request, reason: Reason) -> Done:
        """Let a paused queue go on."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(lambda c, schema: queue_acts.resume(c, schema, queue, note=note, actor=actor))
        return Done(done=True)

    # -- schedules --

    async def schedules(self) -> list[ShownSchedule]:
        """Every schedule that an executor ever had, with its last tick and its next one."""
        return [ShownSchedule.of(row) for row in await self._db.read(schedules.list_schedules)]

    async def pause_schedule(self, name: Named, http__request: Request, reason: Reason) -> Done:
        """Start no tick from now on; what was started runs on."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(lambda c, schema: schedules.pause(c, schema, name, note=note, actor=actor))
        return Done(done=True)

    async def resume_schedule(self, name: Named, http__request: Request, reason: Reason) -> Done:
        """Start ticks again, from now on; those of the pause are passed over."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(lambda c, schema: schedules.resume(c, schema, name, note=note, actor=actor))
        return Done(done=True)

    async def trigger(self, name: Named, http__request: Request, reason: Reason | None = None) -> Forked:
        """Run it once now, beside its ticks, also while it is paused."""
        note, actor = "" if reason is None else reason.note, caller_of(http__request).actor
        workflow_id = await self._db.act(lambda c, schema: schedules.trigger(c, schema, name, note=note, actor=actor))
        return Forked(workflow_id=workflow_id)

    async def backfill(self, name: Named, http__request: Request, range: Range) -> Filled:  # noqa: A002  # the body
        """Start the ticks of a past range that have not run; may be repeated."""
        actor, until = caller_of(http__request).actor, range.to or datetime.now(UTC)
        done = await self._db.act(
            lambda c, schema: schedules.backfill(c, schema, name, range.since, until, note=range.note, actor=actor)
        )
        return Filled(started=done.started, stood=done.stood)

    # -- retention --

    async def retention(self) -> ShownRetention:
        """How long what has ended is kept, as the processes said when they started."""
        found = await self._db.read(retention_acts.read_policies)
        kept = [
            Kept(
                handler=row.handler,
                kind=row.kind,
                keep=None if row.keep_ms is None else timedelta(milliseconds=row.keep_ms),
            )
            for row in found.rows
        ]
        return ShownRetention(policies=kept, paused=found.paused)

    async def due(self, http__request: Request) -> list[Due]:
        """Rows that have outlived their policies: they are counted, which takes a while."""
        return await self._sweep(caller_of(http__request).actor, dry_run=True)

    async def delete_due(self, http__request: Request, reason: Reason) -> list[Due]:
        """Delete what is due now. What takes longer than a request is deleted batch by batch all the same: ask again."""
        note, actor = given(reason), caller_of(http__request).actor
        # Before it: where the request's time ends it, what was deleted stays so.
        await self._db.act(
            lambda c, schema: audited.record(
                c, schema, actor=actor, action="sweep asked for", subject=retention_acts.SUBJECT, detail=note
            )
        )
        return await self._sweep(actor, dry_run=False)

    async def pause_retention(self, http__request: Request, reason: Reason) -> Done:
        """Stop all deleting, by whatever process, until it is resumed."""
        note, actor = given(reason), caller_of(http__request).actor
        return Done(await self._db.act(lambda c, schema: retention_acts.pause(c, schema, note=note, actor=actor)))

    async def resume_retention(self, http__request: Request, reason: Reason) -> Done:
        """Take the pause away."""
        note, actor = given(reason), caller_of(http__request).actor
        return Done(await self._db.act(lambda c, schema: retention_acts.resume(c, schema, note=note, actor=actor)))

    async def _sweep(self, actor: str, *, dry_run: bool) -> list[Due]:
        rows_max = self._engine().settings.retention.rows_max
        gone = await self._db.act(
            lambda c, schema: retention_acts.sweep_now(c, schema, actor=actor, rows_max=rows_max, dry_run=dry_run)
        )
        return [Due(handler=handler, kind=kind, rows=rows) for (handler, kind), rows in sorted(gone.items())]

    # -- the outbox --

    async def relay(self) -> ShownRelay:
        """Who relays, how far, how much waits, and why nothing is published if so."""
        return ShownRelay.of(await self._db.read(outbox.relay_state))

    async def events(
        self,
        http__request: Request,
        *,
        topic: Text | None = None,
        after: Annotated[int, Query(ge=0, le=BIGINT_MAX)] = 0,
        limit: Limit = 100,
        payloads: WithPayloads = False,
    ) -> list[ShownEvent]:
        """Events that wait, the oldest first, with an ID above `after`."""
        check_payloads(http__request, payloads=payloads)
        rows = await self._db.read(lambda c, schema: outbox.waiting(c, schema, topic=topic, after=after, limit=limit))
        return [ShownEvent.of(row, payloads=payloads) for row in rows]

    async def resume_relay(self, http__request: Request, reason: Reason) -> Done:
        """Let a halted relay go on from Kafka's position: every event that stands in the table is published."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(lambda c, schema: outbox.resume(c, schema, note=note, actor=actor))
        return Done(done=True)

    async def discard_events(self, http__request: Request, events: Events) -> Done:
        """Give events up, all or none: they are not published, unless they are on their way already."""
        note, actor = given(events), caller_of(http__request).actor
        await self._db.act(lambda c, schema: outbox.discard(c, schema, events.events, note=note, actor=actor))
        return Done(done=True)

    async def rename_outbox(self, http__request: Request, reason: Reason) -> ShownRelay:
        """Give the outbox of a copied database a name of its own in Kafka; what stands in it is published."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(lambda c, schema: outbox.rename(c, schema, note=note, actor=actor))
        return await self.relay()


__all__ = ["Services"]
