"""The producer's ledger: one line for each order, written before the order is produced.

    17 customer-4 flaky

What the audit holds against the tables. Nothing is in Kafka that is not in the ledger; the orders of a customer stand
in it in the order in which they were produced.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random

from processor.demo.app import ATTEMPTS


class Kind(StrEnum):
    """What an order is for."""

    GOOD = "good"
    FLAKY = "flaky"
    """Fails twice, then succeeds; its customer's later orders wait."""
    INVALID = "invalid"
    """Cannot be decoded: a dead letter at once."""
    POISON = "poison"
    """Fails for good: a dead letter after its last attempt."""

    @property
    def takes_effect(self) -> bool:
        """Whether it ends as an effect rather than as a dead letter."""
        return self in (Kind.GOOD, Kind.FLAKY)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger: an order."""

    sequence: int
    customer: str
    kind: Kind

    @property
    def is_by_card(self) -> bool:
        """Whether it is paid by card rather than on account; all orders of a customer are, or none."""
        return int(self.customer.rpartition("-")[2]) % CARD_EVERY == 0

    def line(self) -> str:
        """As it is written."""
        return f"{self.sequence} {self.customer} {self.kind}\n"

    @classmethod
    def read(cls, line: str) -> "Entry":
        """The reverse of `line`."""
        sequence, customer, kind = line.split()
        return cls(int(sequence), customer, Kind(kind))

    def value(self) -> bytes:
        """The payload of its record. `sequence` is readable in each, so that a dead letter can be told from others."""
        cents = 100 + self.sequence % 9_900
        text = f'{{"sequence": {self.sequence}, "customer": "{self.customer}", "cents": '
        match self.kind:
            case Kind.GOOD:
                return f"{text}{cents}}}".encode()
            case Kind.FLAKY:
                return f'{text}{cents}, "failures": {ATTEMPTS - 1}}}'.encode()
            case Kind.POISON:
                return f'{text}{cents}, "failures": {ATTEMPTS}}}'.encode()
            case Kind.INVALID:
                return text.encode()


CARD_EVERY = 20
"""Each twentieth customer pays by card: a workflow with a step costs many times what a shared transaction does."""

FLAKY_SHARE, INVALID_SHARE, POISON_SHARE = 0.002, 0.001, 0.001
"""Few, as in life; with 200,000 orders some hundred of each."""


def orders(count: int, customers: int, random: Random, *, first: int = 0) -> Generator[Entry]:
    """Orders of customers picked at random, with the kinds' shares."""
    for sequence in range(first, first + count):
        lot = random.random()
        if lot < FLAKY_SHARE:
            kind = Kind.FLAKY
        elif lot < FLAKY_SHARE + INVALID_SHARE:
            kind = Kind.INVALID
        elif lot < FLAKY_SHARE + INVALID_SHARE + POISON_SHARE:
            kind = Kind.POISON
        else:
            kind = Kind.GOOD
        yield Entry(sequence, f"customer-{random.randrange(customers)}", kind)


class Ledger:
    """A ledger file, open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Line by line: what is produced is written before, also when this process is killed.
        self._file = path.open("a", buffering=1)
        self.count = 0

    def write(self, entry: Entry) -> None:
        """Enter an order. It may be produced when this has returned."""
        self._file.write(entry.line())
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def entries(self) -> Iterable[Entry]:
        """Everything written so far."""
        with self.path.open() as lines:
            return [Entry.read(line) for line in lines]
