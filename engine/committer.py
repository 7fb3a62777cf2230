"""Everything that becomes durable: many records per transaction, one round trip.

A committer has a connection and sources of its own, so that no two ever touch the same rows. It commits whatever has
gathered since its last commit; there is no linger, the commit in progress is the linger. One flush is

    BEGIN
      partition fence         every source's progress, compare-and-set, raises (P5, P6)
      acquire / look up       rows to wake, records below `high` (P15, P16, P18), after the fence
      new rows                as they are now: SUCCESS, ERROR, PENDING; plain INSERT (P8)
      checkpoints             of new rows; of earlier rows where they are still ours (P7)
      outcomes, rests         of earlier rows, where they are still ours
      dead letters, holds
      outbox                  last: what is published, in the order of commits within a key (I9)
    COMMIT                    in the same pipeline: a fence that raises makes it a rollback

What comes back is applied to the runs in one go: barriers open, keys are freed. Errors: engine/settlement.py.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, AsyncCursor

from engine.clock import now_ms
from engine.crashpoints import CrashPoint, reach
from engine.earlier_rows import earlier_rows, lost
from engine.first_rows import first_rows
from engine.flush import Flush, Group, Work, Written
from engine.one_commit import one_commit
from engine.publishing import of_flush
from engine.round_trip import RoundTrip
from engine.settlement import Settlement
from engine.states import WorkflowStatus
from engine.store import operation_outputs, plans, waiting, workflow_status
from engine.store.statement import Statement, send
from engine.tasks import end
from engine.telemetry import Flushed, StepsFinished, WorkflowsFinished

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.source import Source


class Committer:
    """One connection's commits, one after the other."""

    kind = "journaled"

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.sources: set[Source] = set()
        self.connection: AsyncConnection[Any] | None = None
        self._round_trip: RoundTrip | None = None
        self._connected_as = engine.executor_id
        self._wanting: dict[Source, None] = {}
        self._wake = asyncio.Event()
        self._settlement = Settlement(self)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin committing."""
        self._task = self.engine.loop.create_task(self._commit_for_ever(), name=self.name)

    async def stop(self) -> None:
        """End after the flush under way."""
        if self._task is not None:
            await end(self._task)
        if self.connection is not None:
            await self.connection.close()

    def cut(self) -> None:
        """As a crash: nothing more is sent, whatever is in flight is left to the server."""
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.pgconn.finish()

    def wants(self, source: Source) -> None:
        """A source has work."""
        self._wanting[source] = None
        self._wake.set()

    async def _commit_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanting, self._wanting = self._wanting, {}
            try:
                for flush in self._gathered(wanting):
                    await self.commit(flush)
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is None or not task.cancelling():
                    self.engine.failed(error)
                raise
            except Exception as error:
                self.engine.failed(error)
                raise
            self.engine.pump()

    def _gathered(self, wanting: dict[Source, None]) -> Iterator[Flush]:
        """What has gathered: one flush of all journaled sources, one for each fused group (P19)."""
        room = self.engine.settings.flush_rows_max
        shared = Flush(self.engine.executor_id)
        for source in wanting:
            if source.is_gone:
                continue
            if room <= 0 and not source.is_fused:
                # First in the next one, before those that filled this.
                self._wanting = {source: None, **self._wanting}
                self._wake.set()
                continue
            flush = Flush(self.engine.executor_id) if source.is_fused else shared
            taken = source.take_into(flush, room)
            if source.is_fused:
                yield flush
            else:
                room -= taken
            if source.has_work:
                self.wants(source)
        yield shared

    async def commit(self, flush: Flush) -> None:
        """Make a flush durable, whatever it takes; sources that are lost on the way are dropped, alone."""
        pending = [flush]
        while pending:
            current = pending.pop(0)
            current.prune()
            if current.is_empty:
                continue
            started = time.perf_counter()
            try:
                written = await self.send(current)
            except Exception as error:  # noqa: BLE001  # the settlement judges every one
                if current.group is not None and current.group.is_postponed(error):
                    current.group.put_back([current, *pending])
                    pending.insert(0, current)
                else:
                    pending[:0] = await self._settlement.after(current, error)
                continue
            self._settlement.clear_weather()
            self.apply(current, written, time.perf_counter() - started)

    # -- sending --

    async def connected(self) -> AsyncConnection[Any]:
        """The connection, opened anew where it broke or has the name of an executor that is dead."""
        if self.connection is not None and self._connected_as != self.engine.executor_id:
            await self.connection.close()
        if self.connection is None or self.connection.closed:
            self._connected_as = self.engine.executor_id
            self.connection = await self.engine.connect()
            settings = self.engine.settings
            self._round_trip = RoundTrip(self.connection, settings.schema, prepare=settings.prepare)
        return self.connection

    async def send(self, flush: Flush) -> Written:
        """One transaction; one round trip, unless a fused handler's statements come first."""
        connection = await self.connected()
        reach(CrashPoint.FLUSH_BUILT)
        if flush.group is None:
            assert self._round_trip is not None, "connected"
            named = statements(flush)
            answers = await self._round_trip.run([statement for _, statement in named])
            rows = {name: answer for (name, _), answer in zip(named, answers, strict=True)}
        else:
            rows = await self._behind_its_group(flush.group, flush, connection)
        written = Written(more=rows)
        written.acquired = {row.workflow_id: row for row in rows.get("acquire", ())}
        written.found = {row.workflow_id: row for row in rows.get("look_up", ())}
        written.holds = rows.get("held", ())
        written.lost = lost(flush.works, rows)
        if found := rows.get("histories"):
            histories: dict[str, list[Any]] = defaultdict(list)
            for row in found:
                histories[row.workflow_id].append(row)
            written.histories = histories
        return written

    async def _behind_its_group(
        self, group: Group, flush: Flush, connection: AsyncConnection[Any]
    ) -> dict[str, list[Any]]:
        """The handler's own statements, then ours, which have its results in them (P19)."""
        schema = self.engine.settings.schema
        cursors: dict[str, AsyncCursor[Any]] = {}
        async with one_commit(connection, CrashPoint.FLUSH_SENT):
            await group.run(connection)
            for name, statement in statements(flush):
                cursors[name] = await send(connection, schema, statement)
        return {name: await cursor.fetchall() for name, cursor in cursors.items() if cursor.description is not None}

    # -- applying --

    def apply(self, flush: Flush, written: Written, duration_s: float) -> None:
        """The flush is durable: tell everyone."""
        reach(CrashPoint.FLUSH_DURABLE)
        for part in flush.parts:
            part.source.written(part)
        # First what stands in the database, for all; then what follows from it: a finished holder starts its
        # follower, whose own row may have come with the same flush.
        qualified = [work for work in flush.works if self._stands(work, written)]
        finished = [work for work in qualified if work.ending is not None and work.ending.wake_at is None]
        for work in qualified:
            run, ending = work.run, work.ending
            if run.waiters:
                run.wake_waiters()
            if ending is not None:
                if ending.reason and ending.wake_at is None:
                    run.inbox.source.dead_lettered(run, ending)
                run.home.finished(run)
            elif work.inserts:
                run.home.persisted(run)
            if run.unsent or (run.ending is not None and run.ending is not ending):
                run.submit()
        for part in flush.parts:
            part.source.inbox.offsets.advance()
            part.apply_reads(written)
        flush.applied(written)
        if flush.publishes:
            self.engine.outbox_hints.published()
        self._tell(flush, qualified, finished, duration_s)

    @staticmethod
    def _stands(work: Work, written: Written) -> bool:
        """Note of a run what is durable now; returns whether all was written that it wanted (P7)."""
        run = work.run
        run.submitted = False
        if work.inserts:
            run.inbox.offsets.settle(run.offset)
            run.row = work.row_after
        elif written.lost and run.id in written.lost:
            run.home.refuse(run, "cancelled or taken over")
            return False
        if work.checkpoints:
            run.durable += len(work.checkpoints)
            if work.ending is None or work.ending.wake_at is not None:
                for checkpoint in work.checkpoints:
                    run.durable_ids.append(checkpoint.function_id)
            if run.recovery_attempts:
                run.recovery_attempts = run.alone_deaths = 0
        return True

    def _tell(self, flush: Flush, qualified: Sequence[Work], finished: Sequence[Work], duration_s: float) -> None:
        """What observers hear of a flush: a list of numbers for each handler and step."""
        emit = self.engine.telemetry.emit
        told_ms = time.time() * 1000
        kind = self.kind if flush.group is None else "fused"
        latencies: dict[tuple[str, WorkflowStatus], list[float]] = defaultdict(list)
        for work in finished:
            run, ending = work.run, work.ending
            assert ending is not None, "finished with an ending"
            began_ms = (run.record.timestamp_ms if run.record is not None else run.started_ms) or told_ms
            latencies[run.home.handler.name, ending.status].append(max(0.0, told_ms - began_ms) / 1000)
        for (handler, status), values in latencies.items():
            emit(WorkflowsFinished(handler, status, values))
        durations: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
        oldest_ms = math.inf
        for work in qualified:
            for _, _, name, _, error, started_ms, ended_ms, _ in work.checkpoints:
                durations[work.run.home.handler.name, name, error is None].append((ended_ms - started_ms) / 1000)
                oldest_ms = min(oldest_ms, ended_ms)
        for (handler, step, is_success), values in durations.items():
            emit(StepsFinished(handler, step, "success" if is_success else "error", values))
        emit(
            Flushed(
                kind="release" if any(part.releases for part in flush.parts) else kind,
                duration_s=duration_s,
                works=flush.size,
                waited_s=None if oldest_ms == math.inf else max(0.0, now_ms() - oldest_ms) / 1000,
                rows=sum([work.inserts for work in flush.works]),
                checkpoints=sum([len(work.checkpoints) for work in flush.works]),
                outcomes=len(finished),
                partitions=len(flush.parts),
            )
        )
        if (tracing := self.engine.tracing) is not None:
            tracing.durable(kind, flush.works, qualified, duration_s)


