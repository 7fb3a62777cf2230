"""Kafka's half of the relay: one transactional producer, and the position that its transactions commit (I9).

    open      init_transactions: older producers of this ID are fenced, what they had open is ended ─▶ read the position
    publish   begin ─ produce, in order ─ send the position ─ commit

Blocking, and of one thread at a time. What a transaction that failed has done is not guessed: whoever is in doubt
closes this and opens another.
"""

import json
import time
from base64 import b64decode
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic  # not exported by `admin`, whose documentation names it

from consumers.client import new_admin
from consumers.errors import TIMED_OUT
from consumers.position import Position
from consumers.producer import new_position_reader, new_producer
from consumers.settings import RelaySettings
from engine.batches import Batch
from engine.crashpoints import CrashPoint, reach
from engine.errors import EngineError
from engine.store.outbox import OutboxRow

TRY_S = 2.0
"""One try of an opening or a commit; between two it is looked whether to stop."""

OVERDUE_S = 5.0
"""Beyond its own time-out, after which a request is taken for one that never returns."""

CREATED_S = 10.0
"""Longest until a topic that was made is known to the brokers."""

TOPICS_S = 5.0
"""Between two looks for topics that are missing."""

# The client's own codes begin with an underscore, and are documented so.
_REFUSING: Final = frozenset(
    getattr(KafkaError, name)
    for name in (
        *("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "TOPIC_EXCEPTION"),
        *("TOPIC_AUTHORIZATION_FAILED", "POLICY_VIOLATION", "INVALID_RECORD", "INVALID_TIMESTAMP"),
        *("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG_SIZE", "_MSG_TIMED_OUT"),
    )
)
"""Errors of a record that are about its topic: another topic's records go through."""


class RefusedError(Exception):
    """Kafka takes no records of some topics. Nothing of the batch was published, and the producer can go on."""

    def __init__(self, topics: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{topic}: {reason}" for topic, reason in sorted(topics.items())))
        self.topics = dict(topics)


class PositionTopicError(EngineError):
    """The topic on which the relay commits its position is missing, and cannot be made. Says what to do."""


class Transactions:
    """A transactional producer, from its opening to its end.

    Args:
        settings: Brokers, names, limits.
        outbox_name: Of the outbox: part of the transactional ID and of the group.
        on_error: Told what the clients report. Must not raise.
    """

    def __init__(self, settings: RelaySettings, outbox_name: str, on_error: Any) -> None:
        self.id = f"{settings.prefix}-{outbox_name}"
        self._settings = settings
        self._timeout_s = settings.request_max.total_seconds()
        self._place = (settings.position_topic, 0)
        self._topics: frozenset[str] = frozenset()
        self._topics_at = 0.0
        self._failures: dict[str, str] = {}
        self._is_cancelled = False
        self._due_at: float | None = None
        self._producer: Producer = new_producer(settings, self.id, on_error=on_error)
        self._reader: Consumer = new_position_reader(settings, self.id, on_error=on_error)
        self._group: Any = None

    def open(self) -> Position | None:
        """Fence every older producer, and read how far they came.

        Raises:
            KafkaException: Brokers are away, or do not let us.
            PositionTopicError: Its topic cannot be made.
        """
        self._look_at_topics()
        if self._settings.position_topic not in self._topics:
            self._create_position_topic()
        self._fence()
        self._group = self._reader.consumer_group_metadata()
        [found] = self._reader.committed([TopicPartition(*self._place)], timeout=self._timeout_s)
        if found.error is not None:
            raise KafkaException(found.error)
        return Position.of(found.offset, found.metadata)

    def publish(self, batch: Batch) -> None:
        """Publish a batch and its position, both or neither.

        Raises:
            RefusedError: Of some topics nothing is taken: nothing was published.
            KafkaException: It failed, or nobody knows.
        """
        if missing := self._missing({row.topic for row in batch.rows}):
            raise RefusedError(dict.fromkeys(missing, "there is no such topic, or this user may not describe it"))
        self._failures = {}
        deadline = time.monotonic() + self._settings.transaction_timeout.total_seconds()
        self._producer.begin_transaction()
        try:
            for row in batch.rows:
                self._produce(row, deadline)
            reach(CrashPoint.RELAY_PRODUCED)
            self._commit(Position(batch.number, batch.token), deadline)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                self._abort()
                if self._failures:
                    raise RefusedError(self._failures) from error
            raise
        reach(CrashPoint.RELAY_COMMITTED)

    def refresh(self, position: Position) -> None:
        """Commit a position again, so that brokers do not forget it. Raises `KafkaException`."""
        self._producer.begin_transaction()
        self._commit(position, time.monotonic() + self._timeout_s)

    def cancel(self) -> None:
        """End the wait for a commit at its next try. From any thread."""
        self._is_cancelled = True

    def close(self) -> None:
        """Let the clients go. What is open is ended by the next producer of this ID, or when its time is over.

        Not by the producer's own `close`, which aborts first, and warns or raises where it cannot.
        """
        producer = self._producer
        del self._producer
        with suppress(KafkaException):  # one that was fenced says so again whatever it is asked
            producer.purge()
        with suppress(KafkaException):
            self._reader.close()

    @property
    def is_stuck(self) -> bool:
        """Whether a request has not returned long after its own time-out: it never may. From any thread.

        librdkafka's `send_offsets_to_transaction` waits for as long as its group's coordinator is away, whatever its
        time-out: it was seen whenever brokers were down, slow, or said that the coordinator is not available.
        """
        due_at = self._due_at
        return due_at is not None and time.monotonic() > due_at

    # -- inside

    @contextmanager
    def _within(self, seconds: float) -> Generator[None]:
        self._due_at = time.monotonic() + seconds + OVERDUE_S
        try:
            yield
        finally:
            self._due_at = None

    def _fence(self) -> None:
        """In tries, as a commit: brokers that are away must not keep a stop waiting."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                with self._within(TRY_S):
                    self._producer.init_transactions(TRY_S)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline or self._is_cancelled:
                    raise
            else:
                return

    def _produce(self, row: OutboxRow, deadline: float) -> None:
        headers = None if row.headers is None else headers_of(row.headers)
        while True:
            try:
                self._producer.produce(
                    row.topic,
                    row.value,
                    row.key,
                    headers=headers,
                    timestamp=row.created_at,
                    on_delivery=self._delivered,
                )
            except BufferError:
                if time.monotonic() > deadline or self._is_cancelled:
                    raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None  # noqa: SLF001
                self._producer.poll(0.1)
            else:
                return

    def _commit(self, position: Position, deadline: float) -> None:
        committed = TopicPartition(*self._place, position.number, position.metadata)
        with self._within(self._timeout_s):
            self._producer.send_offsets_to_transaction([committed], self._group, self._timeout_s)
        reach(CrashPoint.RELAY_POSITIONED)
        if self._is_cancelled:
            # It may have hung for long and come back: whoever waited has gone on with another producer.
            raise KafkaException(KafkaError(TIMED_OUT, "it was given up before its commit"))
        while True:
            try:
                with self._within(TRY_S):
                    self._producer.commit_transaction(TRY_S)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline or self._is_cancelled:
                    raise
            else:
                return

    def _abort(self) -> None:
        with self._within(self._timeout_s):
            self._producer.abort_transaction(self._timeout_s)
        self._producer.poll(0)  # what was delivered, and what was not

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() in _REFUSING:
            self._failures.setdefault(str(message.topic()), error.str())

    def _missing(self, topics: Collection[str]) -> list[str]:
        """Those that brokers do not know. Not by asking for them: that would create them where brokers do so."""
        if not self._topics.issuperset(topics) and time.monotonic() - self._topics_at >= TOPICS_S:
            self._look_at_topics()
        return [topic for topic in topics if topic not in self._topics]

    def _look_at_topics(self) -> None:
        self._topics = frozenset(self._producer.list_topics(timeout=self._timeout_s).topics)
        self._topics_at = time.monotonic()

    def _create_position_topic(self) -> None:
        topic = self._settings.position_topic
        admin: Any = new_admin(self._settings, on_error=_pass_over)
        try:
            admin.create_topics([NewTopic(topic, 1, -1)], request_timeout=self._timeout_s)[topic].result(
                self._timeout_s + 1
            )
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise PositionTopicError(
                    f"topic {topic!r}, on which the relay commits how far it is, does not exist, and making it failed:\n"
                    f"  {error.args[0].str()}. Create it with one partition (it stays empty), or name another:\n"
                    f"  outbox.position_topic."
                ) from error
        deadline = time.monotonic() + CREATED_S
        while topic not in self._topics and time.monotonic() < deadline and not self._is_cancelled:
            time.sleep(0.05)
            self._look_at_topics()


def headers_of(column: str) -> list[tuple[str, str | bytes | None]]:
    """The headers of an event, of its row."""
    return [(name, None if value is None else b64decode(value)) for name, value in json.loads(column)]


def _pass_over(_: KafkaError) -> None:
    """What matters comes as the request's own error."""
