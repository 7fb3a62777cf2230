"""What errors say. Their texts stand in dead letters, checkpoints and on operators' screens, and they are rebuilt from `args`."""

import copy

import pytest

from engine.errors import (
    DeduplicatedError,
    EngineError,
    RecoveryExceededError,
    StreamClosedError,
    WorkflowCancelledError,
    WorkflowNotFoundError,
)

SAID = [
    (WorkflowNotFoundError("w-1"), "there is no workflow 'w-1'"),
    (WorkflowCancelledError("w-1"), "workflow w-1 was cancelled"),
    (StreamClosedError("w-1", "lines"), "workflow w-1: it has closed its stream 'lines'"),
    (
        RecoveryExceededError("w-1", 3),
        "workflow w-1 was running at 3 deaths of its executors, without a checkpoint",
    ),
    (
        DeduplicatedError("mails", "d", "w-1"),
        "queue 'mails': workflow w-1 has the deduplication ID 'd'; nothing was enqueued",
    ),
]


@pytest.mark.parametrize("error, says", SAID)
def test_an_error_says_whose_it_is_and_a_copy_of_it_says_the_same(error: EngineError, says: str) -> None:
    """As a step's error is, which is stored and given again to every replay."""
    again = copy.copy(error)

    assert str(error) == says
    assert (type(again), again.args, str(again)) == (type(error), error.args, says)
    assert vars(again) == vars(error)
