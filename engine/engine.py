"""The engine of one process: opens what it needs, starts its services in order, drains and stops them.

    start   check the schema ─▶ pool ─▶ lease (registers the executor) ─▶ committers ─▶ scan ─▶ scheduler
    stop    release every source, close the commons ─▶ wait for running steps, at most `drain` ─▶ leave ─▶ close
    abort   as a crash: nothing more is written, connections are cut (for tests)

An executor that finds itself dead, or its database gone back, abandons everything in memory, waits for its threads
and registers anew under a new ID (P2, P4); the process goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection

from engine import hints, migrations
from engine.addresses import explained, session_address
from engine.brakes import Brakes
from engine.committer import Committer
from engine.commons import Commons
from engine.depths import Depths
from engine.dispatcher import Dispatcher
from engine.errors import ConfigurationError, EngineStoppedError
from engine.execution_gates import Gate
from engine.failures import summary
from engine.fences import DatabaseFence
from engine.fused import journaled
from engine.handler_threads import HandlerThreads
from engine.handlers import Handler, HandlerKind
from engine.ids import ExecutorId, new_executor_id
from engine.late import LateRuns
from engine.leases import Lease
from engine.messages import Messages
from engine.outbox import CHANNEL
from engine.outbox_hints import OutboxHints
from engine.pool import connect
from engine.queues import QueueSpec, by_name
from engine.reach import Reach
from engine.recovery import Recovery
from engine.retention import Retention
from engine.runner import Phase, Row, Run, Standing
from engine.scan import Scan
from engine.scheduler import Scheduler
from engine.settings import EngineSettings
from engine.snapshots import EngineSnapshot, snapshot_of
from engine.sources import Source, Sources
from engine.starts import Start
from engine.store import commons, executor
from engine.store.executor import Renewal
from engine.store.statement import send
from engine.suspects import Suspects
from engine.telemetry import Event, ExecutorLost, ExecutorStarted, ServiceFailed, Telemetry
from engine.tracing import Tracing, traced
from engine.transaction_groups import TransactionGroups
from engine.turns import Turns
from engine.weather import through_weather

REBIRTH_WAIT_S = 1.0
"""Between two tries to register anew while Postgres is away."""


class Engine(Reach):
    """One executor: durable execution of handlers over its sources. All methods belong to its loop."""

    def __init__(
        self,
        settings: EngineSettings,
        handlers: Mapping[str, Handler],
        telemetry: Telemetry | None = None,
        queues: Sequence[QueueSpec] = (),
        tracing: Tracing | None = None,
    ) -> None:
        super().__init__(settings, tracing)
        handlers = traced(handlers, tracing)
        self.telemetry = telemetry or Telemetry()
        self.executor_id: ExecutorId = new_executor_id()
        self.version = ""
        self._handlers = dict(handlers)
        self._queues = by_name(queues)
        self._bodies: dict[str, Callable[..., Any]] = {
            name: handler.function if handler.kind is HandlerKind.JOURNALED else journaled(handler)
            for name, handler in handlers.items()
        }
        if tracing is not None:
            self._bodies = {name: tracing.code(handlers[name], body) for name, body in self._bodies.items()}
        self.database = DatabaseFence()
        self.has_extras = False
        """Whether any checkpoint or rest here ever brought more than itself (engine/effects.py)."""
        self.gates: dict[Run, Gate] = {}
        """Of runs of executions with options (engine/execution_gates.py)."""
        self.has_origins = any(handler.origin is not None for handler in handlers.values())
        """Whether records of any topic say whose they are: else their rows have no columns for it (engine/first_rows.py)."""
        self.in_flight = 0
        self.intake_max = settings.in_flight_max
        """Workflows in flight up to which records begin: less while the database cannot follow (engine/brakes.py)."""
        self.in_flight_bytes = 0
        self.backlog_bytes = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.failure: asyncio.Future[BaseException]
        self._watched: deque[Run] = deque()
        self._ticking = False
        self._persist_after_s = settings.persist_after.total_seconds()
        self._alive = asyncio.Event()
        self._reborn: asyncio.Task[None] | None = None
        self._pumping = 0
        self._is_started = False

    # -- life --

    async def start(self) -> None:
        """Open everything and register.

        Raises:
            ConfigurationError: The database does not let us in, or is not set up; the message says what to do.
            StoreUnavailableError: It does not answer.
        """
        self._prepare(executor.session_name(self.executor_id))
        self.failure = self.loop.create_future()
        self.handler_threads = HandlerThreads(self)
        self.fused_threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="handler-fused")
        self.step_threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="step")
        self.turns = Turns(self)
        self.sources = Sources(self)
        self.late = LateRuns(self)
        self.suspects = Suspects(self)
        self.transaction_groups = TransactionGroups(self)
        self.messages = Messages(self)
        self.commons = Commons(self, self._handlers)
        self.dispatcher = Dispatcher(self, self._queues)
        self.recovery = Recovery(self)
        self.lease = Lease(self)
        self.scan = Scan(self)
        self.scheduler = Scheduler(self, self._handlers)
        self.depths = Depths(self)
        self.outbox_hints = OutboxHints(self)
        self.retention = Retention(self)
        self.brakes = Brakes(self)
        self.committers = [Committer(self, f"committer-{n}") for n in range(self.settings.committers)]
        is_any_fused = any(handler.kind is not HandlerKind.JOURNALED for handler in self._handlers.values())
        fused = self.settings.committers if is_any_fused else 0
        self.fused_committers = [Committer(self, f"fused-{n}") for n in range(fused)]
        await self._check_schema()
        await self.pool.open()
        with explained(*session_address(self.settings)):
            await asyncio.to_thread(self.lease.start)
        self._alive.set()
        self.telemetry.emit(ExecutorStarted(self.executor_id, self.settings.executor_name or ""))
        for committer in self.every_committer:
            committer.start()
        self.scan.start()
        self.retention.start()
        self.brakes.start()
        self._is_started = True
        self.commons.open()
        self.scheduler.start()
        self.dispatcher.start()
        self.spawn(through_weather(self._announce))
        if not self.lease.is_valid():
            self._abandon("dead before it lived")  # `died` came before there was anything to abandon

    async def stop(self, drain: timedelta = timedelta(seconds=30)) -> None:
        """Release every source and wait for the steps that still run, at most `drain`; then close (P11)."""
        if not self._is_started:
            return
        self._is_started = False
        deadline = time.monotonic() + drain.total_seconds()
        await self._stop_services()
        self.commons.close()
        releases = [self.spawn(source.release()) for source in self.sources.attached()]
        if releases:
            await asyncio.wait(releases, timeout=max(0.0, deadline - time.monotonic()))
        await self.late.all_ended(max(0.0, deadline - time.monotonic()))
        await self.commons.all_ended(max(0.0, deadline - time.monotonic()))
        await self.hints.flush()
        self.waits.end()
        self.stopping.set()
        for committer in self.every_committer:
            await committer.stop()
        self.commons.end()
        await self._end_tasks()
        await self._close(leave=True)

    def cut(self) -> None:
        """The part of `abort` that waits for nothing: from here on nothing is written."""
        self.is_aborted = True
        self._is_started = False
        self.stopping.set()
        self.lease.cut()
        for committer in self.every_committer:
            committer.cut()
        self.waits.end()
        self.commons.end()

    async def abort(self) -> None:
        """End as a crash does: nothing more is written, whatever was sent is the server's. For tests."""
        self.cut()
        for source in self.sources.attached():
            source.drop("aborted")
        self.commons.drop()
        await self._stop_services()
        await self._end_tasks()
        await self._close(leave=False)

    async def _stop_services(self) -> None:
        for service in (self.retention, self.brakes, self.scheduler, self.scan, self.dispatcher):
            await service.stop()

    async def _close(self, *, leave: bool) -> None:
        await asyncio.to_thread(self.lease.stop, leave=leave)
        await self.pool.close()
        self.handler_threads.stop()
        self.fused_threads.shutdown(wait=False, cancel_futures=True)
        self.step_threads.shutdown(wait=False, cancel_futures=True)

    async def _end_tasks(self) -> None:
        every = {*self.tasks, *self._spawned, *filter(None, [self._reborn])}
        tasks = every - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _check_schema(self) -> None:
        with explained(self.settings.conninfo):
            connection = await connect(self.settings, "onceflow start")
        async with connection:
            await migrations.check(connection, self.settings.schema)
            await migrations.check_rights(connection, self.settings.schema)

    async def _announce(self) -> None:
        """Say what this executor can run, for whoever asks why a workflow does not go on."""
        saying = commons.announce(executor_id=self.executor_id, runnable=self.commons.runnable)
        async with self.pool.connection() as connection:
            await send(connection, self.settings.schema, saying)

    # -- for the parts --

    @property
    def is_running(self) -> bool:
        """Whether it has started, and does not stop."""
        return self._is_started

    @property
    def every_committer(self) -> tuple[Committer, ...]:
        """Of partitions, of fused handlers', of the commons."""
        return (*self.committers, *self.fused_committers, self.commons.committer)

    def handler(self, name: str) -> Handler:
        """A registered handler."""
        try:
            return self._handlers[name]
        except KeyError:
            raise ConfigurationError(f"no handler {name!r} is registered") from None

    def body_of(self, handler: Handler) -> Callable[..., Any]:
        """A handler as the code of a workflow: fused ones with one transactional step."""
        return self._bodies[handler.name]

    def committer_for(self, source: Source) -> Committer:
        """The committer with the fewest sources; fused handlers have their own, which run user code."""
        choice = self.fused_committers if source.is_fused else self.committers
        committer = min(choice, key=lambda each: len(each.sources))
        committer.sources.add(source)
        return committer

    async def connect(self) -> AsyncConnection[Any]:
        """A connection for a committer."""
        return await connect(self.settings, executor.session_name(self.executor_id))

    def has_room(self) -> bool:
        """Whether another workflow may begin (I10)."""
        return self.in_flight < self.settings.in_flight_max and self.in_flight_bytes < self.settings.in_flight_bytes_max

    def takes_in(self) -> bool:
        """Whether another record may begin (I10)."""
        return self.in_flight < self.intake_max and self.in_flight_bytes < self.settings.in_flight_bytes_max

    def has_late_or_suspect_runs(self) -> bool:
        """Whether who starts now may have to wait for what is no record of its partition (P13, P22)."""
        return self.suspects.is_closed or len(self.late) > 0

    def pump(self) -> None:
        """Give room that came free to whoever waits, each source first in its turn."""
        self.commons.pump()
        sources = self.sources.attached()
        if not sources:
            return
        self._pumping = (self._pumping + 1) % len(sources)
        for source in sources[self._pumping :] + sources[: self._pumping]:
            source.inbox.pump()

    async def insert(self, start: Start) -> bool:
        """Give a workflow its row. See `Commons.start`."""
        return await self.commons.start(start)

    def is_at_work_on(self, workflow_id: str) -> bool:
        """Whether its outcome will come from here."""
        return self.commons.is_at_work_on(workflow_id)

    def listens(self) -> None:
        """The lease's connection always does."""

    def look_for_rows(self) -> None:
        """Rows at rest are due."""
        self.scan.hint()

    def cancelled_here(self, ids: Sequence[str], *, interrupt: bool) -> None:
        """What runs of these here begins nothing more; keys of those asleep go on."""
        named = set(ids)
        running = [run for run in self.commons.runs.values() if run.id in named]
        for source in self.sources.attached():
            running += source.inbox.rows.cancelled(named)
        for run in running:
            if run.phase is Phase.ENDED or run.standing is not Standing.ACTIVE:
                continue
            run.home.refuse(run, "cancelled")
            if interrupt and run.is_running and run.task is not None and run.phase is Phase.RUNNING:
                run.task.cancel()  # and with it what it gathers

    def gone(self) -> EngineStoppedError:
        """What to tell who waits when it ends."""
        return EngineStoppedError()

    def troubled(self, what: str, error: psycopg.Error) -> None:
        """Postgres refused a task of its own."""
        self.telemetry.emit(ServiceFailed(what, error, None))

    def failed(self, error: BaseException) -> None:
        """The engine cannot go on: whoever runs it ends the process."""
        if self.is_aborted:
            return
        self.telemetry.emit(ServiceFailed("engine", error, None))
        if not self.failure.done():
            self.failure.set_result(error)

    def notify(self, channel: str, payload: str) -> None:
        """Send a hint, without waiting for it."""
        if self._is_started or self.sources.current:
            self.spawn(self._notify(channel, payload))

    async def _notify(self, channel: str, payload: str) -> None:
        async with self.pool.connection() as connection:
            await send(connection, self.settings.schema, executor.notify(channel=channel, payload=payload))

    # -- first need (P8) --

    def watch(self, run: Run) -> None:
        """Give a run its row if it still has none after `persist_after`."""
        self._watched.append(run)
        if not self._ticking:
            self._ticking = True
            self.call_later(self._persist_after_s / 2, self._tick)

    def _tick(self) -> None:
        entered_before = time.monotonic() - self._persist_after_s
        watched = self._watched
        while watched and (watched[0].phase is Phase.DONE or watched[0].entered_at <= entered_before):
            run = watched.popleft()
            if (
                run.row is Row.NONE
                and run.standing is Standing.ACTIVE
                and run.home.is_open
                and run.phase in (Phase.WAITING, Phase.RUNNING)
            ):
                run.needs_first_row = True
                run.submit()
        if watched:
            self.call_later(self._persist_after_s / 2, self._tick)
        else:
            self._ticking = False

    def watch_foreign(self, run: Run) -> None:
        """Look again at a row that another live executor's late run owns."""
        self.scan.watch_foreign(run)

    def late_run_ended(self, run: Run) -> None:
        """A released run's code has ended: its row is decided under the row fence, after the release flush (P12)."""
        if run.inbox.source.is_released:
            self.late.add(run)
            self.spawn(self.late.hand_over(run))

    # -- the lease --

    def from_thread(self, function: Callable[..., None], *args: Any) -> None:
        """Call on the loop, from a thread of the engine's; an error is the engine's failure."""
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._owned_call, function, *args)

    def emit_from_thread(self, event: Event) -> None:
        """Tell observers from the lease's thread."""
        self.from_thread(self.telemetry.emit, event)

    def hinted_from_thread(self, channel: str, payload: str) -> None:
        """A hint arrived."""
        self.from_thread(self._hinted, channel, payload)

    def _hinted(self, channel: str, payload: str) -> None:
        if not self._is_started:
            return
        if channel == hints.ROWS_CHANNEL:
            hints.heard(self, payload)
        elif (kind := hints.BROUGHT_CHANNELS.get(channel)) is not None:
            hints.heard_brought(self, kind, payload)
        elif channel == CHANNEL:
            self.outbox_hints.hinted(payload)
        else:
            self.sources.woken.set()  # whoever is woken looks for itself

    def renewed(
        self,
        renewal: Renewal,
        known: Mapping[tuple[str, str], tuple[int, int]],
        seen: tuple[str, int],
    ) -> None:
        """A heartbeat's reply: `known` is (epoch, flush number) of each source, `seen` the WAL, before it was sent (P1, P4)."""
        if self.database.is_behind(renewal.timeline, renewal.lsn, seen):
            self.went_back(f"timeline {renewal.timeline} at {renewal.lsn} after {self.database.lsn}")
            return
        self.database.timeline = renewal.timeline
        self.database.saw(renewal.lsn)
        if (reason := self.sources.compare(renewal.progress or [], known)) is not None:
            self.went_back(reason)
            return
        for service, key, requester, generation, alive in renewal.requests or []:
            self.spawn(self.sources.answer(service, key, ExecutorId(requester), generation, requester_alive=alive))

    def died(self, reason: str) -> None:
        """This executor was marked dead: drop everything, register anew (P2)."""
        self._abandon(reason)

    def went_back(self, reason: str) -> None:
        """The database lost commits: nothing in memory can be trusted (P4)."""
        self._abandon(f"the database went back: {reason}")

    def _abandon(self, reason: str) -> None:
        if self._reborn is not None or self.is_aborted or not self._is_started:
            return
        self._alive.clear()
        self.lease.invalidate()
        self.telemetry.emit(ExecutorLost(self.executor_id, reason))
        for source in self.sources.attached():
            source.drop(reason)
        self.commons.drop()
        self._reborn = self.loop.create_task(self._register_anew())

    async def _register_anew(self) -> None:
        # Threads and steps of the old executor end first, as far as they do within a lease; the keys of those
        # that do not stay taken (P12).
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self.late.all_ended(self.settings.lease.total_seconds()))
            ends.create_task(self.commons.all_ended(self.settings.lease.total_seconds()))
        await asyncio.to_thread(self.lease.stop, leave=True)
        while not self.is_aborted:
            self.executor_id = new_executor_id()
            # The lease begins with the end of the sessions under the old ID: pool and committers open others.
            self.pool.rename(executor.session_name(self.executor_id))
            self.database.reset()
            try:
                await asyncio.to_thread(self.lease.start)
                if self.lease.is_valid():
                    break
                # Dead before it lived: a namesake (P3), or the database went back again.
                await asyncio.to_thread(self.lease.stop, leave=True)
            except psycopg.Error as error:
                self.telemetry.emit(ServiceFailed("lease", error, REBIRTH_WAIT_S))
                await asyncio.sleep(REBIRTH_WAIT_S)
            except Exception as error:
                self.failed(error)  # nothing would be claimed again, and nobody would see why
                raise
        if self.is_aborted or not self._is_started:  # meanwhile; nobody else would end this lease
            await asyncio.to_thread(self.lease.stop, leave=not self.is_aborted)
            return
        self.telemetry.emit(ExecutorStarted(self.executor_id, summary(RuntimeError("registered anew"))))
        self._reborn = None
        self._alive.set()
        self.commons.open()
        self.spawn(through_weather(self._announce))
        self.dispatcher.announce_again()
        self.scan.hint()

    def is_alive_as(self, executor_id: ExecutorId) -> bool:
        """Whether this process is still this executor, and it is not known to be dead."""
        return self._alive.is_set() and self.executor_id == executor_id

    async def until_alive(self) -> None:
        """Wait while this executor registers anew."""
        await self._alive.wait()

    def snapshot(self) -> EngineSnapshot:
        """Gauges, read at a scrape."""
        return snapshot_of(self)
