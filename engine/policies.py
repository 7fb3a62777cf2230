"""What happens to a record, its key and its partition when a handler has finally failed. Pure."""

from dataclasses import dataclass

from engine.outgoing import is_topic_name


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The workflow ends in ERROR with a dead letter; its key goes on.

    Attributes:
        topic: Published there as well, in the same commit: the record's own key and value, and headers that say topic,
            partition, offset and error. `None`: nowhere.
    """

    topic: str | None = None

    def __post_init__(self) -> None:
        if self.topic is not None and not (_is_text(self.topic) and is_topic_name(self.topic)):
            raise ValueError(f"DeadLetter(topic={self.topic!r}): the name of a topic, as 'orders.dead'")


@dataclass(frozen=True, slots=True)
class BlockKey:
    """The workflow ends in ERROR with a dead letter; later records of its key are parked until an operator decides."""


@dataclass(frozen=True, slots=True)
class HaltPartition:
    """The workflow ends in ERROR with a dead letter; its partition stops until an operator decides."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


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
