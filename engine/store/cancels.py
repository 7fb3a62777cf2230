"""Statements that cancel workflows, whoever runs them: their runs' next writes match nothing (P7).

A record's workflow keeps its owner while a step of it runs: its key waits until that has ended, wherever it waits (P18).
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.ids import WorkflowId
from engine.store.statement import Statement


class CancelledRow(NamedTuple):
    """A workflow that is cancelled now."""

    workflow_id: WorkflowId
    source: str | None


_CANCEL: Final = """
    UPDATE {schema}.workflow_status AS w
       SET status = 'CANCELLED',
           owner_xid = CASE WHEN w.kafka_source IS NULL OR w.status = 'ENQUEUED' THEN NULL ELSE w.owner_xid END,
           deduplication_id = NULL,
           kafka_wake_at = NULL,
           kafka_interrupt = %(interrupt)s,
           updated_at = {schema}.now_ms()
      -- What the trigger `changed_by_others` does for other programs is done here.
      FROM chosen, (SELECT set_config('processor.quiet', 'on', true) AS says) AS quiet
     WHERE w.workflow_uuid = chosen.workflow_uuid AND quiet.says IS NOT NULL
    RETURNING w.workflow_uuid, w.kafka_source
"""

GET_RESULT: Final = "DBOS.getResult"
"""Name of the checkpoint that names another workflow without having started it."""

CHILDREN: Final = """
            SELECT f.root, w.workflow_uuid
              FROM family AS f
              JOIN {schema}.operation_outputs AS o
                ON o.workflow_uuid = f.id AND o.child_workflow_id IS NOT NULL AND o.function_name <> %(get_result)s
              JOIN {schema}.workflow_status AS w ON w.workflow_uuid = o.child_workflow_id
             -- CASE: what other programs write there need not be JSON.
             WHERE CASE WHEN w.request LIKE '{"parent": %%' THEN w.request::json ->> 'parent' END = f.id"""
"""What the workflows of `family` (root, id) started. A child that two share is its first parent's."""

WITH_WAITS: Final = """
    , awaited AS (
        DELETE FROM {schema}.waiting AS x USING chosen WHERE x.workflow_uuid = chosen.workflow_uuid
    ), woken AS MATERIALIZED (
        SELECT w.workflow_uuid
          FROM chosen
          JOIN {schema}.waiting AS x ON x.target = chosen.workflow_uuid AND x.kind = 'result'
          JOIN {schema}.workflow_status AS w
            ON w.workflow_uuid = x.workflow_uuid AND w.status = 'PENDING' AND w.owner_xid IS NULL
         WHERE w.workflow_uuid NOT IN (SELECT workflow_uuid FROM chosen)
         ORDER BY w.workflow_uuid
           FOR NO KEY UPDATE OF w
    ), waking AS (
        UPDATE {schema}.workflow_status AS w SET kafka_wake_at = 0 FROM woken WHERE w.workflow_uuid = woken.workflow_uuid
    )
"""


def cancel(*, ids: Sequence[str], interrupt: bool) -> Statement[CancelledRow]:
    """Cancel open workflows; returns those that were. Whoever rests until their result wakes."""
    return Statement(
        """
        WITH chosen AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.workflow_uuid = ANY (%(ids)b::text[]) AND w.status IN ('PENDING', 'ENQUEUED')
             ORDER BY w.workflow_uuid
               FOR NO KEY UPDATE OF w
        )"""
        + WITH_WAITS
        + _CANCEL,
        {"ids": ids, "interrupt": interrupt or None},
        args_row(CancelledRow),
    )


def cancel_sources(*, sources: Sequence[str]) -> Statement[CancelledRow]:
    """Cancel what is open of these partitions."""
    return Statement(
        """
        WITH chosen AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.kafka_source = ANY (%(sources)b::text[]) AND w.status IN ('PENDING', 'ENQUEUED')
             ORDER BY w.workflow_uuid
               FOR NO KEY UPDATE OF w
        )"""
        + WITH_WAITS
        + _CANCEL,
        {"sources": sources, "interrupt": None},
        args_row(CancelledRow),
    )


