"""Every interleaving of two relays, a restore and lost replies, in small: nothing twice, nothing lost, in order (I9)."""

import pytest

from tests.model.relays import Bounds, Rule, ViolationError, reachable


@pytest.mark.parametrize(
    "bounds", [Bounds(claims=3), Bounds(commits=2, claims=3, refusals=1)], ids=["plain", "refusals"]
)
def test_no_interleaving_loses_doubles_or_reorders_an_event(bounds: Bounds) -> None:
    """I9: and without a restore nothing ever halts."""
    assert reachable(bounds) > 50_000


def test_a_database_that_went_back_halts_and_publishes_nothing_twice() -> None:
    """I9, P4."""
    assert reachable(Bounds(commits=2, restores=True)) > 50_000


@pytest.mark.parametrize("rule", Rule)
def test_each_rule_is_needed(rule: Rule) -> None:
    """Without it there is an interleaving that loses, doubles or reorders something, or halts for nothing."""
    with pytest.raises(ViolationError):
        reachable(Bounds(commits=2, refusals=1, restores=rule is Rule.TOKENS), rule)