def statements(flush: Flush) -> Sequence[tuple[str, Statement[Any]]]:
    """A flush as statements, in the order they are sent; each with its name."""
    acquires = [(run, part) for part in flush.parts for run in part.acquires]
    new = [work for work in flush.works if work.inserts]
    old = [work for work in flush.works if not work.inserts]
    made: list[tuple[str, Statement[Any]]] = []
    if old or acquires:
        made.append(("plans", plans.by_id()))
    made += flush.fences()
    if acquires:
        ids = [run.id for run, _ in acquires]
        owners = [run.inbox.token for run, _ in acquires]
        retried = [(run.id, run.inbox.token) for run, _ in acquires if run.wake_at is not None]
        rested = [run.wake_at is not None for run, _ in acquires]
        made.append(
            ("acquire", workflow_status.acquire(executor_id=flush.executor_id, ids=ids, owners=owners, rested=rested))
        )
        if retried:
            made.append(
                (
                    "delete_errors",
                    operation_outputs.delete_errors(ids=[i for i, _ in retried], owners=[o for _, o in retried]),
                )
            )
            made.append(("unwait", waiting.forget(ids=[i for i, _ in retried])))
        made.append(("histories", operation_outputs.of_workflows(ids=ids)))
    looked = [run.id for run, _ in acquires] + [i for part in flush.parts for i in part.look_ups]
    if looked:
        made.append(("look_up", workflow_status.look_up(ids=looked)))
    if acquires:
        # After the look-up: the hold of a late run that ended is there with its outcome (P12, P18).
        made.append(("held", flush.read_holds()))
    if new:
        inline_max = new[0].run.inbox.engine.settings.inputs_inline_max
        made.append(("insert", first_rows(new, flush.executor_id, inline_max)))
        if any(work.checkpoints for work in new):
            made.append(("checkpoints_new", _checkpoints(new)))
    made += earlier_rows(old)
    if buried := [work for work in flush.works if work.ending is not None and work.ending.reason]:
        made.append(("dead_letters", flush.dead_letters(buried)))
        if held := [work for work in buried if work.ending is not None and work.ending.hold is not None]:
            made.append(("holds", flush.holds(held)))
    made += flush.more()
    # Last: the lanes of its keys are held until COMMIT, and nothing may be waited for behind them (decision 0008).
    published = [("outbox", statement) for statement in of_flush(flush)]
    flush.publishes = bool(published)
    return made + published


def _checkpoints(works: Sequence[Work]) -> Statement[Any]:
    return operation_outputs.insert([checkpoint for work in works for checkpoint in work.checkpoints])
