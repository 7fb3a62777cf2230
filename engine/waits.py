"""Waiting: for a time, or for what others bring; in memory first, at rest where it lasts (P17, P29).

    a workflow waits ─▶ in memory ─┬─ its time comes, or a signal ─────────────▶ goes on
                                   └─ all it has called waits, REST_AFTER long ─▶ rests: its code is unwound with
                                      `Suspended`, its row gets its wake-up time and loses its owner; when that comes,
                                      or a signal, somebody takes the row and runs the code over its history

Signals come from this process at once, from others by hints, and at the latest by a poll of everything that is waited for
in memory here: one statement, with back-off, and none where nobody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from engine.clock import now_ms
from engine.errors import Suspended
from engine.faults import Fault, fault_of
from engine.runner import Ending, Phase, Row, Run, Standing
from engine.signals import FOREVER_MS, Signal
from engine.states import WorkflowStatus
from engine.store import waiting
from engine.store.statement import send

if TYPE_CHECKING:
    from engine.reach import Reach

REST_AFTER_S = 0.1
"""How long everything a workflow has called must have waited for time alone before it rests. Its code between two calls
takes far less; what it does beside them, against its contract, is repeated."""

REST_AFTER_SIGNAL_S = 1.0
"""The same where a signal may come: most children end, and most messages come, sooner than a rest and a replay take."""

REST_MIN_MS = 1_000
"""A workflow that goes on within so long does not rest."""

TIMER_MAX_S = 3_600.0
"""Longest timer of the loop; a longer wait looks at the clock again."""

POLL_FIRST_S, POLL_MAX_S = 0.05, 1.0
"""Between two polls for what is waited for here, doubled each time nothing has come."""

_UNWIND = object()
"""What a wait is answered with whose code is to unwind."""

UNWIND_S = 0.05
"""After which code that was told to unwind, and still waits for something of its own, is cancelled."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workflow ended, as its row says."""

    status: WorkflowStatus
    output: str | None
    error: str | None


class _Wait:
    """One call that waits."""

    __slots__ = ("future", "run", "signals", "timer", "until_ms")

    def __init__(
        self, run: Run | None, until_ms: int, signals: Sequence[Signal], future: asyncio.Future[object]
    ) -> None:
        self.run = run
        self.until_ms = until_ms
        self.signals = signals
        self.future = future
        self.timer: asyncio.TimerHandle | None = None

    def end(self, value: object) -> None:
        if not self.future.done():
            self.future.set_result(value)


