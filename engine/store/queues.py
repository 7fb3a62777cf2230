"""Statements of `queue`, `queue_listener` and of what is ready in a queue: limits, who listens, what there is (decision 0013).

Rows of a queue have its name and no source. They are *ready* (ENQUEUED), *delayed* (ENQUEUED, with a time), or have a
*place* (PENDING): running where an executor owns them, at rest where nobody does. Taking them: engine/store/turns.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.ids import ExecutorId
from engine.queues import QueueSpec
from engine.store.statement import Statement


class QueueRow(NamedTuple):
    """The limits of a queue as they stand."""

    concurrency: int | None
    worker_concurrency: int | None
    limit_starts: int | None
    limit_period_ms: int | None
    is_paused: bool
    now: int
    """When this was read, epoch ms: the moment of the turn."""

    @property
    def is_limited(self) -> bool:
        """Whether a limit holds over all processes, so that who counts must be alone."""
        return self.concurrency is not None or self.limit_starts is not None


class Outlook(NamedTuple):
    """What a turn left behind."""

    has_ready: bool
    """Whether something is ready still, of whatever key."""
    has_due: bool
    """Whether something is at rest and due."""
    has_dead: bool
    """Whether something is left of the dead executors that were asked about."""
    retry_at: int | None
    """When the first start of the period no longer counts; epoch ms."""
    now: int


class QueueDepth(NamedTuple):
    """How many wait in a queue, and how many have places; each number at most that of the question."""

    queue: str
    ready: int
    delayed: int
    places: int
    oldest_at: int | None
    """Since when the oldest of the ready ones waits, epoch ms."""
    is_paused: bool
    listeners: int
    """Live executors that take from it."""


def depths(*, count_max: int, queues_max: int) -> Statement[QueueDepth]:
    """Every queue that somebody registered, or in which something waits: a bounded count each."""
    return Statement(
        """
        WITH RECURSIVE waiting AS (
            (SELECT w.queue_name AS name
               FROM {schema}.workflow_status AS w
              WHERE w.kafka_source IS NULL AND w.queue_name IS NOT NULL AND w.status = 'ENQUEUED'
                AND w.kafka_wake_at IS NULL
              ORDER BY w.queue_name
              LIMIT 1)
            UNION ALL
            SELECT (SELECT w.queue_name
                      FROM {schema}.workflow_status AS w
                     WHERE w.kafka_source IS NULL AND w.queue_name > waiting.name AND w.status = 'ENQUEUED'
                       AND w.kafka_wake_at IS NULL
                     ORDER BY w.queue_name
                     LIMIT 1)
              FROM waiting
             WHERE waiting.name IS NOT NULL
        ), named AS (
            SELECT q.queue_name AS name FROM {schema}.queue AS q
             UNION
            (SELECT waiting.name FROM waiting WHERE waiting.name IS NOT NULL LIMIT %(queues_max)s)
            LIMIT %(queues_max)s
        )
        SELECT n.name,
               (SELECT count(*)
                  FROM (SELECT
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = n.name AND w.status = 'ENQUEUED'
                           AND w.kafka_wake_at IS NULL
                         LIMIT %(count_max)s) AS counted)::integer,
               (SELECT count(*)
                  FROM (SELECT
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = n.name AND w.status = 'ENQUEUED'
                           AND w.kafka_wake_at IS NOT NULL
                         LIMIT %(count_max)s) AS counted)::integer,
               (SELECT count(*)
                  FROM (SELECT
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = n.name AND w.status = 'PENDING'
                         LIMIT %(count_max)s) AS counted)::integer,
               -- Of those counted: with priorities, older ones may wait behind them.
               (SELECT min(first.created_at)
                  FROM (SELECT w.created_at
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.queue_name = n.name AND w.status = 'ENQUEUED'
                           AND w.kafka_wake_at IS NULL
                         ORDER BY COALESCE(w.queue_partition_key, ''), w.priority, w.created_at
                         LIMIT %(count_max)s) AS first),
               (SELECT q.paused_at IS NOT NULL FROM {schema}.queue AS q WHERE q.queue_name = n.name) IS TRUE,
               (SELECT count(*)
                  FROM {schema}.queue_listener AS l
                  JOIN {schema}.executor AS e ON e.executor_id = l.executor_id AND e.died_at IS NULL
                 WHERE l.queue_name = n.name)::integer
          FROM named AS n
         ORDER BY n.name
        """,
        {"count_max": count_max, "queues_max": queues_max},
        args_row(QueueDepth),
    )


def pause(*, queue: str) -> Statement[tuple[str]]:
    """Nothing of it starts from now on. No row: it is not registered, or paused already."""
    return Statement(
        """
        UPDATE {schema}.queue AS q SET paused_at = {schema}.now_ms()
         WHERE q.queue_name = %(queue)s AND q.paused_at IS NULL
        RETURNING q.queue_name
        """,
        {"queue": queue},
    )


def resume(*, queue: str) -> Statement[tuple[str]]:
    """It goes on. No row: it is not registered, or not paused."""
    return Statement(
        """
        UPDATE {schema}.queue AS q SET paused_at = NULL
         WHERE q.queue_name = %(queue)s AND q.paused_at IS NOT NULL
        RETURNING q.queue_name
        """,
        {"queue": queue},
    )


def register(queue: QueueSpec) -> Statement[Any]:
    """Say what the limits of a queue are; nothing is written where they are so already."""
    return Statement(
        """
        INSERT INTO {schema}.queue AS q
               (queue_name, concurrency, worker_concurrency, limit_starts, limit_period_ms, has_priority,
                is_partitioned, registered_at)
        VALUES (%(queue)s, %(concurrency)s, %(worker)s, %(starts)s, %(period)s, %(priority)s, %(partitioned)s,
                {schema}.now_ms())
            ON CONFLICT (queue_name) DO UPDATE
           SET concurrency = excluded.concurrency,
               worker_concurrency = excluded.worker_concurrency,
               limit_starts = excluded.limit_starts,
               limit_period_ms = excluded.limit_period_ms,
               has_priority = excluded.has_priority,
               is_partitioned = excluded.is_partitioned,
               registered_at = excluded.registered_at
         WHERE (q.concurrency, q.worker_concurrency, q.limit_starts, q.limit_period_ms, q.has_priority,
                q.is_partitioned)
               IS DISTINCT FROM
               (excluded.concurrency, excluded.worker_concurrency, excluded.limit_starts, excluded.limit_period_ms,
                excluded.has_priority, excluded.is_partitioned)
        """,
        {
            "queue": queue.name,
            "concurrency": queue.concurrency,
            "worker": queue.worker_concurrency,
            "starts": None if queue.limit is None else queue.limit[0],
            "period": queue.period_ms,
            "priority": queue.priority,
            "partitioned": queue.partitioned,
        },
    )


def listen(*, executor_id: ExecutorId, queues: Sequence[str]) -> Statement[Any]:
    """Say from which queues this executor takes, and forget what dead ones said."""
    return Statement(
        """
        WITH gone AS (
            DELETE FROM {schema}.queue_listener AS l
             WHERE NOT EXISTS (SELECT FROM {schema}.executor AS e
                                WHERE e.executor_id = l.executor_id AND e.died_at IS NULL)
        )
        INSERT INTO {schema}.queue_listener (executor_id, queue_name)
        SELECT %(executor)s, q.name FROM unnest(%(queues)b::text[]) AS q (name)
            ON CONFLICT DO NOTHING
        """,
        {"executor": executor_id, "queues": queues},
    )


def configure(*, idle_ms: int) -> Statement[Any]:
    """Bounds and plans of a turn's transaction, which keeps the ledger itself.

    What is read here is read in the order of an index. Between an empty queue and one of 100,000 rows Postgres may have no
    new statistics, take an index in another order for as good, and sort the whole queue for each turn.
    """
    return Statement(
        """
        SELECT set_config('idle_in_transaction_session_timeout', %(idle)s, true),
               set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
               set_config('onceflow.ledger', 'kept', true)
        """,
        {"idle": str(idle_ms)},
    )


def read(*, queue: str) -> Statement[QueueRow]:
    """The limits, without a lock."""
    return Statement(
        """
        SELECT q.concurrency, q.worker_concurrency, q.limit_starts, q.limit_period_ms, q.paused_at IS NOT NULL,
               {schema}.now_ms()
          FROM {schema}.queue AS q
         WHERE q.queue_name = %(queue)s
        """,
        {"queue": queue},
        args_row(QueueRow),
    )


def lock(*, queue: str) -> Statement[QueueRow]:
    """The limits again, locked, of a queue that has some over all processes; nothing where somebody else has the lock."""
    return Statement(
        """
        SELECT q.concurrency, q.worker_concurrency, q.limit_starts, q.limit_period_ms, q.paused_at IS NOT NULL,
               {schema}.now_ms()
          FROM {schema}.queue AS q
         WHERE q.queue_name = %(queue)s AND (q.concurrency IS NOT NULL OR q.limit_starts IS NOT NULL)
           FOR NO KEY UPDATE SKIP LOCKED
        """,
        {"queue": queue},
        args_row(QueueRow),
    )


def join_delayed(*, queue: str, limit: int) -> Statement[Any]:
    """Make delayed rows that are due ready, the longest due first."""
    return Statement(
        """
        WITH due AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'ENQUEUED'
               AND w.kafka_wake_at <= (SELECT {schema}.now_ms())
             ORDER BY w.kafka_wake_at
             LIMIT %(limit)s
               FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE {schema}.workflow_status AS w SET kafka_wake_at = NULL FROM due WHERE w.workflow_uuid = due.workflow_uuid
        """,
        {"queue": queue, "limit": limit},
    )


def ready_keys(*, queue: str, after: str | None, limit: int) -> Statement[tuple[str]]:
    """Partition keys that have ready rows, in their order, behind one: an index probe each. '' is that of having none."""
    return Statement(
        """
        WITH RECURSIVE ready AS (
            (SELECT COALESCE(w.queue_partition_key, '') AS key
               FROM {schema}.workflow_status AS w
              WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'ENQUEUED'
                AND w.kafka_wake_at IS NULL
                AND (%(after)s::text IS NULL OR COALESCE(w.queue_partition_key, '') > %(after)s::text)
              ORDER BY COALESCE(w.queue_partition_key, '')
              LIMIT 1)
            UNION ALL
            SELECT (SELECT COALESCE(w.queue_partition_key, '')
                      FROM {schema}.workflow_status AS w
                     WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'ENQUEUED'
                       AND w.kafka_wake_at IS NULL AND COALESCE(w.queue_partition_key, '') > ready.key
                     ORDER BY COALESCE(w.queue_partition_key, '')
                     LIMIT 1)
              FROM ready
             WHERE ready.key IS NOT NULL
        )
        SELECT ready.key FROM ready WHERE ready.key IS NOT NULL LIMIT %(limit)s
        """,
        {"queue": queue, "after": after, "limit": limit},
    )


def outlook(*, queue: str, limits: QueueRow, dead: Sequence[str] = ()) -> Statement[Outlook]:
    """What is left behind, once a turn has taken what it takes."""
    return Statement(
        """
        SELECT (SELECT true
                  FROM {schema}.workflow_status AS w
                 WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'ENQUEUED'
                   AND w.kafka_wake_at IS NULL
                 ORDER BY COALESCE(w.queue_partition_key, '')
                 LIMIT 1) IS TRUE,
               COALESCE((SELECT COALESCE(w.kafka_wake_at, 0)
                           FROM {schema}.workflow_status AS w
                          WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'PENDING'
                            AND w.owner_xid IS NULL
                          ORDER BY COALESCE(w.kafka_wake_at, 0)
                          LIMIT 1) <= c.now, false),
               EXISTS (SELECT
                         FROM {schema}.workflow_status AS w
                        WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'PENDING'
                          AND w.owner_xid IS NOT NULL AND w.executor_id = ANY (%(dead)b::text[])),
               CASE WHEN %(period)s::bigint IS NOT NULL THEN (
                   SELECT min(s.started_at) + %(period)s::bigint
                     FROM {schema}.queue_start AS s
                    WHERE s.queue_name = %(queue)s AND s.started_at > c.now - %(period)s::bigint) END,
               c.now
          FROM (SELECT {schema}.now_ms() AS now) AS c
        """,
        {"queue": queue, "period": limits.limit_period_ms, "dead": dead},
        args_row(Outlook),
    )


def prune_starts(*, queue: str, limits: QueueRow, limit: int) -> Statement[Any]:
    """Forget starts that no period has any more at the moment of the turn, which is judged behind this."""
    return Statement(
        """
        DELETE FROM {schema}.queue_start AS s
         USING (SELECT s.partition_key, s.started_at, s.owner_xid
                  FROM {schema}.queue_start AS s
                 WHERE s.queue_name = %(queue)s AND s.started_at <= %(now)s::bigint - %(period)s::bigint
                 ORDER BY s.started_at
                 LIMIT %(limit)s) AS over
         WHERE s.queue_name = %(queue)s AND s.partition_key = over.partition_key
           AND s.started_at = over.started_at AND s.owner_xid = over.owner_xid
        """,
        {"queue": queue, "now": limits.now, "period": limits.limit_period_ms, "limit": limit},
    )


def unsettled(*, executor_id: ExecutorId, queues: Sequence[str]) -> Statement[tuple[str]]:
    """Some workflows of these queues that wait for nothing but a turn, or run in this executor."""
    return Statement(
        """
        SELECT w.workflow_uuid
          FROM {schema}.workflow_status AS w
         WHERE w.kafka_source IS NULL AND w.queue_name = ANY (%(queues)b::text[])
           AND w.status IN ('ENQUEUED', 'PENDING')
           AND CASE WHEN w.owner_xid IS NULL OR w.status = 'ENQUEUED'
                    THEN COALESCE(w.kafka_wake_at, 0) <= {schema}.now_ms()
                    ELSE w.executor_id = %(executor)s OR {schema}.executor_is_gone(w.executor_id) END
         LIMIT 20
        """,
        {"executor": executor_id, "queues": queues},
    )


def holder(*, queue: str, deduplication_id: str) -> Statement[tuple[str]]:
    """Who has a deduplication ID of a queue."""
    return Statement(
        """
        SELECT w.workflow_uuid
          FROM {schema}.workflow_status AS w
         WHERE w.queue_name = %(queue)s AND w.deduplication_id = %(id)s
        """,
        {"queue": queue, "id": deduplication_id},
    )


def keep_ledger() -> Statement[Any]:
    """This transaction writes the ledger itself: the trigger that does it row by row has nothing to do."""
    return Statement("SELECT set_config('onceflow.ledger', 'kept', true)", {})


def complete(*, ids: Sequence[str]) -> Statement[Any]:
    """Note in the ledger who of these has ended, by this transaction or an earlier one."""
    return Statement(
        """
        UPDATE {schema}.workflow_queue AS q
           SET completed_at_epoch_ms = {schema}.now_ms(), deduplication_id = NULL
         WHERE q.workflow_uuid = ANY (%(ids)b::text[])
           AND (SELECT w.status FROM {schema}.workflow_status AS w WHERE w.workflow_uuid = q.workflow_uuid)
               NOT IN ('ENQUEUED', 'PENDING')
        """,
        {"ids": ids},
    )
