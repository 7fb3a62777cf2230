"""Reads a range of a partition's log from beside every group: windows of bounded size, and what its holes are.

    committed reader    records, and between them holes
    uncommitted reader  only from the first hole on: the records in the holes belong to transactions that were aborted;
                        what it does not deliver either is a control record, or compacted

No group is joined and nothing is committed. Blocking: for a thread.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.client import client_log, consumer_config, made
from consumers.errors import Meaning, meaning_of
from consumers.handover import Place
from consumers.records import record_of
from consumers.settings import GroupProtocol, GroupSettings
from engine.errors import ConfigurationError
from engine.records import Record

RECORDS_MAX = 2_000
BYTES_MAX = 8 * 1024 * 1024
OFFSETS_MAX = 20_000
"""Of one window: records, their bytes, and offsets it spans."""

SILENCE_MAX_S = 30.0
"""Brokers that give nothing for so long, before the end was reached, are said to."""

CONSUME_S = 0.5


class LogNotReadError(ConfigurationError):
    """The brokers do not give what lies between two offsets. The message says how far they did."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a log has in [start, end): records, offsets of aborted ones, and how many offsets have neither."""

    start: int
    end: int
    records: list[Record]
    aborted: list[int]
    empty: int


def windows(
    settings: GroupSettings, place: Place, start: int, end: int, *, stopped: Callable[[], bool] = bool
) -> Generator[Window]:
    """Read [start, end), which the log must reach. Close it, or read it to its end.

    Args:
        settings: Of the group, for the connection.
        place: Which partition.
        start: The first offset.
        end: Behind the last.
        stopped: Asked while brokers give nothing: whether nobody waits for it any more.

    Raises:
        LogNotReadError: The brokers do not give it, the log begins later by now, or it was stopped.
    """
    committed = _Reader(settings, place, start, isolation="read_committed", stopped=stopped)
    uncommitted: _Reader | None = None
    try:
        while start < end:
            records, behind = committed.take(end)
            aborted: list[int] = []
            holes = behind - start - len(records)
            if holes:
                # From here on it reads along: a second position for each hole would cost a fetch each.
                uncommitted = uncommitted or _Reader(
                    settings, place, start, isolation="read_uncommitted", stopped=stopped
                )
            if uncommitted is not None:
                known = {record.offset for record in records}
                while uncommitted.position < behind:
                    more, _ = uncommitted.take(behind)
                    aborted += [record.offset for record in more if record.offset not in known]
            yield Window(start, behind, records, aborted, holes - len(aborted))
            start = behind
    finally:
        committed.close()
        if uncommitted is not None:
            uncommitted.close()


def times_at(settings: GroupSettings, offsets: Mapping[Place, int], *, within_s: float) -> dict[Place, int]:
    """The time of the first record at or above an offset of each partition, epoch ms.

    Those are missing that came not in time, or have no time. Blocking.
    """
    config = consumer_config(_alone(settings)) | {"queued.max.messages.kbytes": 1024}
    consumer = made(lambda: Consumer(config, logger=client_log), config)
    wanted = set(offsets)
    found: dict[Place, int] = {}
    deadline = time.monotonic() + within_s
    try:
        consumer.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])
        while wanted and time.monotonic() < deadline:
            message = consumer.poll(min(CONSUME_S, within_s))
            if message is None or message.error() is not None:
                continue
            place = (str(message.topic()), int(message.partition() or 0))
            if place not in wanted:
                continue
            wanted.discard(place)
            consumer.incremental_unassign([TopicPartition(*place)])
            kind, timestamp_ms = message.timestamp()
            if kind != TIMESTAMP_NOT_AVAILABLE:
                found[place] = timestamp_ms
    finally:
        consumer.close()
    return found


def _alone(settings: GroupSettings) -> GroupSettings:
    """Settings of a reader beside the group: what only members have would be refused, or take their place."""
    return replace(settings, instance_id=None, protocol=GroupProtocol.CLASSIC, session_timeout=None)


class _Reader:
    """One consumer at one position."""

    def __init__(
        self, settings: GroupSettings, place: Place, start: int, *, isolation: str, stopped: Callable[[], bool]
    ) -> None:
        config = consumer_config(_alone(settings)) | {"isolation.level": isolation, "enable.partition.eof": True}
        self._consumer = made(lambda: Consumer(config, logger=client_log), config)
        self._place = place
        self._stopped = stopped
        self._fetched: deque[Message] = deque()
        self._end_of_log: int | None = None
        self.position = start
        self._consumer.assign([TopicPartition(*place, start)])

    def take(self, end: int) -> tuple[list[Record], int]:
        """The next records below `end`, and the offset up to which there are no others. Moves the position there."""
        records: list[Record] = []
        size = 0
        limit = min(end, self.position + OFFSETS_MAX)
        heard_at = time.monotonic()
        while len(records) < RECORDS_MAX and size < BYTES_MAX:
            if not self._fetched and not self._fetch():
                if self._end_of_log is not None and self._end_of_log >= limit:
                    break  # what it has not delivered below its end does not exist
                if self._stopped():
                    raise LogNotReadError(self._said("it was stopped", limit))
                if time.monotonic() - heard_at > SILENCE_MAX_S:
                    raise LogNotReadError(self._said(f"nothing came for {SILENCE_MAX_S:.0f} s", limit))
                continue
            heard_at = time.monotonic()
            message = self._fetched[0]
            offset = _offset(message)
            if offset >= limit:
                break
            self._fetched.popleft()
            if offset >= self.position:  # a compressed batch may begin below
                record = record_of(message, *self._place, offset)
                records.append(record)
                size += record.size
        else:
            limit = records[-1].offset + 1
        self.position = limit
        return records, limit

    def close(self) -> None:
        """Let it go."""
        self._consumer.close()

    def _fetch(self) -> bool:
        # One, and what is there with it: `consume` waits for as many as it was asked for, or its whole time-out.
        first = self._consumer.poll(CONSUME_S)
        for message in [] if first is None else [first, *self._consumer.consume(RECORDS_MAX, 0)]:
            error = message.error()
            if error is None:
                self._fetched.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # documented so
                self._end_of_log = message.offset()
            elif meaning_of(error) is not Meaning.PASSING:  # the others the client retries
                raise LogNotReadError(self._said(error.str(), None)) from KafkaException(error)
        return bool(self._fetched)

    def _said(self, why: str, limit: int | None) -> str:
        topic, partition = self._place
        until = "" if limit is None else f" of what lies below {limit}"
        return f"Kafka does not give {topic}-{partition} from offset {self.position} on{until}: {why}"


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None, "a record has an offset"
    return offset
