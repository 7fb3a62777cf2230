"""Statements that take rows of one queue, under its limits (P29, decision 0013).

take_ready    ENQUEUED: as many as there are places, starts and room for
take_due      at rest, with their places: as many as this process has room for
take_dead     of dead executors, with their places: likewise, and each is a start once more
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.ids import ExecutorId, OwnerToken, WorkflowId
from engine.store.columns import SEPARATOR
from engine.store.queues import QueueRow
from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS, INPUTS_ELSEWHERE
from engine.versions import Runnable


class QueuedRow(NamedTuple):
    """A row of a queue that is ours now."""

    workflow_id: WorkflowId
    name: str
    inputs: str
    request: str | None
    recovery_attempts: int
    attempt: int
    alone: int
    deadline_ms: int | None
    user: str | None
    role: str | None
    roles: str | None
    previous: str | None
    """The dead executor it was taken from."""
    key: str
    order: tuple[int, int, int]
    """Priority, time of enqueueing, order of the calls within it."""
    instance: str | None
    """Name of the object that it is a method of."""
    has_history: bool
    waited_ms: int
    """In the queue, until it started."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one process may take from a queue.

    Attributes:
        queue, limits: From where; limits as its row has them, locked where it `is_limited`.
        executor_id, owner: For whom.
        runnable: What this process can run.
        busy: Workflows whose code still runs here (P13).
        here: How many of the queue run in this process, by partition key; '' is that of having none.
        limit: At most so many rows.
    """

    queue: str
    limits: QueueRow
    executor_id: ExecutorId
    owner: OwnerToken
    runnable: Runnable
    busy: Sequence[str]
    here: Mapping[str, int]
    limit: int

    def parameters(self) -> dict[str, Any]:
        """What every statement of a turn is told."""
        limits = self.limits
        return {
            "queue": self.queue,
            "concurrency": limits.concurrency,
            "worker": limits.worker_concurrency,
            "starts": limits.limit_starts,
            "period": limits.limit_period_ms,
            "now": limits.now,
            "executor": self.executor_id,
            "owner": self.owner,
            "names": self.runnable.names,
            "versions": self.runnable.versions,
            "instances": self.runnable.instances,
            "becomes": self.runnable.becomes,
            "busy": SEPARATOR.join(self.busy),
            "separator": SEPARATOR,
            "keys": list(self.here),
            "here": list(self.here.values()),
            "limit": self.limit,
            "elsewhere": INPUTS_ELSEWHERE,
        }


_ROW: Final = (
    """
        RETURNING w.workflow_uuid, w.name,"""
    + INPUTS
    + """, w.request, COALESCE(w.recovery_attempts, 0)::integer, COALESCE(w.kafka_attempt, 0),
                  COALESCE(w.kafka_alone, 0), w.workflow_deadline_epoch_ms, w.authenticated_user, w.assumed_role,
                  w.authenticated_roles,
