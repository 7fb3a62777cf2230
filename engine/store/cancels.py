"""Statements that cancel workflows, whoever runs them: their runs' next writes match nothing (P7).

A record's workflow keeps its owner while a step of it runs: its key waits until that has ended, wherever it waits (P18).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

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
    """Cancel what is past its deadline."""
    return Statement(
        """
        WITH chosen AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.workflow_deadline_epoch_ms <= (SELECT {schema}.now_ms())
               AND w.workflow_deadline_epoch_ms IS NOT NULL AND w.status IN ('PENDING', 'ENQUEUED')
             ORDER BY w.workflow_deadline_epoch_ms
             LIMIT %(limit)s
               FOR NO KEY UPDATE OF w SKIP LOCKED
        )"""
        + WITH_WAITS
        + _CANCEL,
        {"limit": limit, "interrupt": None},
        args_row(CancelledRow),
    )
