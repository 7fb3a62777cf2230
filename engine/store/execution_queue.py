"""Statements that hand executions to engines: once they are created, and again where a worker left them (decision 0016)."""

from typing import Final

from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS_ELSEWHERE

_CREATED: Final = "w.status = 'ENQUEUED' AND w.owner_xid IS NULL AND w.queue_name IS NULL"

_LEFT: Final = """
    w.application_version IS NULL
    AND (w.status = 'ENQUEUED' AND w.queue_name IS NULL
         OR w.status = 'PENDING' AND (w.owner_xid IS NULL OR {schema}.executor_is_gone(w.executor_id)))
"""


def enqueue(
    *,
    execution_id: str,
    name: str,
    version: str,
    inputs: str,
    inline_max: int,
    queue: str | None,
    again: bool,
    user: str | None = None,
    role: str | None = None,
    roles: str | None = None,
) -> Statement[tuple[str]]:
    """Have a locked execution run by engines: in its turn, or without a queue at once. Returns its ID if that was changed.

    A row of a queue gets its version when it starts; one without a queue is at rest, due, of this version. `again`: also
    what a worker outside of the engine had begun, and nobody has any more; never what an engine has begun. `user`, with
    roles: whose it is from now on, if somebody asks for it.
    """
    is_large = len(inputs) > inline_max
    return Statement(
        """
        WITH chosen AS MATERIALIZED (
            SELECT w.workflow_uuid
              FROM {schema}.workflow_status AS w
             WHERE w.workflow_uuid = %(id)s AND w.kafka_execution AND ("""
        + (_LEFT if again else _CREATED)
        + """)
        ), large AS (
            INSERT INTO {schema}.workflow_inputs (workflow_uuid, inputs)
            SELECT c.workflow_uuid, %(large)s FROM chosen AS c WHERE %(large)s::text IS NOT NULL
                ON CONFLICT (workflow_uuid) DO UPDATE SET inputs = EXCLUDED.inputs
        ), ledger AS (
            -- Its status may stay as it is, so the trigger that notes who waits has nothing to see (0011).
            INSERT INTO {schema}.workflow_queue AS q (workflow_uuid, queue_name, created_at_epoch_ms)
            SELECT c.workflow_uuid, %(queue)s, {schema}.now_ms() FROM chosen AS c WHERE %(queue)s::text IS NOT NULL
                ON CONFLICT (workflow_uuid) DO UPDATE
               SET queue_name = EXCLUDED.queue_name, started_at_epoch_ms = NULL, completed_at_epoch_ms = NULL,
                   executor_id = NULL
        )
        UPDATE {schema}.workflow_status AS w
           SET status = CASE WHEN %(queue)s::text IS NULL THEN 'PENDING' ELSE 'ENQUEUED' END,
               name = %(name)s,
               application_version = CASE WHEN %(queue)s::text IS NULL THEN %(version)s END,
               inputs = %(inputs)s,
               queue_name = %(queue)s,
               owner_xid = NULL,
               started_at_epoch_ms = NULL,
               workflow_deadline_epoch_ms = NULL,
               kafka_wake_at = NULL,
               authenticated_user = COALESCE(%(user)s, w.authenticated_user),
               assumed_role = CASE WHEN %(user)s::text IS NULL THEN w.assumed_role ELSE %(role)s END,
               authenticated_roles = CASE WHEN %(user)s::text IS NULL THEN w.authenticated_roles ELSE %(roles)s END,
               updated_at = {schema}.now_ms()
          FROM chosen AS c
         WHERE w.workflow_uuid = c.workflow_uuid
        RETURNING w.workflow_uuid
        """,
        {
            "id": execution_id,
            "name": name,
            "version": version,
            "inputs": INPUTS_ELSEWHERE if is_large else inputs,
            "large": inputs if is_large else None,
            "queue": queue,
            "user": user,
            "role": role,
            "roles": roles,
        },
    )
