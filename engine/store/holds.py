"""Statements of `hold`, `dead_letter`, `topic_owner`, `gap`, `horizon`, `audit`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement


class HoldRow(NamedTuple):
    """A stored reason why a key or a partition does not go on."""

    service_name: str
    key: str
    ordering_key: int | None
    kind: str
    reason: str


def read(*, services: Sequence[str], keys: Sequence[str]) -> Statement[HoldRow]:
    """The holds of partitions."""
    return Statement(
        """
        SELECT h.service_name, h.key, h.ordering_key, h.kind, h.reason
          FROM unnest(%(services)b::text[], %(keys)b::text[]) AS t (service, key)
          JOIN {schema}.hold AS h ON h.service_name = t.service AND h.key = t.key
        """,
        {"services": services, "keys": keys},
        args_row(HoldRow),
    )


def place(
    *,
    services: Sequence[str],
    keys: Sequence[str],
    ordering_keys: Sequence[int | None],
    kinds: Sequence[str],
    reasons: Sequence[str],
    workflows: Sequence[str | None],
) -> Statement[Any]:
    """Write holds, with the outcome that causes them; one that stands stays."""
    return Statement(
        """
        INSERT INTO {schema}.hold (service_name, key, ordering_key, kind, reason, workflow_uuid, created_at)
        SELECT t.service, t.key, t.ordering_key, t.kind, t.reason, t.workflow, {schema}.now_ms()
          FROM unnest(%(services)b::text[], %(keys)b::text[], %(ordering_keys)b::bigint[], %(kinds)b::text[],
                      %(reasons)b::text[], %(workflows)b::text[])
                 AS t (service, key, ordering_key, kind, reason, workflow)
            ON CONFLICT DO NOTHING
        """,
        {
            "services": services,
            "keys": keys,
            "ordering_keys": ordering_keys,
            "kinds": kinds,
            "reasons": reasons,
            "workflows": workflows,
        },
    )


def lift(*, service: str, key: str, kinds: Sequence[str]) -> Statement[tuple[str, str]]:
    """Take holds of a partition and its keys away; returns kind and reason of each."""
    return Statement(
        """
        DELETE FROM {schema}.hold AS h
         WHERE h.service_name = %(service)s AND h.key = %(key)s AND h.kind = ANY (%(kinds)b::text[])
        RETURNING h.kind, h.reason
        """,
        {"service": service, "key": key, "kinds": kinds},
    )


def bury(
    *,
    ids: Sequence[str],
    statuses: Sequence[str],
    handlers: Sequence[str],
    services: Sequence[str],
    topics: Sequence[str],
    partitions: Sequence[int],
    offsets: Sequence[int],
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    headers: Sequence[str | None],
    timestamps: Sequence[int],
    reasons: Sequence[str],
    errors: Sequence[str],
) -> Statement[Any]:
    """Dead letters, in the commit of the outcomes: only where the outcome was written (P7)."""
    return Statement(
        """
        INSERT INTO {schema}.dead_letter
               (workflow_uuid, handler, service_name, topic, partition, kafka_offset, record_key, record_value,
                record_headers, record_timestamp, reason, error, created_at)
        SELECT t.id, t.handler, t.service, t.topic, t.partition, t.kafka_offset, t.key, t.value,
               t.headers::jsonb, t.timestamp, t.reason, t.error, {schema}.now_ms()
          FROM unnest(%(ids)b::text[], %(statuses)b::text[], %(handlers)b::text[], %(services)b::text[],
                      %(topics)b::text[], %(partitions)b::integer[], %(offsets)b::bigint[], %(keys)b::bytea[],
                      %(values)b::bytea[], %(headers)b::text[], %(timestamps)b::bigint[], %(reasons)b::text[],
                      %(errors)b::text[])
                 AS t (id, status, handler, service, topic, partition, kafka_offset, key, value, headers, timestamp,
                       reason, error)
          JOIN {schema}.workflow_status AS w
            ON w.workflow_uuid = t.id AND w.status = t.status AND w.error = t.error
        """,
        {
            "ids": ids,
            "statuses": statuses,
            "handlers": handlers,
            "services": services,
            "topics": topics,
            "partitions": partitions,
            "offsets": offsets,
            "keys": keys,
            "values": values,
            "headers": headers,
            "timestamps": timestamps,
            "reasons": reasons,
            "errors": errors,
        },
    )


class DepthRow(NamedTuple):
    """Open dead letters of a topic of a group."""

    service_name: str
    topic: str
    open_count: int
    oldest_at: int


def depths(*, count_max: int, places_max: int) -> Statement[DepthRow]:
    """Open dead letters by group and topic, from the index of open ones alone: each place is one descent in it."""
    return Statement(
        """
        WITH RECURSIVE place AS (
            (SELECT d.service_name, d.topic
               FROM {schema}.dead_letter AS d
              WHERE d.state = 'OPEN'
              ORDER BY d.service_name, d.topic
              LIMIT 1)
            UNION ALL
            SELECT following.service_name, following.topic
              FROM place AS p
             CROSS JOIN LATERAL (
                    SELECT d.service_name, d.topic
                      FROM {schema}.dead_letter AS d
                     WHERE d.state = 'OPEN' AND (d.service_name, d.topic) > (p.service_name, p.topic)
                     ORDER BY d.service_name, d.topic
                     LIMIT 1) AS following
        )
        SELECT p.service_name, p.topic, counted.count, counted.oldest_at
          FROM (SELECT place.service_name, place.topic FROM place LIMIT %(places_max)s) AS p
         CROSS JOIN LATERAL (
                SELECT count(*) AS count, min(letter.created_at) AS oldest_at
                  FROM (SELECT d.created_at
                          FROM {schema}.dead_letter AS d
                         WHERE d.state = 'OPEN' AND d.service_name = p.service_name AND d.topic = p.topic
                         ORDER BY d.created_at
                         LIMIT %(count_max)s) AS letter) AS counted
        """,
        {"count_max": count_max, "places_max": places_max},
        args_row(DepthRow),
    )


def own_topic(*, topic: str, service: str) -> Statement[Any]:
    """Register a topic: the first group's IDs have no prefix, for ever."""
    return Statement(
        """
        INSERT INTO {schema}.topic_owner (topic, service_name, registered_at)
        VALUES (%(topic)s, %(service)s, {schema}.now_ms())
            ON CONFLICT (topic) DO NOTHING
        """,
        {"topic": topic, "service": service},
    )


