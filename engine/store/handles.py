"""Statements that read workflows for those who hold a handle: status, outcome, steps."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString, NamedTuple

from psycopg.rows import args_row

from engine.ids import WorkflowId
from engine.store.cancels import GET_RESULT
from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS, INPUTS_ELSEWHERE


class WorkflowRow(NamedTuple):
    """A workflow, as its row says."""

    workflow_id: WorkflowId
    status: str
    name: str
    version: str | None
    class_name: str | None
    config_name: str | None
    executor_id: str | None
    created_ms: int
    updated_ms: int
    started_ms: int | None
    recovery_attempts: int
    timeout_ms: int | None
    deadline_ms: int | None
    wake_ms: int | None
    queue_name: str | None
    deduplication_id: str | None
    priority: int
    partition_key: str | None
    forked_from: str | None
    user: str | None
    role: str | None
    roles: str | None
    source: str | None
    request: str | None
    inputs: str | None
    output: str | None
    error: str | None


class StepRow(NamedTuple):
    """A checkpoint, as its row says."""

    function_id: int
    name: str
    output: str | None
    error: str | None
    child: str | None
    started_ms: int | None
    ended_ms: int | None


_STARTED_BY: Final = (
    r"""^\{"parent": ("(?:[^"\\[:cntrl:]]|\\["\\/bfnrt]|\\u(?!0000|d)[0-9a-f]{4})*"), "function_id": ([0-9]{1,9})[,}]"""
)
"""Parent and place, as `request` has them where a workflow started it. What other programs write there need not even be JSON."""

_DEADLINE: Final = """
               LEAST(w.workflow_deadline_epoch_ms, CASE WHEN w.status IN ('PENDING', 'ENQUEUED') THEN (
                     WITH RECURSIVE above AS (
                         SELECT w.workflow_uuid AS id, w.request, NULL::bigint AS deadline
                          UNION
                         SELECT p.workflow_uuid, p.request,
                                CASE WHEN p.status IN ('PENDING', 'ENQUEUED') THEN p.workflow_deadline_epoch_ms END
                           FROM above AS a
                          CROSS JOIN regexp_match(a.request, %(started_by)s) AS says
                           JOIN {schema}.operation_outputs AS o
                             ON o.workflow_uuid = says[1]::json #>> '{}' AND o.function_id = says[2]::integer
                            AND o.child_workflow_id = a.id AND o.function_name <> %(get_result)s
                           JOIN {schema}.workflow_status AS p ON p.workflow_uuid = o.workflow_uuid)
                     SELECT min(above.deadline) FROM above) END)"""
"""When an open workflow will be cancelled: with what started it, and so on, of which its row need not know (`cancels.expire`)."""

_COLUMNS: Final = (
    """
               w.workflow_uuid, COALESCE(w.status, ''), COALESCE(w.name, ''), w.application_version, w.class_name,
               w.config_name, w.executor_id, w.created_at, w.updated_at, w.started_at_epoch_ms,
               COALESCE(w.recovery_attempts, 0)::integer, w.workflow_timeout_ms,"""
    + _DEADLINE
    + """,
               w.kafka_wake_at, w.queue_name, w.deduplication_id, w.priority, w.queue_partition_key, w.forked_from,
               w.authenticated_user, w.assumed_role, w.authenticated_roles, w.kafka_source, w.request,
"""
)
_OF_COLUMNS: Final[Mapping[str, str]] = {"started_by": _STARTED_BY, "get_result": GET_RESULT}
_PAYLOADS: Final = INPUTS + ", w.output, w.error"
_NO_PAYLOADS: Final = "NULL, NULL, NULL"


def read(*, ids: Sequence[str]) -> Statement[WorkflowRow]:
    """Workflows by ID."""
    return Statement(
        "SELECT"
        + _COLUMNS
        + _PAYLOADS
        + """
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids, "elsewhere": INPUTS_ELSEWHERE, **_OF_COLUMNS},
        args_row(WorkflowRow),
    )


