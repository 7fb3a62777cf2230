"""Statements that start workflows without a source, and tell whether one that stands is the same."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from psycopg.rows import args_row

from engine.ids import ExecutorId, WorkflowId
from engine.starts import Start
from engine.store.columns import packed
from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS, INPUTS_ELSEWHERE


class ExistingRow(NamedTuple):
    """A row that stood already where one was to be started."""

    workflow_id: WorkflowId
    status: str
    name: str
    source: str | None
    instance: str | None
    user: str | None
    inputs: str
    request: str | None


_TEXTS: Final = (
    "status",
    "name",
    "version",
    "class_name",
    "config_name",
    "request",
    "owner",
    "queue",
    "deduplication_id",
    "partition_key",
    "user",
    "role",
    "roles",
    "forked_from",
)
_INTEGERS: Final = ("wake_at", "timeout_ms", "priority", "place")

_START: Final = """
    WITH started AS (
        INSERT INTO {schema}.workflow_status
               (workflow_uuid, status, name, application_version, class_name, config_name, request, inputs, owner_xid,
                executor_id, created_at, updated_at, started_at_epoch_ms, kafka_wake_at, workflow_timeout_ms,
                workflow_deadline_epoch_ms, queue_name, deduplication_id, priority, queue_partition_key,
                kafka_place, authenticated_user, assumed_role, authenticated_roles, forked_from)
        SELECT t.id, COALESCE(t.status, %(one_status)s), COALESCE(t.name, %(one_name)s),
               COALESCE(t.version, %(one_version)s), COALESCE(t.class_name, %(one_class_name)s),
               COALESCE(t.config_name, %(one_config_name)s), COALESCE(t.request, %(one_request)s),
               COALESCE(t.inputs, %(one_inputs)s), COALESCE(t.owner, %(one_owner)s),
               CASE WHEN COALESCE(t.owner, %(one_owner)s) IS NULL THEN NULL ELSE %(executor)s END, c.now, c.now,
               CASE WHEN COALESCE(t.owner, %(one_owner)s) IS NULL THEN NULL ELSE c.now END,
               COALESCE(t.wake_at, %(one_wake_at)s::bigint), COALESCE(t.timeout_ms, %(one_timeout_ms)s::bigint),
               """

_DEADLINE: Final = "COALESCE(t.deadline_ms, %(one_deadline_ms)s::bigint)"

_DEADLINE_WITHIN: Final = (
    "LEAST("
    + _DEADLINE
    + """,
                     (SELECT above.workflow_deadline_epoch_ms
                        FROM {schema}.workflow_status AS above
                       WHERE above.workflow_uuid = p.parent))"""
)
"""As the parent's row says, which is locked: a resume further up may have changed it under its run. LEAST passes over NULL."""

_ROWS: Final = """,
               COALESCE(t.queue, %(one_queue)s),
               COALESCE(t.deduplication_id, %(one_deduplication_id)s),
               COALESCE(t.priority, %(one_priority)s::integer), COALESCE(t.partition_key, %(one_partition_key)s),
               COALESCE(t.place, %(one_place)s::bigint),
               COALESCE(t."user", %(one_user)s), COALESCE(t.role, %(one_role)s), COALESCE(t.roles, %(one_roles)s),
               COALESCE(t.forked_from, %(one_forked_from)s)
          FROM (SELECT {schema}.now_ms() AS now) AS c,
               unnest(string_to_array(%(ids)s, %(separator)s, %(null)s),
                      string_to_array(%(status)s, %(separator)s, %(null)s),
                      string_to_array(%(name)s, %(separator)s, %(null)s),
                      string_to_array(%(version)s, %(separator)s, %(null)s),
                      string_to_array(%(class_name)s, %(separator)s, %(null)s),
                      string_to_array(%(config_name)s, %(separator)s, %(null)s),
                      string_to_array(%(request)s, %(separator)s, %(null)s),
                      string_to_array(%(inputs)s, %(separator)s, %(null)s),
                      string_to_array(%(owner)s, %(separator)s, %(null)s),
                      %(wake_at)s::bigint[], %(timeout_ms)s::bigint[], %(deadline_ms)s::bigint[],
                      string_to_array(%(queue)s, %(separator)s, %(null)s),
                      string_to_array(%(deduplication_id)s, %(separator)s, %(null)s),
                      %(priority)s::integer[],
                      string_to_array(%(partition_key)s, %(separator)s, %(null)s), %(place)s::bigint[],
                      string_to_array(%(user)s, %(separator)s, %(null)s),
                      string_to_array(%(role)s, %(separator)s, %(null)s),
                      string_to_array(%(roles)s, %(separator)s, %(null)s),
                      string_to_array(%(forked_from)s, %(separator)s, %(null)s))
                 AS t (id, status, name, version, class_name, config_name, request, inputs, owner, wake_at, timeout_ms,
                       deadline_ms, queue, deduplication_id, priority, partition_key, place, "user", role, roles, forked_from)
"""

