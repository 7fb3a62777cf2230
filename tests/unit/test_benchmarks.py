"""What the benchmarks say of their measurements, and the rule by which flushes send constant columns once."""

from benchmarks.measure import Measured
from benchmarks.report import line, table
from engine.store.statement import squeezed


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


def test_a_constant_column_is_sent_once() -> None:
    assert squeezed(["a", "a", "a"]) == ([], "a")
    assert squeezed(["a"]) == ([], "a")
    assert squeezed([None, None]) == ([], None)


def test_a_column_with_two_values_is_sent_whole() -> None:
    """Also where its ends agree, and where one of the values is NULL."""
    assert squeezed(["a", "b", "a"]) == (["a", "b", "a"], None)
    assert squeezed([None, "a", None]) == ([None, "a", None], None)
