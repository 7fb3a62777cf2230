"""Statements that put ended workflows back to work, copy or delete them: what operators and programs do with an ID.

A record's workflow is its partition's: put back to work it waits behind what was open of its key (P18), and a step of it
that still runs somewhere keeps the key until then, by the owner that its row still names. ENQUEUED is how such a row
says that it is to run and runs nowhere.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.execution_rows import request_of_execution
from engine.ids import WorkflowId
from engine.queues import INTERNAL
from engine.store.cancels import GET_RESULT
from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS_ELSEWHERE

OUTSIDE: Final = "w.kafka_execution IS TRUE AND w.queue_name IS NULL AND w.application_version IS NULL"
"""An execution that workers outside of engines had, or nobody: what its row says of inputs is said when it is enqueued."""

NOT_BEGUN: Final = "w.queue_name = %(internal)s AND COALESCE(%(version)s::text, w.application_version) IS NULL"
"""A debounced workflow that has never begun: any version may begin it, from the queue in which it waited for that."""


class LockedRow(NamedTuple):
    """A row that an act is about, locked."""

    workflow_id: WorkflowId
    status: str
    source: str | None


class OriginalRow(NamedTuple):
    """A row that is to be forked, locked against change."""

    workflow_id: WorkflowId
    name: str
    version: str | None
    last_function_id: int


class ForkedRow(NamedTuple):
    """A fork, or what stands under its ID."""

    forked_from: str | None


def lock(*, ids: Sequence[str]) -> Statement[LockedRow]:
    """Lock rows in the order of their IDs."""
    return Statement(
        """
        SELECT w.workflow_uuid, COALESCE(w.status, ''), w.kafka_source
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
         ORDER BY w.workflow_uuid
           FOR UPDATE OF w
        """,
        {"ids": ids},
        args_row(LockedRow),
    )


def forget_errors(*, ids: Sequence[str]) -> Statement[Any]:
    """Forget the failed calls that workflows failed by, so that they are made again; what succeeded stands (I4).

    One that something was called after was dealt with: the code that follows it in the history is that of a failure. What was
    called by then is noted with the error, and with what else its call has recorded (engine/given_errors.py). Where it is not
    (other programs' rows, and older ones) times say it, and what began in its millisecond counts as begun after.
    """
    return Statement(
        """
        DELETE FROM {schema}.operation_outputs AS o
         WHERE o.workflow_uuid = ANY (%(ids)b::text[])
           AND (o.error IS NOT NULL OR o.kafka_called IS NOT NULL)
           AND NOT EXISTS (SELECT FROM {schema}.operation_outputs AS later
                            WHERE later.workflow_uuid = o.workflow_uuid
                              AND later.function_id > COALESCE(o.kafka_called, o.function_id)
                              AND (o.kafka_called IS NOT NULL
                                   OR later.started_at_epoch_ms >= o.completed_at_epoch_ms))
        """,
        {"ids": ids},
    )


def resume(*, ids: Sequence[str], version: str | None) -> Statement[Any]:
    """Put rows without a source back to work: at rest, due at once, or back in their queue, without a place of it.

    Their time-outs begin anew, of those in a queue when they have a place again. What was debounced and never began waits for
    whoever has its code. An execution that no engine ever had is nobody's again, as it was created.
    """
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET status = CASE WHEN w.queue_name <> %(internal)s OR """
        + NOT_BEGUN
        + " OR "
        + OUTSIDE
        + """ THEN 'ENQUEUED' ELSE 'PENDING' END,
               started_at_epoch_ms = CASE WHEN """
        + OUTSIDE
        + """ THEN NULL ELSE w.started_at_epoch_ms END,
               queue_name = CASE WHEN """
        + NOT_BEGUN
        + """ THEN w.queue_name ELSE NULLIF(w.queue_name, %(internal)s) END,
               application_version = CASE WHEN """
        + OUTSIDE
        + """ THEN NULL ELSE COALESCE(%(version)s, w.application_version) END,
               output = NULL,
               error = NULL,
               owner_xid = NULL,
               recovery_attempts = 0,
               workflow_deadline_epoch_ms = NULL,
               kafka_alone = NULL,
               kafka_attempt = NULL,
               kafka_wake_at = NULL,
               kafka_asleep = NULL,
               kafka_interrupt = NULL,
               updated_at = {schema}.now_ms()
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids, "version": version, "internal": INTERNAL},
    )


def lift_blocks(*, ids: Sequence[str]) -> Statement[tuple[WorkflowId]]:
    """Lift the blocks of keys that these workflows caused; returns whose there were (decision 0003)."""
    return Statement(
        """
        DELETE FROM {schema}.hold AS h
         WHERE h.workflow_uuid = ANY (%(ids)b::text[]) AND h.kind = 'block'
        RETURNING h.workflow_uuid
        """,
        {"ids": ids},
    )


def resume_records(
    *, ids: Sequence[str], services: Sequence[str], keys: Sequence[str], keep_place: Sequence[bool]
) -> Statement[Any]:
    """Put records' rows back to work, for the owners of their partitions to find (P18).

    The place is the partition's `high` of this moment, behind what is open, or the one it had where nothing of its key ran
    since. One that a live executor may still have a step of keeps its owner.
    """
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET status = CASE WHEN w.owner_xid IS NULL OR {schema}.executor_is_gone(w.executor_id)
                             THEN 'PENDING' ELSE 'ENQUEUED' END,
               owner_xid = CASE WHEN {schema}.executor_is_gone(w.executor_id) THEN NULL ELSE w.owner_xid END,
               output = NULL,
               error = NULL,
               recovery_attempts = 0,
               workflow_deadline_epoch_ms = NULL,
               kafka_alone = NULL,
               kafka_attempt = NULL,
               kafka_wake_at = NULL,
               kafka_asleep = NULL,
               kafka_interrupt = NULL,
               kafka_place = CASE WHEN t.keeps THEN w.kafka_place
                                  ELSE (SELECT (k.value::json ->> 'high')::bigint
                                          FROM {schema}.event_dispatch_kv AS k
                                         WHERE k.service_name = t.service
                                           AND k.service_name LIKE 'kafka:%%'
                                           AND k.key = t.key) END,
               updated_at = {schema}.now_ms()
          FROM unnest(%(ids)b::text[], %(services)b::text[], %(keys)b::text[], %(keep_place)b::boolean[])
                 AS t (id, service, key, keeps)
         WHERE w.workflow_uuid = t.id
        """,
        {"ids": ids, "services": services, "keys": keys, "keep_place": keep_place},
    )


