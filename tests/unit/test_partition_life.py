"""The life of an assigned partition, as a table (P9 to P11)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.assignment import Event, State, after

A_GOOD_LIFE = [Event.CLAIM, Event.CLAIMED, Event.OPENED, Event.ATTACH, Event.REVOKE, Event.RELEASED]


def test_a_partition_is_claimed_opened_validated_and_only_then_attached() -> None:
    """P10: claim, read open rows, look at the log, attach; each in a state of its own."""
    states = list(itertools.accumulate(A_GOOD_LIFE, after, initial=State.ASSIGNED))

    assert states == [
        State.ASSIGNED,
        State.CLAIMING,
        State.OPENING,
        State.VALIDATING,
        State.ATTACHED,
        State.LEAVING,
        State.GONE,
    ]


@pytest.mark.parametrize("state", [s for s in State if s is not State.GONE])
@pytest.mark.parametrize("event", [Event.REVOKE, Event.LOSE])
def test_kafka_may_take_a_partition_in_any_state(state: State, event: Event) -> None:
    """P11: a rebalance waits for nothing, so no state may refuse it."""
    assert after(state, event) is State.LEAVING


@given(st.lists(st.sampled_from([e for e in Event if e is not Event.RELEASED])))
def test_nothing_but_its_release_counts_once_a_partition_was_taken(events: list[Event]) -> None:
    """Case 5: what was under way when Kafka took it (a claim, a drop) cannot bring it back to life."""
    state = State.LEAVING

    for event in events:
        state = after(state, event)

    assert state is State.LEAVING
    assert after(state, Event.RELEASED) is State.GONE


@given(st.lists(st.sampled_from(Event)))
def test_only_a_validated_partition_is_attached(events: list[Event]) -> None:
    """Cases 19 to 21: there is no way to ATTACHED around VALIDATING."""
    state = State.ASSIGNED
    for event in events:
        try:
            following = after(state, event)
        except AssertionError:
            continue
        if following is State.ATTACHED:
            assert state is State.VALIDATING
        state = following


@pytest.mark.parametrize("state", [State.HELD, State.HALTED, State.ATTACHED, State.VALIDATING, State.OPENING])
def test_a_partition_whose_claim_ended_is_claimed_again(state: State) -> None:
    """P10: each assigned partition that is not attached is claimed again."""
    assert after(after(state, Event.DROP), Event.CLAIM) is State.CLAIMING


def test_a_gone_partition_has_no_events() -> None:
    for event in Event:
        with pytest.raises(AssertionError, match="gone"):
            after(State.GONE, event)
