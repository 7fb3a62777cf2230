"""The sources of a process: registering, first start, claims, requests, holds (P9, P30).

A claim is an epoch and a token on the progress row. It is taken only from an owner that released it or is dead; any
other owner is asked, and answers by releasing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from engine import incarnations
from engine.crashpoints import CrashPoint, reach
from engine.errors import ConfigurationError, HandlerRenamedError
from engine.faults import Fault, fault_of
from engine.ids import ExecutorId, SourceRef, new_token
from engine.progress import Progress
from engine.source import CLAIM_CHANNEL, Source, SourceListener
from engine.store import event_dispatch_kv, executor, holds
from engine.store.statement import send
from engine.telemetry import ExecutorBuried

if TYPE_CHECKING:
    from engine.engine import Engine

__all__ = ["RELEASED_ON_REQUEST", "Busy", "Source", "SourceListener", "Sources", "Start"]

RETRY_CLAIM_S = 0.25
"""Between two looks at a claim that another executor holds; NOTIFY shortens it."""

RELEASED_ON_REQUEST = "released on request"
"""Why a source was dropped whose claim another member asked for: the next claim waits for that one to be taken."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition without progress begins: an absolute offset, resolved before the first fetch.

    What its log holds from `passed_over` on and below the offset was never asked for: a recorded gap (I1).
    """

    offset: int
    topic_id: str = ""
    leader_epoch: int | None = None
    passed_over: int | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Another live executor holds the claim; it has been asked to release. Try again after `retry_s`, or when woken."""

    owner: ExecutorId
    retry_s: float


