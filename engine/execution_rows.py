"""What an execution is: its 21 columns, its options, its claim; as rows say it, and back (decision 0016). Pure.

An execution is a workflow of its ID. What `workflow_status` has (status, start, error, owner) is read from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, cast

from engine.errors import ConfigurationError
from engine.handles import instant
from engine.payloads import Payloads
from engine.starts import ID_MAX, check_id
from engine.states import WorkflowStatus

NODES_MAX = 1_000
"""Breakpoints of one execution."""

TEXT_MAX = 1_000_000
"""Characters of `integration`, and of `external_events`, as JSON."""

LIMIT_MAX = 10_000
"""Rows of one answer."""

REASON_MAX = 10_000
"""Characters of a reason or an error message."""


class ExecutionStatus(StrEnum):
    """Where an execution stands."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self not in (ExecutionStatus.CREATED, ExecutionStatus.RUNNING)

    @property
    def stored(self) -> WorkflowStatus:
        """What the workflow's row has."""
        return _STORED[self]


_STORED = {
    ExecutionStatus.CREATED: WorkflowStatus.ENQUEUED,
    ExecutionStatus.RUNNING: WorkflowStatus.PENDING,
    ExecutionStatus.COMPLETED: WorkflowStatus.SUCCESS,
    ExecutionStatus.FAILED: WorkflowStatus.ERROR,
    ExecutionStatus.STOPPED: WorkflowStatus.CANCELLED,
}


class ExecutionFailedError(Exception):
    """What a worker outside of the engine said of an execution that failed. Given to whoever awaits its result."""


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Limits of one execution.

    Attributes:
        flow_timeout_ms: From its start to its end; then it is stopped, with what it called.
        node_timeout_ms: Longest one try of a node may take.
        max_concurrency: Nodes at work at a time.
    """

    flow_timeout_ms: int | None = None
    node_timeout_ms: int | None = None
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        for name in ("flow_timeout_ms", "node_timeout_ms", "max_concurrency"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value < 2**53):
                raise ConfigurationError(f"options.execution.{name}={value!r}: a whole number of at least 1, or None")


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """How an execution is run.

    Attributes:
        breakpoints: Names of nodes before which it pauses, until a debugger has it go on.
        debug: Pause before every node.
        execution: Limits.
    """

    breakpoints: tuple[str, ...] = ()
    debug: bool = False
    execution: ExecutionLimits = field(default_factory=ExecutionLimits)

    def __post_init__(self) -> None:
        if isinstance(self.breakpoints, str) or len(self.breakpoints) > NODES_MAX:
            raise ConfigurationError(f"options.breakpoints: at most {NODES_MAX} names of nodes, as a sequence")
        object.__setattr__(self, "breakpoints", tuple(self.breakpoints))
        for node in self.breakpoints:
            if not isinstance(cast("object", node), str) or not node:
                raise ConfigurationError(f"options.breakpoints: {node!r} is no name of a node")

    @property
    def pauses(self) -> bool:
        """Whether it may pause anywhere."""
        return self.debug or bool(self.breakpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An execution: one run of a flow.

    Attributes:
        id: Of the execution, and of its workflow.
        flow_id: Which flow.
        owner_id: Whose it is.
        root_execution_id: The first of its tree; `None`, or its own ID: it is that one.
        parent_execution_id: Which execution started it.
        execution_depth: How far below the root, which has 0.
        status: Where it stands.
        created_at, updated_at: Of its row. `updated_at` is the row's own where it was changed later.
        started_at: When it first ran.
        completed_at: When it ended.
        error_message, error_node_id: Why it failed, and at which node.
        options: How it is run.
        integration: Of the program that created it; kept as it is.
        external_events: What started it, if events did; likewise.
        failure_count, last_failure_at, last_failure_reason: Of tries that ended with their worker, or before it began.
        processing_started_at, processing_worker_id: Who has it now, and since when. Given by a claim, and by the engine.
    """

    id: str
    flow_id: str
    owner_id: str
    root_execution_id: str | None = None
    parent_execution_id: str | None = None
    execution_depth: int = 0
    status: ExecutionStatus = ExecutionStatus.CREATED
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error_message: str | None = None
    error_node_id: str | None = None
    options: ExecutionOptions | None = None
    integration: dict[str, Any] | None = None
    external_events: list[dict[str, Any]] | None = None
    failure_count: int = 0
    last_failure_at: datetime | None = None
    last_failure_reason: str | None = None
    processing_started_at: datetime | None = None
    processing_worker_id: str | None = None

    @property
    def root(self) -> str:
        """The first of its tree."""
        return self.root_execution_id or self.id

    def check(self) -> None:
        """Refuse a row that cannot be created.

        Raises:
            ConfigurationError: Names the column, and says what is wrong.
        """
        check_id(self.id)
        for name in ("flow_id", "owner_id"):
            _check_text(self.id, name, getattr(self, name))
        for name in ("root_execution_id", "parent_execution_id", "error_node_id"):
            if getattr(self, name) is not None:
                _check_text(self.id, name, getattr(self, name))
        for name in _INSTANTS:
            _check_instant(self.id, name, getattr(self, name))
        if self.processing_started_at is not None or self.processing_worker_id is not None:
            raise ConfigurationError(
                f"execution {self.id}: processing_worker_id={self.processing_worker_id!r}: only a claim gives it.\n"
                f"  Create it without, then claim_execution()."
            )
        if type(self.failure_count) is not int or self.failure_count < 0:
            raise ConfigurationError(f"execution {self.id}: failure_count={self.failure_count!r}; 0 or more")
        try:
            ExecutionStatus(self.status)
        except ValueError:
            raise ConfigurationError(
                f"execution {self.id}: status={self.status!r}; there are {', '.join(ExecutionStatus)}"
            ) from None
        self._check_place()

    def _check_place(self) -> None:
        if self.parent_execution_id is None:
            if self.execution_depth != 0 or self.root_execution_id not in (None, self.id):
                raise ConfigurationError(
                    f"execution {self.id}: without a parent it is a root: execution_depth 0 and no root but itself,\n"
                    f"  not depth {self.execution_depth} and root {self.root_execution_id!r}"
                )
        elif self.parent_execution_id == self.id:
            raise ConfigurationError(f"execution {self.id}: parent_execution_id is its own")


