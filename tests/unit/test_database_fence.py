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
