"""From measurements of several rounds to a table and JSON. Pure.

A ratio is the median of the rounds' ratios, not the ratio of medians: a machine that slows down in one round slows
both sides of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median

from benchmarks.budgets import Verdict
from benchmarks.measure import Measured

DIGITS = {"records_per_s": 1, "dbos_ratio": 1, "restate_ratio": 1, "p50_ms": 2, "p99_ms": 2, "rss_mib": 1}
"""Behind the point, in JSON; three of what is not named."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table. Fields are named as `--json` and budgets name them.

    Attributes:
        floor_ratio, dbos_ratio, restate_ratio: Throughput, as a multiple of theirs.
        kept_ratio: Throughput, as a multiple of that of the plain case.
        deleted_ratio: Workflows deleted for each record.
    """

    name: str
    title: str
    records_per_s: float | None = None
    floor_ratio: float | None = None
    dbos_ratio: float | None = None
    restate_ratio: float | None = None
    kept_ratio: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    rss_mib: float | None = None
    core_percent: float | None = None
    queries_per_s: float | None = None
    deleted_ratio: float | None = None

    def numbers(self) -> dict[str, float | None]:
        """All that is measured of it."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("name", "title")}

    def as_json(self) -> dict[str, float | None]:
        """What `--json` writes of it."""
        return {name: _rounded(value, DIGITS.get(name, 3)) for name, value in self.numbers().items()}


@dataclass(frozen=True, slots=True)
class Against:
    """Names of those that a row is compared with; '', or one that did not take part: with nobody."""

    floor: str = ""
    plain: str = ""
    dbos: str = ""
    restate: str = ""


def line(name: str, title: str, rounds: Mapping[str, Sequence[Measured]], against: Against) -> Line:
    """The row of one participant, against those that took part in the same rounds."""
    mine = rounds[name]

    def middle(number: Callable[[Measured], float | None]) -> float | None:
        return _median([number(each) for each in mine])

    return Line(
        name,
        title,
        records_per_s=middle(lambda each: each.records_per_s),
        floor_ratio=_ratio(mine, rounds.get(against.floor)),
        dbos_ratio=_ratio(mine, rounds.get(against.dbos)),
        restate_ratio=_ratio(mine, rounds.get(against.restate)),
        kept_ratio=_ratio(mine, rounds.get(against.plain)),
        p50_ms=middle(lambda each: each.p50_ms),
        p99_ms=middle(lambda each: each.p99_ms),
        rss_mib=middle(lambda each: each.rss_mib),
        core_percent=middle(lambda each: each.core_percent),
        queries_per_s=middle(lambda each: each.queries_per_s),
        deleted_ratio=middle(lambda each: each.deleted_ratio),
    )


def table(lines: Sequence[Line]) -> str:
    """Markdown, aligned: it is read in a terminal and pasted into docs/performance.md."""
    head = (
        "workload",
        "records/s",
        "of floor",
        "of dbos",
        "of restate",
        "of plain",
        "p50 ms",
        "p99 ms",
        "RSS MiB",
        "also",
    )
    rows = [
        (
            each.title,
            _shown(each.records_per_s, 0),
            _shown(each.floor_ratio, 2),
            _shown(each.dbos_ratio, 0),
            _shown(each.restate_ratio, 1),
            _shown(each.kept_ratio, 2),
            _shown(each.p50_ms, 1),
            _shown(each.p99_ms, 1),
            _shown(each.rss_mib, 0),
            _besides(each),
        )
        for each in lines
    ]
    return _markdown(head, rows, texts=(0, len(head) - 1))


def verdicts_table(verdicts: Sequence[Verdict]) -> str:
    """Markdown as well: each budget with what was found."""
    head = ("budget", "number", "must reach", "aim", "found", "outcome")
    rows = [
        (
            verdict.budget.row,
            verdict.budget.number,
            _bound(verdict.budget.must, is_most=verdict.budget.is_most),
            _bound(verdict.budget.aim, is_most=verdict.budget.is_most),
            _shown(verdict.found, 2),
            str(verdict.outcome),
        )
        for verdict in verdicts
    ]
    return _markdown(head, rows, texts=(0, 1, len(head) - 1))


def _besides(each: Line) -> str:
    said = [
        (each.core_percent, f"{_shown(each.core_percent, 1)} % of a core"),
        (each.queries_per_s, f"{_shown(each.queries_per_s, 1)} queries/s"),
        (each.deleted_ratio, f"{_shown(each.deleted_ratio, 2)} deleted a record"),
    ]
    return ", ".join(text for value, text in said if value is not None)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[int]) -> str:
    """A table; columns are numbers but for those named."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = ["-" * width if column in texts else f"{'-' * (width - 1)}:" for column, width in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(widths[column]) if column in texts else cell.rjust(widths[column])
            for column, cell in enumerate(row)
        )
        + " |"
        for row in (head, rule, *rows)
    )


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


def _bound(value: float | None, *, is_most: bool) -> str:
    return "" if value is None else f"{'≤' if is_most else '≥'} {value:g}"