"""
)


def _queued(*values: Any) -> QueuedRow:
    *head, priority, created, place, instance, has_history, waited = values
    return QueuedRow._make([*head, (priority, created, place or 0), instance, has_history, waited])


_QUEUED: Final = args_row(_queued)


def take_ready(turn: Turn, keys: Sequence[str]) -> Statement[QueuedRow]:
    """Start ready rows of these partition keys, in the order of the queue.

    Where the queue is limited, its row is locked by an earlier statement of this transaction: what is counted here can
    change only downwards. A row without a version runs with ours, and says so from now on.

    There nobody is overtaken because something else, a message to it say, has its row at this moment: the turn fails
    (`LockNotAvailable`), and is to come again.
    """
    return Statement(
        """
        WITH clock AS MATERIALIZED (
            SELECT %(now)s::bigint AS now
        ), room AS MATERIALIZED (
            -- LEAST passes over NULL: a limit that there is not.
            SELECT k.key,
                   LEAST(%(limit)s::integer, %(worker)s::integer - k.here,
                         CASE WHEN %(concurrency)s::integer IS NOT NULL THEN %(concurrency)s::integer - (
                             SELECT count(*)
                               FROM (SELECT
                                       FROM {schema}.workflow_status AS w
                                      WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s
                                        AND w.status = 'PENDING' AND COALESCE(w.queue_partition_key, '') = k.key
                                      LIMIT %(concurrency)s::integer) AS taken) END,
                         CASE WHEN %(starts)s::integer IS NOT NULL THEN %(starts)s::integer - (
                             SELECT COALESCE(sum(s.starts), 0)
                               FROM {schema}.queue_start AS s
                              WHERE s.queue_name = %(queue)s AND s.partition_key = k.key
                                AND s.started_at > clock.now - %(period)s::bigint) END)::integer AS room
              FROM unnest(%(keys)b::text[], %(here)b::integer[]) AS k (key, here), clock
        ), chosen AS MATERIALIZED (
            SELECT w.*, room.key
              FROM room
             CROSS JOIN LATERAL (
                   SELECT w.workflow_uuid, w.priority, w.created_at, w.kafka_place, w.name,
                          COALESCE(w.config_name, '') AS instance, w.application_version AS version
                     FROM {schema}.workflow_status AS w
                    WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'ENQUEUED'
                      AND w.kafka_wake_at IS NULL AND COALESCE(w.queue_partition_key, '') = room.key
                      AND EXISTS (SELECT FROM unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[])
                                                  AS h (name, version, instance)
                                   WHERE h.name = w.name AND h.version = COALESCE(w.application_version, h.version)
                                     AND h.instance = COALESCE(w.config_name, ''))
                      AND w.workflow_uuid <> ALL (string_to_array(%(busy)s, %(separator)s))
                    ORDER BY w.priority, w.created_at, w.kafka_place
                    LIMIT GREATEST(room.room, 0)
                      FOR NO KEY UPDATE OF w """
        + ("NOWAIT" if turn.limits.is_limited else "SKIP LOCKED")
        + """) AS w
             ORDER BY w.priority, w.created_at, w.kafka_place
             LIMIT %(limit)s
        ), noted AS (
            INSERT INTO {schema}.queue_start (queue_name, partition_key, started_at, owner_xid, starts)
            SELECT %(queue)s, c.key, clock.now, %(owner)s, count(*)
              FROM chosen AS c, clock
             WHERE %(starts)s::integer IS NOT NULL
             GROUP BY c.key, clock.now
        ), ledger AS (
            UPDATE {schema}.workflow_queue AS q
               SET started_at_epoch_ms = clock.now, executor_id = %(executor)s
              FROM chosen AS c, clock
             WHERE q.workflow_uuid = c.workflow_uuid
        )
        UPDATE {schema}.workflow_status AS w
           SET status = 'PENDING',
               application_version = h.becomes,
               owner_xid = %(owner)s,
               executor_id = %(executor)s,
               started_at_epoch_ms = clock.now,
               workflow_deadline_epoch_ms = LEAST(w.workflow_deadline_epoch_ms, clock.now + w.workflow_timeout_ms),
               updated_at = clock.now
          FROM chosen AS c, clock,
               unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[], %(becomes)b::text[])
                 AS h (name, version, instance, becomes)
         WHERE w.workflow_uuid = c.workflow_uuid AND h.name = c.name AND h.instance = c.instance
           AND h.version = COALESCE(c.version, h.becomes)"""
        + _ROW
        + """
                  NULL, c.key, c.priority, c.created_at, c.kafka_place, w.config_name,
                  EXISTS (SELECT FROM {schema}.operation_outputs AS o WHERE o.workflow_uuid = w.workflow_uuid),
                  GREATEST(clock.now - c.created_at, 0)
        """,
        {**turn.parameters(), "keys": keys, "here": [turn.here.get(key, 0) for key in keys]},
        _QUEUED,
    )


_RETURNED: Final = """
        ), numbered AS (
            SELECT o.*, row_number() OVER (PARTITION BY o.key ORDER BY o.since, o.workflow_uuid) AS nth
              FROM owned AS o
        ), chosen AS MATERIALIZED (
            SELECT n.*
              FROM numbered AS n
              LEFT JOIN unnest(%(keys)b::text[], %(here)b::integer[]) AS k (key, here) ON k.key = n.key
             CROSS JOIN clock
             WHERE n.nth <= LEAST(%(limit)s::integer, %(worker)s::integer - COALESCE(k.here, 0),
                                  CASE WHEN %(starts)s::integer IS NOT NULL THEN %(starts)s::integer - (
                                      SELECT COALESCE(sum(s.starts), 0)
                                        FROM {schema}.queue_start AS s
                                       WHERE s.queue_name = %(queue)s AND s.partition_key = n.key
                                         AND s.started_at > clock.now - %(period)s::bigint) END)
             ORDER BY n.since, n.workflow_uuid
             LIMIT %(limit)s
        ), noted AS (
            INSERT INTO {schema}.queue_start (queue_name, partition_key, started_at, owner_xid, starts)
            SELECT %(queue)s, c.key, clock.now, %(owner)s, count(*)
              FROM chosen AS c, clock
             WHERE %(starts)s::integer IS NOT NULL
             GROUP BY c.key, clock.now
        ), ledger AS (
            UPDATE {schema}.workflow_queue AS q
               SET executor_id = %(executor)s
              FROM chosen AS c
             WHERE q.workflow_uuid = c.workflow_uuid
"""


def take_due(turn: Turn, *, locked_max: int) -> Statement[QueuedRow]:
    """Wake up to `limit` rows at rest that are due. They have their places, and are no starts; a process has its own limit.

    As `store.commons.take_due`: one at rest before its next attempt forgets its failed steps (P28).
    """
    return Statement(
        """
        WITH clock AS MATERIALIZED (
            SELECT %(now)s::bigint AS now
        ), owned AS MATERIALIZED (
            SELECT w.workflow_uuid, COALESCE(w.queue_partition_key, '') AS key, COALESCE(w.kafka_wake_at, 0) AS since,
                   w.kafka_wake_at IS NOT NULL AND w.kafka_asleep IS NOT TRUE AS retries, h.becomes
              FROM {schema}.workflow_status AS w
              JOIN unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[], %(becomes)b::text[])
                     AS h (name, version, instance, becomes)
                ON h.name = w.name AND h.version = w.application_version AND h.instance = COALESCE(w.config_name, '')
             WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'PENDING' AND w.owner_xid IS NULL
               AND COALESCE(w.kafka_wake_at, 0) <= (SELECT now FROM clock)
               AND w.workflow_uuid <> ALL (string_to_array(%(busy)s, %(separator)s))
             ORDER BY COALESCE(w.kafka_wake_at, 0)
             LIMIT %(locked)s
               FOR NO KEY UPDATE OF w SKIP LOCKED"""
        + _RETURNED
        + """
        ), forgotten AS (
            DELETE FROM {schema}.operation_outputs AS o
             USING chosen AS c
             WHERE c.retries AND o.workflow_uuid = c.workflow_uuid
               AND (o.error IS NOT NULL OR o.kafka_called IS NOT NULL)
        ), awaited AS (
            DELETE FROM {schema}.waiting AS x USING chosen AS c WHERE x.workflow_uuid = c.workflow_uuid
        )
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = %(owner)s,
               executor_id = %(executor)s,
               application_version = c.becomes,
               kafka_wake_at = NULL,
               updated_at = clock.now
          FROM chosen AS c, clock
         WHERE w.workflow_uuid = c.workflow_uuid"""
        + _ROW
        + """
                  NULL, c.key, w.priority, w.created_at, w.kafka_place, w.config_name, true, 0
        """,
        {**turn.parameters(), "starts": None, "locked": locked_max},
        _QUEUED,
    )


def take_dead(turn: Turn, *, locked_max: int, dead: Sequence[str]) -> Statement[QueuedRow]:
    """Take up to `limit` workflows that dead executors ran, oldest first: with their places, and as starts once more.

    As `store.commons.take_over`: blamed, and in the history (P22, P29).
    """
    return Statement(
        """
        WITH clock AS MATERIALIZED (
            SELECT %(now)s::bigint AS now
        ), owned AS MATERIALIZED (
            SELECT w.workflow_uuid, COALESCE(w.queue_partition_key, '') AS key, w.created_at AS since, w.executor_id, h.becomes
              FROM {schema}.workflow_status AS w
              JOIN unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[], %(becomes)b::text[])
                     AS h (name, version, instance, becomes)
                ON h.name = w.name AND h.version = w.application_version AND h.instance = COALESCE(w.config_name, '')
             WHERE w.kafka_source IS NULL AND w.queue_name = %(queue)s AND w.status = 'PENDING'
               AND w.owner_xid IS NOT NULL
               AND w.executor_id = ANY (%(dead)b::text[])
               AND {schema}.executor_is_gone(w.executor_id)
               AND w.workflow_uuid <> ALL (string_to_array(%(busy)s, %(separator)s))
             ORDER BY w.created_at
             LIMIT %(locked)s
               FOR NO KEY UPDATE OF w SKIP LOCKED"""
        + _RETURNED
        + """
        ), history AS (
            INSERT INTO {schema}.recovery
                   (workflow_uuid, worker_id, reason, previous_status, previous_worker_id, recovered_at)
            SELECT c.workflow_uuid, %(executor)s, 'executor dead', 'PENDING', c.executor_id, clock.now
              FROM chosen AS c, clock
        )
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = %(owner)s,
               executor_id = %(executor)s,
               application_version = c.becomes,
               recovery_attempts = COALESCE(w.recovery_attempts, 0) + 1,
               updated_at = clock.now
          FROM chosen AS c, clock
         WHERE w.workflow_uuid = c.workflow_uuid"""
        + _ROW
        + """
                  c.executor_id, c.key, w.priority, w.created_at, w.kafka_place, w.config_name, true, 0
        """,
        {**turn.parameters(), "dead": dead, "locked": locked_max},
        _QUEUED,
    )
