"""How often somebody may ask: buckets, by a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from processor.web.rates import KEYS_MAX, Rates


def test_a_burst_is_taken_at_once_and_then_the_rate() -> None:
    rates = Rates(per_s=10, burst=3)

    assert [rates.take("a", 0.0) for _ in range(3)] == [0.0] * 3
    assert rates.take("a", 0.0) == 0.1
    assert rates.take("b", 0.0) == 0.0
    assert rates.wait_s("a", 0.05) > 0
    assert rates.take("a", 0.11) == 0.0


def test_looking_takes_nothing() -> None:
    rates = Rates(per_s=1, burst=1)

    assert [rates.wait_s("a", 0.0) for _ in range(5)] == [0.0] * 5
    assert rates.take("a", 0.0) == 0.0


def test_a_flood_of_keys_is_bounded_and_does_not_free_who_is_busy() -> None:
    """I10: what is forgotten is what has not asked for longest."""
    rates = Rates(per_s=0.001, burst=1)
    rates.take("busy", 0.0)
    for number in range(KEYS_MAX // 2):
        rates.take(f"key-{number}", 1.0)
    for number in range(KEYS_MAX):
        rates.take(f"other-{number}", 2.0)

    assert len(rates) == KEYS_MAX
    assert rates.take("other-9999", 2.0) > 0


@given(st.lists(st.floats(0, 5), max_size=200))
def test_never_more_than_the_burst_and_the_rate(gaps: list[float]) -> None:
    rates = Rates(per_s=2, burst=5)
    now, taken = 0.0, 0

    for gap in gaps:
        now += gap
        taken += rates.take("a", now) == 0.0

        assert taken <= 5 + 2 * now + 1e-6
