"""What it takes to start a workflow that no record starts, and whether one that stands under its ID is the same. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from engine.errors import ConfigurationError, WorkflowConflictError
from engine.identity import Identity, Origin, roles_text
from engine.ids import OwnerToken, WorkflowId
from engine.states import WorkflowStatus

ID_MAX = 512
"""Characters of a workflow's ID: it is in every checkpoint's key."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(slots=True, kw_only=True)
class Start:
    """A workflow to be started: its row, before there is one.

    Attributes:
        id: The idempotency key: the same ID is the same workflow.
        name, version: Handler and its version; who can run it. No version: whoever takes it from its queue.
        inputs: `{"args": [...], "kwargs": {...}}` as JSON text.
        request: What asked for it, as JSON text, for people.
        status: PENDING, or ENQUEUED for a queue's dispatcher to take.
        owner: Who runs it; `None`: at rest, for whoever has room. Given when it is written.
        wake_at: At rest until then, or delayed in its queue; epoch ms.
        timeout_ms: From when it begins to its completion.
        begins_at: When its time began, epoch ms; `None`: it is written at rest, and who takes it first notes its deadline.
        within_ms: The deadline of what started it, which is its own as well, as far as its run knows: the row is given the one
            that its parent's row has then.
        queue, deduplication_id, priority, partition_key: Its place in a queue (engine/queues.py).
        place: Order within its queue among those of one moment.
        class_name, config_name: Of a method: its class, and the name of the object it is called on.
        user, role, roles: Whose identity it has.
    """

    id: WorkflowId
    name: str
    version: str | None
    inputs: str
    request: str | None = None
    status: WorkflowStatus = WorkflowStatus.PENDING
    owner: OwnerToken | None = None
    wake_at: int | None = None
    timeout_ms: int | None = None
    begins_at: int | None = None
    within_ms: int | None = None
    class_name: str | None = None
    config_name: str | None = None
    queue: str | None = None
    deduplication_id: str | None = None
    priority: int = 0
    partition_key: str | None = None
    place: int | None = None
    user: str | None = None
    role: str | None = None
    roles: str | None = None
    forked_from: str | None = None

    is_private: bool = False
    """Whether what stands under its ID is only the same workflow if it is the same user's: a client chose the ID."""

    def __post_init__(self) -> None:
        check_id(self.id)

    @property
    def origin(self) -> Origin:
        """Whose it is, and what asked for it."""
        return Origin(self.user, self.role, self.roles, self.request)

    @property
    def deadline_ms(self) -> int | None:
        """When it is to be cancelled, as far as that is known: its own time has no end before it begins."""
        own = self.own_deadline_ms
        if own is None or self.within_ms is None:
            return self.within_ms if own is None else own
        return min(own, self.within_ms)

    @property
    def own_deadline_ms(self) -> int | None:
        """The end of its own time, once that has begun."""
        return None if self.timeout_ms is None or self.begins_at is None else self.begins_at + self.timeout_ms

    def belongs_to(self, identity: Identity | None) -> None:
        """Give it somebody's identity."""
        if identity is not None:
            self.user, self.role, self.roles = identity.user, identity.role, roles_text(identity)

    def lasts(self, timeout: timedelta | None) -> None:
        """Give it a time from when it begins to its completion. Raises `ConfigurationError`."""
        if timeout is None:
            return
        if timeout <= timedelta(0):
            raise ConfigurationError(f"timeout={timeout}: it is longer than nothing, or None for no limit")
        self.timeout_ms = max(1, int(timeout.total_seconds() * 1000))

    def must_be(self, *, name: str, inputs: str, instance: str | None, user: str | None = None) -> None:
        """Raise `WorkflowConflictError` unless what stands under this ID is this very workflow."""
        if self.is_private and user != self.user:
            raise WorkflowConflictError(self.id, "it is somebody else's")
        if name != self.name:
            raise WorkflowConflictError(self.id, f"it is a {name!r}, this is a {self.name!r}")
        if instance != self.config_name:
            raise WorkflowConflictError(self.id, f"it is of the object {instance!r}, this is of {self.config_name!r}")
        if inputs != self.inputs and not _same_inputs(inputs, self.inputs):
            raise WorkflowConflictError(self.id, f"it has other inputs: {inputs[:200]}, not {self.inputs[:200]}")


def check_id(workflow_id: str) -> None:
    """Refuse what cannot be an ID."""
    if not workflow_id or len(workflow_id) > ID_MAX or _CONTROL.search(workflow_id):
        raise ConfigurationError(f"workflow ID {workflow_id[:50]!r}: 1 to {ID_MAX} characters, no control characters")


def _same_inputs(one: str, other: str) -> bool:
    """Whether two texts say the same: another program spaces or orders its JSON otherwise."""
    try:
        return _arguments(one) == _arguments(other)
    except (ValueError, AttributeError):
        return False


def _arguments(inputs: str) -> tuple[Any, Any]:
    stored = json.loads(inputs)
    return stored.get("args", []), stored.get("kwargs", {})
