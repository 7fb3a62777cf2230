"""What an execution's options do to its nodes: breakpoints, time-outs, concurrency (decision 0016).

    step ─▶ answered from the history, or … gate ─▶ a breakpoint? noted, and waited at: in memory, then at rest
                                                ─▶ a slot of max_concurrency ─▶ the step, node_timeout_ms for each try

A command of the debugger is an event of the workflow under the place's key: who waits wakes by it, and a replay finds it
and goes through. Runs without such options have no gate, and pay a test for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigurationError, Suspended
from engine.execution_rows import Execution, ExecutionOptions, own_execution
from engine.handlers import Step, TransactionStep
from engine.signals import FOREVER_MS, Signal
from engine.store import execution_pauses as store
from engine.store import executions
from engine.store.statement import send
from engine.tasks import within
from engine.weather import through_weather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.runner import Run

STEP = "step"
CONTINUE = "continue"


class Gate:
    """Before every node of one run that has options."""

    def __init__(self, run: Run, options: ExecutionOptions) -> None:
        self._run = run
        self._options = options
        limits = options.execution
        timeout_ms = limits.node_timeout_ms
        self._timeout = None if timeout_ms is None else timedelta(milliseconds=timeout_ms)
        self._slots = None if limits.max_concurrency is None else asyncio.Semaphore(limits.max_concurrency)
        self._turn = asyncio.Lock()
        """Nodes called together pause one after the other, in the order of their calls."""
        self._passing: set[int] = set()

    def has_passed(self, function_id: int) -> bool:
        """Whether the node of this place is behind the gate."""
        return function_id in self._passing

    @asynccontextmanager
    async def passed(self, name: str, function_id: int) -> AsyncGenerator[None]:
        """Wait before a node until it may begin. It has its slot until the block ends.

        Raises `Suspended` when the run is to rest, or may not go on here.
        """
        if self._options.pauses:
            async with self._turn:
                await self._pause(name, function_id)
        if self._slots is not None:
            await self._slots.acquire()
        self._passing.add(function_id)
        try:
            yield
        finally:
            self._passing.discard(function_id)
            if self._slots is not None:
                self._slots.release()

    def limited(self, step: Step) -> Step:
        """The step with the time-out of its execution, if that is the shorter one."""
        if self._timeout is None or (step.timeout is not None and step.timeout <= self._timeout):
            return step
        return replace(step, timeout=self._timeout)

    def limited_transaction(self, step: TransactionStep) -> TransactionStep:
        """The same for a transaction: an async function is cancelled and rolled back. A sync one is not interrupted."""
        timeout, function = self._timeout, step.function
        if timeout is None or not step.is_async:
            return step

        async def in_time(*args: Any, **kwargs: Any) -> Any:
            return await within(timeout, f"transaction {step.name!r}", function(*args, **kwargs))

        return replace(step, function=in_time)

    @property
    def limits_time(self) -> bool:
        """Whether nodes may be cancelled: then their transactions are their own."""
        return self._timeout is not None

    async def _pause(self, name: str, function_id: int) -> None:
        run = self._run
        while True:
            await run.ready()
            commands = await through_weather(self._commands)
            if function_id in commands:
                return
            before = [place for place in commands if place < function_id]
            steps = commands[max(before)] == STEP if before else self._options.debug
            if not steps and name not in self._options.breakpoints:
                return
            if not await through_weather(lambda: self._note(name, function_id)):
                run.home.refuse(run, "not ours")
                run.was_suspended = True
                raise Suspended(run.id)
            key = f"{store.COMMAND_KEY}{function_id}"
            await run.home.engine.waits.until(run, FOREVER_MS, (Signal("event", run.id, key),))

    async def _commands(self) -> Mapping[int, str]:
        engine = self._run.home.engine
        async with engine.pool.connection() as connection:
            cursor = await send(connection, engine.settings.schema, store.commands(execution_id=self._run.id))
            return {place: json.loads(value)["command"] for place, value in await cursor.fetchall()}

    async def _note(self, name: str, function_id: int) -> bool:
        """Note the pause, and say so. Returns whether the run's row is still its own."""
        run = self._run
        engine = run.home.engine
        schema = engine.settings.schema
        async with engine.pool.connection() as connection, connection.transaction():
            mine = await (
                await send(connection, schema, store.is_mine(execution_id=run.id, owner=run.owner))
            ).fetchone()
            if mine is None:
                return False
            if not mine[0]:
                raise ConfigurationError(
                    f"workflow {run.id}: its options have breakpoints, and it is no execution that could pause.\n"
                    f"  Create it with ExecutionStore.create, and enqueue it."
                )
            noting = store.pause(execution_id=run.id, function_id=function_id, node_id=name)
            if await (await send(connection, schema, noting)).fetchone() is not None:
                data = json.dumps({"node_id": name, "place": function_id})
                await send(
                    connection, schema, executions.append_event(execution_id=run.id, event_type="paused", data=data)
                )
        return True


def open_gate(run: Run, *, is_fork: bool) -> None:
    """Give a run its gate, if it is of an execution with options; and of a fork its own execution."""
    args, kwargs = run.argument
    if is_fork:
        run.argument = args, kwargs = (
            [own_execution(each, run.id) if isinstance(each, Execution) else each for each in args],
            {
                name: own_execution(each, run.id) if isinstance(each, Execution) else each
                for name, each in kwargs.items()
            },
        )
    execution = next((each for each in (*args, *kwargs.values()) if isinstance(each, Execution)), None)
    options = None if execution is None else execution.options
    if options is None:
        return
    limits = options.execution
    if options.pauses or limits.node_timeout_ms is not None or limits.max_concurrency is not None:
        run.home.engine.gates[run] = Gate(run, options)


def gate_of(run: Run, function_id: int) -> Gate | None:
    """The gate that a node has still to pass, if there is one."""
    gate = run.home.engine.gates.get(run)
    return None if gate is None or gate.has_passed(function_id) else gate
