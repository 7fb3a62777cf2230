"""IDs that clients of an HTTP trigger choose: any, but those that the engine gives itself.

    orders-3-1187     of a record; whoever took it first would keep the record from ever running
    sched-close_day-… of a schedule's tick
    o-1-2             of what workflow o-1 starts at its second place, while there is a workflow o-1

A program's own code may use them all: it knows what it means. A client must not reach what is not its own. Who chooses the
ID of a child before its parent is there cannot be refused; then the parent is, with a `WorkflowConflictError` at that call
(engine/child_conflicts.py): neither gets the other's result, and nothing is lost.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.starts import check_id
from engine.store import starts as store
from engine.store.statement import send
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.engine import Engine

_OF_A_SCHEDULE = "sched-"
_NUMBERED = re.compile(r"(.+)-\d{1,9}")


class ReservedIdError(EngineError):
    """A client chose an ID that is the engine's to give. Nothing was started."""

    def __init__(self, workflow_id: str, whose: str) -> None:
        super().__init__(workflow_id, whose)
        self.workflow_id, self.whose = workflow_id, whose

    def __str__(self) -> str:
        return f"workflow ID {self.workflow_id}: it is {self.whose}; choose another"


async def check_given(engine: Engine, workflow_id: str) -> None:
    """Refuse an ID that a client must not choose.

    Raises:
        ReservedIdError: It is one of the engine's own.
        ConfigurationError: It is no ID.
    """
    check_id(workflow_id)
    if workflow_id.startswith(_OF_A_SCHEDULE):
        raise ReservedIdError(workflow_id, "of the form that runs of schedules have")
    numbered = _NUMBERED.fullmatch(workflow_id)
    if numbered is None:
        return
    if await through_weather(lambda: engine.results.may_come(workflow_id)):
        raise ReservedIdError(workflow_id, "that of a record")
    if await _stands(engine, numbered[1]):
        raise ReservedIdError(workflow_id, f"one of what workflow {numbered[1]} starts")


async def _stands(engine: Engine, workflow_id: str) -> bool:
    async def read() -> bool:
        async with engine.pool.connection() as connection:
            cursor = await send(connection, engine.settings.schema, store.existing(ids=[workflow_id]))
            return await cursor.fetchone() is not None

    return await through_weather(read)
