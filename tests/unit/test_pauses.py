"""Reasons to pause a partition, and patience before it."""

import pytest

from consumers.backpressure import PATIENCE_S, PAUSE_MIN_S, Patience, PauseReason, Pauses

CONGESTED, BEHIND, OPERATOR = PauseReason.CONGESTED, PauseReason.BEHIND, PauseReason.OPERATOR


def test_a_partition_goes_on_only_when_its_last_reason_is_gone() -> None:
    """Case 13: who resumes for one reason does not resume for another."""
    pauses = Pauses()
    later = PAUSE_MIN_S * 2

    assert pauses.set(OPERATOR, True, 0.0) is True
    assert pauses.set(CONGESTED, True, 0.0) is None
    assert pauses.set(CONGESTED, False, later) is None
    assert pauses.set(OPERATOR, False, later) is False


def test_the_same_reason_twice_changes_nothing() -> None:
    pauses = Pauses()

    assert pauses.set(CONGESTED, True, 0.0) is True
    assert pauses.set(CONGESTED, True, 0.0) is None
    assert pauses.set(BEHIND, False, 0.0) is None


def test_a_pause_lasts_a_little_because_resuming_fetches_again() -> None:
    pauses = Pauses()
    pauses.set(CONGESTED, True, 1.0)

    assert pauses.set(CONGESTED, False, 1.0 + PAUSE_MIN_S / 2) is None
    assert pauses.reasons == {CONGESTED}
    assert pauses.set(CONGESTED, False, 1.0 + PAUSE_MIN_S) is False
    assert not pauses.reasons


def test_an_operator_is_obeyed_at_once() -> None:
    pauses = Pauses()
    pauses.set(OPERATOR, True, 1.0)

    assert pauses.set(OPERATOR, False, 1.0) is False


@pytest.mark.parametrize("reasons", [{CONGESTED}, {BEHIND}, {CONGESTED, BEHIND}])
def test_a_pause_that_may_end_at_any_moment_is_watched_closely(reasons: set[PauseReason]) -> None:
    assert Pauses(reasons).is_short
    assert not Pauses(reasons | {OPERATOR}).is_short


def test_polling_rests_while_nothing_can_be_taken_but_not_for_long() -> None:
    """A rebalance and the membership need polling: after `PATIENCE_S` partitions are paused instead."""
    patience = Patience()

    assert not patience.rest(False, 0.0)
    assert patience.rest(True, 1.0)
    assert patience.rest(True, 1.0 + PATIENCE_S / 2)
    assert not patience.rest(True, 1.0 + PATIENCE_S)
    assert not patience.rest(True, 5.0)
    assert not patience.rest(False, 6.0)
    assert patience.rest(True, 7.0)