def retry_dead_letters(*, ids: Sequence[str]) -> Statement[Any]:
    """The open dead letters of these workflows are decided: they run again."""
    return Statement(
        """
        UPDATE {schema}.dead_letter AS d
           SET state = 'RETRIED', resolved_at = {schema}.now_ms()
         WHERE d.workflow_uuid = ANY (%(ids)b::text[]) AND d.state = 'OPEN'
        """,
        {"ids": ids},
    )


def family(*, ids: Sequence[str], limit: int) -> Statement[tuple[WorkflowId]]:
    """These workflows, and what they started, and so on; at most `limit`. A child that two share is its first parent's."""
    return Statement(
        """
        WITH RECURSIVE family AS (
            SELECT t.id FROM unnest(%(ids)b::text[]) AS t (id)
             UNION
            SELECT w.workflow_uuid
              FROM family AS f
              JOIN {schema}.operation_outputs AS o
                ON o.workflow_uuid = f.id AND o.child_workflow_id IS NOT NULL AND o.function_name <> %(get_result)s
              JOIN {schema}.workflow_status AS w ON w.workflow_uuid = o.child_workflow_id
             -- CASE: what other programs write there need not be JSON.
             WHERE CASE WHEN w.request LIKE '{"parent": %%' THEN w.request::json ->> 'parent' END = f.id
        )
        SELECT f.id FROM family AS f LIMIT %(limit)s
        """,
        {"ids": ids, "limit": limit, "get_result": GET_RESULT},
    )


