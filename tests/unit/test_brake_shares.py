"""How much is taken in while the database cannot follow (decision 0036). Pure."""

from datetime import timedelta

import pytest

from engine.brakes import LEAST_FOR_COMMITS, NO_HELP_S, Brake, CommitBrake

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    "before, measured, after",
    [
        (1.0, 1.1, 0.5),
        (0.5, 1.1, 0.25),
        (0.5, 1.0, 0.5),
        (0.5, 0.6, 0.5),
        (0.5, 0.5, 0.625),
        (0.9, 0.1, 1.0),
        (0.5, None, 0.625),
    ],
)
def test_a_share_is_halved_above_the_limit_and_grows_below_half_of_it(
    before: float, measured: float | None, after: float
) -> None:
    brake = Brake(SECOND)
    brake.share = before
    brake.look(measured)
    assert brake.share == after


def test_commits_of_a_database_with_too_much_to_do_get_less_until_they_are_fast() -> None:
    """A commit takes as long as its work: the share settles where that is between half the limit and the limit."""
    brake = CommitBrake(SECOND)
    now_s = 0.0
    for _ in range(100):
        brake.take(6.0 * brake.share, now_s)
        now_s += 1.0
    assert 0.5 <= 6.0 * brake.share <= 1.0


def test_commits_that_are_slow_whatever_is_in_them_are_not_held_against_the_work() -> None:
    """A standby across an ocean: less in flight would be slower, and no commit faster. Tried again after a while."""
    brake = CommitBrake(SECOND)
    shares: list[float] = []
    for now_s in range(600):
        brake.take(2.0, float(now_s))
        shares.append(brake.share)
    assert min(shares) == 0.25
    slowed = sum(share < 1.0 for share in shares)
    assert 0 < slowed < 60
    assert [share < 1.0 for share in shares[int(NO_HELP_S) + 9 :]].count(True) > 0


def test_commits_never_get_less_than_a_sixteenth() -> None:
    brake = CommitBrake(SECOND)
    for now_s in range(0, 10_000, 100):
        brake.take(1000.0 * brake.share**2 + 1.1, float(now_s))
        assert brake.share >= LEAST_FOR_COMMITS


def test_nothing_is_concluded_from_commits_of_before_the_change() -> None:
    brake = CommitBrake(SECOND)
    brake.take(3.0, 0.0)
    brake.take(3.0, 1.0)
    assert brake.share == 0.5
    brake.take(3.0, 7.0)
    assert brake.share == 0.25
