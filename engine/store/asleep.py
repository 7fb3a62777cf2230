"""Rows of partitions that rest within an attempt: who keeps a key without a run (P15)."""

from typing import NamedTuple

from psycopg.rows import args_row

from engine.ids import WorkflowId
from engine.store.statement import Statement


class AsleepRow(NamedTuple):
    """A row that rests within an attempt, and keeps its key."""

    workflow_id: WorkflowId
    offset: int
    place: int | None
    key: int
    wake_at: int
    source: str


def rows(*, source: str, limit: int, after: int = -1) -> Statement[AsleepRow]:
    """Rows of a partition that rest within an attempt and keep a key, due or not; read after `open_rows`.

    The other way round, one that went to sleep in between would be missed by both. Those without a key are nobody's
    business until they are due.
    """
    return Statement(
        """
        SELECT w.workflow_uuid, w.kafka_offset, w.kafka_place, w.kafka_key, w.kafka_wake_at,
               w.kafka_source
          FROM {schema}.workflow_status AS w
         WHERE w.kafka_source = %(source)s
           AND w.status = 'PENDING'
           AND w.owner_xid IS NULL
           AND w.kafka_asleep IS TRUE
           AND w.kafka_wake_at IS NOT NULL
           AND w.kafka_key IS NOT NULL
           AND w.kafka_offset > %(after)s
         ORDER BY w.kafka_offset
         LIMIT %(limit)s
        """,
        {"source": source, "limit": limit, "after": after},
        args_row(AsleepRow),
    )
