"""When a partition is paused for backpressure (I10)."""

import pytest

from engine.congestion import is_congested
from engine.settings import EngineSettings

SETTINGS = EngineSettings(conninfo="", backlog_max=100, parked_max=1_000, in_flight_bytes_max=10_000)


@pytest.mark.parametrize(
    "was,backlog,backlog_bytes,parked,congested",
    [
        (False, 100, 0, 0, False),
        (False, 101, 0, 0, True),
        (True, 51, 0, 0, True),
        (True, 50, 0, 0, False),
        (False, 0, 0, 1_001, True),
        (True, 0, 0, 501, True),
        (True, 0, 0, 500, False),
        (False, 1, 10_001, 0, True),
        (True, 1, 5_001, 0, True),
        (True, 1, 5_000, 0, False),
        (True, 0, 20_000, 0, False),
    ],
)
def test_a_partition_is_paused_at_a_limit_and_resumed_at_half_of_it(
    was: bool, backlog: int, backlog_bytes: int, parked: int, congested: bool
) -> None:
    """Other partitions' bytes pause only those that add to them."""
    assert is_congested(SETTINGS, was=was, backlog=backlog, backlog_bytes=backlog_bytes, parked=parked) is congested
