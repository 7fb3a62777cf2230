"""What Kafka is told of the progress."""

from consumers.progress import TELL_ALL_EVERY, Mirror

A, B = ("t", 0), ("t", 1)


def test_only_what_moved_is_told() -> None:
    mirror = Mirror()

    assert mirror.news({A: 5, B: 7}) == {A: 5, B: 7}
    assert mirror.news({A: 5, B: 8}) == {B: 8}
    assert mirror.news({A: 5, B: 8}) == {}


def test_a_partition_that_comes_back_is_told_again() -> None:
    """Another member may have told otherwise in between."""
    mirror = Mirror()
    mirror.news({A: 5})
    mirror.news({})

    assert mirror.news({A: 5}) == {A: 5}


def test_everything_is_told_again_now_and_then() -> None:
    """A commit that meets a rebalance is refused, and nobody waits for its answer (case 29)."""
    mirror = Mirror()

    told = [mirror.news({A: 5}) for _ in range(TELL_ALL_EVERY)]

    assert told == [{A: 5}, *[{}] * (TELL_ALL_EVERY - 2), {A: 5}]
