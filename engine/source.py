"""One claim of one partition: from `Sources.claim` until it is released, dropped or halted (P10, P11).

open ─▶ deliver … ─▶ release ─▶ (late runs end under the row fence)
  │         │
  │         └─ fenced, executor dead, database went back ─▶ dropped
  └─ held: claimed, but not to be attached
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from engine.crashpoints import CrashPoint, reach
from engine.flush import Flush, Part, Work
from engine.fused import group_of
from engine.handlers import HandlerKind
from engine.ids import OrderingKey, OwnerToken, SourceRef
from engine.in_flight import uncount_all
from engine.inbox import Inbox
from engine.progress import Progress
from engine.records import Record
from engine.runner import Ending, Phase, Row, Run, Standing
from engine.store import asleep, holds, workflow_status
from engine.store.asleep import AsleepRow
from engine.store.statement import send
from engine.store.workflow_status import FoundRow
from engine.telemetry import DeadLettered, HoldPlaced, SourceClaimed, SourceDropped, SourceReleased

if TYPE_CHECKING:
    from engine.committer import Committer
    from engine.engine import Engine

OPEN_ROWS_MAX = 50_000
"""Open rows of one partition taken over at a claim; `parked_max` and the in-flight limit keep them below."""

ASLEEP_PAGE = 10_000
"""Sleepers read in one statement."""

CLAIM_CHANNEL = "processor_claims"
"""Of hints: who asks whom, and what was released."""


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
        self.former_names = ref.former_names(progress.incarnation)
        """Of the topics that had this name before: their open workflows belong to this claim, too (P30)."""
        self.id_prefix = ref.id_prefix(owns_topic=owns_topic, incarnation=progress.incarnation)
        self.held: str | None = None
        self.congested = False
        self.leader_epoch = progress.leader_epoch
        self.topic_id = progress.topic_id
        """As the next flush writes it."""
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
        self.is_settling = False
        """Whether its epoch is being raised in place (P23): a higher one is then our own."""
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
            sources = [*self.former_names, self.name]
            cursor = await send(connection, schema, workflow_status.open_rows(sources=sources, limit=OPEN_ROWS_MAX))
            rows = await cursor.fetchall()
            sleepers = await self._asleep(connection)
        if self.is_gone or self._releasing:
            return
        for hold in found:
            if hold.ordering_key is None:
                self.held = f"{hold.kind}: {hold.reason}"
            else:
                self.inbox.keys.blocked.add(OrderingKey(hold.ordering_key))
        self.engine.telemetry.emit(SourceClaimed(self.ref, self.epoch, self.after_death, len(rows), self._waited_s))
        if self.held is not None:
            self.may_resume = True
            self.engine.sources.halted[self.ref] = self
            return
        self._committer = self.engine.committer_for(self)
        self.inbox.rows.are_asleep(sleepers)
        self.inbox.rows.take_over(rows, self.progress.next)

    async def _asleep(self, connection: Any) -> list[AsleepRow]:
        """Everybody who keeps a key asleep, in pages, also of the topics that had this name before (P30)."""
        found: list[AsleepRow] = []
        for name in (*self.former_names, self.name):
            after, count = -1, ASLEEP_PAGE
            while count == ASLEEP_PAGE:
                reading = asleep.rows(source=name, limit=ASLEEP_PAGE, after=after)
                page: list[AsleepRow] = await (await send(connection, self.engine.settings.schema, reading)).fetchall()
                found += page
                count = len(page)
                after = page[-1].offset if page else after
        return found

    @property
    def is_open(self) -> bool:
        """Whether it takes records: neither gone nor on its way to being released."""
        return self.inbox.is_open and not self.is_gone

    @property
    def position(self) -> int:
        """Everything below this offset has been delivered, or does not exist."""
        return self.inbox.offsets.position

    def deliver(self, records: list[Record]) -> None:
        """Take records in ascending order. Nothing is lost if this claim is gone: Kafka still has them."""
        if records and not self.is_gone:
            if records[-1].leader_epoch is not None:
                self.leader_epoch = records[-1].leader_epoch
            self.inbox.deliver(records)

    def has_topic_id(self, topic_id: str) -> None:
        """Brokers tell the topic's ID, which they did not when the progress was first stored: it stands from now on.

        One that is stored is never replaced here: another ID is another topic, and a new incarnation's to write.
        """
        if not self.topic_id and topic_id and not self._is_gone:
            self.topic_id = topic_id
            self.advance()

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
        placed = await self.engine.sources.place_hold(self.ref, kind="halt", reason=reason)
        self.held = f"halt: {reason}"
        self.engine.sources.halted[self.ref] = self
        if placed:  # not where it came with a dead letter, which has told of it
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
            self._dirty
            or self._acquires
            or self._wants_look_up
            or self._wants_progress
            or (self.inbox.group and not self.engine.suspects.is_closed)
        ) or (self._releasing and not self._is_gone)

    def submit(self, run: Run) -> None:
        """A run has something for the next flush."""
        self._dirty.append(run)
        if len(self._dirty) == 1 and self._committer is not None:
            self._committer.wants(self)  # of those behind the first it knows

    def wants(self, *, acquire: Run | None = None, look_up: bool = False, group: bool = False) -> None:
        """Note work for the next flush."""
        del group  # lies in the inbox
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
        # First: who is left behind has its row in this very commit (P19).
        group = group_of(self.inbox) if self.is_fused else None
        taken = 0
        dirty, works = self._dirty, flush.works
        while dirty and taken < room:
            run = dirty.popleft()
            work = Work(run)
            if run.standing is not Standing.ACTIVE or (not work.inserts and work.is_empty):
                run.submitted = False
                continue
            if work.row_after is Row.REST and work.inserts and run.phase is Phase.WAITING:
                run.phase = Phase.RESTING
            works.append(work)
            taken += 1 + len(work.checkpoints)
        part.acquires, self._acquires = self._acquires, []
        if self._wants_look_up:
            self._wants_look_up = False
            part.look_ups = list(self.inbox.rows.looking)
        if group is not None:
            flush.group = group
            works.extend(Work(run) for run in group.runs)
        return taken

    def written(self, part: Part) -> None:
        """A flush with this part is durable."""
        self.progress, self.value = part.progress, part.value
        self.inbox.decisions.forget_below(part.progress.next)
        if part.releases:
            self._released()
        elif self._anew is not None and part.progress.high >= self.high_min:
            self.drop(self._anew)

    def mismatch(self, row: FoundRow, record: Record) -> str | None:
        """Why a stored row cannot be of this record, if so: another's, or the log was rewritten (P16)."""
        # Not by the handler's name: the claim has judged that, and a renamed one finds its rows under the old name.
        if row.source != self.name:
            return (
                f"workflow {row.workflow_id} stands already as {row.name!r} of {row.source or 'no source'}: "
                f"another group or program uses this ID"
            )
        if row.request and record.timestamp_ms and f'"timestamp": {record.timestamp_ms},' not in row.request:
            return f"offset {record.offset} has another record than the one stored: the log was rewritten"
        if record.leader_epoch is not None and row.request and '"leader_epoch": ' in row.request:
            stored = row.request.rpartition('"leader_epoch": ')[2]
            if not stored.startswith((f"{record.leader_epoch},", f"{record.leader_epoch}}}")):
                return f"offset {record.offset} has another leader epoch than the one stored: the log was rewritten"
        return None

    def found_holds(self, found: Sequence[holds.HoldRow]) -> None:
        """Holds read under the fence, with rows of late runs, which may have written them with their outcome (P12)."""
        for hold in found:
            if (hold.service_name, hold.key) != (self.ref.service_name, self.ref.key):
                continue
            if hold.ordering_key is not None:
                self.inbox.keys.blocked.add(OrderingKey(hold.ordering_key))
            elif self.held is None and not self._releasing:
                self.pause_soon(f"{hold.kind}: {hold.reason}")

    def dead_lettered(self, run: Run, ending: Ending) -> None:
        """Tell of a durable dead letter, and of its hold."""
        tracing, emit = self.engine.tracing, self.engine.telemetry.emit
        with nullcontext() if tracing is None else tracing.of_run(run):
            emit(DeadLettered(self.ref, self.ref.handler, run.id, ending.reason, ending.summary))
            if ending.hold is not None:
                emit(HoldPlaced(self.ref, ending.hold[0], ending.hold[2], run.id))

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
        self.engine.suspects.survive(self)
        self._leave(self.inbox.close(), Standing.ABANDONED)
        self.engine.telemetry.emit(SourceDropped(self.ref, reason))
        if self._listener is not None and not self._releasing:
            self._listener.dropped(self, reason)

    # -- releasing --

    def _begin_release(self) -> None:
        self._releasing = True
        self._release_started = time.monotonic()
        for run in self.inbox.close():
            if run.phase is Phase.RUNNING and run.standing is Standing.ACTIVE:
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
        uncount_all(self.inbox.runs.values())
        self.engine.sources.forget(self)
        late = 0
        for run in runs:
            if run.is_running and run.phase is not Phase.DONE:
                # One that was refused keeps its key here, too, until its steps have ended (P13, P18).
                run.standing = Standing.ABANDONED if run.standing is Standing.REFUSED else standing
                late += 1
                self.engine.late.add(run)
                run.wake_waiters()
            elif standing is Standing.LATE and run.phase is Phase.ENDED and run.standing is Standing.LATE:
                late += 1
                self.engine.late.add(run)
                self.engine.late_run_ended(run)
            elif run.phase is not Phase.DONE:
                run.standing = Standing.ABANDONED
        if (tracing := self.engine.tracing) is not None:
            tracing.left([run for run in runs if not run.is_running])
        self._ended.set()
        return late
