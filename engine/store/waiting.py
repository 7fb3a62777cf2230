"""Statements of `waiting`: what a workflow at rest waits for beside its wake-up time, and who brings it.

Both sides lock the row they share before they look (a result's or event's workflow, a message's receiver): either the one
that rests sees what was brought, or the one that brings it sees who waits.
"""

from collections.abc import Sequence
from typing import Any, Final

from engine.ids import WorkflowId
from engine.store.statement import Statement


def rest(
    *, ids: Sequence[str], kinds: Sequence[str], targets: Sequence[str], names: Sequence[str], places: Sequence[int]
) -> Statement[Any]:
    """Note what rows that this transaction put to rest wait for. Only those that rest."""
    return Statement(
        """
        INSERT INTO {schema}.waiting (workflow_uuid, kind, target, name, place, polled)
        SELECT t.id, t.kind, t.target, t.name, t.place, x.kafka_source IS NOT NULL AND t.kind = 'result'
          FROM unnest(%(ids)b::text[], %(kinds)b::text[], %(targets)b::text[], %(names)b::text[], %(places)b::integer[])
                 AS t (id, kind, target, name, place)
          JOIN {schema}.workflow_status AS w
            ON w.workflow_uuid = t.id AND w.status = 'PENDING' AND w.owner_xid IS NULL
          LEFT JOIN {schema}.workflow_status AS x ON x.workflow_uuid = t.target
            ON CONFLICT DO NOTHING
        """,
        {"ids": ids, "kinds": kinds, "targets": targets, "names": names, "places": places},
    )


_IS_ANSWERED: Final = """
    CASE t.kind
    WHEN 'result' THEN NOT EXISTS (
         SELECT FROM {schema}.workflow_status AS x
          WHERE x.workflow_uuid = t.target AND x.status IN ('PENDING', 'ENQUEUED'))
    WHEN 'message' THEN EXISTS (
         SELECT FROM {schema}.notifications AS n WHERE n.destination_uuid = t.target AND n.topic = t.name)
    WHEN 'event' THEN EXISTS (
         SELECT FROM {schema}.workflow_events AS e WHERE e.workflow_uuid = t.target AND e.key = t.name)
    WHEN 'stream' THEN EXISTS (
         SELECT FROM {schema}.streams AS s
          WHERE s.workflow_uuid = t.target AND s.key = t.name AND s."offset" >= t.place)
    ELSE false END
"""


def answered(
    *, kinds: Sequence[str], targets: Sequence[str], names: Sequence[str], places: Sequence[int]
) -> Statement[tuple[int]]:
    """Which of these have come, by their numbers from 1."""
    return Statement(
        """
        SELECT t.number::integer
          FROM unnest(%(kinds)b::text[], %(targets)b::text[], %(names)b::text[], %(places)b::integer[])
               WITH ORDINALITY AS t (kind, target, name, place, number)
         WHERE"""
        + _IS_ANSWERED,
        {"kinds": kinds, "targets": targets, "names": names, "places": places},
    )


def wake_answered(
    *, ids: Sequence[str], kinds: Sequence[str], targets: Sequence[str], names: Sequence[str], places: Sequence[int]
) -> Statement[tuple[WorkflowId]]:
    """Wake at once those of them for whom what they wait for is there already; the shared rows are locked."""
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET kafka_wake_at = 0
          FROM unnest(%(ids)b::text[], %(kinds)b::text[], %(targets)b::text[], %(names)b::text[], %(places)b::integer[])
                 AS t (id, kind, target, name, place)
         WHERE w.workflow_uuid = t.id AND w.status = 'PENDING' AND w.owner_xid IS NULL
           AND"""
        + _IS_ANSWERED
        + """
        RETURNING w.workflow_uuid
        """,
        {"ids": ids, "kinds": kinds, "targets": targets, "names": names, "places": places},
    )


def wake(*, kinds: Sequence[str], targets: Sequence[str], names: Sequence[str]) -> Statement[tuple[WorkflowId]]:
    """Wake whoever rests until one of these comes. The targets' rows are locked by this transaction."""
    return Statement(
        """
        WITH woken AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM unnest(%(kinds)b::text[], %(targets)b::text[], %(names)b::text[]) AS t (kind, target, name)
              JOIN {schema}.waiting AS x ON x.target = t.target AND x.kind = t.kind AND x.name = t.name
              JOIN {schema}.workflow_status AS w
                ON w.workflow_uuid = x.workflow_uuid AND w.status = 'PENDING' AND w.owner_xid IS NULL
             ORDER BY w.workflow_uuid
               FOR NO KEY UPDATE OF w
        )
        UPDATE {schema}.workflow_status AS w
           SET kafka_wake_at = 0
          FROM woken
         WHERE w.workflow_uuid = woken.workflow_uuid
        RETURNING w.workflow_uuid
        """,
        {"kinds": kinds, "targets": targets, "names": names},
    )


def wake_polled(*, limit: int) -> Statement[tuple[WorkflowId]]:
    """Wake whoever rests until a record's workflow has a result: those end in partitions' flushes, which look for nobody."""
    return Statement(
        """
        WITH woken AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.waiting AS x
              JOIN {schema}.workflow_status AS t
                ON t.workflow_uuid = x.target AND t.status NOT IN ('PENDING', 'ENQUEUED')
              JOIN {schema}.workflow_status AS w
                ON w.workflow_uuid = x.workflow_uuid AND w.status = 'PENDING' AND w.owner_xid IS NULL
             WHERE x.polled
             LIMIT %(limit)s
               FOR NO KEY UPDATE OF w SKIP LOCKED
        ), answered AS (
            DELETE FROM {schema}.waiting AS x USING woken WHERE x.workflow_uuid = woken.workflow_uuid
        )
        UPDATE {schema}.workflow_status AS w
           SET kafka_wake_at = 0
          FROM woken
         WHERE w.workflow_uuid = woken.workflow_uuid
        RETURNING w.workflow_uuid
        """,
        {"limit": limit},
    )


def forget(*, ids: Sequence[str]) -> Statement[Any]:
    """These wait no longer: they are woken, or have ended."""
    return Statement("DELETE FROM {schema}.waiting AS x WHERE x.workflow_uuid = ANY (%(ids)b::text[])", {"ids": ids})
