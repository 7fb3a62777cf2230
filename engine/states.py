"""The statuses of a workflow, and which may follow which. Pure.

    ENQUEUED ──▶ PENDING ──▶ SUCCESS
        ▲           ├──────▶ ERROR ────────────────────────┐
        │           ├──────▶ CANCELLED ────────────────────┤ an operator's retry or resume
        │           └──────▶ MAX_RECOVERY_ATTEMPTS_EXCEEDED┤
        └──────────────────────────────────────────────────┘

A row in PENDING is *running* while `owner_xid` names a live owner, and *at rest* while it names nobody.
"""

from enum import StrEnum


class WorkflowStatus(StrEnum):
    """`workflow_status.status`, with DBOS's names and meanings."""

    ENQUEUED = "ENQUEUED"
    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"
    MAX_RECOVERY_ATTEMPTS_EXCEEDED = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing runs it again unless an operator says so."""
        return self not in OPEN


OPEN = frozenset({WorkflowStatus.ENQUEUED, WorkflowStatus.PENDING})

_NEXT: dict[WorkflowStatus, frozenset[WorkflowStatus]] = {
    WorkflowStatus.ENQUEUED: frozenset({WorkflowStatus.PENDING, WorkflowStatus.CANCELLED}),
    WorkflowStatus.PENDING: frozenset(WorkflowStatus) - {WorkflowStatus.PENDING},
    WorkflowStatus.SUCCESS: frozenset(),
    WorkflowStatus.ERROR: OPEN,
    WorkflowStatus.CANCELLED: OPEN,
    WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED: OPEN,
}


def may_follow(before: WorkflowStatus, after: WorkflowStatus) -> bool:
    """Whether a row may go from one status to another."""
    return after in _NEXT[before]
