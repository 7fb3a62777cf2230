"""A record as a handler sees it when the event alone is not enough."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from engine.records import Headers
from engine.records import Record as RawRecord

__all__ = ["Headers", "RawRecord", "Record"]

E_co = TypeVar("E_co", covariant=True)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Generic[E_co]):
    """The event, and where it came from. A handler that annotates its argument `Record[OrderPlaced]` gets one.

    Attributes:
        event: The decoded, validated value; `None` for a tombstone (`Topic(..., tombstone="deliver")`).
        topic, partition, offset: Coordinates in Kafka.
        key: Bytes of the record's key, `None` where it has none.
        headers: In the record's order, only those that the topic allows (`Topic(..., headers=("trace",))`): a
            record that is run again after a crash has no others, so a handler never sees them come and go.
        timestamp_ms: Epoch milliseconds as the broker says (create or append time); 0 where it has none.
    """

    event: E_co
    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def timestamp(self) -> datetime | None:
        """`timestamp_ms` as an aware UTC time, `None` where the record has none."""
        # Added to the epoch: datetime.fromtimestamp refuses what lies outside of the platform's time_t.
        return _EPOCH + timedelta(milliseconds=self.timestamp_ms) if self.timestamp_ms else None

    def header(self, name: str) -> bytes | None:
        """Value of the last header of that name (Kafka allows several), `None` where there is none."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


def view(event: Any, record: RawRecord, allowed: frozenset[str]) -> Record[Any]:
    """Wrap an event with the coordinates and allowed headers of its record."""
    return Record(
        event=event,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        headers=tuple(header for header in record.headers if header[0] in allowed),
        timestamp_ms=record.timestamp_ms,
    )
