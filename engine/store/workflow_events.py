"""Statements of `workflow_events` and `workflow_events_history`: what a workflow tells the world, by key."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.store.notifications import QUIET
from engine.store.statement import Statement


class EventRow(NamedTuple):
    """What stands of an event, and of its workflow, at one moment."""

    number: int
    """Which of those asked for, from 1."""
    status: str | None
    """Of the workflow; `None`: there is none."""
    value: str | None


def read(*, ids: Sequence[str], keys: Sequence[str]) -> Statement[EventRow]:
    """Events with the status of their workflows, of one snapshot: one that has ended sets none any more."""
    return Statement(
        """
        SELECT t.number::integer, w.status, e.value
          FROM unnest(%(ids)b::text[], %(keys)b::text[]) WITH ORDINALITY AS t (id, key, number)
          LEFT JOIN {schema}.workflow_status AS w ON w.workflow_uuid = t.id
          LEFT JOIN {schema}.workflow_events AS e ON e.workflow_uuid = t.id AND e.key = t.key
        """,
        {"ids": ids, "keys": keys},
        args_row(EventRow),
    )


_GIVEN: Final = """
    , given AS MATERIALIZED (
        SELECT t.id, t.function_id, t.key, t.value, t.number
          FROM unnest(%(ids)b::text[], %(function_ids)b::integer[], %(keys)b::text[], %(values)b::text[])
                 WITH ORDINALITY AS t (id, function_id, key, value, number)
"""

_RECORDED: Final = """
          JOIN {schema}.operation_outputs AS o
            ON o.workflow_uuid = t.id AND o.function_id = t.function_id AND o.xmin = pg_current_xact_id()::xid
"""

_SET: Final = """
    ), history AS (
        INSERT INTO {schema}.workflow_events_history (workflow_uuid, function_id, key, value)
        SELECT g.id, g.function_id, g.key, g.value
          FROM given AS g
            ON CONFLICT (workflow_uuid, function_id, key) DO UPDATE SET value = EXCLUDED.value
    )
    INSERT INTO {schema}.workflow_events (workflow_uuid, key, value)
    SELECT DISTINCT ON (g.id, g.key) g.id, g.key, g.value
      FROM quiet AS q
      JOIN given AS g ON q.says IS NOT NULL
     ORDER BY g.id, g.key, g.number DESC
        ON CONFLICT (workflow_uuid, key) DO UPDATE SET value = EXCLUDED.value
"""


def set_recorded(
    *, ids: Sequence[str], function_ids: Sequence[int], keys: Sequence[str], values: Sequence[str]
) -> Statement[Any]:
    """Events that come with checkpoints, only where this transaction wrote those; the last of a key stands (P7, P31)."""
    return Statement(
        QUIET + _GIVEN + _RECORDED + _SET,
        {"ids": ids, "function_ids": function_ids, "keys": keys, "values": values},
    )


def set_in_step(*, workflow_id: str, function_id: int, key: str, value: str) -> Statement[Any]:
    """An event that a step sets, behind the fence of its workflow's row: once for each key, however often it runs."""
    return Statement(
        QUIET + _GIVEN + _SET,
        {"ids": [workflow_id], "function_ids": [function_id], "keys": [key], "values": [value]},
    )
