"""Statements of `execution`: rows with what their workflows say, trees, creation, status (decision 0016).

Whoever changes an execution locks its workflow's row first, in a statement of its own: what follows sees what had been
committed by then (READ COMMITTED), and one at a time changes it.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.execution_rows import StoredExecution
from engine.store.cancels import WITH_WAITS
from engine.store.statement import Statement

EXECUTION: Final = """
    SELECT x.workflow_uuid, x.flow_id, x.owner_id, x.root_execution_id, x.parent_execution_id, x.execution_depth,
           {schema}.execution_status(w.status, w.started_at_epoch_ms), x.created_at,
           GREATEST(x.updated_at, w.updated_at), COALESCE(x.first_started_at, w.started_at_epoch_ms),
           COALESCE(x.completed_at, CASE WHEN w.status NOT IN ('PENDING', 'ENQUEUED') THEN w.updated_at END), w.error,
           COALESCE(x.error_node_id, CASE WHEN w.status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') THEN (
               SELECT o.function_name
                 FROM {schema}.operation_outputs AS o
                WHERE o.workflow_uuid = x.workflow_uuid AND o.error IS NOT NULL
                ORDER BY o.function_id DESC
                LIMIT 1) END),
           x.options, x.integration, x.external_events, x.failure_count, x.last_failure_at, x.last_failure_reason,
           CASE WHEN w.status = 'PENDING' AND w.owner_xid IS NOT NULL
                THEN CASE WHEN e.claim_of IS NULL THEN w.updated_at ELSE e.started_at END END,
           CASE WHEN w.status = 'PENDING' AND w.owner_xid IS NOT NULL
                THEN CASE WHEN e.claim_of IS NULL THEN w.executor_id ELSE e.name END END
"""
"""Columns of `StoredExecution`, of `FROMS`."""

FROMS: Final = """
      FROM {schema}.execution AS x
      JOIN {schema}.workflow_status AS w USING (workflow_uuid)
      LEFT JOIN {schema}.executor AS e ON e.executor_id = w.executor_id
"""


class LockedExecution(NamedTuple):
    """What decides whether an execution may be changed, and by whom."""

    status: str
    owner: str | None
    is_gone: bool
    """Whether nothing of the executor that its row names is at work any more."""
    is_engines: bool
    """Whether engines run it, or will: it waits in their queue, or one has begun it."""


def lock(*, execution_id: str) -> Statement[tuple[str]]:
    """Lock an execution against everybody who changes it. No row: there is none."""
    return Statement(
        """
        SELECT w.workflow_uuid
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(id)s AND w.kafka_execution
           FOR NO KEY UPDATE
        """,
        {"id": execution_id},
    )


def state(*, execution_id: str) -> Statement[LockedExecution]:
    """Of an execution that is locked."""
    return Statement(
        """
        SELECT {schema}.execution_status(w.status, w.started_at_epoch_ms), w.owner_xid,
               {schema}.executor_is_gone(w.executor_id),
               w.queue_name IS NOT NULL OR w.application_version IS NOT NULL
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(id)s
        """,
        {"id": execution_id},
        args_row(LockedExecution),
    )


def read(*, ids: Sequence[str]) -> Statement[StoredExecution]:
    """Executions by ID."""
    return Statement(
        EXECUTION
        + FROMS
        + """
         WHERE x.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids},
        args_row(StoredExecution),
    )


def children(*, parent_id: str) -> Statement[StoredExecution]:
    """Executions that this one started, oldest first."""
    return Statement(
        EXECUTION
        + FROMS
        + """
         WHERE x.parent_execution_id = %(parent)s
         ORDER BY x.created_at, x.workflow_uuid
        """,
        {"parent": parent_id},
        args_row(StoredExecution),
    )


class StoredRoot(NamedTuple):
    """A root, and what is below it."""

    execution: StoredExecution
    levels: int
    nested: int


def _root(*values: Any) -> StoredRoot:
    *execution, levels, nested = values
    return StoredRoot(StoredExecution._make(execution), levels, nested)


def roots(*, flow_id: str, limit: int, before_ms: int | None, before_id: str | None) -> Statement[StoredRoot]:
    """Roots of a flow, newest first, from a creation time on; of several of one time, from an ID on."""
    return Statement(
        EXECUTION
        + """
             , COALESCE(below.levels, 0), COALESCE(below.nested, 0)
        """
        + FROMS
        + """
          LEFT JOIN LATERAL (
               SELECT max(b.execution_depth) AS levels, count(*)::integer AS nested
                 FROM {schema}.execution AS b
                WHERE b.root_execution_id = x.workflow_uuid AND b.parent_execution_id IS NOT NULL) AS below ON true
         WHERE x.flow_id = %(flow)s AND x.parent_execution_id IS NULL
           AND (%(before)s::bigint IS NULL
                OR (x.created_at, x.workflow_uuid) < (%(before)s::bigint, COALESCE(%(before_id)s::text, '')))
         ORDER BY x.created_at DESC, x.workflow_uuid DESC
         LIMIT %(limit)s
        """,
        {"flow": flow_id, "limit": limit, "before": before_ms, "before_id": before_id},
        _ROOT_ROW,
    )


