"""Who keeps deleted rows in the tables, and for how long it has been seen to. Pure."""

from engine.store.vacuum import HolderRow
from engine.vacuum import SAY_AGAIN_S, Holder, Holders


def row(name: str, xid: int, transactions: int = 10) -> HolderRow:
    return HolderRow("transaction", name, str(xid), transactions)


def test_who_stands_still_grows_old_and_who_moves_on_does_not() -> None:
    """A transaction that only reads sees newer rows with each statement; one that holds its snapshot does not."""
    holders = Holders()
    holders.oldest([row("stuck", 100), row("busy", 100)], 0.0)

    oldest = holders.oldest([row("stuck", 100), row("busy", 300)], 60.0)

    assert oldest == Holder("transaction", "stuck", 60.0, 10)


def test_one_that_went_is_forgotten_also_if_it_comes_again() -> None:
    holders = Holders()
    holders.oldest([row("dump", 100)], 0.0)

    assert holders.oldest([], 60.0) is None
    again = holders.oldest([row("dump", 100)], 120.0)
    assert again is not None
    assert again.age_s == 0.0


def test_of_several_seen_at_once_the_one_with_most_begun_since_is_named() -> None:
    oldest = Holders().oldest([row("young", 200, 5), row("old", 100, 500)], 0.0)

    assert oldest is not None
    assert oldest.name == "old"


def test_it_is_reported_once_and_again_when_it_is_still_there_much_later() -> None:
    holders, holder = Holders(), Holder("transaction", "dump", 4_000.0, 10)

    assert holders.is_news(holder, 0.0)
    assert not holders.is_news(holder, 60.0)
    assert holders.is_news(Holder("replication slot", "standby", 4_000.0, 10), 61.0)
    assert holders.is_news(holder, 62.0)
    assert holders.is_news(holder, 62.0 + SAY_AGAIN_S)


def test_that_it_is_over_is_said_if_it_was_reported() -> None:
    holders = Holders()
    assert not holders.was_said()

    holders.is_news(Holder("transaction", "dump", 4_000.0, 10), 0.0)

    assert holders.was_said()
    assert not holders.was_said()
