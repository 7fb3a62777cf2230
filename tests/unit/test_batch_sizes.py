"""How many records a hand-over of the poll thread has. Pure."""

from consumers.pace import Pace
from consumers.settings import GroupSettings


def test_large_records_make_the_very_next_batch_small() -> None:
    """I10: bounded in bytes, not after ten batches of large ones."""
    pace = Pace(GroupSettings(bootstrap_servers="kafka:9092", group="orders", batch_max=1_000, batch_bytes_max=50_000))
    assert pace.batch_size() == 1_000

    pace.saw(10_000)
    assert pace.batch_size() == 5

    pace.saw(1_000_000)
    assert pace.batch_size() == 1


def test_small_records_make_batches_large_again_bit_by_bit() -> None:
    pace = Pace(GroupSettings(bootstrap_servers="kafka:9092", group="orders", batch_max=1_000, batch_bytes_max=50_000))
    pace.saw(10_000)

    pace.saw(10)
    assert 5 <= pace.batch_size() < 10
    for _ in range(50):
        pace.saw(10)

    assert pace.batch_size() == 1_000