_INSTANTS = ("created_at", "updated_at", "started_at", "completed_at", "last_failure_at")


class ClaimStatus(StrEnum):
    """Whether a claim still stands."""

    ACTIVE = "active"
    EXPIRED = "expired"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class ExecutionClaim:
    """Who has an execution. Where our engine runs it, `worker_id` is the executor, and the times are its lease's.

    Attributes:
        execution_id, worker_id: What, and who.
        claimed_at, heartbeat_at, expires_at: Since when; last renewed; for how long it stands without another renewal.
        status: Whether it still stands.
    """

    execution_id: str
    worker_id: str
    claimed_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    status: ClaimStatus


@dataclass(frozen=True, slots=True)
class RecoveryRecord:
    """One time an execution was taken from a worker.

    Attributes:
        worker_id: Who took it.
        reason: Why.
        previous_status, previous_worker_id: What it was before, and whose.
        recovered_at: When.
    """

    worker_id: str
    reason: str
    previous_status: str | None
    previous_worker_id: str | None
    recovered_at: datetime


@dataclass(frozen=True, slots=True)
class RootExecution:
    """A root, with how much is below it.

    Attributes:
        execution: The root.
        levels: Of its tree, below the root.
        total_nested: Executions below the root.
    """

    execution: Execution
    levels: int
    total_nested: int


@dataclass(frozen=True, slots=True)
class ExecutionTreeNode:
    """One execution of a tree.

    Attributes:
        id, parent_id: Its ID, and that of the one above it in this tree.
        level: How far below the root that was asked for.
        execution: It.
    """

    id: str
    parent_id: str | None
    level: int
    execution: Execution


class StoredExecution(NamedTuple):
    """An execution as its two rows say it."""

    id: str
    flow_id: str
    owner_id: str
    root_id: str | None
    parent_id: str | None
    depth: int
    status: str
    created_ms: int
    updated_ms: int
    started_ms: int | None
    completed_ms: int | None
    error: str | None
    error_node: str | None
    options: str | None
    integration: str | None
    external_events: str | None
    failure_count: int
    failed_ms: int | None
    failure_reason: str | None
    processing_ms: int | None
    worker: str | None


def execution_of(row: StoredExecution, payloads: Payloads) -> Execution:
    """A row for programs. Raises `UnreadablePayloadError`."""
    where = f"execution {row.id}"
    integration = payloads.open_if(row.integration, f"{where}: integration")
    events = payloads.open_if(row.external_events, f"{where}: external_events")
    reason = payloads.open_if(row.failure_reason, f"{where}: last_failure_reason")
    return Execution(
        id=row.id,
        flow_id=row.flow_id,
        owner_id=row.owner_id,
        root_execution_id=row.root_id,
        parent_execution_id=row.parent_id,
        execution_depth=row.depth,
        status=ExecutionStatus(row.status),
        created_at=moment(row.created_ms),
        updated_at=moment(row.updated_ms),
        started_at=instant(row.started_ms),
        completed_at=instant(row.completed_ms),
        error_message=_message_of(payloads.open_if(row.error, f"{where}: error")),
        error_node_id=row.error_node,
        options=None if row.options is None else options_of(row.options),
        integration=None if integration is None else json.loads(integration),
        external_events=None if events is None else json.loads(events),
        failure_count=row.failure_count,
        last_failure_at=instant(row.failed_ms),
        last_failure_reason=None if reason is None else json.loads(reason),
        processing_started_at=instant(row.processing_ms),
        processing_worker_id=row.worker,
    )


