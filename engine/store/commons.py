"""Statements about rows of workflows without a source: fencing, taking, handing on (P7, P29).

Rows of this kind have no `kafka_source`. At rest they have no owner, and `kafka_wake_at` says when they are due (NULL: at
once); running they name an executor and the token of the batch in which it took them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.ids import ExecutorId, OwnerToken, WorkflowId
from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS, INPUTS_ELSEWHERE
from engine.versions import Runnable


class TakenRow(NamedTuple):
    """A row that is ours now."""

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
    instance: str | None
    """Name of the object that it is a method of."""


def fence(
    *,
    ids: Sequence[str],
    owners: Sequence[str],
    function_ids: Sequence[int | None],
    others: Sequence[str],
    timeline: str,
    lsn: str,
) -> Statement[tuple[str]]:
    """P4 and P7 for a flush of rows: locks them; raises KP003; returns the WAL position."""
    return Statement(
        """
        SELECT {schema}.fence_group(%(ids)b::text[], %(owners)b::text[], %(function_ids)b::integer[],
                                    %(others)b::text[], %(timeline)s, %(lsn)s::pg_lsn)::text
        """,
        {
            "ids": ids,
            "owners": owners,
            "function_ids": function_ids,
            "others": others,
            "timeline": timeline,
            "lsn": lsn,
        },
    )


def take_due(
    *,
    executor_id: ExecutorId,
    owner: OwnerToken,
    runnable: Runnable,
    busy: Sequence[str],
    limit: int,
) -> Statement[TakenRow]:
    """Take up to `limit` rows at rest that are due, and that this process can run, the longest due first.

    One that was at rest before its next attempt forgets its failed steps (P28). Rows in `busy` still have code running here
    (P13).
    """
    return Statement(
        """
        WITH due AS MATERIALIZED (
            SELECT w.workflow_uuid, w.retries, h.becomes
              FROM unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[], %(becomes)b::text[])
                     AS h (name, version, instance, becomes)
             CROSS JOIN LATERAL (
                   SELECT w.workflow_uuid, COALESCE(w.kafka_wake_at, 0) AS due,
                          w.kafka_wake_at IS NOT NULL AND w.kafka_asleep IS NOT TRUE AS retries
                     FROM {schema}.workflow_status AS w
                    WHERE w.kafka_source IS NULL AND w.queue_name IS NULL AND w.status = 'PENDING'
                      AND w.owner_xid IS NULL
                      AND w.name = h.name AND w.application_version = h.version
                      AND COALESCE(w.config_name, '') = h.instance
                      AND COALESCE(w.kafka_wake_at, 0) <= (SELECT {schema}.now_ms())
                      AND w.workflow_uuid <> ALL (%(busy)b::text[])
                    ORDER BY COALESCE(w.kafka_wake_at, 0)
                    LIMIT %(limit)s
                      FOR NO KEY UPDATE OF w SKIP LOCKED) AS w
             ORDER BY w.due
             LIMIT %(limit)s
        ), forgotten AS (
            DELETE FROM {schema}.operation_outputs AS o
             USING due
             WHERE due.retries AND o.workflow_uuid = due.workflow_uuid
               AND (o.error IS NOT NULL OR o.kafka_called IS NOT NULL)
        ), awaited AS (
            DELETE FROM {schema}.waiting AS x USING due WHERE x.workflow_uuid = due.workflow_uuid
        )
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = %(owner)s,
               executor_id = %(executor)s,
               application_version = due.becomes,
               started_at_epoch_ms = COALESCE(w.started_at_epoch_ms, {schema}.now_ms()),
               -- LEAST passes over NULL. One that has begun before has a deadline, which is earlier.
               workflow_deadline_epoch_ms = LEAST(w.workflow_deadline_epoch_ms,
                                                  {schema}.now_ms() + w.workflow_timeout_ms),
               kafka_wake_at = NULL,
               updated_at = {schema}.now_ms()
          FROM due
         WHERE w.workflow_uuid = due.workflow_uuid
        RETURNING w.workflow_uuid, w.name,"""
        + INPUTS
        + """, w.request, COALESCE(w.recovery_attempts, 0)::integer, COALESCE(w.kafka_attempt, 0),
                  COALESCE(w.kafka_alone, 0), w.workflow_deadline_epoch_ms, w.authenticated_user, w.assumed_role,
                  w.authenticated_roles, NULL, w.config_name
        """,
        {
            "executor": executor_id,
            "owner": owner,
            "names": runnable.names,
            "versions": runnable.versions,
            "instances": runnable.instances,
            "becomes": runnable.becomes,
            "busy": busy,
            "limit": limit,
            "elsewhere": INPUTS_ELSEWHERE,
        },
        args_row(TakenRow),
    )


def take_over(
    *,
    executor_id: ExecutorId,
    owner: OwnerToken,
    dead: Sequence[str],
    runnable: Runnable,
    busy: Sequence[str],
    limit: int,
) -> Statement[TakenRow]:
    """Take up to `limit` workflows that dead executors ran, and that this one can run, oldest first (P29).

    `owner` replaces the old token, so whatever the dead executor still writes matches no row (I6). They were running, so
    each is blamed (P22), and the history has a row for each.
    """
    return Statement(
        """
        -- MATERIALIZED keeps the planner from running the locking subquery again inside a nested loop, which would take
        -- more rows than the limit.
        WITH orphan AS MATERIALIZED (
            SELECT w.workflow_uuid, w.status, w.executor_id, h.becomes
              FROM {schema}.workflow_status AS w
              JOIN unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[], %(becomes)b::text[])
                     AS h (name, version, instance, becomes)
                ON h.name = w.name AND h.version = w.application_version AND h.instance = COALESCE(w.config_name, '')
             WHERE w.kafka_source IS NULL AND w.queue_name IS NULL AND w.status = 'PENDING'
               AND w.owner_xid IS NOT NULL
               AND w.executor_id = ANY (%(dead)b::text[])
               AND {schema}.executor_is_gone(w.executor_id)
               AND w.workflow_uuid <> ALL (%(busy)b::text[])
             ORDER BY w.created_at
             LIMIT %(limit)s
               FOR NO KEY UPDATE OF w SKIP LOCKED
        ), history AS (
            INSERT INTO {schema}.recovery
                   (workflow_uuid, worker_id, reason, previous_status, previous_worker_id, recovered_at)
            SELECT o.workflow_uuid, %(executor)s, 'executor dead', o.status, o.executor_id, {schema}.now_ms()
              FROM orphan AS o
        )
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = %(owner)s,
               executor_id = %(executor)s,
               application_version = o.becomes,
               recovery_attempts = COALESCE(w.recovery_attempts, 0) + 1,
               updated_at = {schema}.now_ms()
          FROM orphan AS o
         WHERE w.workflow_uuid = o.workflow_uuid
        RETURNING w.workflow_uuid, w.name,"""
        + INPUTS
        + """, w.request, w.recovery_attempts::integer, COALESCE(w.kafka_attempt, 0), COALESCE(w.kafka_alone, 0),
                  w.workflow_deadline_epoch_ms, w.authenticated_user, w.assumed_role, w.authenticated_roles, o.executor_id,
                  w.config_name
        """,
        {
            "executor": executor_id,
            "owner": owner,
            "dead": dead,
            "names": runnable.names,
            "versions": runnable.versions,
            "instances": runnable.instances,
            "becomes": runnable.becomes,
            "busy": busy,
            "limit": limit,
            "elsewhere": INPUTS_ELSEWHERE,
        },
        args_row(TakenRow),
    )


def running_of(*, executor_id: ExecutorId, limit: int) -> Statement[tuple[WorkflowId, OwnerToken]]:
    """Rows that say this executor runs them: those that no run here knows are handed over (P12)."""
    return Statement(
        """
        SELECT w.workflow_uuid, w.owner_xid
          FROM {schema}.workflow_status AS w
         WHERE w.kafka_source IS NULL AND w.status = 'PENDING' AND w.owner_xid IS NOT NULL
           AND w.executor_id = %(executor)s
         LIMIT %(limit)s
        """,
        {"executor": executor_id, "limit": limit},
    )


def announce(*, executor_id: ExecutorId, runnable: Runnable) -> Statement[Any]:
    """Say what this executor can run, note which versions there are, and forget what dead ones could run."""
    return Statement(
        """
        WITH gone AS (
            DELETE FROM {schema}.executor_workflow AS x
             WHERE NOT EXISTS (SELECT FROM {schema}.executor AS e
                                WHERE e.executor_id = x.executor_id AND e.died_at IS NULL)
        ), noted AS (
            INSERT INTO {schema}.workflow_version (name, version, first_at)
            SELECT DISTINCT h.name, h.becomes, {schema}.now_ms()
              FROM unnest(%(names)b::text[], %(becomes)b::text[]) AS h (name, becomes)
             ORDER BY h.name, h.becomes
                ON CONFLICT DO NOTHING
        )
        INSERT INTO {schema}.executor_workflow (executor_id, name, version, instance, is_own)
        SELECT %(executor)s, h.name, h.version, h.instance, h.version = h.becomes
          FROM unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[], %(becomes)b::text[])
                 AS h (name, version, instance, becomes)
            ON CONFLICT DO NOTHING
        """,
        {
            "executor": executor_id,
            "names": runnable.names,
            "versions": runnable.versions,
            "instances": runnable.instances,
            "becomes": runnable.becomes,
        },
    )


def unsettled(*, executor_id: ExecutorId, runnable: Runnable) -> Statement[tuple[WorkflowId]]:
    """Some rows that this executor runs, or should take at its next look. For tests that wait for an end."""
    return Statement(
        """
        SELECT w.workflow_uuid
          FROM {schema}.workflow_status AS w
          JOIN unnest(%(names)b::text[], %(versions)b::text[], %(instances)b::text[]) AS h (name, version, instance)
            ON h.name = w.name AND h.version = w.application_version AND h.instance = COALESCE(w.config_name, '')
         WHERE w.kafka_source IS NULL AND w.queue_name IS NULL AND w.status = 'PENDING'
           AND CASE WHEN w.owner_xid IS NULL THEN COALESCE(w.kafka_wake_at, 0) <= {schema}.now_ms()
                    ELSE w.executor_id = %(executor)s OR {schema}.executor_is_gone(w.executor_id) END
         LIMIT 20
        """,
        {
            "executor": executor_id,
            "names": runnable.names,
            "versions": runnable.versions,
            "instances": runnable.instances,
        },
    )
