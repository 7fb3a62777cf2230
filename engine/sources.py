"""Ordered sources (partitions): registering, first start, claims, releases, holds (P9 to P12, P30).

    claim ─▶ open ─▶ deliver … ─▶ release ─▶ (late runs end under the row fence)
               │         │
               │         └─ fenced, executor dead, database went back ─▶ dropped
               └─ held: claimed, but not to be attached

A claim is an epoch and a token on the progress row. It is taken only from an owner that released it or is dead.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psycopg

from engine.crashpoints import CrashPoint, reach
from engine.errors import ConfigurationError, HandlerRenamedError
from engine.flush import Flush, Part, Work
from engine.fused import group_of
from engine.handlers import HandlerKind
from engine.ids import ExecutorId, OrderingKey, OwnerToken, SourceRef, new_token
from engine.inbox import Inbox
from engine.progress import Progress
from engine.records import Record
from engine.runner import Ending, Phase, Run, Standing
from engine.store import event_dispatch_kv, executor, holds, workflow_status
from engine.store.statement import send
from engine.store.workflow_status import FoundRow
from engine.telemetry import (
    DeadLettered,
    ExecutorBuried,
    HoldPlaced,
    SourceClaimed,
    SourceDropped,
    SourceReleased,
)

if TYPE_CHECKING:
    from engine.committer import Committer
    from engine.engine import Engine

OPEN_ROWS_MAX = 50_000
"""Open rows of one partition taken over at a claim; `parked_max` and the in-flight limit keep them below."""

RETRY_CLAIM_S = 0.25
"""Between two looks at a claim that another executor holds; NOTIFY shortens it."""

CLAIM_CHANNEL = "processor_claims"

RELEASED_ON_REQUEST = "released on request"
"""Why a source was dropped whose claim another member asked for: the next claim waits for that one to be taken."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition without progress begins: an absolute offset, resolved before the first fetch."""

    offset: int
    topic_id: str = ""
    leader_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Another live executor holds the claim; it has been asked to release. Try again after `retry_s`, or when woken."""

    owner: ExecutorId
    retry_s: float


class SourceListener(Protocol):
    """Who is told that a source ended from the engine's side. Called on the loop; must not wait."""

    def dropped(self, source: Source, reason: str) -> None:
        """The claim is gone, or the partition halted: detach it from Kafka; claim again if still assigned."""
        ...