_ROOT_ROW: Final = args_row(_root)


class StoredNode(NamedTuple):
    """An execution of a tree."""

    execution: StoredExecution
    level: int


def _node(*values: Any) -> StoredNode:
    *execution, level = values
    return StoredNode(StoredExecution._make(execution), level)


_NODE_ROW: Final = args_row(_node)


def tree(*, root_id: str, levels_max: int) -> Statement[StoredNode]:
    """An execution and all that is below it: depth by depth, oldest first."""
    return Statement(
        """
        WITH RECURSIVE branch AS (
            SELECT x.workflow_uuid, 0 AS level FROM {schema}.execution AS x WHERE x.workflow_uuid = %(root)s
            UNION ALL
            SELECT x.workflow_uuid, b.level + 1
              FROM branch AS b
              JOIN {schema}.execution AS x ON x.parent_execution_id = b.workflow_uuid
             WHERE b.level < %(levels)s
        )
        """
        + EXECUTION
        + ", b.level"
        + FROMS
        + """
          JOIN branch AS b USING (workflow_uuid)
         ORDER BY b.level, x.created_at, x.workflow_uuid
        """,
        {"root": root_id, "levels": levels_max},
        _NODE_ROW,
    )


class ParentRow(NamedTuple):
    """What a child has to agree with."""

    root: str
    depth: int


def parent(*, execution_id: str) -> Statement[ParentRow]:
    """The root and depth of a parent, which stands until the commit: its row is locked against deletion."""
    return Statement(
        """
        SELECT COALESCE(x.root_execution_id, x.workflow_uuid), x.execution_depth
          FROM {schema}.execution AS x
         WHERE x.workflow_uuid = %(id)s
           FOR KEY SHARE
        """,
        {"id": execution_id},
        args_row(ParentRow),
    )


def create(
    *,
    row: StoredExecution,
    workflow_status: str,
    inputs: str,
    timeout_ms: int | None,
) -> Statement[tuple[str]]:
    """The two rows of a new execution; returns its ID, or nothing where the ID is taken by whatever workflow."""
    return Statement(
        """
        WITH clock AS MATERIALIZED (
            SELECT {schema}.now_ms() AS now
        ), started AS (
            INSERT INTO {schema}.workflow_status
                   (workflow_uuid, status, name, inputs, error, created_at, updated_at, started_at_epoch_ms,
                    workflow_timeout_ms, workflow_deadline_epoch_ms, authenticated_user, kafka_execution)
            SELECT %(id)s, %(workflow_status)s, %(flow_id)s, %(inputs)s, %(error)s, clock.now, %(updated_ms)s,
                   CASE WHEN %(workflow_status)s = 'PENDING' THEN COALESCE(%(started_ms)s::bigint, clock.now)
                        ELSE %(started_ms)s::bigint END,
                   %(timeout_ms)s::bigint,
                   CASE WHEN %(workflow_status)s = 'PENDING'
                        THEN COALESCE(%(started_ms)s::bigint, clock.now) + %(timeout_ms)s::bigint END,
                   %(owner_id)s, true
              FROM clock
                ON CONFLICT DO NOTHING
            RETURNING workflow_uuid
        ), created AS (
            INSERT INTO {schema}.execution
                   (workflow_uuid, flow_id, owner_id, root_execution_id, parent_execution_id, execution_depth,
                    created_at, updated_at, completed_at, error_node_id, options, integration, external_events,
                    failure_count, last_failure_at, last_failure_reason)
            SELECT s.workflow_uuid, %(flow_id)s, %(owner_id)s, %(root_id)s, %(parent_id)s, %(depth)s, %(created_ms)s,
                   %(updated_ms)s, %(completed_ms)s, %(error_node)s, %(options)s, %(integration)s,
                   %(external_events)s, %(failure_count)s, %(failed_ms)s, %(failure_reason)s
              FROM started AS s
            RETURNING workflow_uuid
        )
        SELECT c.workflow_uuid FROM created AS c
        """,
        {**row._asdict(), "workflow_status": workflow_status, "inputs": inputs, "timeout_ms": timeout_ms},
    )


CREATED: Final = '{"status": "created", "previous": null}'
"""What the first event of an execution says that waits to be begun."""


