"""Runs one workflow: what it has recorded, what of that is durable, whether it may begin another effect.

    fresh ─▶ waiting ─▶ running ─▶ ended ─▶ done          a record with no row runs at once; its row comes with its
                ▲          │                               first checkpoint, its outcome, or persist_after (P8)
                │          ├─▶ at rest ─▶ acquiring ─┐     a retry's delay, a key that is taken: nobody owns the row
                └──────────┴─────────────────────────┘

A step's result goes to the committer and the workflow goes on; its next effect waits until all it did before is
durable (P17, `ready`). A run whose source was released is *late*: it ends its running steps and begins nothing (P12).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from enum import Enum, IntEnum
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from engine.clock import now_ms
from engine.current import current_run
from engine.errors import NondeterminismError, RacingStepsError, Suspended
from engine.failures import NO_FAILURES, encode_error, summary
from engine.identity import Origin
from engine.ids import OrderingKey, OwnerToken, WorkflowId
from engine.misfits import ended_by, has_suspended
from engine.own_thread import require_own
from engine.races import Callers, check_turn, race_of
from engine.records import Record
from engine.sealed_rows import sealed_checkpoint
from engine.signals import Signal
from engine.states import WorkflowStatus
from engine.waiters import Pause, ThreadWaiter

if TYPE_CHECKING:
    from engine.effects import Placed
    from engine.handlers import Handler
    from engine.home import Home
    from engine.inbox import Inbox
    from engine.store.operation_outputs import Checkpoint, CheckpointRow


class Row(IntEnum):
    """What stands in the database, as far as this process knows."""

    NONE = 0
    REST = 1
    """Open and ownerless: whoever holds the partition may wake it."""
    RUNNING = 2
    """Open under our token."""
    FOREIGN = 3
    """Open under another live executor's token: a late run of the last owner."""


class Phase(Enum):
    """Where a run is."""

    WAITING = "waiting"
    """Behind its key, for its wake-up time, or held."""
    RESTING = "resting"
    """Waiting, and its row at rest is on the way: it starts over that row, not before (P15)."""
    PERSISTING = "persisting"
    """Its row is written before it starts (caution, persist_first)."""
    ACQUIRING = "acquiring"
    """Its owner is being written (P15)."""
    RUNNING = "running"
    ENDED = "ended"
    """Its ending is on the way to the database."""
    DONE = "done"


class Standing(IntEnum):
    """What a run may still do."""

    ACTIVE = 0
    LATE = 1
    """Released: running steps end, their results count under the row fence; no effect begins."""
    REFUSED = 2
    """Its row is no longer PENDING under our token (cancelled): nothing more is written."""
    ABANDONED = 3
    """Fenced out, or the database went back: its result is dropped."""


@dataclass(slots=True)
class Ending:
    """How an attempt ended. `wake_at` set: it rests until then and is tried again (P28)."""

    status: WorkflowStatus
    output: str | None = None
    error: str | None = None
    reason: str = ""
    """Of its dead letter; empty for success."""
    summary: str = ""
    attempt: int = 0
    wake_at: int | None = None
    hold: tuple[str, OrderingKey | None, str] | None = None
    """(kind, key, reason) of the hold that is written with it."""
    asleep: bool = False
    """It rests within an attempt (engine/waits.py): nothing is forgotten when it wakes."""
    signals: Sequence[Signal] = ()
    """What wakes it before `wake_at`."""
    sealed: tuple[str | None, str | None] | None = None
    """Output and error as their columns have them, where payloads are sealed."""

    @property
    def is_final(self) -> bool:
        """Whether it ends the workflow, not only an attempt."""
        return self.wake_at is None


_SUCCEEDED = Ending(WorkflowStatus.SUCCESS, "null")
"""Of most workflows. Nobody changes an ending that is a success."""


class Encoded(str):
    """A result read back from its checkpoint, still as JSON text."""

    __slots__ = ()


UNDECODED: Any = object()
"""A record that nobody has looked into yet."""