_FILTERS: Final[Mapping[str, LiteralString]] = {
    "ids": "w.workflow_uuid = ANY (%(ids)b::text[])",
    "statuses": "w.status = ANY (%(statuses)b::text[])",
    "names": "w.name = ANY (%(names)b::text[])",
    "versions": "w.application_version = ANY (%(versions)b::text[])",
    "queues": "w.queue_name = ANY (%(queues)b::text[])",
    "is_queued": "(w.queue_name IS NOT NULL) = %(is_queued)s",
    "executors": "w.executor_id = ANY (%(executors)b::text[])",
    "user": "w.authenticated_user = %(user)s",
    "prefix": "w.workflow_uuid >= %(prefix)s AND starts_with(w.workflow_uuid, %(prefix)s)",
    "forked_from": "w.forked_from = %(forked_from)s",
    "parent": """EXISTS (SELECT FROM {schema}.operation_outputs AS o
                          WHERE o.workflow_uuid = %(parent)s AND o.child_workflow_id = w.workflow_uuid
                            AND o.function_name <> 'DBOS.getResult')""",
    "is_of_record": "(w.kafka_source IS NOT NULL) = %(is_of_record)s",
    "created_from_ms": "w.created_at >= %(created_from_ms)s",
    "created_before_ms": "w.created_at < %(created_before_ms)s",
}
"""What a list may be narrowed by, each a condition of its own: only those that are asked for are in the statement, so that
each combination is planned for itself."""


def listed(
    filters: Mapping[str, Any],
    *,
    limit: int,
    offset: int,
    newest_first: bool,
    payloads: bool,
    after: tuple[int, str] | None = None,
) -> Statement[WorkflowRow]:
    """Workflows that pass all filters (`_FILTERS`), by creation, then ID, behind `after`."""
    columns: LiteralString = _PAYLOADS if payloads else _NO_PAYLOADS
    text: LiteralString = "SELECT" + _COLUMNS + columns + " FROM {schema}.workflow_status AS w "
    conditions: list[LiteralString] = [_FILTERS[name] for name in filters]
    if after is not None:
        behind: LiteralString = "<" if newest_first else ">"
        conditions.append("(w.created_at, w.workflow_uuid) " + behind + " (%(after_ms)s, %(after_id)s)")
    if conditions:
        text += "WHERE " + " AND ".join(conditions)
    order: LiteralString = "DESC" if newest_first else "ASC"
    text += " ORDER BY w.created_at " + order + ", w.workflow_uuid " + order + " LIMIT %(limit)s OFFSET %(offset)s"
    parameters = {**filters, "limit": limit, "offset": offset, **_OF_COLUMNS}
    if after is not None:
        parameters |= {"after_ms": after[0], "after_id": after[1]}
    if payloads:
        parameters["elsewhere"] = INPUTS_ELSEWHERE
    return Statement(text, parameters, args_row(WorkflowRow))


def outcomes(*, ids: Sequence[str]) -> Statement[tuple[WorkflowId, str, str | None, str | None]]:
    """Status, output and error."""
    return Statement(
        """
        SELECT w.workflow_uuid, w.status, w.output, w.error
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids},
    )


def steps(*, workflow_id: str) -> Statement[StepRow]:
    """The history of one workflow, in order."""
    return Statement(
        """
        SELECT o.function_id, o.function_name, o.output, o.error, o.child_workflow_id, o.started_at_epoch_ms,
               o.completed_at_epoch_ms
          FROM {schema}.operation_outputs AS o
         WHERE o.workflow_uuid = %(id)s
         ORDER BY o.function_id
        """,
        {"id": workflow_id},
        args_row(StepRow),
    )


def is_topic(*, topics: Sequence[str]) -> Statement[tuple[bool]]:
    """Whether one of these is a topic that some group has registered."""
    return Statement(
        "SELECT EXISTS (SELECT FROM {schema}.topic_owner AS t WHERE t.topic = ANY (%(topics)b::text[]))",
        {"topics": topics},
    )


def recoveries(*, workflow_id: str) -> Statement[tuple[Any, ...]]:
    """Every time it was taken from a dead executor: worker, reason, previous status and worker, epoch ms."""
    return Statement(
        """
        SELECT r.worker_id, r.reason, r.previous_status, r.previous_worker_id, r.recovered_at
          FROM {schema}.recovery AS r
         WHERE r.workflow_uuid = %(id)s
         ORDER BY r.recovery_id
        """,
        {"id": workflow_id},
    )