def append_event(*, execution_id: str, event_type: str, data: str) -> Statement[tuple[int | None]]:
    """The next event of an execution that is locked, or new."""
    return Statement(
        "SELECT {schema}.append_execution_event(%(id)s, %(type)s, %(data)s)",
        {"id": execution_id, "type": event_type, "data": data},
    )


def delete(*, execution_id: str) -> Statement[tuple[str]]:
    """Delete an execution and all that hangs on it. Whoever runs it writes nothing any more (P7); its claim ends."""
    return Statement(
        """
        WITH gone AS (
            DELETE FROM {schema}.workflow_status AS w
             WHERE w.workflow_uuid = %(id)s AND w.kafka_execution
            RETURNING w.workflow_uuid, w.executor_id
        ), ended AS (
            UPDATE {schema}.executor AS e
               SET died_at = COALESCE(e.died_at, {schema}.now_ms()), lease_until = 0
              FROM gone
             WHERE e.executor_id = gone.executor_id AND e.claim_of = gone.workflow_uuid
        )
        SELECT g.workflow_uuid FROM gone AS g
        """,
        {"id": execution_id},
    )


class StatusChange(NamedTuple):
    """What is written with a status; what is `None` stays as it is.

    Attributes:
        stored: Of the workflow's row.
        error: JSON text.
    """

    stored: str
    started_ms: int | None
    completed_ms: int | None
    error: str | None
    error_node: str | None


_CHANGE: Final = """
    , ended AS (
        UPDATE {schema}.executor AS e
           SET died_at = COALESCE(e.died_at, {schema}.now_ms()), lease_until = 0
          FROM chosen
         WHERE e.executor_id = chosen.executor_id AND e.claim_of = chosen.workflow_uuid
           AND %(stored)s <> 'PENDING'
    ), details AS (
        UPDATE {schema}.execution AS x
           SET updated_at = {schema}.now_ms(),
               completed_at = CASE WHEN %(is_open)s THEN NULL ELSE COALESCE(%(completed_ms)s::bigint, x.completed_at) END,
               error_node_id = COALESCE(%(error_node)s::text, x.error_node_id),
               first_started_at = COALESCE(%(started_ms)s::bigint, x.first_started_at),
               paused_function_id = NULL, paused_node_id = NULL, paused_at = NULL
          FROM chosen
         WHERE x.workflow_uuid = chosen.workflow_uuid
    )
    UPDATE {schema}.workflow_status AS w
       SET status = %(stored)s,
           owner_xid = CASE WHEN %(stored)s = 'PENDING' THEN w.owner_xid END,
           deduplication_id = CASE WHEN %(is_open)s THEN w.deduplication_id END,
           kafka_wake_at = NULL,
           output = CASE WHEN %(stored)s = 'SUCCESS' THEN 'null' END,
           error = COALESCE(%(error)s::text, CASE WHEN %(is_open)s THEN NULL ELSE w.error END),
           started_at_epoch_ms = COALESCE(%(started_ms)s::bigint, w.started_at_epoch_ms,
                                          CASE WHEN %(stored)s = 'PENDING' THEN {schema}.now_ms() END),
           workflow_deadline_epoch_ms = CASE WHEN %(stored)s = 'PENDING' AND w.workflow_deadline_epoch_ms IS NULL
               THEN COALESCE(%(started_ms)s::bigint, w.started_at_epoch_ms, {schema}.now_ms()) + w.workflow_timeout_ms
               ELSE w.workflow_deadline_epoch_ms END,
           updated_at = {schema}.now_ms()
      FROM chosen
     WHERE w.workflow_uuid = chosen.workflow_uuid
    RETURNING w.workflow_uuid
"""


def change(*, execution_id: str, to: StatusChange) -> Statement[tuple[str]]:
    """Write a status, and what comes with it, of an execution that is locked. Whoever waits for its end wakes."""
    is_open = to.stored in ("PENDING", "ENQUEUED")
    chosen = """
        WITH chosen AS MATERIALIZED (
            SELECT w.workflow_uuid, w.executor_id
              FROM {schema}.workflow_status AS w
             WHERE w.workflow_uuid = %(id)s
        )
    """
    return Statement(
        chosen + ("" if is_open else WITH_WAITS) + _CHANGE,
        {**to._asdict(), "id": execution_id, "is_open": is_open},
    )


def update_failure(*, execution_id: str, count: int, reason: str) -> Statement[tuple[str]]:
    """Count, reason, now."""
    return Statement(
        """
        UPDATE {schema}.execution AS x
           SET failure_count = %(count)s,
               last_failure_reason = %(reason)s,
               last_failure_at = {schema}.now_ms(),
               updated_at = {schema}.now_ms()
         WHERE x.workflow_uuid = %(id)s
        RETURNING x.workflow_uuid
        """,
        {"id": execution_id, "count": count, "reason": reason},
    )
