"""From measurements of several rounds to a table and JSON. Pure.

A ratio is the median of the rounds' ratios, not the ratio of medians: a machine that slows down in one round slows
both sides of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measure import Measured


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    name: str
    title: str
    records_per_s: float | None
    floor_ratio: float | None = None
    dbos_ratio: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    rss_mib: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """What `--json` writes of it."""
        return {
            "records_per_s": _rounded(self.records_per_s, 1),
            "floor_ratio": _rounded(self.floor_ratio, 3),
            "dbos_ratio": _rounded(self.dbos_ratio, 1),
            "p50_ms": _rounded(self.p50_ms, 2),
            "p99_ms": _rounded(self.p99_ms, 2),
            "rss_mib": _rounded(self.rss_mib, 1),
        }


def line(
    name: str, title: str, rounds: Mapping[str, Sequence[Measured]], *, floor: str | None, peer: str | None
) -> Line:
    """The row of one participant, against a floor and a peer that took part in the same rounds."""
    mine = rounds[name]
    return Line(
        name,
        title,
        records_per_s=_median([each.records_per_s for each in mine]),
        floor_ratio=_ratio(mine, rounds.get(floor or "")),
        dbos_ratio=_ratio(mine, rounds.get(peer or "")),
        p50_ms=_median([each.p50_ms for each in mine]),
        p99_ms=_median([each.p99_ms for each in mine]),
        rss_mib=_median([each.rss_mib for each in mine]),
    )


def table(lines: Sequence[Line]) -> str:
    """Markdown, aligned: it is read in a terminal and pasted into docs/performance.md."""
    head = ("workload", "records/s", "of floor", "of dbos", "p50 ms", "p99 ms", "RSS MiB")
    rows = [
        (
            each.title,
            _shown(each.records_per_s, 0),
            _shown(each.floor_ratio, 2),
            _shown(each.dbos_ratio, 0),
            _shown(each.p50_ms, 1),
            _shown(each.p99_ms, 1),
            _shown(each.rss_mib, 0),
        )
        for each in lines
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = ("-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:]))
    return "\n".join(
        "| " + " | ".join(_cell(row, column, width) for column, width in enumerate(widths)) + " |"
        for row in (head, rule, *rows)
    )


def _cell(row: Sequence[str], column: int, width: int) -> str:
    return row[column].ljust(width) if column == 0 else row[column].rjust(width)


def _ratio(mine: Sequence[Measured], other: Sequence[Measured] | None) -> float | None:
    pairs = zip(mine, other or (), strict=False)
    return _median([a.records_per_s / b.records_per_s for a, b in pairs if a.records_per_s and b.records_per_s])


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
