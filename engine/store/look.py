"""The statement that finds what nobody told us (engine/scan.py)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement
from engine.versions import Runnable


class Found(NamedTuple):
    """What one look says of everything that nobody told us (engine/scan.py)."""

    now: int
    next_due: int | None
    """When the first row at rest without a source that we can run is due; epoch ms."""
    next_due_of_sources: int | None
    """The same of our partitions' rows, of those that are not due yet."""
    next_deadline: int | None
    dead: list[str] | None
    """Executors that are gone and have rows without a source."""
    ended: list[tuple[str, bool]] | None
    """Of the runs asked about: those whose rows are no longer PENDING, and whether their steps are to be interrupted."""
    is_answered: bool
    """Whether somebody at rest waits for the result of a record's workflow that has ended."""
    held: list[list[Any]] | None
    """[service, key, ordering key, kind, reason] of our partitions' holds."""
    rest: list[list[str]] | None
    """[source, workflow] of our partitions' rows that run nowhere and are due."""
    queues: list[str] | None
    """Of the queues asked about: those in which something is ready or due."""
    next_due_of_queues: int | None
    """When the first of what is delayed in them, or at rest, is due; epoch ms."""
    executors: list[tuple[str, int]] | None
    """Those that live, and their counters (P2)."""


def look(
    *,
    runnable: Runnable,
    running: Sequence[str],
    sources: Sequence[str],
    services: Sequence[str],
    keys: Sequence[str],
    queues: Sequence[str],
    limit: int,
) -> Statement[Found]:
    """Everything that nobody tells us, in one statement: index probes, one for each handler, partition, executor and queue.

    `sources` are our partitions; `services` and `keys` those whose holds are of interest, halted ones among them;
    `queues` those this process takes from.
    """
    return Statement(
        """
        WITH RECURSIVE owner AS (
            (SELECT w.executor_id
               FROM {schema}.workflow_status AS w
              WHERE w.kafka_source IS NULL AND w.status = 'PENDING' AND w.owner_xid IS NOT NULL
              ORDER BY w.executor_id
              LIMIT 1)
            UNION ALL
            SELECT (SELECT w.executor_id
                      FROM {schema}.workflow_status AS w
                     WHERE w.kafka_source IS NULL AND w.status = 'PENDING' AND w.owner_xid IS NOT NULL
                       AND w.executor_id > owner.executor_id
                     ORDER BY w.executor_id
                     LIMIT 1)
              FROM owner
             WHERE owner.executor_id IS NOT NULL
        ), clock AS MATERIALIZED (
            SELECT {schema}.now_ms() AS now
        )
        SELECT c.now,
               (SELECT min(first.due)
                  FROM unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[])
                         AS h (name, version, instance)
                 CROSS JOIN LATERAL (
                       SELECT COALESCE(w.kafka_wake_at, 0) AS due
                         FROM {schema}.workflow_status AS w
                        WHERE w.kafka_source IS NULL AND w.queue_name IS NULL AND w.status = 'PENDING'
                          AND w.owner_xid IS NULL
                          AND w.name = h.name AND w.application_version = h.version
                          AND COALESCE(w.config_name, '') = h.instance
                        ORDER BY COALESCE(w.kafka_wake_at, 0)
                        LIMIT 1) AS first),
               (SELECT min(first.due)
                  FROM unnest(%(sources)b::text[]) AS s (source)
                 CROSS JOIN LATERAL (
                       SELECT COALESCE(w.kafka_wake_at, 0) AS due
                         FROM {schema}.workflow_status AS w
                        WHERE w.kafka_source = s.source AND w.status IN ('PENDING', 'ENQUEUED')
                          AND (w.owner_xid IS NULL OR w.status = 'ENQUEUED')
                          AND COALESCE(w.kafka_wake_at, 0) > c.now
                        ORDER BY COALESCE(w.kafka_wake_at, 0)
                        LIMIT 1) AS first),
               (SELECT min(w.workflow_deadline_epoch_ms)
                  FROM {schema}.workflow_status AS w
                 WHERE w.workflow_deadline_epoch_ms IS NOT NULL AND w.status IN ('PENDING', 'ENQUEUED')),
               (SELECT array_agg(o.executor_id)
                  FROM owner AS o
                 WHERE o.executor_id IS NOT NULL AND {schema}.executor_is_gone(o.executor_id)),
               (SELECT json_agg(json_build_array(w.workflow_uuid, w.kafka_interrupt IS TRUE))
                  FROM {schema}.workflow_status AS w
                 WHERE w.workflow_uuid = ANY (%(running)b::text[]) AND w.status <> 'PENDING'),
               EXISTS (SELECT
                         FROM {schema}.waiting AS x
                         JOIN {schema}.workflow_status AS t ON t.workflow_uuid = x.target
                        WHERE x.polled AND t.status NOT IN ('PENDING', 'ENQUEUED')),
               (SELECT json_agg(json_build_array(h.service_name, h.key, h.ordering_key, h.kind, h.reason))
                  FROM unnest(%(services)b::text[], %(keys)b::text[]) AS t (service, key)
                  JOIN {schema}.hold AS h ON h.service_name = t.service AND h.key = t.key),
               (SELECT json_agg(json_build_array(r.kafka_source, r.workflow_uuid))
                  FROM (SELECT w.kafka_source, w.workflow_uuid
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source = ANY (%(sources)b::text[]) AND w.status IN ('PENDING', 'ENQUEUED')
                           AND (w.owner_xid IS NULL OR w.status = 'ENQUEUED')
                           AND COALESCE(w.kafka_wake_at, 0) <= c.now
                         ORDER BY w.kafka_source, w.kafka_offset
                         LIMIT %(limit)s) AS r),
               (SELECT json_agg(q.name)
                  FROM unnest(%(queues)b::text[]) AS q (name)
                 WHERE (SELECT true
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = q.name AND w.status = 'ENQUEUED'
                           AND w.kafka_wake_at IS NULL
                         ORDER BY COALESCE(w.queue_partition_key, '')
                         LIMIT 1)
                    OR (SELECT w.kafka_wake_at
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = q.name AND w.status = 'ENQUEUED'
                           AND w.kafka_wake_at IS NOT NULL
                         ORDER BY w.kafka_wake_at
                         LIMIT 1) <= c.now
                    OR (SELECT COALESCE(w.kafka_wake_at, 0)
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = q.name AND w.status = 'PENDING'
                           AND w.owner_xid IS NULL
                         ORDER BY COALESCE(w.kafka_wake_at, 0)
                         LIMIT 1) <= c.now),
               (SELECT min(first.due)
                  FROM unnest(%(queues)b::text[]) AS q (name)
                 CROSS JOIN LATERAL (
                       (SELECT w.kafka_wake_at AS due
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = q.name AND w.status = 'ENQUEUED'
                           AND w.kafka_wake_at > c.now
                         ORDER BY w.kafka_wake_at
                         LIMIT 1)
                       UNION ALL
                       (SELECT COALESCE(w.kafka_wake_at, 0)
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = q.name AND w.status = 'PENDING'
                           AND w.owner_xid IS NULL AND COALESCE(w.kafka_wake_at, 0) > c.now
                         ORDER BY COALESCE(w.kafka_wake_at, 0)
                         LIMIT 1)) AS first),
               (SELECT json_agg(json_build_array(e.executor_id, e.counter))
                  FROM {schema}.executor AS e
                 WHERE e.died_at IS NULL)
          FROM clock AS c
        """,
        {
            "names": runnable.names,
            "versions": runnable.versions,
            "instances": runnable.instances,
            "running": running,
            "sources": sources,
            "services": services,
            "keys": keys,
            "queues": queues,
            "limit": limit,
        },
        args_row(Found),
    )
