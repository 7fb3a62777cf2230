"""What crosses between the poll thread and the loop: messages become lists of records, one for each attachment.

An *attachment* is one stay of a partition in the client, under a number that is never used again. It knows our own next
offset: 1 + the last record that was handed over, which is where it is attached again after anything goes wrong. The
client's position is another thing; it may be ahead by records that an exception destroyed (case 7).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from confluent_kafka import KafkaError, Message, TopicPartition

from consumers.backpressure import Pauses
from consumers.errors import Meaning, meaning_of
from consumers.records import record_of
from engine.records import Record

Place = tuple[str, int]
"""Topic and partition."""


class Congestible(Protocol):
    """What tells the thread that enough has been taken. Read here, written on the loop."""

    congested: bool


class PollListener(Protocol):
    """Who is told. Called on the loop, in the order of events."""

    def assigned(self, assignments: Mapping[Place, int], generation: int) -> None:
        """Kafka gave us partitions; each assignment has a number."""
        ...

    def revoked(self, places: Sequence[Place], *, lost: bool) -> None:
        """Kafka took partitions; they are detached."""
        ...

    def delivered(self, batches: Sequence[tuple[int, int, list[Record]]]) -> None:
        """Records, in offset order: attachment, the offset up to which it had everything before, one list for each."""
        ...

    def reached(self, positions: Sequence[tuple[int, int]]) -> None:
        """Attachment and offset: nothing below the offset will come any more."""
        ...

    def refused(self, attachment: int, error: str) -> None:
        """Kafka does not have the offset; the attachment has ended."""
        ...

    def paused(self, attachment: int, reasons: frozenset[str]) -> None:
        """Fetching stopped for these reasons, or goes on (none)."""
        ...

    def troubled(self, error: KafkaError, meaning: Meaning) -> None:
        """The client reports an error."""
        ...

    def recreated(self, error: str, retry_s: float) -> None:
        """The client was given up; another follows."""
        ...

    def poll_failed(self, error: BaseException) -> None:
        """The thread has ended, or one of these calls raised: nothing more can be taken of what it brings."""
        ...


@dataclass(slots=True, eq=False)
class Attachment:
    """One stay of a partition in the client. Belongs to the poll thread."""

    number: int
    topic: str
    partition: int
    next: int
    leader_epoch: int | None
    """For the client to attach with: of the last record handed over, or what is stored, which may be of a later one."""
    source: Congestible
    pauses: Pauses = field(default_factory=Pauses)
    seen_epoch: int | None = None
    """Leader epoch of the last record handed over."""

    def place(self) -> Place:
        """Where it is."""
        return (self.topic, self.partition)

    def at_next(self) -> TopicPartition:
        """To attach at our own next offset."""
        if self.leader_epoch is None:
            return TopicPartition(self.topic, self.partition, self.next)
        return TopicPartition(self.topic, self.partition, self.next, leader_epoch=self.leader_epoch)

    def bare(self) -> TopicPartition:
        """For calls that need no offset."""
        return TopicPartition(self.topic, self.partition)

    def handed_over(self, records: Sequence[Record]) -> None:
        """The loop has these now."""
        last = records[-1]
        assert last.offset >= self.next, f"{last} was handed over before"
        self.next = last.offset + 1
        self.leader_epoch = self.seen_epoch = last.leader_epoch

    def another_log(self, records: Sequence[Record]) -> str | None:
        """Why records cannot be of the log that was read so far: along a log leader epochs only grow (cases 19, 20)."""
        before = self.seen_epoch
        if before is None:
            return None
        for record in (records[0], records[-1]):
            if record.leader_epoch is not None and record.leader_epoch < before:
                return (
                    f"the log was truncated or created again: its leader epoch went from {before} "
                    f"to {record.leader_epoch} at offset {record.offset}"
                )
        return None


@dataclass(slots=True)
class Sorted:
    """Messages of one poll, by what is to be done with them."""

    batches: list[tuple[Attachment, list[Record]]]
    refused: list[tuple[Attachment, str]]
    """Attachments whose offset Kafka does not have, or whose log is another one, with what was said."""
    errors: list[KafkaError]

    def mean_size(self) -> float:
        """Bytes of a record; there is at least one."""
        sizes = [record.size for _, records in self.batches for record in records]
        return sum(sizes) / len(sizes)


def sort(messages: Sequence[Message], attached: Mapping[Place, Attachment]) -> Sorted:
    """Records by attachment, in order. What belongs to none was detached in this very poll, and is fetched again."""
    batches: dict[Place, tuple[Attachment, list[Record]]] = {}
    refused: list[tuple[Attachment, str]] = []
    errors: list[KafkaError] = []
    place: Place | None = None
    batch: tuple[Attachment, list[Record]] | None = None
    for message in messages:
        error = message.error()
        found = (cast("str", message.topic()), cast("int", message.partition()))
        if error is not None:
            if meaning_of(error) is not Meaning.RESET:
                errors.append(error)
            elif found in attached:
                refused.append((attached[found], error.str()))
            continue
        if found != place:
            place = found
            attachment = attached.get(found)
            batch = None if attachment is None else batches.setdefault(found, (attachment, []))
        if batch is not None:
            attachment, records = batch
            offset = cast("int", message.offset())
            records.append(record_of(message, attachment.topic, attachment.partition, offset))
    whole: list[tuple[Attachment, list[Record]]] = []
    for attachment, records in batches.values():
        if (reason := attachment.another_log(records)) is None:
            whole.append((attachment, records))
        else:
            refused.append((attachment, reason))
    return Sorted(whole, refused, errors)
