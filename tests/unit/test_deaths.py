"""When an executor is taken for dead (P2)."""

from engine.deaths import Deaths

LEASE_S = 10.0


def test_a_death_is_told_a_lease_after_the_last_sign_of_life_and_once() -> None:
    """P2: not at the next heartbeat of ours, and not before a full lease is over."""
    deaths = Deaths()
    deaths.saw([("one", 1), ("two", 1)], 100.0)
    deaths.saw([("one", 2), ("two", 1)], 103.0)

    assert deaths.next_at(LEASE_S) == 110.0
    assert deaths.silent(110.0, LEASE_S) == []
    assert deaths.silent(110.1, LEASE_S) == [("two", 1)]
    assert deaths.silent(110.2, LEASE_S) == []
    assert deaths.next_at(LEASE_S) == 113.0


def test_whoever_was_not_observed_for_a_lease_is_not_dead() -> None:
    """P2: an outage of Postgres kills nobody: when it is back, everybody is seen anew."""
    deaths = Deaths()
    deaths.saw([("one", 1)], 100.0)
    deaths.clear()

    assert deaths.next_at(LEASE_S) is None
    deaths.saw([("one", 1)], 150.0)
    assert deaths.silent(151.0, LEASE_S) == []


def test_one_that_is_gone_is_nobodys_death_and_one_that_comes_back_is_new() -> None:
    deaths = Deaths()
    deaths.saw([("one", 7)], 100.0)
    deaths.saw([], 101.0)
    deaths.saw([("one", 7)], 105.0)

    assert deaths.silent(111.0, LEASE_S) == []
    assert deaths.silent(115.1, LEASE_S) == [("one", 7)]
