"""Statements of `execution_event`: what happened to executions, in the order of commits (decision 0016)."""

from typing import NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement


class EventRow(NamedTuple):
    """An event as stored. `data` is JSON text."""

    event_id: int
    execution_id: str
    event_index: int
    type: str
    data: str
    created_ms: int


def of_execution(*, execution_id: str, from_index: int, limit: int) -> Statement[EventRow]:
    """Events of one execution from a place on. Places have no gaps: an event is visible only behind all before it."""
    return Statement(
        """
        SELECT v.event_id, v.workflow_uuid, v.event_index, v.type, v.data, v.created_at
          FROM {schema}.execution_event AS v
         WHERE v.workflow_uuid = %(id)s AND v.event_index >= %(from_index)s
         ORDER BY v.event_index
         LIMIT %(limit)s
        """,
        {"id": execution_id, "from_index": from_index, "limit": limit},
        args_row(EventRow),
    )


class Seen(NamedTuple):
    """How far events are visible, whether or not smaller numbers can still come."""

    last_id: int | None
    xid: int | None
    """Newer than that of every transaction that drew a smaller number: each had its own before it drew."""


def seen(*, after: int, limit: int) -> Statement[Seen]:
    """How far to read next. Nothing new costs no xid."""
    return Statement(
        """
        SELECT max(v.event_id), CASE WHEN count(*) > 0 THEN pg_current_xact_id()::text::bigint END
          FROM (SELECT e.event_id
                  FROM {schema}.execution_event AS e
                 WHERE e.event_id > %(after)s
                 ORDER BY e.event_id
                 LIMIT %(limit)s) AS v
        """,
        {"after": after, "limit": limit},
        args_row(Seen),
    )


def is_settled(*, xid: int) -> Statement[tuple[bool]]:
    """Whether all that was under way when this xid was given has ended."""
    return Statement("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %(xid)s", {"xid": xid})


def of_all(*, after: int, last_id: int) -> Statement[EventRow]:
    """Events of all executions, up to a number at or below which nothing can come any more."""
    return Statement(
        """
        SELECT v.event_id, v.workflow_uuid, v.event_index, v.type, v.data, v.created_at
          FROM {schema}.execution_event AS v
         WHERE v.event_id > %(after)s AND v.event_id <= %(last)s
         ORDER BY v.event_id
        """,
        {"after": after, "last": last_id},
        args_row(EventRow),
    )


def newest() -> Statement[Seen]:
    """As `seen`, of the last event."""
    return Statement(
        """
        SELECT max(v.event_id), CASE WHEN count(*) > 0 THEN pg_current_xact_id()::text::bigint END
          FROM (SELECT e.event_id FROM {schema}.execution_event AS e ORDER BY e.event_id DESC LIMIT 1) AS v
        """,
        {},
        args_row(Seen),
    )


class Standing(NamedTuple):
    """Whether an execution is there and has ended, in one snapshot with how many events it has."""

    is_open: bool
    events: int


def standing(*, execution_id: str) -> Statement[Standing]:
    """Whether more may come."""
    return Statement(
        """
        SELECT w.status IN ('PENDING', 'ENQUEUED'), x.next_event
          FROM {schema}.execution AS x
          JOIN {schema}.workflow_status AS w USING (workflow_uuid)
         WHERE x.workflow_uuid = %(id)s
        """,
        {"id": execution_id},
        args_row(Standing),
    )
