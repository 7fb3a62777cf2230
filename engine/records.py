"""What came from Kafka: bytes and coordinates, before anybody looked into them. Pure."""

from dataclasses import dataclass, field

Headers = tuple[tuple[str, bytes | None], ...]

UNREADABLE_HEADERS: Headers = (("(a header's name is not UTF-8)", None),)
"""Of a record whose headers the client cannot give: it is a dead letter, and no reason to stop."""


@dataclass(slots=True)
class Record:
    """One record of one partition. Treated as immutable; not frozen, because freezing costs 0.4 µs a record.

    Attributes:
        topic, partition, offset: Its coordinates.
        key: Bytes of the key, `None` where it has none.
        value: Bytes of the payload, `None` for a tombstone.
        timestamp_ms: Epoch milliseconds, as the broker says (create or append time); 0 where it has none.
        headers: All headers on delivery; only those on the topic's allow-list once the record was recovered.
        leader_epoch: Of the batch it came in, `None` where the broker does not say.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: Headers = ()
    leader_epoch: int | None = None
    size: int = field(init=False)
    """Bytes it holds in memory, for backpressure."""

    def __post_init__(self) -> None:
        self.size = len(self.key or b"") + len(self.value or b"") + 64

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"