class Run:
    """One workflow in this process. Lives on the loop; sync handlers touch it through `checkpoint`.

    Every record has one, so what only running code needs is not there before: `function_id` from `start` on, `task` and
    `context` from `code` on.
    """

    __slots__ = (
        "alone_deaths",
        "argument",
        "attempt",
        "callers",
        "closed_streams",
        "context",
        "counted",
        "deadline_ms",
        "doom",
        "durable",
        "durable_ids",
        "effects",
        "ending",
        "entered_at",
        "error_given",
        "followers",
        "function_id",
        "handled_error",
        "history",
        "home",
        "id",
        "inbox",
        "is_alone",
        "is_parked",
        "is_running",
        "key",
        "needs_first_row",
        "offset",
        "origin",
        "phase",
        "place",
        "record",
        "recorded",
        "recovery_attempts",
        "row",
        "running_steps",
        "standing",
        "started_ms",
        "submitted",
        "task",
        "thread",
        "trace",
        "unsent",
        "waiters",
        "wake_at",
        "was_suspended",
    )

    function_id: int
    closed_streams: set[str] | None
    callers: Callers | None
    task: asyncio.Task[None] | None
    context: Context | None
    thread: int
    """Whose code it is: that of the loop, or that of a sync handler."""
    origin: Origin
    """Of one without a source."""
    trace: Any
    """What tracing knows of it, where there is any: its own business."""

    def __init__(self, home: Home, *, offset: int, key: OrderingKey | None, record: Record | None) -> None:
        self.home = home
        self.inbox: Inbox = home  # type: ignore[assignment]  # its home too, of a record's run; nobody asks another
        self.id = WorkflowId(f"{home.id_prefix}{offset}")
        self.offset = offset
        self.place = offset
        self.key = key
        self.record = record
        self.argument: Any = UNDECODED
        self.row = Row.NONE
        self.phase = Phase.WAITING
        self.standing = Standing.ACTIVE
        self.followers: list[Run] | None = None
        self.history: dict[int, CheckpointRow] | None = None
        self.recorded = 0
        self.durable = 0
        self.durable_ids: list[int] = []
        self.unsent: list[Checkpoint] = []
        self.effects: list[Placed] | None = None
        """Rows that come with its checkpoints (P31), until they are durable."""
        self.ending: Ending | None = None
        self.doom: Ending | None = None
        """It cannot be written as it is (P27): how it will end, once what runs of it has ended."""
        self.submitted = False
        self.waiters: list[asyncio.Future[None] | Pause | ThreadWaiter] | None = None
        self.running_steps = 0
        self.error_given = False
        self.handled_error = False
        self.was_suspended = False
        self.recovery_attempts = 0
        self.alone_deaths = 0
        self.is_alone = False
        self.is_parked = False
        self.is_running = False
        """Whether its code has been started, and has not ended."""
        self.counted: int | None = None
        self.needs_first_row = False
        self.attempt = 0
        self.wake_at: int | None = None
        self.deadline_ms: int | None = None
        self.entered_at = monotonic()
        self.started_ms = 0

    @property
    def handler(self) -> Handler:
        """What it runs."""
        return self.home.handler

    @property
    def owner(self) -> OwnerToken:
        """What its row names while it runs here."""
        return self.home.token

    @property
    def is_replaying(self) -> bool:
        """Whether the code runs over recorded steps only: loggers are silent."""
        return self.history is not None and self.function_id < max(self.history, default=0)

    # -- its code --

    def start(self) -> None:
        """Run the handler's code from the beginning, over the history there is."""
        self.phase = Phase.RUNNING
        if not self.started_ms:
            self.started_ms = now_ms()
        self.function_id = 0
        self.closed_streams = self.callers = None
        if self.was_suspended or self.error_given:
            self.error_given = self.handled_error = self.was_suspended = False
        self.is_running = True
        self.task = self.context = None
        engine = self.home.engine
        if self.home.handler.is_async:
            engine.turns.start(self)
            return
        if self.row is Row.NONE:
            engine.watch(self)
        engine.handler_threads.start(self)

    async def code(self, task: asyncio.Task[None], context: Context) -> None:
        """The code of an async handler and what follows from its end, in a task and a context (`engine.turns`)."""
        current_run.set(self)
        self.task, self.context, self.thread = task, context, get_ident()
        ending: Ending | None = None
        try:
            ending = self._succeeded(await self.home.body(self.argument))
        except Suspended:
            self.was_suspended = True
        except BaseException as error:  # noqa: BLE001  # the user's code, and a panic is no `Exception`
            ending = self.failed(error)
        if self.running_steps:
            await self._steps_ended()
        self._ended(ending)

    def code_in_thread(self) -> None:
        """The code of a sync handler, in a thread and a context (`engine.handler_threads`)."""
        current_run.set(self)
        self.thread = get_ident()
        ending: Ending | None = None
        try:
            ending = self._succeeded(self.home.body(self.argument))
        except Suspended:
            self.was_suspended = True
        except BaseException as error:  # noqa: BLE001  # as above
            ending = self.failed(error)
        self.home.engine.handler_threads.tell(self._ended_in_thread, ending)

    def _ended_in_thread(self, ending: Ending | None) -> None:
        if self.running_steps:
            self.home.engine.spawn(self._ended_after_steps(ending))
            return
        self.home.engine.handler_threads.ended()
        self._ended(ending)

    async def _ended_after_steps(self, ending: Ending | None) -> None:
        await self._steps_ended()
        self.home.engine.handler_threads.ended()
        self._ended(ending)

    def _ended(self, ending: Ending | None) -> None:
        self.is_running = False
        # The context knows the run: a cycle, which only the garbage collector would end.
        self.task = self.context = None
        self.home.ended(self, None if self.was_suspended else ending)

    def _succeeded(self, result: Any) -> Ending:
        if self.callers is not None and (race := race_of(self)) is not None:
            raise race
        output = str(result) if isinstance(result, Encoded) else self.home.handler.encode(result)
        return _SUCCEEDED if output == "null" else Ending(WorkflowStatus.SUCCESS, output)

    def failed(self, error: BaseException) -> Ending | None:
        """The ending of an attempt that raised: another attempt, or the failure that the policy deals with."""
        if isinstance(error, NO_FAILURES):
            raise error
        engine = self.home.engine
        is_cut = engine.is_aborted or engine.stopping.is_set()
        if self.standing is Standing.ABANDONED or is_cut or has_suspended(error):
            # Cut: its process ends, after a drain too short for it. Whoever comes next goes on behind its checkpoints.
            self.was_suspended = True
            return None
        error = race_of(self) or error
        text, short = encode_error(error), summary(error)
        attempt = self.attempt + 1
        if (
            isinstance(error, Exception)
            and not isinstance(error, (NondeterminismError, RacingStepsError))
            and not self.handled_error
        ):
            delay = self.handler.retry.delay_after(attempt, error)
            if delay is not None:
                wake_at = now_ms() + int(delay.total_seconds() * 1000)
                return Ending(WorkflowStatus.PENDING, error=text, summary=short, attempt=attempt, wake_at=wake_at)
        return Ending(WorkflowStatus.ERROR, error=text, reason="failed", summary=short, attempt=attempt)

    # -- effects --

    def next_function_id(self, name: str) -> int:
        """The place of the next effect in the history: given at the call, in call order.

        Raises `Suspended` to code that is unwound already, whatever it calls in its `finally` or after it has caught that:
        the place is that of what the code calls when it comes back over its history (I4).
        """
        if self.was_suspended:
            raise Suspended(self.id)
        if self.error_given:
            if self.doom is not None:
                self.was_suspended = True
                raise Suspended(self.id)
            self.handled_error = True
        if self.thread != get_ident():
            require_own(self, name)
        if self.task is not None:
            check_turn(self, name)
        self.function_id += 1
        recorded = None if self.history is None else self.history.get(self.function_id)
        if recorded is not None and recorded.name != name:
            raise ended_by(self, NondeterminismError(self.id, recorded=recorded.name, called=name))
        return self.function_id

    async def ready(self) -> None:
        """Wait until an effect may begin: all done before is durable, the lease stands, the source is ours (P1, P17).

        Raises `Suspended` when none may begin any more.
        """
        while True:
            if self.standing is not Standing.ACTIVE or self.doom is not None:
                self.was_suspended = True
                raise Suspended(self.id)
            if self.durable < self.recorded:
                await self._waiter()
            elif not self.home.engine.lease.is_valid():
                await self.home.engine.lease.wait_until_valid()
            else:
                return

    def ready_in_thread(self) -> bool:
        """`ready` for a sync workflow's thread, as far as it waits for commits. Returns whether an effect may begin now.

        Raises `Suspended` when none may begin any more.
        """
        while self.durable < self.recorded:
            waiter = ThreadWaiter()
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(waiter)
            # Again: the commit may have been told before there was a waiter.
            if self.durable < self.recorded and self.standing is Standing.ACTIVE and self.doom is None:
                waiter.wait()
            if self.standing is not Standing.ACTIVE or self.doom is not None:
                self.was_suspended = True
                raise Suspended(self.id)
        return self.is_ready()

    def is_ready(self) -> bool:
        """Whether `ready` would return at once; for threads, immediately before an effect (P1)."""
        return (
            self.standing is Standing.ACTIVE
            and self.durable >= self.recorded
            and self.doom is None
            and self.home.engine.lease.is_valid()
        )

    def step_ended(self) -> None:
        """A step's function has returned, in whatever thread: the last one lets the run end (P12)."""
        self.running_steps -= 1
        if not self.running_steps and (self.waiters or self.standing is not Standing.ACTIVE or self.doom is not None):
            self.wake_waiters()

    async def persisted(self) -> None:
        """Wait until the row stands under our token (P20)."""
        while self.row is not Row.RUNNING:
            if self.standing is not Standing.ACTIVE or self.doom is not None:
                self.was_suspended = True
                raise Suspended(self.id)
            self.needs_first_row = True
            self.submit()
            await self._waiter()

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Hand a step's record over; the workflow goes on at once (P17). Loop only."""
        if (seal := self.home.seal) is not None:
            checkpoint = sealed_checkpoint(checkpoint, seal)
        self.unsent.append(checkpoint)
        self.recorded += 1
        if not self.submitted:
            self.submit()

    def checkpoint_from_thread(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` for a sync workflow's thread: counted at once, so that its next effect waits for it."""
        if (seal := self.home.seal) is not None:
            checkpoint = sealed_checkpoint(checkpoint, seal)
        self.recorded += 1
        self.home.engine.handler_threads.tell(self._take_over, checkpoint)

    def _take_over(self, checkpoint: Checkpoint) -> None:
        self.unsent.append(checkpoint)
        self.submit()

    def was_recorded(self, function_id: int) -> None:
        """A checkpoint became durable outside a flush: in a transaction of its own (P20)."""
        self.durable_ids.append(function_id)

    def submit(self) -> None:
        """Have the committer look at this run. A partition's late run is looked at when it ends."""
        if not self.submitted and (
            self.standing is Standing.ACTIVE or (self.standing is Standing.LATE and not self.home.has_source)
        ):
            self.submitted = True
            self.home.submit(self)

    def wake_waiters(self) -> None:
        """Tell whoever waits in `ready`, `persisted` or for the last step to look again."""
        if self.waiters:
            waiters, self.waiters = self.waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if self.standing is not Standing.ACTIVE or self.doom is not None:
            self.home.engine.waits.suspend(self)

    def _waiter(self) -> asyncio.Future[None] | Pause:
        loop, task = self.home.loop, self.task
        waiter = Pause() if task is not None and asyncio.current_task(loop) is task else loop.create_future()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(waiter)
        return waiter

    async def _steps_ended(self) -> None:
        while self.running_steps:
            await self._waiter()
