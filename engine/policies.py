"""What happens to a record, its key and its partition when a handler has finally failed. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The workflow ends in ERROR with a dead letter; its key goes on."""


@dataclass(frozen=True, slots=True)
class BlockKey:
    """The workflow ends in ERROR with a dead letter; later records of its key are parked until an operator decides."""


@dataclass(frozen=True, slots=True)
class HaltPartition:
    """The workflow ends in ERROR with a dead letter; its partition stops until an operator decides."""


FailurePolicy = DeadLetter | BlockKey | HaltPartition


@dataclass(frozen=True, slots=True)
class Breaker:
    """Halt a partition when most records fail: a bad deploy must not bury a million records.

    Attributes:
        window: The last so many outcomes of a partition are looked at; none is judged before there are so many.
        ratio: Halt when more than this share of them failed.
    """

    window: int = 100
    ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 < self.ratio <= 1:
            raise ValueError(f"{self}: window is at least 1, ratio in (0, 1]")
