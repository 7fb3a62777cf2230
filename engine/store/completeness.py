"""Statements of the proof of completeness: what stands for a range of offsets, and what a user's query says of it."""

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple, cast

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


class EffectRow(NamedTuple):
    """A workflow whose effects are not what they should be, and how many there are of its kind."""

    kind: str
    workflow_id: str
    effects: int
    total: int


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


def wrong_effects(
    *, query: str, each: int, sources: Sequence[str], starts: Sequence[int], ends: Sequence[int], name: str | None
) -> Statement[EffectRow]:
    """Workflows of ranges that have more effects than they should, or have succeeded with fewer.

    `query` is the user's; its rows are a workflow's ID and a number. Everything is compared where it is.
    """
    return Statement(
        _effects(query)
        + """
        , judged AS (
            SELECT CASE WHEN COALESCE(e.effects, 0) > %(each)s THEN 'doubled' ELSE 'missing' END AS kind,
                   w.workflow_uuid, COALESCE(e.effects, 0) AS effects
              FROM unnest(%(sources)b::text[], %(starts)b::bigint[], %(ends)b::bigint[]) AS t (source, first, behind)
              JOIN {schema}.workflow_status AS w
                ON w.kafka_source = t.source AND w.kafka_offset >= t.first AND w.kafka_offset < t.behind
              LEFT JOIN effect AS e ON e.workflow_id = w.workflow_uuid
             WHERE (%(name)s::text IS NULL OR w.name = %(name)s)
               AND (COALESCE(e.effects, 0) > %(each)s
                    OR (w.status = 'SUCCESS' AND COALESCE(e.effects, 0) < %(each)s))
        )
        SELECT n.kind, n.workflow_uuid, n.effects, n.total
          FROM (SELECT j.kind, j.workflow_uuid, j.effects::bigint,
                       count(*) OVER (PARTITION BY j.kind) AS total,
                       row_number() OVER (PARTITION BY j.kind ORDER BY j.workflow_uuid) AS place
                  FROM judged AS j) AS n
         WHERE n.place <= %(examples)s
         ORDER BY n.kind, n.place
        """,
        {"each": each, "sources": sources, "starts": starts, "ends": ends, "name": name, "examples": EXAMPLES_MAX},
        args_row(EffectRow),
    )


def orphaned_effects(
    *, query: str, prefixes: Sequence[str], sources: Sequence[str], starts: Sequence[int], ends: Sequence[int]
) -> Statement[EffectRow]:
    """Effects of records of ranges that have no row, though none was deleted there."""
    return Statement(
        _effects(query)
        + """
        SELECT 'orphaned', n.workflow_id, n.effects::bigint, count(*) OVER ()
          FROM (SELECT e.workflow_id, e.effects,
                       CASE WHEN substr(e.workflow_id, length(t.prefix) + 1) ~ '^[0-9]{1,18}$'
                            THEN substr(e.workflow_id, length(t.prefix) + 1)::bigint END AS kafka_offset,
                       GREATEST(t.first, COALESCE(h.horizon, 0)) AS first, t.behind
                  FROM unnest(%(prefixes)b::text[], %(sources)b::text[], %(starts)b::bigint[], %(ends)b::bigint[])
                         AS t (prefix, source, first, behind)
                  LEFT JOIN {schema}.horizon AS h ON h.kafka_source = t.source
                  JOIN effect AS e ON starts_with(e.workflow_id, t.prefix)) AS n
         WHERE n.kafka_offset >= n.first
           AND n.kafka_offset < n.behind
           AND NOT EXISTS (SELECT FROM {schema}.workflow_status AS w WHERE w.workflow_uuid = n.workflow_id)
         ORDER BY n.workflow_id
         LIMIT %(examples)s
        """,
        {"prefixes": prefixes, "sources": sources, "starts": starts, "ends": ends, "examples": EXAMPLES_MAX},
        args_row(EffectRow),
    )


def counted_rows(*, table: str, column: str) -> str:
    """A query of effects over a table that has a row for each: its column has the workflow's ID."""
    named = ".".join(_quoted(part) for part in table.split("."))
    return f"SELECT {_quoted(column)}, count(*) FROM {named} WHERE {_quoted(column)} IS NOT NULL GROUP BY 1"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _effects(query: str) -> LiteralString:
    # The one statement of a user's own in ours: the operator's, who has this connection anyway, in a read-only transaction.
    own = query.strip().rstrip(";").replace("%", "%%")
    text = (
        "WITH effect AS (SELECT e.workflow_id::text, sum(e.effects) AS effects\n"
        f"FROM (\n{own}\n) AS e (workflow_id, effects) GROUP BY e.workflow_id::text)"
    )
    return cast("LiteralString", text)


def read_only() -> Statement[Any]:
    """First in a transaction: one snapshot, and nothing is written."""
    return Statement("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", {})


def without_time_out() -> Statement[Any]:
    """For the rest of a transaction: a statement may take as long as it takes."""
    return Statement("SET LOCAL statement_timeout = 0", {})
