"""Statements that read workflows for those who hold a handle: status, outcome, steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.ids import WorkflowId
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
    inputs: str
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


def read(*, ids: Sequence[str]) -> Statement[WorkflowRow]:
    """Workflows by ID."""
    return Statement(
        """
        SELECT w.workflow_uuid, COALESCE(w.status, ''), COALESCE(w.name, ''), w.application_version, w.class_name,
               w.config_name, w.executor_id, w.created_at, w.updated_at, w.started_at_epoch_ms,
               COALESCE(w.recovery_attempts, 0)::integer, w.workflow_timeout_ms, w.workflow_deadline_epoch_ms,
               w.kafka_wake_at, w.queue_name, w.deduplication_id, w.priority, w.queue_partition_key, w.forked_from,
               w.authenticated_user, w.assumed_role, w.authenticated_roles, w.kafka_source, w.request,"""
        + INPUTS
        + """, w.output, w.error
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids, "elsewhere": INPUTS_ELSEWHERE},
        args_row(WorkflowRow),
    )


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
