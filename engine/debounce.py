"""Debounce: of many calls under a key the last one's inputs are what runs, once it has been quiet for a while (decision 0013).

    call ─┬─ nothing waits under the key ─▶ a row, ENQUEUED and delayed
          └─ one does, and has not started ─▶ its inputs are these now, its delay begins anew, up to a latest time

In a workflow a call is an effect (P31): it is made if and only if its checkpoint is, which gets to know the workflow in the
same commit. A key's calls wait for each other, so the last one is the last one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from engine.clock import now_ms
from engine.effects import Placed, Rows, add, admit
from engine.errors import EngineStoppedError
from engine.failures import decode_error
from engine.faults import Fault, fault_of
from engine.store import debounce as store
from engine.store import workflow_status
from engine.store.debounce import Call
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement, send
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.runner import Run
    from engine.signals import Signal

DEBOUNCE = "DBOS.debounce"

UNDURABLE_MAX = 1_000
"""Checkpoints of one workflow that may wait for their flush before it debounces more (I10)."""


@dataclass(slots=True)
class Debounced:
    """A call that comes with a checkpoint. `answer`: the workflow that waits, once that is durable."""

    call: Call
    answer: str | None = None
    touches: Sequence[str] = ()
    wakes: Sequence[Signal] = ()

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any]:
        """All calls of a flush."""
        calls = [_sealed(engine, each.effect.call) for each in placed if isinstance(each.effect, Debounced)]
        return store.call_recorded([(each.run.id, each.function_id) for each in placed], calls)

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """Tell each call what waits now."""
        found = {(run_id, function_id): answer for run_id, function_id, answer in rows}
        for each in placed:
            if isinstance(each.effect, Debounced):
                each.effect.answer = found.get((each.run.id, each.function_id))
                engine.scan.due_at(now_ms() + each.effect.call.wait_ms)


def _sealed(engine: Engine, call: Call) -> Call:
    """A call on its way to its row (decision 0012)."""
    seal = engine.payloads.seal
    return call if seal is None else call._replace(inputs=seal(call.inputs))


async def debounce_outside(engine: Engine, call: Call) -> str:
    """Make a call that no workflow makes; returns the workflow that waits, when that is durable.

    Raises:
        EngineStoppedError: The engine does not run.
    """
    sealed = _sealed(engine, call)

    async def made() -> str:
        if not engine.is_running:
            raise EngineStoppedError
        fence = workflow_status.fence_database(timeline=engine.database.timeline, lsn=engine.database.lsn)
        async with engine.pool.connection() as connection, connection.transaction():
            fenced = await (await send(connection, engine.settings.schema, fence)).fetchone()
            assert fenced is not None, "fence_database returns a row or raises"
            engine.database.saw(fenced[0])
            row = await (await send(connection, engine.settings.schema, store.call(sealed))).fetchone()
            assert row is not None, "a function returns a row"
        return row[0]

    while True:
        try:
            answer = await through_weather(made)
            break
        except psycopg.Error as error:
            if fault_of(error) is not Fault.WENT_BACK:
                raise
            engine.went_back(str(error))
            await engine.until_alive()
    engine.scan.due_at(now_ms() + call.wait_ms)
    return answer


async def debounce_in_workflow(run: Run, call: Call, function_id: int) -> str:
    """Make a call from a workflow, remembered; returns the workflow that waits, when that is durable.

    Raises:
        WorkflowConflictError: Somebody has taken the ID that what waits would have.
        Suspended: The run may not go on here.
    """
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        return str(json.loads(recorded.output or "null"))
    await admit(run, undurable_max=UNDURABLE_MAX)
    effect, now = Debounced(call), now_ms()
    add(run, function_id, effect)
    run.checkpoint(Checkpoint(run.id, function_id, DEBOUNCE, "null", None, now, now))
    await run.ready()
    if effect.answer is not None:
        return effect.answer

    async def read() -> str:
        engine = run.home.engine
        async with engine.pool.connection() as connection:
            asked = store.answered(workflow_id=run.id, function_id=function_id)
            row = await (await send(connection, engine.settings.schema, asked)).fetchone()
        assert row is not None, "its checkpoint is durable"
        assert row[0] is not None, "and has its answer"
        return row[0]

    return await through_weather(read)
