"""What the admin API shows, field by field: the schemas of its OpenAPI. Times are in UTC."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel

from engine.audited import AuditRow
from engine.dead_letters import DeadLetterRow
from engine.handles import StepInfo, WorkflowInfo
from engine.inspection import PartitionRow, StrandedRow
from engine.states import WorkflowStatus


class ListedWorkflow(BaseModel):
    """A workflow in a list."""

    workflow_id: str
    name: str
    version: str | None
    status: WorkflowStatus
    created_at: datetime
    updated_at: datetime
    executor_id: str | None
    class_name: str | None
    instance: str | None
    queue: str | None
    source: str | None
    forked_from: str | None
    user: str | None

    @classmethod
    def of(cls, info: WorkflowInfo) -> Self:
        """The row."""
        names = [name for name in cls.model_fields if name != "workflow_id"]
        return cls(workflow_id=info.id, **{name: getattr(info, name) for name in names})


class WorkflowPage(BaseModel):
    """Workflows, the newest first. `after`: what to ask the next page with; none: this was the last."""

    workflows: Sequence[ListedWorkflow]
    after: str | None


class ShownWorkflow(BaseModel):
    """A workflow as its row says. Payloads (request, inputs, output, error) are JSON text, and only for operators."""

    workflow_id: str
    name: str
    version: str | None
    status: WorkflowStatus
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    wake_at: datetime | None
    deadline: datetime | None
    executor_id: str | None
    recovery_attempts: int
    class_name: str | None
    instance: str | None
    source: str | None
    queue: str | None
    priority: int
    partition_key: str | None
    deduplication_id: str | None
    forked_from: str | None
    user: str | None
    role: str | None
    roles: str | None
    request: str | None = None
    inputs: str | None = None
    output: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, info: WorkflowInfo, *, payloads: bool) -> Self:
        """The row, with payloads or without."""
        hidden = () if payloads else ("request", "inputs", "output", "error")
        names = [name for name in cls.model_fields if name not in ("workflow_id", *hidden)]
        return cls(workflow_id=info.id, **{name: getattr(info, name) for name in names})


class ShownStep(BaseModel):
    """A recorded step. Output and error are JSON text, and only for operators."""

    function_id: int
    name: str
    child: str | None
    started_at: datetime | None
    ended_at: datetime | None
    has_failed: bool
    output: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, step: StepInfo, *, payloads: bool) -> Self:
        """The step, with payloads or without."""
        return cls(
            function_id=step.function_id,
            name=step.name,
            child=step.child,
            started_at=step.started_at,
            ended_at=step.ended_at,
            has_failed=step.error is not None,
            output=step.output if payloads else None,
            error=step.error if payloads else None,
        )


class StrandedWorkflow(BaseModel):
    """An open workflow that no live executor can run, and why."""

    workflow_id: str
    name: str
    version: str | None
    created_at: datetime
    reason: str

    @classmethod
    def of(cls, row: StrandedRow) -> Self:
        """The row."""
        created = at(row.created_at_ms)
        return cls(
            workflow_id=row.workflow_id, name=row.name, version=row.version, created_at=created, reason=row.reason
        )


class ShownDeadLetter(BaseModel):
    """A dead letter. Its record (bytes in base64) and error (JSON text) only for operators, who ask for one of them."""

    dead_letter_id: int
    workflow_id: str
    handler: str
    group: str
    topic: str
    partition: int
    offset: int
    reason: str
    state: str
    note: str | None
    created_at: datetime
    resolved_at: datetime | None
    record_key: str | None = None
    record_value: str | None = None
    record_headers: Any = None
    error: str | None = None

    @classmethod
    def of(cls, row: DeadLetterRow, *, payloads: bool) -> Self:
        """The row; with `payloads`, one that has been opened."""
        shown = cls(
            dead_letter_id=row.dead_letter_id,
            workflow_id=row.workflow_uuid,
            handler=row.handler,
            group=row.service_name.removeprefix("kafka:"),
            topic=row.topic,
            partition=row.partition,
            offset=row.kafka_offset,
            reason=row.reason,
            state=row.state,
            note=row.note,
            created_at=at(row.created_at),
            resolved_at=None if row.resolved_at is None else at(row.resolved_at),
        )
        if not payloads:
            return shown
        return shown.model_copy(
            update={
                "record_key": _base64(row.record_key),
                "record_value": _base64(row.record_value),
                "record_headers": row.record_headers,
                "error": row.error,
            }
        )


class ShownPartition(BaseModel):
    """A partition of a group with its progress."""

    group: str
    handler: str
    partition: str
    epoch: int
    next: int
    high: int
    owner_alive: bool
    written_at: datetime | None
    holds: Sequence[str]
    waits: str | None
    dead_letters: int
    open: int
    former: int
    horizon: int | None

    @classmethod
    def of(cls, row: PartitionRow) -> Self:
        """The row."""
        return cls(
            group=row.group,
            handler=row.handler,
            partition=row.topic_partition,
            epoch=row.epoch,
            next=row.progress.next,
            high=row.progress.high,
            owner_alive=row.owner_alive,
            written_at=None if row.written_at_s is None else datetime.fromtimestamp(row.written_at_s, UTC),
            holds=row.holds,
            waits=row.progress.waits,
            dead_letters=row.dead_letters,
            open=row.open,
            former=row.former,
            horizon=row.horizon,
        )


class ShownAct(BaseModel):
    """An act of an operator, by whichever way."""

    audit_id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Any

    @classmethod
    def of(cls, row: AuditRow) -> Self:
        """The row."""
        return cls(
            audit_id=row.audit_id,
            at=at(row.created_at),
            actor=row.actor,
            action=row.action,
            subject=row.subject,
            detail=row.detail,
        )


class Asked(BaseModel, extra="forbid"):
    """What an operator asks for. A name that is not known is refused: it could be the filter, or the dry run, that was meant."""


class Reason(Asked):
    """Why an operator does something: it is recorded."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Whether an act changed anything; a second time it does not."""

    done: bool


def at(epoch_ms: int) -> datetime:
    """An instant."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()