def topic_owner(*, topic: str) -> Statement[tuple[str]]:
    """Who owns a topic's plain IDs; locked, so that one first start goes after the other."""
    return Statement(
        "SELECT o.service_name FROM {schema}.topic_owner AS o WHERE o.topic = %(topic)s FOR UPDATE",
        {"topic": topic},
    )


def gap(*, source: str, start: int, end: int, reason: str, by: str) -> Statement[Any]:
    """Record offsets that no row will ever stand for (I1)."""
    return Statement(
        """
        INSERT INTO {schema}.gap (kafka_source, from_offset, to_offset, reason, decided_by, created_at)
        VALUES (%(source)s, %(start)s, %(end)s, %(reason)s, %(by)s, {schema}.now_ms())
        """,
        {"source": source, "start": start, "end": end, "reason": reason, "by": by},
    )


def gaps_above(*, source: str, offset: int) -> Statement[tuple[int, int]]:
    """The gaps, or what of them, that lie at or above an offset; locked."""
    return Statement(
        """
        SELECT GREATEST(g.from_offset, %(offset)s), g.to_offset
          FROM {schema}.gap AS g
         WHERE g.kafka_source = %(source)s AND g.to_offset > %(offset)s
         ORDER BY g.from_offset
           FOR UPDATE
        """,
        {"source": source, "offset": offset},
    )


def take_back_gaps(*, source: str, offset: int) -> Statement[Any]:
    """What of the gaps lies at or above an offset is delivered after all: shorten them to what lies below (I1)."""
    return Statement(
        """
        WITH shortened AS (
            UPDATE {schema}.gap AS g
               SET to_offset = %(offset)s
             WHERE g.kafka_source = %(source)s AND g.from_offset < %(offset)s AND g.to_offset > %(offset)s
        )
        DELETE FROM {schema}.gap AS g
         WHERE g.kafka_source = %(source)s AND g.from_offset >= %(offset)s
        """,
        {"source": source, "offset": offset},
    )


def horizon(*, source: str) -> Statement[tuple[int]]:
    """Below it rows were deleted; no row where none ever was.

    Locked either way, so that retention deletes nothing of this source under a seek (P30).
    """
    return Statement(
        """
        WITH locked AS (
            INSERT INTO {schema}.horizon AS h (kafka_source, horizon)
            VALUES (%(source)s, 0)
                ON CONFLICT (kafka_source) DO UPDATE SET horizon = h.horizon
            RETURNING h.horizon
        )
        SELECT l.horizon FROM locked AS l WHERE l.horizon > 0
        """,
        {"source": source},
    )


def horizons() -> Statement[tuple[str, int]]:
    """Of every source of which rows were deleted: the lowest offset from which on all stand."""
    return Statement("SELECT h.kafka_source, h.horizon FROM {schema}.horizon AS h WHERE h.horizon > 0", {})


def audit(*, actor: str, action: str, subject: str, detail: str) -> Statement[Any]:
    """Record an act that changed what runs."""
    return Statement(
        """
        INSERT INTO {schema}.audit (created_at, actor, action, subject, detail)
        VALUES ({schema}.now_ms(), %(actor)s, %(action)s, %(subject)s, jsonb_build_object('detail', %(detail)s::text))
        """,
        {"actor": actor, "action": action, "subject": subject, "detail": detail},
    )
