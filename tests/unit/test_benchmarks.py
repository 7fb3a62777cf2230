"""What the benchmarks say of their measurements."""

from benchmarks.measure import Measured
from benchmarks.report import line, table


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A round on a slow machine slows both sides; the ratio of medians would compare different rounds."""
    rounds = {
        "ours": [Measured(50.0), Measured(10.0), Measured(60.0)],
        "floor": [Measured(100.0), Measured(40.0), Measured(100.0)],
    }

    found = line("ours", "ours", rounds, floor="floor", peer="not there")

    assert found.floor_ratio == 0.5
    assert found.dbos_ratio is None
    assert found.records_per_s == 50.0


def test_the_table_leaves_out_what_was_not_measured() -> None:
    found = line("latency", "latency", {"latency": [Measured(p50_ms=4.0, p99_ms=15.0)]}, floor=None, peer=None)

    last = table([found]).splitlines()[-1]

    assert [cell.strip() for cell in last.strip("|").split("|")] == ["latency", "", "", "", "4.0", "15.0", ""]
