"""Which status may follow which."""

import pytest

from engine.states import OPEN, WorkflowStatus, may_follow

ENQUEUED, PENDING = WorkflowStatus.ENQUEUED, WorkflowStatus.PENDING
SUCCESS, ERROR, CANCELLED = WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED
GIVEN_UP = WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED

MAY = {
    *((ENQUEUED, after) for after in (PENDING, CANCELLED)),
    *((PENDING, after) for after in (ENQUEUED, SUCCESS, ERROR, CANCELLED, GIVEN_UP)),
    *((ended, after) for ended in (ERROR, CANCELLED, GIVEN_UP) for after in (ENQUEUED, PENDING)),
}


@pytest.mark.parametrize("before", WorkflowStatus)
@pytest.mark.parametrize("after", WorkflowStatus)
def test_a_status_follows_only_where_the_picture_has_an_arrow(before: WorkflowStatus, after: WorkflowStatus) -> None:
    assert may_follow(before, after) is ((before, after) in MAY)


def test_success_is_for_ever() -> None:
    """I1: nothing leads out of it."""
    assert not any(may_follow(SUCCESS, after) for after in WorkflowStatus)


@pytest.mark.parametrize("status", WorkflowStatus)
def test_what_is_open_is_not_terminal(status: WorkflowStatus) -> None:
    assert status.is_terminal is (status not in {ENQUEUED, PENDING})
    assert (status in OPEN) is not status.is_terminal