class Source:
    """One claim of one partition: from `Sources.claim` until released, dropped or halted.

    `congested` is written on the loop and read by the poll thread; everything else belongs to the loop.
    """

    def __init__(
        self,
        engine: Engine,
        ref: SourceRef,
        *,
        epoch: int,
        progress: Progress,
        owns_topic: bool,
        after_death: bool,
        waited_s: float,
    ) -> None:
        self.engine = engine
        self.ref = ref
        self.epoch = epoch
        self.token = OwnerToken(progress.token)
        self.progress = progress
        self.value = progress.encode()
        self.name = ref.name(progress.incarnation)
        self.id_prefix = ref.id_prefix(owns_topic=owns_topic, incarnation=progress.incarnation)
        self.held: str | None = None
        self.congested = False
        self.leader_epoch = progress.leader_epoch
        self.high_min = 0
        self.after_death = after_death
        handler = engine.handler(ref.handler)
        self.is_fused = handler.kind is not HandlerKind.JOURNALED
        self.inbox = Inbox(engine, self, handler, cautious=after_death)
        self._waited_s = waited_s
        self._committer: Committer | None = None
        self._listener: SourceListener | None = None
        self._dirty: deque[Run] = deque()
        self._acquires: list[Run] = []
        self._wants_look_up = False
        self._wants_progress = False
        self._is_gone = False
        self._releasing = False
        self._anew: str | None = None
        self._ended = asyncio.Event()
        self._release_started = 0.0
        self.may_resume = False
        """Whether the hold that stopped it is stored: its absence then means that it was lifted."""

    # -- for consumers --

    async def open(self, listener: SourceListener) -> None:
        """Read the open rows and the holds (P10), in a statement after the claim's, and take them over."""
        self._listener = listener
        async with self.engine.pool.connection() as connection:
            schema = self.engine.settings.schema
            # Holds first: a retry that lifts one puts its row back in the same commit, so that whoever misses the
            # hold sees the row.
            cursor = await send(connection, schema, holds.read(services=[self.ref.service_name], keys=[self.ref.key]))
            found = await cursor.fetchall()
            cursor = await send(connection, schema, workflow_status.open_rows(source=self.name, limit=OPEN_ROWS_MAX))
            rows = await cursor.fetchall()
        if self.is_gone:
            return
        for hold in found:
            if hold.ordering_key is None:
                self.held = f"{hold.kind}: {hold.reason}"
            else:
                self.inbox.blocked.add(OrderingKey(hold.ordering_key))
        self.engine.telemetry.emit(SourceClaimed(self.ref, self.epoch, self.after_death, len(rows), self._waited_s))
        if self.held is not None:
            self.may_resume = True
            self.engine.sources.halted[self.ref] = self
            return
        self._committer = self.engine.committer_for(self)
        self.inbox.take_over(rows, self.progress.next)

    def deliver(self, records: list[Record]) -> None:
        """Take records in ascending order. Nothing is lost if this claim is gone: Kafka still has them."""
        if records and not self.is_gone:
            if records[-1].leader_epoch is not None:
                self.leader_epoch = records[-1].leader_epoch
            self.inbox.deliver(records)

    def reached(self, offset: int) -> None:
        """Kafka's position: nothing more comes below it."""
        if not self.is_gone:
            self.inbox.reached(offset)

    async def release(self) -> None:
        """Give the claim up (P11): one flush persists every open record. Returns when that is durable, or moot.

        Steps that still run end under the row fence, while the next owner holds their keys (P12).
        """
        if not self._releasing and not self._is_gone:
            self._begin_release()
        await self._ended.wait()

    def lose(self, reason: str) -> None:
        """Kafka says that the partition is another's already: the same path, and the fence decides what counts."""
        del reason
        if not self._releasing and not self._is_gone:
            self._begin_release()

    async def halt(self, reason: str) -> None:
        """Stop the partition until an operator decides: a stored hold, then a release."""
        await self.engine.sources.place_hold(self.ref, kind="halt", reason=reason)
        self.held = f"halt: {reason}"
        self.engine.sources.halted[self.ref] = self
        self.engine.telemetry.emit(HoldPlaced(self.ref, "halt", reason, None))
        await self.release()

    # -- for the inbox and the committer --

    @property
    def is_gone(self) -> bool:
        """Whether nothing of this claim can be written any more."""
        return self._is_gone

    @property
    def is_released(self) -> bool:
        """Whether the release is durable: what still runs is decided under the row fence."""
        return self.progress.released

    @property
    def has_work(self) -> bool:
        """Whether there is anything for the next flush."""
        return bool(
            self._dirty or self._acquires or self._wants_look_up or self._wants_progress or self.inbox.group
        ) or (self._releasing and not self._is_gone)

    def wants(
        self, *, run: Run | None = None, acquire: Run | None = None, look_up: bool = False, group: bool = False
    ) -> None:
        """Note work for the next flush."""
        del group  # lies in the inbox
        if run is not None:
            self._dirty.append(run)
        if acquire is not None:
            self._acquires.append(acquire)
        if look_up:
            self._wants_look_up = True
        if self._committer is not None:
            self._committer.wants(self)

    def advance(self) -> None:
        """Progress moved without a row: decisions, known records, gaps."""
        self._wants_progress = True
        if self._committer is not None:
            self._committer.wants(self)

    def take_into(self, flush: Flush, room: int) -> int:
        """Move work into a flush, at most about `room` rows of it. Returns how many."""
        part = Part(self)
        flush.parts.append(part)
        self._wants_progress = False
        if self._releasing:
            part.releases = True
            works = [Work(run, releases=True) for run in self.inbox.runs.values()]
            flush.works.extend(work for work in works if not work.is_empty)
            self._dirty.clear()
            self._acquires.clear()
            return 0
        taken = 0
        while self._dirty and taken < room:
            run = self._dirty.popleft()
            work = Work(run)
            if work.is_empty or run.standing is not Standing.ACTIVE:
                run.submitted = False
                continue
            flush.works.append(work)
            taken += work.size
        part.acquires, self._acquires = self._acquires, []
        if self._wants_look_up:
            self._wants_look_up = False
            part.look_ups = list(self.inbox.looking)
        if self.is_fused and (group := group_of(self.inbox)) is not None:
            flush.group = group
            flush.works.extend(Work(run) for run in group.runs)
        return taken

    def written(self, part: Part) -> None:
        """A flush with this part is durable."""
        self.progress, self.value = part.progress, part.value
        if part.releases:
            self._released()
        elif self._anew is not None and part.progress.high >= self.high_min:
            self.drop(self._anew)

    def mismatch(self, row: FoundRow, record: Record) -> str | None:
        """Why a stored row cannot be of this record, if so: another's, or the log was rewritten (P16)."""
        if row.source != self.name or row.name != self.ref.handler:
            return (
                f"workflow {row.workflow_id} stands already as {row.name!r} of {row.source or 'no source'}: "
                f"another group or program uses this ID"
            )
        if row.request and record.timestamp_ms and f'"timestamp": {record.timestamp_ms},' not in row.request:
            return f"offset {record.offset} has another record than the one stored: the log was rewritten"
        return None

    def dead_lettered(self, run: Run, ending: Ending) -> None:
        """Tell of a durable dead letter, and of its hold."""
        self.engine.telemetry.emit(DeadLettered(self.ref, self.ref.handler, run.id, ending.reason, ending.summary))
        if ending.hold is not None:
            self.engine.telemetry.emit(HoldPlaced(self.ref, ending.hold[0], ending.hold[2], run.id))

    def halt_soon(self, reason: str) -> None:
        """Stop by policy, after a hold that is durable or that this places: open records are persisted first."""
        if self.held is None and not self._is_gone:
            self.held = f"halt: {reason}"
            self.inbox.is_stopped = True
            self.engine.spawn(self._halted(reason))

    async def _halted(self, reason: str) -> None:
        await self.halt(reason)
        self.may_resume = True
        self.tell_dropped(self.held or reason)

    def pause_soon(self, reason: str) -> None:
        """An operator's hold on the partition was found: release, and wait for it to be lifted."""
        self.held = reason
        self.inbox.is_stopped = True
        self.engine.spawn(self._paused(reason))

    async def _paused(self, reason: str) -> None:
        self.engine.sources.halted[self.ref] = self
        await self.release()
        self.may_resume = True
        self.tell_dropped(reason)

    def tell_dropped(self, reason: str) -> None:
        """Have the consumer detach the partition, and claim it again if it is still assigned."""
        if self._listener is not None:
            self._listener.dropped(self, reason)

    def break_off(self, reason: str) -> None:
        """Stop at once: nothing of this claim can be written as it is. The hold says why."""
        if self._is_gone:
            return
        self.held = f"halt: {reason}"
        self.engine.sources.halted[self.ref] = self
        self.engine.spawn(self._break_off(reason))
        self.engine.telemetry.emit(HoldPlaced(self.ref, "halt", reason, None))
        self.drop(self.held)

    async def _break_off(self, reason: str) -> None:
        await self.engine.sources.place_hold(self.ref, kind="halt", reason=reason)
        self.may_resume = True

    def claim_anew_above(self, offset: int, reason: str) -> None:
        """Raise `high` above an offset in the next flush, then give this claim up for a new one that looks it up."""
        self.high_min = max(self.high_min, offset + 1)
        self._anew = reason
        self.advance()

    def drop(self, reason: str) -> None:
        """The claim is no longer ours: abandon everything of it (P4, P6). Results of what still runs are dropped."""
        if self._is_gone:
            return
        self._is_gone = True
        self._leave(self.inbox.close(), Standing.ABANDONED)
        self.engine.telemetry.emit(SourceDropped(self.ref, reason))
        if self._listener is not None and not self._releasing:
            self._listener.dropped(self, reason)

    # -- releasing --

    def _begin_release(self) -> None:
        self._releasing = True
        self._release_started = time.monotonic()
        for run in self.inbox.close():
            if run.phase is Phase.RUNNING:
                run.standing = Standing.LATE
                run.wake_waiters()
        if self._committer is None:
            # Never opened: nothing to persist, but the row must say so.
            self._committer = self.engine.committer_for(self)
        self._committer.wants(self)

    def _released(self) -> None:
        self._is_gone = True
        late = self._leave(list(self.inbox.runs.values()), Standing.LATE)
        self.engine.telemetry.emit(SourceReleased(self.ref, late, time.monotonic() - self._release_started))
        reach(CrashPoint.RELEASED)
        self.engine.notify(CLAIM_CHANNEL, f"released {self.ref.service_name} {self.ref.key}")

    def _leave(self, runs: list[Run], standing: Standing) -> int:
        """Hand what still runs to the late runs; forget the rest."""
        if self._committer is not None:
            self._committer.sources.discard(self)
        self.inbox.uncount_all()
        self.engine.sources.forget(self)
        late = 0
        for run in runs:
            is_running = run.task is not None and not run.task.done()
            if is_running and run.standing in (Standing.ACTIVE, Standing.LATE):
                run.standing = standing
                late += 1
                self.engine.late.add(run)
                run.wake_waiters()
            elif standing is Standing.LATE and run.phase is Phase.ENDED and run.standing is Standing.LATE:
                late += 1
                self.engine.late.add(run)
                self.engine.late_run_ended(run)
            elif run.phase is not Phase.DONE:
                run.standing = Standing.ABANDONED
        self._ended.set()
        return late


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
            await send(
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
                    held = Progress.decode(row.value)
                    owner_dead = await self._is_dead(connection, held.owner)
                    taken = held.to(token=new_token(), owner=engine.executor_id, released=False, generation=generation)
                    if not (held.released or owner_dead or held.owner == engine.executor_id):
                        cursor = await send(
                            connection,
                            schema,
                            executor.request(
                                service=ref.service_name,
                                key=ref.key,
                                executor_id=engine.executor_id,
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
                            executor.withdraw(service=ref.service_name, key=ref.key, executor_id=engine.executor_id),
                        )
            except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                return Busy(ExecutorId("a transaction that holds the row"), RETRY_CLAIM_S)
        if busy is not None:
            engine.notify(CLAIM_CHANNEL, f"request {busy.owner}")
            return busy
        self._waiting.pop(ref, None)
        self.halted.pop(ref, None)
        reach(CrashPoint.CLAIMED)
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

    async def new_incarnation(self, ref: SourceRef, *, topic_id: str, start: int, by: str) -> None:
        """Another topic of the same name: IDs become `topic~n-…`, from `start` (P30). The claim must be ours."""
        await self._rewrite(ref, f"new incarnation (topic {topic_id}) by {by}", topic_id=topic_id, start=start)

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

    async def place_hold(self, ref: SourceRef, *, kind: str, reason: str) -> None:
        """Store a hold on a whole partition."""
        async with self._engine.pool.connection() as connection:
            await send(
                connection,
                self._engine.settings.schema,
                holds.place(
                    services=[ref.service_name],
                    keys=[ref.key],
                    ordering_keys=[None],
                    kinds=[kind],
                    reasons=[reason],
                    workflows=[None],
                ),
            )

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
            if row[0] > max(epoch, source.epoch):
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

    async def _rewrite(self, ref: SourceRef, detail: str, *, topic_id: str, start: int) -> None:
        """A claim that sets `next`: epoch + 1, a new incarnation (P30)."""
        engine = self._engine
        schema = engine.settings.schema
        if (mine := self.current.get(ref)) is not None:
            await mine.release()
        async with engine.pool.connection() as connection, connection.transaction():
            cursor = await send(connection, schema, event_dispatch_kv.lock(service=ref.service_name, key=ref.key))
            row = await cursor.fetchone()
            assert row is not None, "a partition that was claimed has a progress row"
            held = Progress.decode(row.value)
            if not (held.released or held.owner == engine.executor_id):
                raise ConfigurationError(f"{ref}: claimed by {held.owner} meanwhile")
            written = held.to(
                next=start,
                high=start,
                topic_id=topic_id,
                incarnation=held.incarnation + 1,
                leader_epoch=None,
                released=True,
            )
            await send(
                connection,
                schema,
                event_dispatch_kv.write(
                    service=ref.service_name,
                    key=ref.key,
                    handler=row.handler,
                    epoch=row.epoch + 1,
                    value=written.encode(),
                ),
            )
            await send(
                connection, schema, holds.audit(actor="engine", action="incarnation", subject=str(ref), detail=detail)
            )


def _fence_one(source: Source, progress: Progress) -> Any:
    return event_dispatch_kv.fence(
        services=[source.ref.service_name],
        keys=[source.ref.key],
        epochs=[source.epoch],
        held=[source.value],
        written=[progress.encode()],
    )
