"""How retention yields to the hot path, and when it does not any more. Pure."""

from engine.pace import BATCH_S, FACTOR_MAX, FACTOR_MIN, GROWING_S, REST_MAX_S, ROWS_MIN, Pace


def batches(pace: Pace, count: int, duration_s: float = BATCH_S / 2, *, is_full: bool = True) -> None:
    for _ in range(count):
        pace.batched(duration_s, is_full=is_full)


def commits(pace: Pace, *, beside_s: float, without_s: float) -> None:
    for _ in range(50):
        pace.committed(without_s, beside=False)
        pace.committed(beside_s, beside=True)


def test_a_batch_grows_while_it_is_quick_and_shrinks_at_once_when_it_is_not() -> None:
    """I10: bounded in rows and in time."""
    pace = Pace(2_000)

    batches(pace, 10, BATCH_S / 10)
    assert pace.rows == 2_000

    batches(pace, 1, 2 * BATCH_S)
    assert pace.rows == 1_000

    batches(pace, 10, 2 * BATCH_S)
    assert pace.rows == ROWS_MIN


def test_a_batch_that_found_little_says_nothing_about_how_many_fit() -> None:
    pace = Pace(2_000)
    before = pace.rows

    batches(pace, 10, BATCH_S / 10, is_full=False)

    assert pace.rows == before


def test_a_timed_out_batch_is_halved_until_that_cannot_help() -> None:
    pace = Pace(400)
    pace.rows = 400

    assert [pace.timed_out(), pace.rows] == [True, 200]
    assert [pace.timed_out(), pace.rows] == [True, 100]
    assert [pace.timed_out(), pace.rows] == [False, 100]


def test_it_rests_as_long_as_it_works_where_nobody_is_slowed_down() -> None:
    pace = Pace(2_000)
    commits(pace, beside_s=0.0051, without_s=0.005)
    batches(pace, 5)

    assert pace.rest_s(0.08) == 0.08


def test_it_rests_longer_and_longer_while_commits_are_slower_beside_it() -> None:
    """The hot path comes first."""
    pace = Pace(2_000)
    commits(pace, beside_s=0.030, without_s=0.005)

    batches(pace, 1)
    assert pace.rest_s(0.1) == 0.2
    batches(pace, 10)
    assert pace.factor == FACTOR_MAX
    assert pace.rest_s(10) == REST_MAX_S


def test_what_is_slower_by_less_than_can_be_told_is_not_slower() -> None:
    pace = Pace(2_000)
    commits(pace, beside_s=0.0009, without_s=0.0003)

    batches(pace, 5)

    assert pace.factor == 1.0


def test_it_does_not_yield_where_the_table_would_grow_for_ever() -> None:
    """I10: when what is due grows older although it is deleted, it rests less, until it gets on again."""
    pace = Pace(2_000)
    commits(pace, beside_s=0.030, without_s=0.005)
    batches(pace, 5)
    pace.late(1_000, 0.0)
    pace.late(9_000, GROWING_S / 2)
    assert not pace.is_growing

    pace.late(20_000, GROWING_S)
    batches(pace, 1)
    assert (pace.is_growing, pace.factor) == (True, 1.0)

    commits(pace, beside_s=0.005, without_s=0.005)
    batches(pace, 10)
    assert pace.factor == FACTOR_MIN

    pace.late(10_000, 2 * GROWING_S)
    batches(pace, 5)
    assert (pace.is_growing, pace.factor) == (False, 1.0)


def test_nothing_due_is_not_late() -> None:
    pace = Pace(2_000)
    pace.late(1_000, 0.0)
    pace.late(2_000, GROWING_S)
    assert pace.is_growing

    pace.late(None, GROWING_S + 1)

    assert not pace.is_growing
