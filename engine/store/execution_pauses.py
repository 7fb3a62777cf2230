"""Statements of breakpoints: where an execution is paused, and the commands that had it go on (decision 0016).

A command is an event of the workflow under a reserved key, one for each place of the history.
"""

from typing import Final, NamedTuple

from psycopg.rows import args_row

from engine.ids import OwnerToken
from engine.store.statement import Statement

COMMAND_KEY: Final = "onceflow.debug:"
"""What the keys of commands begin with; then the place."""


class PauseRow(NamedTuple):
    """Where an execution is paused."""

    function_id: int
    node_id: str
    paused_ms: int


def commands(*, execution_id: str) -> Statement[tuple[int, str]]:
    """Commands so far: place, and JSON text."""
    return Statement(
        """
        SELECT substr(v.key, length(%(prefix)s) + 1)::integer, v.value
          FROM {schema}.workflow_events AS v
         WHERE v.workflow_uuid = %(id)s AND starts_with(v.key, %(prefix)s)
         ORDER BY 1
        """,
        {"id": execution_id, "prefix": COMMAND_KEY},
    )


def is_mine(*, execution_id: str, owner: OwnerToken) -> Statement[tuple[bool]]:
    """Lock an execution that runs under this token (P7); whether it is one. No row: it is not ours any more."""
    return Statement(
        """
        SELECT w.kafka_execution IS TRUE
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(id)s AND w.owner_xid = %(owner)s AND w.status = 'PENDING'
           FOR NO KEY UPDATE
        """,
        {"id": execution_id, "owner": owner},
    )


def pause(*, execution_id: str, function_id: int, node_id: str) -> Statement[tuple[str]]:
    """Note where a locked execution is paused; nothing where it says so already."""
    return Statement(
        """
        UPDATE {schema}.execution AS x
           SET paused_function_id = %(function_id)s, paused_node_id = %(node)s, paused_at = {schema}.now_ms()
         WHERE x.workflow_uuid = %(id)s AND x.paused_function_id IS DISTINCT FROM %(function_id)s
        RETURNING x.workflow_uuid
        """,
        {"id": execution_id, "function_id": function_id, "node": node_id},
    )


def paused(*, execution_id: str) -> Statement[PauseRow]:
    """Where an open execution is paused; no row: it is not."""
    return Statement(
        """
        SELECT x.paused_function_id, x.paused_node_id, x.paused_at
          FROM {schema}.execution AS x
          JOIN {schema}.workflow_status AS w USING (workflow_uuid)
         WHERE x.workflow_uuid = %(id)s AND x.paused_function_id IS NOT NULL AND w.status IN ('PENDING', 'ENQUEUED')
        """,
        {"id": execution_id},
        args_row(PauseRow),
    )


def command(*, execution_id: str, function_id: int, value: str) -> Statement[tuple[str]]:
    """Have a locked execution go on from where it is paused."""
    return Statement(
        """
        WITH said AS (
            INSERT INTO {schema}.workflow_events (workflow_uuid, key, value)
            VALUES (%(id)s, %(key)s, %(value)s)
                ON CONFLICT DO NOTHING
        )
        UPDATE {schema}.execution AS x
           SET paused_function_id = NULL, paused_node_id = NULL, paused_at = NULL, updated_at = {schema}.now_ms()
         WHERE x.workflow_uuid = %(id)s
        RETURNING x.workflow_uuid
        """,
        {"id": execution_id, "key": f"{COMMAND_KEY}{function_id}", "value": value},
    )