class Sources:
    """Every source of this process. `engine.sources`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owns: dict[tuple[str, str], bool] = {}
        self._waiting: dict[SourceRef, float] = {}
        self.current: dict[SourceRef, Source] = {}
        self.halted: dict[SourceRef, Source] = {}
        """Partitions that a hold stopped here: their listeners hear when it is lifted."""
        self.woken = asyncio.Event()
        """Set when a claim may have become free: a hint for whoever got `Busy`."""

    async def register(self, group: str, topic: str) -> bool:
        """Enter a topic; returns whether this group's IDs of it have no prefix (the first group's, for ever)."""
        if (known := self._owns.get((group, topic))) is not None:
            return known
        service = f"kafka:{group}"
        schema = self._engine.settings.schema
        async with self._engine.pool.connection() as connection, connection.transaction():
            await send(connection, schema, holds.own_topic(topic=topic, service=service))
            cursor = await send(connection, schema, holds.topic_owner(topic=topic))
            row = await cursor.fetchone()
        assert row is not None, "registered just now"
        owns = self._owns[group, topic] = row[0] == service
        return owns

    async def stored(self, group: str, topic: str) -> dict[int, Progress]:
        """The progress of every partition of a topic that has any."""
        async with self._engine.pool.connection() as connection:
            cursor = await send(
                connection,
                self._engine.settings.schema,
                event_dispatch_kv.of_topic(service=f"kafka:{group}", topic=topic),
            )
            rows = await cursor.fetchall()
        return {int(row.key[len(topic) + 1 :]): Progress.decode(row.value) for row in rows}

    async def first_start(self, group: str, handler: str, topic: str, starts: Mapping[int, Start]) -> None:
        """Store where partitions begin, all at once, before the first fetch; rows that stand stay as they are."""
        await self.register(group, topic)
        schema = self._engine.settings.schema
        async with self._engine.pool.connection() as connection, connection.transaction():
            # The owner's row is the lock: of two processes that start for the first time, one stores its starts.
            await send(connection, schema, holds.topic_owner(topic=topic))
            begun = await send(
                connection,
                schema,
                event_dispatch_kv.begin(
                    service=f"kafka:{group}",
                    handler=handler,
                    keys=[f"{topic}-{partition}" for partition in starts],
                    values=[
                        Progress(
                            next=start.offset,
                            high=start.offset,
                            topic_id=start.topic_id,
                            leader_epoch=start.leader_epoch,
                        ).encode()
                        for start in starts.values()
                    ],
                ),
            )
            keys = {key for (key,) in await begun.fetchall()}
            for partition, start in starts.items():
                ref = SourceRef(group, handler, topic, partition)
                if start.passed_over is not None and start.passed_over < start.offset and ref.key in keys:
                    gap = holds.gap(
                        source=ref.name(1),
                        start=start.passed_over,
                        end=start.offset,
                        reason="first start",
                        by=f"group {group}",
                    )
                    await send(connection, schema, gap)

    async def claim(self, ref: SourceRef, *, generation: int, renamed_from: str | None = None) -> Source | Busy:
        """Take a partition's claim (P9): from an owner that released it, is dead, or is this executor.

        Raises:
            HandlerRenamedError: The progress is another handler's.
            ConfigurationError: The partition has no progress row (`first_start` comes before).
        """
        engine = self._engine
        await engine.until_alive()
        owns_topic = await self.register(ref.group, ref.topic)
        schema = engine.settings.schema
        since = self._waiting.setdefault(ref, time.monotonic())
        me = engine.executor_id
        if (mine := self.current.get(ref)) is not None:
            await mine.release()
        async with engine.pool.connection() as connection:
            try:
                async with connection.transaction():
                    await connection.execute(
                        "SELECT set_config('lock_timeout', %s, true)",
                        [f"{int(engine.settings.lock_timeout.total_seconds() * 1000)}"],
                    )
                    cursor = await send(
                        connection, schema, event_dispatch_kv.lock(service=ref.service_name, key=ref.key)
                    )
                    row = await cursor.fetchone()
                    if row is None:
                        raise ConfigurationError(f"{ref}: no progress row; its start was never stored")
                    if row.handler not in (ref.handler, renamed_from):
                        raise HandlerRenamedError(ref, stored=row.handler)
                    held = Progress.decode(row.value, ref)
                    owner_dead = await self._is_dead(connection, held.owner)
                    taken = held.to(token=new_token(), owner=me, released=False, generation=generation)
                    if not (held.released or owner_dead or held.owner == me):
                        cursor = await send(
                            connection,
                            schema,
                            executor.request(
                                service=ref.service_name,
                                key=ref.key,
                                executor_id=me,
                                generation=generation,
                            ),
                        )
                        assert held.owner is not None, "a claim that is not released has an owner"
                        busy = Busy(ExecutorId(held.owner), RETRY_CLAIM_S)
                        asked = await cursor.fetchone()
                        unanswered_ms = asked[0] if asked is not None else 0
                        if unanswered_ms > engine.settings.lease.total_seconds() * 1000:
                            # It lives and does not answer: its loop hangs. Takeover follows when its lease ends (P9).
                            await send(connection, schema, executor.condemn(executor_id=busy.owner))
                            engine.telemetry.emit(ExecutorBuried(busy.owner, f"{ref}: no answer to a request"))
                    else:
                        busy = None
                        await send(
                            connection,
                            schema,
                            event_dispatch_kv.write(
                                service=ref.service_name,
                                key=ref.key,
                                handler=ref.handler,
                                epoch=row.epoch + 1,
                                value=taken.encode(),
                            ),
                        )
                        await send(
                            connection,
                            schema,
                            executor.withdraw(service=ref.service_name, key=ref.key, executor_id=me),
                        )
            except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                return Busy(ExecutorId("a transaction that holds the row"), RETRY_CLAIM_S)
        if busy is not None:
            engine.notify(CLAIM_CHANNEL, f"request {busy.owner}")
            return busy
        reach(CrashPoint.CLAIMED)
        if not engine.is_alive_as(me):
            return Busy(me, RETRY_CLAIM_S)  # what it claimed for is dead (P2); the next claim takes it over
        self._waiting.pop(ref, None)
        self.halted.pop(ref, None)
        source = Source(
            engine,
            ref,
            epoch=row.epoch + 1,
            progress=taken,
            owns_topic=owns_topic,
            after_death=owner_dead and not held.released,
            waited_s=time.monotonic() - since,
        )
        self.current[ref] = source
        return source

    def no_longer_wanted(self, ref: SourceRef) -> None:
        """The partition is not assigned any more while its claim was awaited."""
        self._waiting.pop(ref, None)

    async def new_incarnation(self, judged: Source, *, topic_id: str, start: int, by: str) -> bool:
        """Another topic of the same name: IDs become `topic~n-…`, from `start` (P30).

        Counts only while the claim under which that was judged is the last one, whoever has judged: between the
        judgement and this commit another may have claimed the partition, begun the same topic, and run all of it.
        Returns whether it was begun; where not, the next claim judges anew.
        """
        engine, ref = self._engine, judged.ref
        schema = engine.settings.schema
        await judged.release()
        async with engine.pool.connection() as connection, connection.transaction():
            cursor = await send(connection, schema, event_dispatch_kv.lock(service=ref.service_name, key=ref.key))
            row = await cursor.fetchone()
            assert row is not None, "a partition that was claimed has a progress row"
            held = Progress.decode(row.value, ref)
            # Every claim, seek and incarnation raises the epoch; the others are what it must come with.
            if row.epoch != judged.epoch or held.token != judged.progress.token:
                return False
            if held.topic_id != judged.topic_id or held.topic_id == topic_id:
                return False
            # Who is dead writes nothing (P2), and what it did not release is taken over with caution (P21).
            me = engine.executor_id
            if not (held.released or held.owner == me) or await self._is_dead(connection, me):
                return False
            progress = incarnations.another(held, topic_id=topic_id, start=start, token=held.token, released=True)
            await send(
                connection,
                schema,
                event_dispatch_kv.write(
                    service=ref.service_name,
                    key=ref.key,
                    handler=row.handler,
                    epoch=row.epoch + 1,
                    value=progress.encode(),
                ),
            )
            await incarnations.leave_behind(connection, schema, ref, progress.incarnation)
            detail = f"new incarnation (topic {topic_id}) by {by}"
            await send(
                connection, schema, holds.audit(actor="engine", action="incarnation", subject=str(ref), detail=detail)
            )
        return True

    async def skip_gap(self, source: Source, *, to: int, reason: str, by: str) -> None:
        """Go on above offsets that Kafka no longer has, with a recorded gap (I1). Only before `open`."""
        engine = self._engine
        schema = engine.settings.schema
        progress = source.progress.to(next=to, high=max(to, source.progress.high))
        async with engine.pool.connection() as connection, connection.transaction():
            await send(connection, schema, _fence_one(source, progress))
            await send(
                connection,
                schema,
                holds.gap(source=source.name, start=source.progress.next, end=to, reason=reason, by=by),
            )
        source.progress, source.value = progress, progress.encode()
        source.inbox.offsets.reach(to)
        source.inbox.high = max(to, source.inbox.high)

    async def place_hold(self, ref: SourceRef, *, kind: str, reason: str) -> bool:
        """Store a hold on a whole partition, however long Postgres is away. Returns whether it is new, as far as is known."""
        placing = holds.place(
            services=[ref.service_name],
            keys=[ref.key],
            ordering_keys=[None],
            kinds=[kind],
            reasons=[reason],
            workflows=[None],
        )
        may_stand = False
        while not self._engine.is_aborted:
            try:
                async with self._engine.pool.connection() as connection:
                    cursor = await send(connection, self._engine.settings.schema, placing)
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    raise
                may_stand = True  # by the try whose reply was lost
                await asyncio.sleep(RETRY_CLAIM_S)
            else:
                return may_stand or cursor.rowcount > 0
        return False

    async def answer(
        self, service: str, key: str, requester: ExecutorId, generation: int, *, requester_alive: bool
    ) -> None:
        """Answer a request for a partition whose row names us, attached or not (P9); then delete it."""
        engine = self._engine
        schema = engine.settings.schema
        source = next((s for s in self.attached() if s.ref.service_name == service and s.ref.key == key), None)
        if source is None:
            await self._release_unknown(service, key)
        elif requester_alive and generation > source.progress.generation:
            await source.release()
            source.tell_dropped(RELEASED_ON_REQUEST)
        async with engine.pool.connection() as connection:
            await send(connection, schema, executor.withdraw(service=service, key=key, executor_id=requester))

    async def _release_unknown(self, service: str, key: str) -> None:
        """A claim that names us without a source here: the reply to it was lost. Give it up in place."""
        engine = self._engine
        schema = engine.settings.schema
        async with engine.pool.connection() as connection, connection.transaction():
            cursor = await send(connection, schema, event_dispatch_kv.lock(service=service, key=key))
            row = await cursor.fetchone()
            if row is None:
                return
            held = Progress.decode(row.value)
            claimed_meanwhile = any(s.ref.service_name == service and s.ref.key == key for s in self.attached())
            if held.owner != engine.executor_id or held.released or claimed_meanwhile:
                return
            await send(
                connection,
                schema,
                event_dispatch_kv.write(
                    service=service,
                    key=key,
                    handler=row.handler,
                    epoch=row.epoch + 1,
                    value=held.to(released=True).encode(),
                ),
            )

    def compare(self, stored: list[list[Any]], known: Mapping[tuple[str, str], tuple[int, int]]) -> str | None:
        """Compare stored progress with what stood before it was read: why the database went back, if it did (P4).

        A partition with a higher epoch is another's: it is dropped.
        """
        rows = {(service, key): (epoch, value) for service, key, epoch, value in stored}
        for source in self.attached():
            place = (source.ref.service_name, source.ref.key)
            if place not in known:
                continue
            epoch, flush = known[place]
            row = rows.get(place)
            if row is None or row[0] < epoch or (row[0] == epoch and Progress.decode(row[1]).flush < flush):
                return f"{source.ref}: progress is behind what was written"
            if row[0] > max(epoch, source.epoch) and not source.is_settling:
                source.drop("fenced")
        return None

    def compare_hold(self, source: Source, found: list[holds.HoldRow]) -> None:
        """A hold on a whole partition was placed or lifted by somebody else."""
        if found and source.held is None and not source.is_gone:
            source.pause_soon(f"{found[0].kind}: {found[0].reason}")
        elif not found and source.held is not None and self.halted.get(source.ref) is source and source.may_resume:
            del self.halted[source.ref]
            source.tell_dropped("hold lifted")

    def forget(self, source: Source) -> None:
        """A source has ended."""
        if self.current.get(source.ref) is source:
            del self.current[source.ref]

    def attached(self) -> list[Source]:
        """The claims of this process."""
        return list(self.current.values())

    async def _is_dead(self, connection: psycopg.AsyncConnection[Any], owner: str | None) -> bool:
        if owner is None:
            return True
        cursor = await send(connection, self._engine.settings.schema, executor.is_gone(executor_id=ExecutorId(owner)))
        row = await cursor.fetchone()
        return row is None or row[0]


def _fence_one(source: Source, progress: Progress) -> Any:
    return event_dispatch_kv.fence(
        services=[source.ref.service_name],
        keys=[source.ref.key],
        epochs=[source.epoch],
        held=[source.value],
        written=[progress.encode()],
    )
