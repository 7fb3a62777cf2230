"""IDs that somebody chooses: clients of an HTTP trigger, and whoever forks. Any, but those that the engine gives itself.

    orders-3-1187     of a record; whoever took it first would keep the record from ever running
    sched-close_day-… of a schedule's tick
    o-1-2             of what workflow o-1 starts at its second place, while there is a workflow o-1

A program's own code may start workflows under them all: it knows what it means. A client must not reach what is not its own,
and a fork, whoever asks for it, is neither a record's workflow nor a tick's: it would stand where theirs belongs. Who chooses the
ID of a child before its parent is there cannot be refused; then the parent is, with a `WorkflowConflictError` at that call
(engine/child_conflicts.py): neither gets the other's result, and nothing is lost.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection

from engine.acts import through_pool
from engine.errors import EngineError
from engine.starts import check_id
from engine.store import handles, starts
from engine.store.statement import send

if TYPE_CHECKING:
    from engine.reach import Reach

_OF_A_SCHEDULE = "sched-"
_NUMBERED = re.compile(r"(.+)-\d{1,9}")


class ReservedIdError(EngineError):
    """Somebody chose an ID that is the engine's to give. Nothing was started."""

    def __init__(self, workflow_id: str, whose: str) -> None:
        super().__init__(workflow_id, whose)
        self.workflow_id, self.whose = workflow_id, whose

    def __str__(self) -> str:
        return f"workflow ID {self.workflow_id}: it is {self.whose}; choose another"


async def check_given(reach: Reach, workflow_id: str) -> None:
    """Refuse an ID that a client must not choose.

    Raises:
        ReservedIdError: It is one of the engine's own.
        ConfigurationError: It is no ID.
    """
    await through_pool(reach, lambda connection, schema: check_chosen(connection, schema, workflow_id))


async def check_chosen(
    connection: AsyncConnection[Any], schema: str, workflow_id: str, *, of_children: bool = False
) -> None:
    """`check_given` on a connection.

    Args:
        connection: Any.
        schema: Of the system tables.
        workflow_id: As it was chosen.
        of_children: Whether it may be one of those that a workflow which stands gives what it starts.
    """
    check_id(workflow_id)
    if workflow_id.startswith(_OF_A_SCHEDULE):
        raise ReservedIdError(workflow_id, "of the form that runs of schedules have")
    if await is_of_a_record(connection, schema, workflow_id):
        raise ReservedIdError(workflow_id, "that of a record")
    numbered = _NUMBERED.fullmatch(workflow_id)
    if numbered is None or of_children:
        return
    cursor = await send(connection, schema, starts.existing(ids=[numbered[1]]))
    if await cursor.fetchone() is not None:
        raise ReservedIdError(workflow_id, f"one of what workflow {numbered[1]} starts")


async def is_of_a_record(connection: AsyncConnection[Any], schema: str, workflow_id: str) -> bool:
    """Whether an ID is of a record, there already or still to come, of a topic that some group has registered."""
    head, _, offset = workflow_id.rpartition("-")
    topic, _, partition = head.rpartition("-")
    if not (topic and offset.isdigit() and partition.isdigit()):
        return False
    name = topic.rpartition("|")[2].partition("~")[0]
    cursor = await send(connection, schema, handles.is_topic(topics=[topic, name]))
    row = await cursor.fetchone()
    return row is not None and row[0]
