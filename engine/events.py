"""Events: what a workflow tells whoever knows its ID, by key; the last value stands, all are kept with their place (P31).

set_event ─▶ checkpoint; effect: value and history ─▶ goes on at once
get_event ─▶ there? ─▶ else in memory or at rest until it is set, or its workflow has ended without
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from engine.asked import Asked
from engine.clock import now_ms
from engine.current import CurrentStep
from engine.effects import Placed, Rows, add, admit
from engine.errors import WorkflowNotFoundError
from engine.failures import decode_error
from engine.given_errors import record_error
from engine.messages import LARGE, UNDURABLE_MAX
from engine.sealed_rows import sealed_values
from engine.signals import Signal
from engine.states import OPEN
from engine.step_writes import write
from engine.store import workflow_events as store
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement, send
from engine.store.workflow_events import EventRow
from engine.timers import Place, place_of, waits_of
from engine.unreadable import once_readable

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.reach import Reach
    from engine.runner import Run

SET_EVENT, GET_EVENT = "DBOS.setEvent", "DBOS.getEvent"


@dataclass(frozen=True, slots=True)
class Event:
    """A value that comes with a checkpoint of its workflow's."""

    workflow_id: str
    key: str
    text: str

    @property
    def touches(self) -> Sequence[str]:
        """Its workflow: whoever goes to rest until this event has looked there, or is seen from there."""
        return (self.workflow_id,)

    @property
    def wakes(self) -> Sequence[Signal]:
        """Whoever waits for it."""
        return (Signal("event", self.workflow_id, self.key),)

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any]:
        """The history, and the last of each key."""
        events = [each.effect for each in placed if isinstance(each.effect, Event)]
        return store.set_recorded(
            ids=[each.run.id for each in placed],
            function_ids=[each.function_id for each in placed],
            keys=[event.key for event in events],
            values=sealed_values([event.text for event in events], engine.payloads.seal),
        )

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """Tell who waits elsewhere."""
        del rows
        engine.hints.brought(signal for each in placed for signal in each.effect.wakes)


class Events:
    """What of one process asks for events."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._asked: Asked[tuple[str, str], EventRow] = Asked(reach, self._read)

    async def look(self, workflow_id: str, key: str) -> tuple[str | None, bool]:
        """An event now, and whether its workflow may still set it.

        Raises:
            WorkflowNotFoundError: There is no such workflow. That of a record which Kafka has is waited for, two seconds (P8).
            UnreadablePayloadError: It cannot be opened here.
        """
        while True:
            row = await self._asked.get((workflow_id, key))
            assert row is not None, "a row for each that is asked for"
            if row.status is not None:
                opened = self._reach.payloads.open_if(row.value, f"workflow {workflow_id}: event {key!r}")
                return opened, row.status in OPEN
            await self._reach.results.look(workflow_id)

    async def _read(self, asked: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], EventRow]:
        reading = store.read(ids=[i for i, _ in asked], keys=[key for _, key in asked])
        async with self._reach.pool.connection() as connection:
            cursor = await send(connection, self._reach.settings.schema, reading)
            return {asked[row.number - 1]: row for row in await cursor.fetchall()}


def signals_of(awaited: Signal) -> Sequence[Signal]:
    """What ends the wait for a workflow's event or stream: more of it, or the workflow's end."""
    return (awaited, Signal("result", awaited.target))


# -- setting --


def set_event(run: Run, key: str, text: str) -> Coroutine[Any, Any, None]:
    """Set an event from a workflow: remembered, and it goes on at once; the value comes with the next flush.

    Raises:
        Suspended: The run may not go on here.
    """
    return _set(run, run.next_function_id(SET_EVENT), Event(run.id, key, text))


async def _set(run: Run, function_id: int, event: Event) -> None:
    if run.history is not None and function_id in run.history:
        return
    started = now_ms()
    await admit(run, undurable_max=0 if len(event.text) > LARGE else UNDURABLE_MAX)
    add(run, function_id, event)
    run.checkpoint(Checkpoint(run.id, function_id, SET_EVENT, "null", None, started, now_ms()))


async def set_in_step(run: Run, step: CurrentStep, key: str, text: str) -> None:
    """Set an event from a step: durable when it returns, in a commit before the step's own."""
    (value,) = sealed_values([text], run.home.seal)
    setting = store.set_in_step(workflow_id=run.id, function_id=step.function_id, key=key, value=value)
    await write(run, setting, Signal("event", run.id, key))


# -- getting --


def event_in_workflow(run: Run, workflow_id: str, key: str, timeout: timedelta | None) -> Coroutine[Any, Any, str]:
    """An event of another workflow, once it is set, remembered: JSON text; `null` when the time, or that workflow, is over.

    Raises:
        WorkflowNotFoundError: There is no such workflow; remembered as well.
        Suspended: The workflow rests until it is set, or may not go on here.
    """
    return _got(run, workflow_id, key, place_of(run, GET_EVENT, timeout))


async def _got(run: Run, workflow_id: str, key: str, place: Place) -> str:
    function_id = place.function_id
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        return recorded.output or "null"
    started = now_ms()
    try:
        value = await once_readable(run, lambda: _awaited(run, workflow_id, key, place.until))
    except WorkflowNotFoundError as error:
        raise record_error(run, function_id, GET_EVENT, error, started, beside=place.time_place) from None
    output = "null" if value is None else value
    run.checkpoint(Checkpoint(run.id, function_id, GET_EVENT, output, None, started, now_ms()))
    return output


async def _awaited(run: Run, workflow_id: str, key: str, until: int) -> str | None:
    engine = run.home.engine
    while True:
        if not run.is_ready():
            await run.ready()  # a child's row comes with a flush of ours
        value, may_come = await engine.events.look(workflow_id, key)
        if value is not None or not may_come or until <= now_ms():
            await admit(run, undurable_max=UNDURABLE_MAX)
            return value
        await waits_of(run).until(run, until, signals_of(Signal("event", workflow_id, key)))


async def event_outside(reach: Reach, workflow_id: str, key: str, timeout_s: float | None) -> str | None:
    """An event, once it is set: JSON text; `None` when the time, or its workflow, is over.

    Raises:
        WorkflowNotFoundError: There is no such workflow.
        UnreadablePayloadError: It cannot be opened here.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        value, may_come = await reach.events.look(workflow_id, key)
        left_s = None if until is None else until - time.monotonic()
        if value is not None or not may_come or (left_s is not None and left_s <= 0):
            return value
        try:
            await reach.waits.outside(signals_of(Signal("event", workflow_id, key)), left_s)
        except TimeoutError:
            continue  # the last look