class Waits:
    """Everything that waits in this process."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._by_run: dict[Run, list[_Wait]] = {}
        self._by_signal: dict[Signal, set[_Wait]] = {}
        self._resting: dict[Run, asyncio.TimerHandle] = {}
        """When to see whether a run may rest."""
        self._timed: set[_Wait] = set()
        self._poll: asyncio.Task[None] | None = None
        self._poll_now = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._by_run.values()))

    # -- for workflows --

    async def until(self, run: Run, until_ms: int, signals: Sequence[Signal] = ()) -> object:
        """Wait until a time (epoch ms) or one of the signals. Returns what came with the signal, `None` for time.

        Whoever waits for a signal looks whether it brought what it wants, and waits again otherwise.

        Raises:
            Suspended: The workflow rests, or may not go on here.
        """
        if run.standing is not Standing.ACTIVE or run.doom is not None:
            run.was_suspended = True
            raise Suspended(run.id)
        if until_ms <= now_ms():
            return None
        wait = _Wait(run, until_ms, signals, self._reach.loop.create_future())
        self._enter(wait)
        waits = self._by_run.setdefault(run, [])
        waits.append(wait)
        self._consider_later(run)
        try:
            brought = await wait.future
        finally:
            self._leave(wait)
            waits.remove(wait)
            if not waits:
                del self._by_run[run]
                if (timer := self._resting.pop(run, None)) is not None:
                    timer.cancel()
        if brought is _UNWIND:
            raise Suspended(run.id)
        return brought

    def suspend(self, run: Run) -> None:
        """Unwind a run's code: it may not go on here, or is to rest."""
        waits = self._by_run.get(run)
        if not waits:
            return  # a running step ends, and its workflow with it if nothing follows
        run.was_suspended = True
        for wait in waits:
            # Not as the future's exception: its traceback would lead back to the future, a cycle for each who sleeps.
            wait.end(_UNWIND)
        if run.handler.is_async and run.phase is Phase.RUNNING:
            self._reach.call_later(UNWIND_S, self._cancel, run, run.task)

    def _cancel(self, run: Run, task: asyncio.Task[None] | None) -> None:
        """Its code waits for something of its own, which would never come to an end by itself."""
        if task is None or run.task is not task or not run.is_running or run.phase is not Phase.RUNNING:
            return
        if run.running_steps:
            self._reach.call_later(UNWIND_S, self._cancel, run, task)
        else:
            task.cancel()

    # -- for others --

    async def outside(self, signals: Sequence[Signal], timeout_s: float | None) -> object:
        """Wait for one of some signals outside of any workflow. Returns what came with it. Raises `TimeoutError`."""
        wait = _Wait(None, FOREVER_MS, signals, self._reach.loop.create_future())
        self._enter(wait)
        try:
            async with asyncio.timeout(timeout_s):
                return await wait.future
        finally:
            self._leave(wait)

    def end(self, error: BaseException | None = None) -> None:
        """The engine ends: nobody brings anything to those who wait outside of workflows. `error`: why."""
        for wait in [wait for waits in self._by_signal.values() for wait in waits if wait.run is None]:
            if not wait.future.done():
                wait.future.set_exception(error or self._reach.gone())

    # -- signals --

    def signalled(self, signals: Iterable[Signal], brought: object = None) -> None:
        """These have come, durably."""
        for signal in signals:
            for wait in tuple(self._by_signal.get(signal.anywhere, ())):
                wait.end(brought)

    def is_awaited(self, signal: Signal) -> bool:
        """Whether anybody here waits for it."""
        return signal.anywhere in self._by_signal

    def hinted(self) -> None:
        """Something may have come: ask for everything that is waited for."""
        if self._by_signal:
            self._poll_now.set()

    def look_at_clock(self) -> None:
        """The clock was moved. For tests."""
        for wait in tuple(self._timed):
            self._arm(wait)

    # -- inside --

    def _enter(self, wait: _Wait) -> None:
        for signal in wait.signals:
            self._by_signal.setdefault(signal.anywhere, set()).add(wait)
        if wait.until_ms < FOREVER_MS:
            self._timed.add(wait)
            self._arm(wait)
        if wait.signals:
            self._poll_now.set()
            self._reach.listens()
            if self._poll is None or self._poll.done():
                self._poll = self._reach.spawn(self._poll_while_awaited())

    def _leave(self, wait: _Wait) -> None:
        self._timed.discard(wait)
        if wait.timer is not None:
            wait.timer.cancel()
        for signal in wait.signals:
            waits = self._by_signal[signal.anywhere]
            waits.discard(wait)
            if not waits:
                del self._by_signal[signal.anywhere]

    def _arm(self, wait: _Wait) -> None:
        if wait.timer is not None:
            wait.timer.cancel()
        left_ms = wait.until_ms - now_ms()
        if left_ms <= 0:
            wait.end(None)
        else:
            wait.timer = self._reach.loop.call_later(min(left_ms / 1000, TIMER_MAX_S), self._arm, wait)

    def _consider_later(self, run: Run) -> None:
        if (timer := self._resting.get(run)) is not None:
            timer.cancel()
        after_s = REST_AFTER_SIGNAL_S if any(wait.signals for wait in self._by_run[run]) else REST_AFTER_S
        self._resting[run] = self._reach.loop.call_later(after_s, self._consider, run, run.function_id)

    def _consider(self, run: Run, function_id: int) -> None:
        """Put a run to rest if all it has called waits, and it has called nothing since the last of it began to."""
        waits = self._by_run.get(run)
        if not waits or run.standing is not Standing.ACTIVE or run.doom is not None or run.phase is not Phase.RUNNING:
            return
        wake_at = min(wait.until_ms for wait in waits)
        if run.row is not Row.RUNNING:
            run.needs_first_row = True
            run.submit()
        idle = (
            run.function_id == function_id
            and not run.running_steps
            and not run.waiters
            and run.durable >= run.recorded
            and run.row is Row.RUNNING
            and not any(wait.future.done() for wait in waits)
        )
        if not idle or wake_at - now_ms() < REST_MIN_MS or not run.home.engine.lease.is_valid():
            self._consider_later(run)
            return
        signals = tuple(dict.fromkeys(signal for wait in waits for signal in wait.signals))
        if signals:
            run.home.engine.has_extras = True
        run.doom = Ending(WorkflowStatus.PENDING, attempt=run.attempt, wake_at=wake_at, asleep=True, signals=signals)
        self.suspend(run)

    async def _poll_while_awaited(self) -> None:
        wait_s = POLL_FIRST_S
        while self._by_signal:
            try:
                async with asyncio.timeout(wait_s):
                    await self._poll_now.wait()
                wait_s = POLL_FIRST_S
                # Whoever has just begun to wait has just looked.
                await asyncio.sleep(POLL_FIRST_S)
            except TimeoutError:
                wait_s = min(wait_s * 2, POLL_MAX_S)
            self._poll_now.clear()
            if not self._by_signal:
                return
            try:
                self.signalled(await self._answered([self._least(signal) for signal in self._by_signal]))
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    raise
                wait_s = POLL_MAX_S

    async def _answered(self, signals: Sequence[Signal]) -> list[Signal]:
        reach = self._reach
        asked = waiting.answered(
            kinds=[signal.kind for signal in signals],
            targets=[signal.target for signal in signals],
            names=[signal.name for signal in signals],
            places=[signal.place for signal in signals],
        )
        async with reach.pool.connection() as connection:
            cursor = await send(connection, reach.settings.schema, asked)
            return [signals[number - 1] for (number,) in await cursor.fetchall()]

    def _least(self, signal: Signal) -> Signal:
        """A signal with the first place that anybody waits for."""
        if signal.kind != "stream":
            return signal
        awaited = [each for wait in self._by_signal[signal] for each in wait.signals if each.anywhere == signal]
        return min(awaited, key=lambda each: each.place)