def expire(*, limit: int) -> Statement[CancelledRow]:
    """Cancel what is past its deadline, with what it started, and so on: children that were resumed have none of it.

    Where such a one is locked, what it is below waits for the next look: afterwards nothing would lead to it.
    """
    return Statement(
        """
        WITH RECURSIVE late AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.workflow_deadline_epoch_ms <= (SELECT {schema}.now_ms())
               AND w.workflow_deadline_epoch_ms IS NOT NULL AND w.status IN ('PENDING', 'ENQUEUED')
             ORDER BY w.workflow_deadline_epoch_ms
             LIMIT %(limit)s
               FOR NO KEY UPDATE OF w SKIP LOCKED
        ), family AS (
            SELECT late.workflow_uuid AS root, late.workflow_uuid AS id FROM late
             UNION"""
        + CHILDREN
        + """
        ), below AS MATERIALIZED (
            SELECT f.root, f.id
              FROM family AS f
              JOIN {schema}.workflow_status AS w ON w.workflow_uuid = f.id AND w.status IN ('PENDING', 'ENQUEUED')
             WHERE f.id NOT IN (SELECT workflow_uuid FROM late)
               AND (w.workflow_deadline_epoch_ms IS NULL OR w.workflow_deadline_epoch_ms > (SELECT {schema}.now_ms()))
        ), locked AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.workflow_uuid IN (SELECT id FROM below) AND w.status IN ('PENDING', 'ENQUEUED')
             ORDER BY w.workflow_uuid
               FOR NO KEY UPDATE OF w SKIP LOCKED
        ), chosen AS MATERIALIZED (
            SELECT l.workflow_uuid FROM locked AS l
             UNION ALL
            SELECT late.workflow_uuid
              FROM late
             WHERE late.workflow_uuid NOT IN (SELECT b.root FROM below AS b
                                               WHERE b.id NOT IN (SELECT workflow_uuid FROM locked))
        )"""
        + WITH_WAITS
        + _CANCEL,
        {"limit": limit, "interrupt": None, "get_result": GET_RESULT},
        args_row(CancelledRow),
    )


_OWN_END: Final = """CASE WHEN w.started_at_epoch_ms IS NOT NULL AND w.workflow_timeout_ms IS NOT NULL
                   THEN GREATEST(w.workflow_deadline_epoch_ms, w.started_at_epoch_ms + w.workflow_timeout_ms) END"""


def renew_below(*, ids: Sequence[str]) -> Statement[Any]:
    """What these workflows started, and so on, has no deadline from the time that they had: theirs begins anew.

    Of its own time it keeps the end. All of it is locked, and what is so already is not changed. To be sent until it changes
    nothing: while it waits for a row, whoever has that may start something below it, which this does not see.
    """
    return Statement(
        """
        WITH RECURSIVE family AS (
            SELECT t.id AS root, t.id FROM unnest(%(ids)b::text[]) AS t (id)
             UNION"""
        + CHILDREN
        + """
        ), below AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.workflow_uuid IN (SELECT id FROM family) AND w.workflow_uuid <> ALL (%(ids)b::text[])
               AND w.status IN ('PENDING', 'ENQUEUED') AND w.workflow_deadline_epoch_ms IS NOT NULL
             ORDER BY w.workflow_uuid
               FOR NO KEY UPDATE OF w
        )
        UPDATE {schema}.workflow_status AS w
           SET workflow_deadline_epoch_ms = """
        + _OWN_END
        + """
          FROM below AS b
         WHERE w.workflow_uuid = b.workflow_uuid AND w.workflow_deadline_epoch_ms IS DISTINCT FROM """
        + _OWN_END
        + """
        """,
        {"ids": ids, "get_result": GET_RESULT},
    )