def delete(*, ids: Sequence[str]) -> Statement[Any]:
    """Delete rows, and everything that hangs on them: checkpoints, inputs, messages, events, streams, recoveries."""
    return Statement(
        """
        WITH recovered AS (
            DELETE FROM {schema}.recovery AS r WHERE r.workflow_uuid = ANY (%(ids)b::text[])
        ), awaited AS (
            DELETE FROM {schema}.waiting AS x WHERE x.workflow_uuid = ANY (%(ids)b::text[])
        )
        DELETE FROM {schema}.workflow_status AS w WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids},
    )


def audit(*, actor: str, action: str, ids: Sequence[str], detail: str) -> Statement[Any]:
    """Record an act on workflows, a row for each."""
    return Statement(
        """
        INSERT INTO {schema}.audit (created_at, actor, action, subject, detail)
        SELECT {schema}.now_ms(), %(actor)s, %(action)s, t.id, jsonb_build_object('detail', %(detail)s::text)
          FROM unnest(%(ids)b::text[]) AS t (id)
        """,
        {"actor": actor, "action": action, "ids": ids, "detail": detail},
    )


# -- forks --


def original(*, workflow_id: str) -> Statement[OriginalRow]:
    """The workflow that is to be forked, and its last checkpoint: its row is locked, so that none comes meanwhile."""
    return Statement(
        """
        SELECT w.workflow_uuid, COALESCE(w.name, ''), w.application_version,
               COALESCE((SELECT max(o.function_id) FROM {schema}.operation_outputs AS o
                          WHERE o.workflow_uuid = w.workflow_uuid), 0)
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(id)s
           FOR SHARE OF w
        """,
        {"id": workflow_id},
        args_row(OriginalRow),
    )


def newest_version(*, name: str) -> Statement[tuple[str]]:
    """The version of a workflow that the live executor which started last can run."""
    return Statement(
        """
        SELECT x.version
          FROM {schema}.executor_workflow AS x
          JOIN {schema}.executor AS e ON e.executor_id = x.executor_id AND e.died_at IS NULL
         WHERE x.name = %(name)s AND x.is_own
         ORDER BY e.started_at DESC, e.executor_id
         LIMIT 1
        """,
        {"name": name},
    )


def fork(*, workflow_id: str, new_id: str, version: str | None) -> Statement[tuple[WorkflowId]]:
    """The row of a fork: at rest, due at once, without a source (P29). Nothing where the ID is taken.

    Of an execution it is one, too, and says so in `request`: its inputs name the first (engine/execution_gates.py).
    """
    return Statement(
        """
        INSERT INTO {schema}.workflow_status
               (workflow_uuid, status, name, class_name, config_name, application_version, application_id, request,
                inputs, authenticated_user, assumed_role, authenticated_roles, queue_name, priority,
                queue_partition_key, workflow_timeout_ms, workflow_deadline_epoch_ms, forked_from, created_at, updated_at,
                kafka_execution)
        SELECT %(new_id)s, CASE WHEN w.queue_name <> %(internal)s OR """
        + NOT_BEGUN
        + " OR "
        + OUTSIDE
        + """ THEN 'ENQUEUED' ELSE 'PENDING' END, w.name,
               w.class_name, w.config_name, CASE WHEN """
        + OUTSIDE
        + """ THEN NULL ELSE %(version)s END, w.application_id,
               CASE WHEN w.kafka_execution THEN %(execution)s ELSE w.request END, w.inputs, w.authenticated_user,
               w.assumed_role, w.authenticated_roles, CASE WHEN """
        + NOT_BEGUN
        + """ THEN w.queue_name ELSE NULLIF(w.queue_name, %(internal)s) END, w.priority,
               w.queue_partition_key, w.workflow_timeout_ms, NULL, w.workflow_uuid, c.now, c.now, w.kafka_execution
          FROM (SELECT {schema}.now_ms() AS now) AS c, {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(id)s
            ON CONFLICT (workflow_uuid) DO NOTHING
        RETURNING workflow_uuid
        """,
        {
            "id": workflow_id,
            "new_id": new_id,
            "version": version,
            "internal": INTERNAL,
            "execution": request_of_execution(new_id),
        },
    )


def copy_execution(*, workflow_id: str, new_id: str) -> Statement[tuple[WorkflowId]]:
    """Of an execution: what a fork keeps of it. It is a root, whatever the first is: nobody waits for it."""
    return Statement(
        """
        INSERT INTO {schema}.execution
               (workflow_uuid, flow_id, owner_id, execution_depth, created_at, updated_at, options, integration,
                external_events)
        SELECT %(new_id)s, x.flow_id, x.owner_id, 0, c.now, c.now, x.options, x.integration, x.external_events
          FROM (SELECT {schema}.now_ms() AS now) AS c, {schema}.execution AS x
         WHERE x.workflow_uuid = %(id)s
        RETURNING workflow_uuid
        """,
        {"id": workflow_id, "new_id": new_id},
    )


def forked(*, workflow_id: str) -> Statement[ForkedRow]:
    """What stands under the ID of a fork."""
    return Statement(
        "SELECT w.forked_from FROM {schema}.workflow_status AS w WHERE w.workflow_uuid = %(id)s",
        {"id": workflow_id},
        args_row(ForkedRow),
    )


def copy_inputs(*, workflow_id: str, new_id: str) -> Statement[Any]:
    """Inputs that are too large for the row."""
    return Statement(
        """
        INSERT INTO {schema}.workflow_inputs (workflow_uuid, inputs)
        SELECT %(new_id)s, i.inputs
          FROM {schema}.workflow_inputs AS i
          JOIN {schema}.workflow_status AS w ON w.workflow_uuid = i.workflow_uuid AND w.inputs = %(elsewhere)s
         WHERE i.workflow_uuid = %(id)s
        """,
        {"id": workflow_id, "new_id": new_id, "elsewhere": INPUTS_ELSEWHERE},
    )


def copy_checkpoints(*, workflow_id: str, new_id: str, below: int) -> Statement[Any]:
    """The history up to a step."""
    return Statement(
        """
        INSERT INTO {schema}.operation_outputs
               (workflow_uuid, function_id, output, error, function_name, child_workflow_id, started_at_epoch_ms,
                completed_at_epoch_ms, kafka_called)
        SELECT %(new_id)s, o.function_id, o.output, o.error, o.function_name, o.child_workflow_id,
               o.started_at_epoch_ms, o.completed_at_epoch_ms, o.kafka_called
          FROM {schema}.operation_outputs AS o
         WHERE o.workflow_uuid = %(id)s AND o.function_id < %(below)s
        """,
        {"id": workflow_id, "new_id": new_id, "below": below},
    )


def copy_events(*, workflow_id: str, new_id: str, below: int) -> Statement[Any]:
    """The events as they were before a step, and how they came to be so."""
    return Statement(
        """
        WITH history AS (
            INSERT INTO {schema}.workflow_events_history (workflow_uuid, function_id, key, value)
            SELECT %(new_id)s, h.function_id, h.key, h.value
              FROM {schema}.workflow_events_history AS h
             WHERE h.workflow_uuid = %(id)s AND h.function_id < %(below)s
        )
        INSERT INTO {schema}.workflow_events (workflow_uuid, key, value)
        SELECT DISTINCT ON (h.key) %(new_id)s, h.key, h.value
          FROM {schema}.workflow_events_history AS h
         WHERE h.workflow_uuid = %(id)s AND h.function_id < %(below)s
         ORDER BY h.key, h.function_id DESC
        """,
        {"id": workflow_id, "new_id": new_id, "below": below},
    )


def copy_streams(*, workflow_id: str, new_id: str, below: int) -> Statement[Any]:
    """What was written to streams before a step; offsets stay contiguous."""
    return Statement(
        """
        INSERT INTO {schema}.streams (workflow_uuid, key, value, "offset", function_id)
        SELECT %(new_id)s, s.key, s.value, row_number() OVER (PARTITION BY s.key ORDER BY s."offset") - 1, s.function_id
          FROM {schema}.streams AS s
         WHERE s.workflow_uuid = %(id)s AND s.function_id < %(below)s
        """,
        {"id": workflow_id, "new_id": new_id, "below": below},
    )
