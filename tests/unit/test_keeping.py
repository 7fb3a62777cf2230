"""How long what has ended is kept, and how a walk over it goes forward and comes back. Pure."""

from datetime import timedelta

import pytest

from engine.ids import SourceParts, SourceRef, parts_of
from engine.keeping import Age, Frontier, Keep, Kind, PolicyRow, RetentionSettings, ages, policy_rows

DAY_MS = 86_400_000
AGE = Age(7 * DAY_MS, ("fulfil",), ("SUCCESS",), of_letters=False)


def test_every_way_to_end_has_a_time_and_for_ever_is_none() -> None:
    """P30: what an operator's retry could continue is kept as errors are, however it ended."""
    keep = Keep(success=timedelta(days=1), error=timedelta(days=2), dead_letters=timedelta(days=3))

    assert policy_rows({"b": keep, "a": Keep()}) == [
        *(PolicyRow("a", kind, None) for kind in Kind),
        PolicyRow("b", "SUCCESS", DAY_MS),
        PolicyRow("b", "ERROR", 2 * DAY_MS),
        PolicyRow("b", "CANCELLED", None),
        PolicyRow("b", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", 2 * DAY_MS),
        PolicyRow("b", "DEAD_LETTER", 3 * DAY_MS),
    ]


def test_what_is_kept_equally_long_is_one_walk_and_what_is_kept_for_ever_none() -> None:
    """I10: as many walks over the index as there are times, whatever the number of handlers."""
    rows = [
        PolicyRow("a", "SUCCESS", 10),
        PolicyRow("b", "ERROR", 10),
        PolicyRow("b", "SUCCESS", 5),
        PolicyRow("b", "DEAD_LETTER", 10),
        PolicyRow("c", "SUCCESS", None),
    ]

    assert ages(rows) == [
        Age(5, ("b",), ("SUCCESS",), of_letters=False),
        Age(10, ("a", "b"), ("SUCCESS", "ERROR"), of_letters=False),
        Age(10, ("b",), ("DEAD_LETTER",), of_letters=True),
    ]


def test_a_walk_goes_forward_to_what_is_old_enough_and_no_further() -> None:
    frontier = Frontier(AGE)

    first = frontier.before(8 * DAY_MS)
    frontier.passed(DAY_MS - 1, None)

    assert first is not None
    assert (first.start, first.end) == (0, DAY_MS)
    assert frontier.before(8 * DAY_MS) is None
    later = frontier.before(9 * DAY_MS)
    assert later is not None
    assert (later.start, later.end) == (DAY_MS, 2 * DAY_MS)


def test_a_walk_comes_back_to_the_oldest_that_stayed_when_it_is_time_and_not_before() -> None:
    """I10: what was open, spared or locked goes later, and costs no look at every sweep."""
    frontier, now = Frontier(AGE), 100 * DAY_MS
    frontier.begin(now)
    frontier.passed(50, 40)
    frontier.passed(80, 70)
    frontier.passed(93 * DAY_MS - 1, None)

    frontier.begin(now + 1)
    assert (frontier.before(now), frontier.is_ahead) == (None, True)

    frontier.begin(now + 6 * 3_600_000)
    again = frontier.before(now)
    assert again is not None
    assert (again.start, frontier.is_ahead) == (40, False)

    frontier.passed(93 * DAY_MS - 1, None)
    frontier.begin(now + 12 * 3_600_000)
    assert frontier.before(now) is None


def test_a_walk_that_left_nothing_does_not_come_back() -> None:
    frontier = Frontier(AGE)
    frontier.begin(0)
    frontier.passed(50, None)

    frontier.begin(DAY_MS)

    assert frontier.position == 51


def test_short_times_come_back_sooner() -> None:
    """What ends late is not kept many times as long as it should be."""
    frontier = Frontier(Age(60_000, ("a",), ("SUCCESS",), of_letters=False))
    frontier.begin(0)
    frontier.passed(50, 10)

    frontier.begin(6_000)

    assert frontier.position == 10


@pytest.mark.parametrize("topic", ["orders", "orders-eu", "a.b_c-1"])
@pytest.mark.parametrize("group", ["shop", "a|b", "x~2"])
@pytest.mark.parametrize("incarnation", [1, 2, 17])
def test_the_name_of_a_source_says_whose_progress_it_has(topic: str, group: str, incarnation: int) -> None:
    ref = SourceRef(group, "fulfil", topic, 3)

    assert parts_of(ref.name(incarnation)) == SourceParts(ref.service_name, ref.key, incarnation)


@pytest.mark.parametrize("name", ["", "orders", "shop|orders", "shop|-3", "shop|orders-x", "shop|orders~-3"])
def test_what_names_no_source_has_no_parts(name: str) -> None:
    assert parts_of(name) is None


def test_a_batch_has_rows() -> None:
    with pytest.raises(ValueError, match="rows_max"):
        RetentionSettings(rows_max=0)
