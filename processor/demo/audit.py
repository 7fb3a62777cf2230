"""The ledger against the tables: nothing missing, nothing twice, nothing out of order.

    produced        lines of the ledger                      = effects + dead letters, if all is well
    missing         orders that left neither, or a good one without effect
    duplicates      further effects or dead letters of an order that has one
    out of order    effects that stand behind a later order of the same customer
    misplaced       effects of orders that must fail, dead letters of orders that must not

Pure; `processor.demo.books` reads what it needs. The demo and the system tests end in it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from processor.demo.ledger import Entry

Effect = tuple[str, int]
"""Customer and sequence."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found."""

    produced: int
    effects: int
    dead_letters: int
    missing: int
    duplicates: int
    out_of_order: int
    misplaced: int
    examples: tuple[str, ...]
    """A few of the violations, in words."""

    @property
    def is_clean(self) -> bool:
        """Whether every order left what it had to, once, in order."""
        violations = self.missing + self.duplicates + self.out_of_order + self.misplaced
        return not violations and self.produced == self.effects + self.dead_letters


EXAMPLES_MAX = 10


def audit(ledger: Iterable[Entry], effects: Sequence[Effect], dead_letters: Sequence[int]) -> Audit:
    """Join the books.

    Args:
        ledger: In the order of production.
        effects: In the order of insertion.
        dead_letters: Sequences of the orders that were given up.
    """
    entries = {entry.sequence: entry for entry in ledger}
    examples: list[str] = []
    seen: set[int] = set()
    buried: set[int] = set()
    newest: dict[str, int] = {}
    duplicates = out_of_order = misplaced = 0
    for customer, sequence in effects:
        entry = entries.get(sequence)
        if sequence in seen:
            duplicates += 1
            examples.append(f"order {sequence} took effect again")
        elif entry is None or entry.customer != customer or not entry.kind.takes_effect:
            misplaced += 1
            examples.append(f"order {sequence} of {customer} took effect: {entry}")
        if sequence < newest.get(customer, -1):
            out_of_order += 1
            examples.append(f"order {sequence} of {customer} came after its order {newest[customer]}")
        newest[customer] = max(sequence, newest.get(customer, -1))
        seen.add(sequence)
    for sequence in dead_letters:
        entry = entries.get(sequence)
        if sequence in buried:
            duplicates += 1
            examples.append(f"order {sequence} is a dead letter again")
        elif entry is None or entry.kind.takes_effect:
            misplaced += 1
            examples.append(f"order {sequence} is a dead letter: {entry}")
        buried.add(sequence)
    missing = [
        entry for entry in entries.values() if entry.sequence not in (seen if entry.kind.takes_effect else buried)
    ]
    examples += [f"order {entry.sequence} of {entry.customer} ({entry.kind}) is missing" for entry in missing]
    return Audit(
        produced=len(entries),
        effects=len(effects),
        dead_letters=len(dead_letters),
        missing=len(missing),
        duplicates=duplicates,
        out_of_order=out_of_order,
        misplaced=misplaced,
        examples=tuple(examples[:EXAMPLES_MAX]),
    )
