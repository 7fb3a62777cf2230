"""The audit of the demo and of the system tests finds what it is there to find."""

from pathlib import Path
from random import Random

import pytest

from processor.demo.audit import audit
from processor.demo.ledger import Entry, Kind, Ledger, orders

LEDGER = [
    Entry(0, "customer-1", Kind.GOOD),
    Entry(1, "customer-1", Kind.FLAKY),
    Entry(2, "customer-2", Kind.POISON),
    Entry(3, "customer-1", Kind.INVALID),
    Entry(4, "customer-2", Kind.GOOD),
]
EFFECTS = [("customer-1", 0), ("customer-2", 4), ("customer-1", 1)]
BURIED = [3, 2]


def test_clean_books_are_clean() -> None:
    found = audit(LEDGER, EFFECTS, BURIED)

    assert found.is_clean
    assert (found.produced, found.effects, found.dead_letters) == (5, 3, 2)


@pytest.mark.parametrize(
    "effects, buried, finding",
    [
        (EFFECTS[:-1], BURIED, "missing"),
        (EFFECTS, BURIED[:-1], "missing"),
        ([*EFFECTS, EFFECTS[0]], BURIED, "duplicates"),
        (EFFECTS, [*BURIED, 3], "duplicates"),
        ([EFFECTS[2], *EFFECTS[:2]], BURIED, "out_of_order"),
        ([*EFFECTS, ("customer-2", 2)], BURIED, "misplaced"),
        ([*EFFECTS, ("customer-9", 99)], BURIED, "misplaced"),
        (EFFECTS, [*BURIED, 4], "misplaced"),
        (EFFECTS, [*BURIED, -1], "misplaced"),
    ],
)
def test_a_violation_is_found(effects: list[tuple[str, int]], buried: list[int], finding: str) -> None:
    found = audit(LEDGER, effects, buried)

    assert getattr(found, finding) == 1
    assert not found.is_clean
    assert found.examples


def test_a_ledger_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    written = list(orders(20_000, 7, Random(1)))
    for entry in written:
        ledger.write(entry)
    ledger.close()

    assert list(ledger.entries()) == written
    assert {entry.kind for entry in written} == set(Kind)