_OF_PARENTS: Final = """
          JOIN unnest(%(child_ids)b::text[], %(parents)b::text[], %(function_ids)b::integer[])
               AS p (id, parent, function_id) ON p.id = t.id
          JOIN {schema}.operation_outputs AS o
            ON o.workflow_uuid = p.parent AND o.function_id = p.function_id AND o.child_workflow_id = p.id
"""

_LEFT: Final = """
            ON CONFLICT DO NOTHING"""

_LEFT_TO_QUEUES: Final = """
            ON CONFLICT (queue_name, deduplication_id) WHERE deduplication_id IS NOT NULL DO NOTHING"""

_STARTED: Final = """
        RETURNING workflow_uuid
    )
"""

_LARGE: Final = """
    , large AS (
        INSERT INTO {schema}.workflow_inputs (workflow_uuid, inputs)
        SELECT t.id, t.inputs
          FROM unnest(%(large_ids)b::text[], %(large_inputs)b::text[]) AS t (id, inputs)
          JOIN started AS s ON s.workflow_uuid = t.id
    )
"""

_WHICH: Final = "SELECT workflow_uuid FROM started"


def start(
    starts: Sequence[Start],
    *,
    executor_id: ExecutorId,
    inputs_inline_max: int,
    parents: Sequence[tuple[str, int]] | None = None,
) -> Statement[tuple[WorkflowId]]:
    """New rows; returns those that are new. One that stands is left as it is: the same ID is the same workflow.

    With `parents` (workflow and function ID of each), only where that checkpoint is there: it was written by this very
    transaction, plain, so it is there if and only if its run still qualifies (P7, P31). An ID that stands is then a unique
    violation: whether it is the same workflow is to be known before the checkpoint says so (engine/child_conflicts.py).
    Those that have their parent's deadline get the one that its row has now.
    """
    # In the order of their IDs: who starts the same ones at the same time waits for us, not we for each other.
    order = sorted(range(len(starts)), key=lambda place: starts[place].id)
    starts = [starts[place] for place in order]
    ids = [each.id for each in starts]
    large = [each for each in starts if len(each.inputs) > inputs_inline_max]
    inputs = [each.inputs if len(each.inputs) <= inputs_inline_max else INPUTS_ELSEWHERE for each in starts]
    parameters = packed(
        ids,
        {"inputs": inputs, **{column: [getattr(each, column) for each in starts] for column in _TEXTS}},
        {
            "deadline_ms": [each.own_deadline_ms for each in starts],
            **{column: [getattr(each, column) for each in starts] for column in _INTEGERS},
        },
    )
    parameters["executor"] = executor_id
    is_within = parents is not None and any(each.within_ms is not None for each in starts)
    text = _START + (_DEADLINE_WITHIN if is_within else _DEADLINE) + _ROWS
    if parents is not None:
        text += _OF_PARENTS
        parameters["child_ids"] = ids
        parameters["parents"] = [parents[place][0] for place in order]
        parameters["function_ids"] = [parents[place][1] for place in order]
    text += (_LEFT if parents is None else _LEFT_TO_QUEUES) + _STARTED
    if large:
        text += _LARGE
        parameters["large_ids"] = [each.id for each in large]
        parameters["large_inputs"] = [each.inputs for each in large]
    return Statement(text + _WHICH, parameters)


def existing(*, ids: Sequence[str]) -> Statement[ExistingRow]:
    """Rows as they stand, to tell the same workflow from another one under its ID."""
    return Statement(
        """
        SELECT w.workflow_uuid, COALESCE(w.status, ''), COALESCE(w.name, ''), w.kafka_source, w.config_name,
               w.authenticated_user,"""
        + INPUTS
        + """, w.request
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids, "elsewhere": INPUTS_ELSEWHERE},
        args_row(ExistingRow),
    )