_REQUEST = '{"execution": '


def request_of_execution(workflow_id: str) -> str:
    """`workflow_status.request` of an execution that is a fork."""
    return f"{_REQUEST}{json.dumps(workflow_id)}}}"


def is_of_execution(request: str) -> bool:
    """Whether a row's `request` says that it is an execution, whatever its inputs say."""
    return request.startswith(_REQUEST)


def own_execution(execution: Execution, workflow_id: str) -> Execution:
    """The execution of a fork, which is a root under an ID of its own; the inputs are the first one's."""
    return replace(execution, id=workflow_id, root_execution_id=None, parent_execution_id=None, execution_depth=0)


def options_text(options: ExecutionOptions | None) -> str | None:
    """Options as JSON, without what is not set."""
    if options is None:
        return None
    limits = options.execution
    set_limits = {
        name: value
        for name in ("flow_timeout_ms", "node_timeout_ms", "max_concurrency")
        if (value := getattr(limits, name)) is not None
    }
    return json.dumps(
        {
            **({"breakpoints": list(options.breakpoints)} if options.breakpoints else {}),
            **({"debug": True} if options.debug else {}),
            **({"execution": set_limits} if set_limits else {}),
        }
    )


def options_of(text: str) -> ExecutionOptions:
    """Options as they were stored."""
    stored: Mapping[str, Any] = json.loads(text)
    return ExecutionOptions(
        tuple(stored.get("breakpoints", ())),
        bool(stored.get("debug", False)),
        ExecutionLimits(**stored.get("execution", {})),
    )


def json_text(execution_id: str, column: str, value: object) -> str | None:
    """A column of users as JSON text. Raises `ConfigurationError` if it is none."""
    if value is None:
        return None
    try:
        text = json.dumps(value, allow_nan=False)
        if json.loads(text) != value:
            raise ValueError("it would come back as something else")
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"execution {execution_id}: {column} cannot be written as JSON: {error}") from None
    if len(text) > TEXT_MAX:
        raise ConfigurationError(f"execution {execution_id}: {column} has {len(text)} characters, {TEXT_MAX} at most")
    return text


def reason_text(reason: str) -> str:
    """A reason as its column has it: JSON, so that nothing a user says can look sealed (decision 0012)."""
    return json.dumps(bounded(reason))


def bounded(text: str) -> str:
    """A reason or message that Postgres can hold."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()[:REASON_MAX]


def epoch_ms(at: datetime | None) -> int | None:
    """Epoch ms of an instant. Raises `ConfigurationError` without a time zone."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ConfigurationError(f"{at!r} has no time zone")
    return round(at.timestamp() * 1000)


def milliseconds(timeout: timedelta | int, what: str) -> int:
    """A time-out as a whole number of milliseconds. Raises `ConfigurationError` unless it is longer than nothing."""
    value = round(timeout.total_seconds() * 1000) if isinstance(timeout, timedelta) else timeout
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{what}={timeout!r}: at least a millisecond")
    return value


def moment(ms: int) -> datetime:
    """Epoch ms that are there."""
    at = instant(ms)
    assert at is not None, "the column is NOT NULL"
    return at


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _check_text(execution_id: str, name: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > ID_MAX or _CONTROL.search(value):
        raise ConfigurationError(f"execution {execution_id}: {name}={value!r}; 1 to {ID_MAX} characters, no controls")


def _check_instant(execution_id: str, name: str, value: object) -> None:
    if value is not None and (not isinstance(value, datetime) or value.tzinfo is None):
        raise ConfigurationError(f"execution {execution_id}: {name}={value!r}; it takes a datetime with a time zone")


def check_worker(worker_id: object) -> None:
    """Refuse what is no ID of a worker."""
    if not isinstance(worker_id, str) or not worker_id or len(worker_id) > ID_MAX or _CONTROL.search(worker_id):
        raise ConfigurationError(f"worker_id={worker_id!r}; 1 to {ID_MAX} characters, no control characters")


def _message_of(error: str | None) -> str | None:
    """The message of an error as its row has it (engine/failures.py); the whole text of another program's."""
    if error is None:
        return None
    try:
        stored = json.loads(error)
    except ValueError:
        return error
    if isinstance(stored, Mapping) and "message" in stored:
        return str(cast("Mapping[str, Any]", stored)["message"])
    return error


def check_limit(limit: int) -> None:
    """Refuse what is no number of rows."""
    if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
        raise ConfigurationError(f"limit={limit!r}: 1 to {LIMIT_MAX}")


__all__: Sequence[str] = [
    "ClaimStatus",
    "Execution",
    "ExecutionClaim",
    "ExecutionFailedError",
    "ExecutionLimits",
    "ExecutionOptions",
    "ExecutionStatus",
    "ExecutionTreeNode",
    "RecoveryRecord",
    "RootExecution",
]
