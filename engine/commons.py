"""The commons: where workflows without a source run, which any live executor may take that can run their version (P29).

    start ─▶ row (durable) ─▶ desk of its function ─▶ run ─▶ group flush ─▶ done
               │ no room                                │
               └──▶ at rest ◀── sleeps, waits, stops ───┘
                      │ due
    look ─────────────┴─▶ take: new owner, history read ─▶ desk …
      └── rows of dead executors ─▶ take over: blamed, recorded

Runs are at home at a `Desk` (engine/desk.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from engine.crashpoints import CrashPoint, reach
from engine.desk import Desk, Inputs, handed_on
from engine.errors import EngineStoppedError, RecoveryExceededError
from engine.failures import encode_error, summary
from engine.flush import Work
from engine.handlers import Handler
from engine.identity import NOBODY
from engine.ids import OwnerToken, WorkflowId
from engine.in_flight import count, uncount
from engine.payloads import UnreadablePayloadError
from engine.row_flush import RowCommitter, RowFlush, Starting
from engine.runner import Ending, Phase, Row, Run, Standing
from engine.sealed_rows import opened_history, opened_origin
from engine.starts import Start
from engine.states import WorkflowStatus
from engine.store import open_work
from engine.store.commons import TakenRow
from engine.store.operation_outputs import CheckpointRow
from engine.store.statement import send
from engine.store.turns import QueuedRow
from engine.telemetry import SuspectStarted
from engine.unreadable import put_off
from engine.versions import body_of_call, runnable

if TYPE_CHECKING:
    from engine.engine import Engine


class Commons:
    """The desks of one process, their runs, and their committer."""

    def __init__(self, engine: Engine, handlers: Mapping[str, Handler]) -> None:
        self.engine = engine
        self.runs: dict[WorkflowId, Run] = {}
        """Every run here whose code may still run, also of a former life of this executor (P13)."""
        self.is_open = False
        self.has_more = False
        """Whether rows at rest were left behind for want of room."""
        self._dirty: deque[Run] = deque()
        self._starting: deque[Starting] = deque()
        self._empty = asyncio.Event()
        self._empty.set()
        self.handlers = dict(handlers)
        """Also those that only records start: a fork of such a workflow has no source (P29)."""
        self._bodies: dict[tuple[str, str | None], Callable[..., Any]] = {}
        self.runnable = runnable(self.handlers.values())
        self.committer = RowCommitter(self)

    # -- starting --

    @property
    def coming(self) -> set[str]:
        """Workflows on their way to their rows, or whose rows are known to be ours only when a flush was applied."""
        return {each.start.id for each in (*self._starting, *self.committer.starting)}

    async def start(self, start: Start) -> bool:
        """Give a workflow its row; returns when that is durable, and whether it is new. Its inputs are the caller's to compare.

        Raises:
            EngineStoppedError: The engine does not run.
            psycopg.Error: The row cannot be written as it is.
        """
        if not self.engine.is_running:
            raise EngineStoppedError
        reach(CrashPoint.STARTING)
        starting = Starting(start, self.engine.loop.create_future())
        self._starting.append(starting)
        self.committer.wants_flush()
        return await starting.inserted

    def can_run(self, start: Start) -> bool:
        """Whether this process has the code, and the object if it is a method."""
        handler = self.handlers.get(start.name)
        return (
            handler is not None
            and handler.version == start.version
            and (handler.instances is None) == (start.config_name is None)
            and (handler.instances is None or start.config_name in handler.instances)
        )

    def body_of(self, handler: Handler, instance: str | None) -> Callable[..., Any]:
        """A handler's function, of one of its objects if it is a method, as code of a run's arguments."""
        place = (handler.name, instance)
        if (body := self._bodies.get(place)) is None:
            body = body_of_call(handler, instance)
            if (tracing := self.engine.tracing) is not None:
                body = tracing.code(handler, body)
            self._bodies[place] = body
        return body

    def is_at_work_on(self, workflow_id: str) -> bool:
        """Whether its outcome will come from here: one that was refused may run for long, and has none any more."""
        run = self.runs.get(WorkflowId(workflow_id))
        return run is not None and run.standing in (Standing.ACTIVE, Standing.LATE)

    def adopt(self, start: Start) -> None:
        """A row is durable: run it here if it is ours, or let whoever has room look for it."""
        reach(CrashPoint.STARTED)
        if start.owner is not None:
            instance = start.config_name
            run = self._run(start.name, start.id, start.owner, start.inputs, start.deadline_ms, instance=instance)
            run.origin = start.origin
            self._enter(run)
        elif start.status is WorkflowStatus.PENDING:
            if start.wake_at is None:
                self.has_more = True
                self.engine.hints.rows()
            else:
                self.engine.scan.due_at(start.wake_at)
        elif start.queue is not None:
            self.engine.dispatcher.enqueued(start.queue, start.wake_at)

    def take(
        self,
        rows: Sequence[TakenRow] | Sequence[QueuedRow],
        histories: Sequence[CheckpointRow],
        owner: OwnerToken,
        desks: Iterable[Desk | None] = (),
    ) -> None:
        """Rows that were made ours: run them from their histories, each at its desk, if it has one of its own.

        One that has died too often is given up (P22, P29). One that cannot be opened here rests for whoever has its key
        (decision 0012).
        """
        payloads = self.engine.payloads
        by_id: dict[str, list[CheckpointRow]] = {}
        for checkpoint in histories:
            by_id.setdefault(checkpoint.workflow_id, []).append(checkpoint)
        for row, desk in zip_longest(rows, desks):
            run = self._run(
                row.name,
                row.workflow_id,
                owner,
                row.inputs,
                row.deadline_ms,
                desk=desk,
                request=row.request,
                instance=row.instance,
            )
            history = by_id.get(row.workflow_id, [])
            run.durable_ids = sorted(checkpoint.function_id for checkpoint in history)
            run.recorded = run.durable = len(run.durable_ids)
            run.recovery_attempts, run.alone_deaths = row.recovery_attempts, row.alone
            run.attempt = row.attempt
            try:
                run.argument = Inputs(payloads.open(row.inputs, f"workflow {run.id}: inputs"))
                run.origin = opened_origin(row, payloads)
                opened = opened_history(history, payloads)
                _desk(run).open(f"workflow {run.id}")
            except UnreadablePayloadError as error:
                self._end(run, put_off(run, error))
                continue
            run.history = {checkpoint.function_id: checkpoint for checkpoint in opened} or None
            if run.recovery_attempts >= self.engine.settings.deaths_max:
                error = RecoveryExceededError(run.id, run.recovery_attempts)
                status = WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED
                self._end(run, Ending(status, error=encode_error(error), summary=summary(error)))
                continue
            if row.previous is not None:
                alone = run.recovery_attempts >= 2
                self.engine.telemetry.emit(SuspectStarted(run.id, run.recovery_attempts, alone))
            self._enter(run)

    def _run(
        self,
        name: str,
        workflow_id: WorkflowId,
        owner: OwnerToken,
        inputs: str,
        deadline_ms: int | None,
        *,
        desk: Desk | None = None,
        request: str | None = None,
        instance: str | None = None,
    ) -> Run:
        desk = desk or Desk(self, self.handlers[name], owner)
        desk.bind(request, instance)
        run = Run(desk, offset=0, key=None, record=None)
        run.id, run.row, run.origin = workflow_id, Row.RUNNING, NOBODY
        run.argument = Inputs(inputs)
        run.deadline_ms = deadline_ms
        return run

    def _end(self, run: Run, ending: Ending) -> None:
        """End a run that does not begin here."""
        self.runs[run.id] = run
        self._empty.clear()
        _desk(run).end(run, ending)

    def _enter(self, run: Run) -> None:
        engine = self.engine
        self.runs[run.id] = run
        self._empty.clear()
        count(run, len(run.argument))
        if run.deadline_ms is not None:
            engine.scan.due_at(run.deadline_ms)
        if self.is_open:
            _desk(run).start(run)
        else:
            _desk(run).end(run, handed_on(run))

    # -- for the committer --

    def room(self) -> int:
        """How many workflows may begin here (I10)."""
        engine = self.engine
        if not self.is_open or not engine.has_room():
            return 0
        return engine.settings.in_flight_max - engine.in_flight

    @property
    def has_work(self) -> bool:
        """Whether there is anything for the next flush."""
        return bool(self._dirty or self._starting)

    def submit(self, run: Run) -> None:
        """A run has something for the next flush."""
        self._dirty.append(run)
        self.committer.wants_flush()

    def take_into(self, flush: RowFlush, room: int) -> None:
        """Move work into a flush, about `room` rows of it."""
        while self._dirty and room > 0:
            run = self._dirty.popleft()
            work = Work(run)
            if run.standing not in (Standing.ACTIVE, Standing.LATE) or work.is_empty:
                run.submitted = False
                continue
            flush.works.append(work)
            room -= 1 + len(work.checkpoints)
        while self._starting and room > 0:
            flush.starting.append(self._starting.popleft())
            room -= 1

    def forget(self, run: Run) -> None:
        """A run has ended, or is none any more."""
        engine = self.engine
        run.phase = Phase.DONE
        if self.runs.get(run.id) is run:
            del self.runs[run.id]
            _desk(run).left()
        if engine.gates:
            engine.gates.pop(run, None)
        uncount(run)
        if run.standing is Standing.REFUSED and self.is_open:
            engine.spawn(self._disown(run.id, run.owner))
        if not self.runs:
            self._empty.set()

    async def _disown(self, workflow_id: WorkflowId, owner: OwnerToken) -> None:
        """A refused run's row, if it is still open under its token, is for whoever takes it: from its history."""
        async with self.engine.pool.connection() as connection:
            cursor = await send(
                connection,
                self.engine.settings.schema,
                open_work.disown(ids=[workflow_id], owners=[owner]),
            )
        if cursor.rowcount:
            self.engine.hints.rows()

    def pump(self) -> None:
        """Room came free: look again for what was left behind."""
        dispatcher = self.engine.dispatcher
        if not (self.has_more or dispatcher.is_starved) or self.room() <= self.engine.settings.in_flight_max // 8:
            return
        dispatcher.pump()
        if self.has_more:
            self.has_more = False
            self.engine.scan.hint()

    # -- leaving --

    def open(self) -> None:
        """Run what is started from now on: this executor lives."""
        self.is_open = True

    def close(self) -> None:
        """A stop: begin nothing, hand on what does not run, and what runs when its steps have ended (P11, P12)."""
        self.is_open = False
        for run in list(self.runs.values()):
            if run.standing is not Standing.ACTIVE or run.phase is Phase.ENDED:
                continue
            run.standing = Standing.LATE
            if run.phase is Phase.RUNNING:
                run.wake_waiters()
            else:
                _desk(run).end(run, handed_on(run))

    def drop(self) -> None:
        """This executor is dead, or its database went back: abandon everything; results of what still runs are dropped (P4)."""
        self.is_open = False
        for run in list(self.runs.values()):
            run.standing = Standing.ABANDONED
            run.wake_waiters()
            if not (run.is_running and run.phase is Phase.RUNNING):
                self.forget(run)
        self._dirty.clear()

    def end(self) -> None:
        """The engine ends: whoever waits for a row does not hear of it here."""
        for each in (*self._starting, *self.committer.starting):
            each.fail(EngineStoppedError())
        self._starting.clear()

    async def all_ended(self, timeout_s: float) -> bool:
        """Wait until no run is left, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True


def _desk(run: Run) -> Desk:
    """Its home: the commons has no other runs."""
    assert isinstance(run.home, Desk), "a run of the commons"
    return run.home


__all__ = ["Commons"]
