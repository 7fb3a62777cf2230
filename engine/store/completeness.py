"""Statements of the proof of completeness: what stands for a range of offsets."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement

EXAMPLES_MAX = 20
"""IDs that are named of each kind of finding; all are counted."""


class StandingRow(NamedTuple):
    """A partition as one statement sees it."""

    epoch: int
    handler: str
    value: str
    owner_group: str | None
    holds: int


class OffsetRow(NamedTuple):
    """A row that stands for an offset. `timestamp` is its record's, epoch ms, `None` where the row does not say.

    `lacks_letter`: it has failed, and has no dead letter that is open or discarded, though retention cannot have deleted it.
    """

    offset: int
    status: str
    name: str | None
    source: str | None
    timestamp: int | None
    lacks_letter: bool


def partitions(*, group: str | None) -> Statement[tuple[str, str, str]]:
    """Group, partition and handler of all progress."""
    return Statement(
        """
        SELECT substr(k.service_name, 7), k.key, k.workflow_fn_name
          FROM {schema}.event_dispatch_kv AS k
         WHERE k.service_name LIKE 'kafka:%%'
           AND (%(group)s::text IS NULL OR k.service_name = 'kafka:' || %(group)s)
         ORDER BY k.service_name, k.key
        """,
        {"group": group},
    )


def standing(*, service: str, key: str, topic: str) -> Statement[StandingRow]:
    """Progress, whose plain IDs the topic's are, and how many holds there are."""
    return Statement(
        """
        SELECT k.update_seq::bigint, k.workflow_fn_name, k.value,
               (SELECT o.service_name FROM {schema}.topic_owner AS o WHERE o.topic = %(topic)s),
               (SELECT count(*)
                  FROM {schema}.hold AS h
                 WHERE h.service_name = k.service_name AND h.key = k.key)
          FROM {schema}.event_dispatch_kv AS k
         WHERE k.service_name = %(service)s AND k.service_name LIKE 'kafka:%%' AND k.key = %(key)s
        """,
        {"service": service, "key": key, "topic": topic},
        args_row(StandingRow),
    )


def decided(*, source: str) -> Statement[tuple[int, list[list[int]] | None]]:
    """The horizon of a source, 0 where nothing was ever deleted, and its gaps."""
    return Statement(
        """
        SELECT COALESCE((SELECT h.horizon FROM {schema}.horizon AS h WHERE h.kafka_source = %(source)s), 0),
               (SELECT array_agg(ARRAY[g.from_offset, g.to_offset] ORDER BY g.from_offset)
                  FROM {schema}.gap AS g
                 WHERE g.kafka_source = %(source)s)
        """,
        {"source": source},
    )


def rows_of(*, prefix: str, offsets: Sequence[int]) -> Statement[OffsetRow]:
    """The rows that stand for offsets, found by their IDs: no index has the offsets of what has ended."""
    return Statement(
        """
        SELECT t.kafka_offset, w.status, w.name, w.kafka_source,
               -- Of any that Kafka can hold; one that was damaged may be beyond.
               greatest(least(substring(w.request FROM '"timestamp": (-?[0-9]{1,19})')::numeric,
                              9223372036854775807), -9223372036854775808)::bigint,
               CASE WHEN w.status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
                    THEN NOT EXISTS (SELECT FROM {schema}.dead_letter AS d
                                      WHERE d.workflow_uuid = w.workflow_uuid AND d.state <> 'RETRIED')
                         -- A letter is decided after the row was written, so an older row may have outlived it.
                     AND NOT EXISTS (SELECT FROM {schema}.retention_policy AS p
                                      WHERE p.handler = w.name AND p.kind = 'DEAD_LETTER'
                                        AND w.updated_at < {schema}.now_ms() - p.keep_ms)
                    ELSE false END
          FROM unnest(%(offsets)b::bigint[]) AS t (kafka_offset)
          JOIN {schema}.workflow_status AS w ON w.workflow_uuid = %(prefix)s::text || t.kafka_offset
        """,
        {"prefix": prefix, "offsets": offsets},
        args_row(OffsetRow),
    )


def traces(*, group: str | None) -> Statement[tuple[str]]:
    """Every source that left rows, or had some deleted or passed over, whether it has progress or not. Reads whole tables."""
    return Statement(
        """
        SELECT t.source
          FROM (SELECT DISTINCT w.kafka_source FROM {schema}.workflow_status AS w WHERE w.kafka_source IS NOT NULL
                 UNION SELECT h.kafka_source FROM {schema}.horizon AS h
                 UNION SELECT g.kafka_source FROM {schema}.gap AS g) AS t (source)
         WHERE %(group)s::text IS NULL OR starts_with(t.source, %(group)s || '|')
         ORDER BY t.source
        """,
        {"group": group},
    )


def owned_topics(*, group: str | None) -> Statement[tuple[str, str]]:
    """Topics and the groups that registered them first, whether they have progress or not."""
    return Statement(
        """
        SELECT substr(o.service_name, 7), o.topic
          FROM {schema}.topic_owner AS o
         WHERE o.service_name LIKE 'kafka:%%'
           AND (%(group)s::text IS NULL OR o.service_name = 'kafka:' || %(group)s)
         ORDER BY o.service_name, o.topic
        """,
        {"group": group},
    )


def read_only() -> Statement[Any]:
    """First in a transaction: one snapshot, and nothing is written."""
    return Statement("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", {})


def without_time_out() -> Statement[Any]:
    """For the rest of a transaction: a statement may take as long as it takes."""
    return Statement("SET LOCAL statement_timeout = 0", {})
