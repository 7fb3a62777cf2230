"""The database fence's view of WAL positions (P4)."""

from engine.fences import DatabaseFence


def test_a_heartbeat_that_ran_beside_a_commit_is_not_a_database_that_went_back() -> None:
    """The commit's position is heard of before the heartbeat's, which was read before it: that is no restore."""
    fence = DatabaseFence()
    fence.timeline = "00000001"
    fence.saw("0/1000")
    seen = fence.seen()
    fence.saw("0/3000")

    assert not fence.is_behind("00000001", "0/2000", seen)
    assert fence.is_behind("00000001", "0/0FFF", seen)
    assert fence.is_behind("00000002", "0/2000", seen)


def test_positions_are_compared_as_numbers() -> None:
    """'0/FFFFFFFF' is before '1/0', and '0/10000' after '0/9000'."""
    fence = DatabaseFence()
    fence.timeline = "00000001"
    fence.saw("0/10000")
    fence.saw("0/9000")
    assert fence.lsn == "0/10000"
    fence.saw("1/0")
    assert fence.is_behind("00000001", "0/FFFFFFFF", fence.seen())
    fence.saw("AB/10")
    assert fence.seen() == ("00000001", (0xAB << 32) | 0x10)
    fence.saw("1AB/10")
    assert fence.seen() == ("00000001", (0x1AB << 32) | 0x10)


def test_the_highest_position_counts_and_is_what_is_handed_on() -> None:
    fence = DatabaseFence()
    assert (fence.timeline, fence.lsn, fence.seen()) == ("", "0/0", ("", 0))
    fence.saw("2/A0")
    assert (fence.lsn, fence.seen()) == ("2/A0", ("", (2 << 32) | 0xA0))
    fence.saw("2/A0")
    fence.saw("1/FFFFFFFF")
    assert (fence.lsn, fence.seen()) == ("2/A0", ("", (2 << 32) | 0xA0))
    fence.saw("2/A1")
    assert fence.lsn == "2/A1"


def test_a_reading_of_the_same_place_is_not_behind() -> None:
    fence = DatabaseFence()
    fence.timeline = "00000001"
    fence.saw("0/1000")
    assert not fence.is_behind("00000001", "0/1000", fence.seen())


def test_whoever_has_seen_nothing_calls_nothing_old() -> None:
    """Before its first heartbeat, and after it has registered anew."""
    fence = DatabaseFence()
    assert not fence.is_behind("00000001", "0/0", fence.seen())
    fence.timeline = "00000002"
    fence.saw("5/5")
    assert fence.is_behind("00000001", "5/5", fence.seen())
    fence.reset()
    assert (fence.timeline, fence.lsn, fence.seen()) == ("", "0/0", ("", 0))
    assert not fence.is_behind("00000001", "0/1", fence.seen())
