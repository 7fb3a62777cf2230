"""What must be reached, and what is aimed at; whether a run has. Pure. Nothing here is changed to meet a number.

A budget is about one number of one row. Those of a row that was not measured, and ratios to a peer that is missing, are
neither reached nor missed: they are said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Budget:
    """One of them.

    Attributes:
        row: Name of the row.
        number: Which number of it, as `--json` names it.
        must: What has to be reached; `None`: there is only an aim.
        aim: What would be good; `None`: nothing beyond `must`.
        is_most: Whether the number may be this at most; else it is to be this at least.
    """

    row: str
    number: str
    must: float | None
    aim: float | None = None
    is_most: bool = False


def _most(row: str, number: str, must: float, aim: float | None = None) -> Budget:
    return Budget(row, number, must, aim, is_most=True)


BUDGETS = (
    Budget("journaled-1", "floor_ratio", 0.6, 0.8),
    Budget("journaled-1", "dbos_ratio", 100),
    Budget("journaled-1", "restate_ratio", 20),
    Budget("journaled-3", "floor_ratio", 0.5, 0.7),
    Budget("step-tx", "dbos_ratio", 100),
    Budget("step-tx", "floor_ratio", None, 0.4),
    Budget("fused", "floor_ratio", 0.6, 0.8),
    Budget("batch", "floor_ratio", 0.75, 0.9),
    Budget("sync", "floor_ratio", 0.25, 0.5),
    Budget("sync", "dbos_ratio", 40),
    Budget("keys-100", "kept_ratio", 0.6, 0.8),
    Budget("key-hot", "kept_ratio", 0.2, 0.4),
    _most("latency", "p50_ms", 6, 4),
    _most("latency", "p99_ms", 30, 15),
    Budget("network", "kept_ratio", 0.75, 0.9),
    Budget("slow-commit", "kept_ratio", 0.75, 0.9),
    Budget("history", "kept_ratio", 0.85, 0.95),
    Budget("retention", "kept_ratio", 0.75, 0.85),
    Budget("retention", "deleted_ratio", 1.0),
    _most("backlog", "rss_mib", 200, 120),
    _most("idle", "core_percent", 2, 1),
    _most("idle", "queries_per_s", 2),
)


class Outcome(StrEnum):
    """What became of a budget."""

    AIM = "aim reached"
    REACHED = "reached"
    BELOW_AIM = "below the aim"
    MISSED = "NOT REACHED"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A budget and the number that was found."""

    budget: Budget
    found: float | None
    outcome: Outcome


def judge(rows: Mapping[str, Mapping[str, float | None]], budgets: Sequence[Budget] = BUDGETS) -> list[Verdict]:
    """Every budget, in their order, against the numbers of a run's rows."""
    return [_verdict(budget, rows.get(budget.row, {}).get(budget.number)) for budget in budgets]


def _verdict(budget: Budget, found: float | None) -> Verdict:
    if found is None:
        return Verdict(budget, None, Outcome.UNKNOWN)
    if budget.must is not None and not _reaches(found, budget.must, budget):
        return Verdict(budget, found, Outcome.MISSED)
    if budget.aim is not None and _reaches(found, budget.aim, budget):
        return Verdict(budget, found, Outcome.AIM)
    return Verdict(budget, found, Outcome.BELOW_AIM if budget.must is None else Outcome.REACHED)


def _reaches(found: float, wanted: float, budget: Budget) -> bool:
    return found <= wanted if budget.is_most else found >= wanted


def is_met(verdicts: Sequence[Verdict]) -> bool:
    """Whether nothing that was measured is below what it must reach."""
    return all(verdict.outcome is not Outcome.MISSED for verdict in verdicts)


def summary(verdicts: Sequence[Verdict]) -> str:
    """In one sentence."""
    musts = [verdict.outcome for verdict in verdicts if verdict.budget.must is not None]
    missed, unknown = musts.count(Outcome.MISSED), musts.count(Outcome.UNKNOWN)
    said = f"of {len(musts)} that must be reached, {len(musts) - missed - unknown} are, {missed} are not"
    return said if not unknown else f"{said}; {unknown} were not measured, and nothing is known of them"
