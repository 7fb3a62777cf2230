"""Consumers of one group, driven by a test in its own thread as the poll thread drives them.

What a member does and does not do is the recipe that the tests prove:

- every callback calls its assign method, on assignment with nothing, on revocation with what is attached (else the
  binding answers for us, at the wrong offsets, or raises for partitions that were never attached);
- what is attached is remembered, not asked: `assignment()` and `consumer_group_metadata()` in a callback raise or hang
  while the client closes, and an assignment may still arrive then;
- it leaves in order: unsubscribe, poll until nothing is owned, close. A plain `close()` of a cooperative member while
  a rebalance is under way can hang for ever inside the callback's assign call (librdkafka issue 4884; with 2.16 on the
  mock cluster at the 3rd, 7th and 8th rebalance of three runs, on real Kafka in none of 150).
"""

import contextlib
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from consumers.mock import MockCluster
from consumers.settings import GroupProtocol
from tests.fixtures.kafka import Kafka, unique

Broker = MockCluster | Kafka
Place = tuple[str, int]

PATIENCE_S = 60
"""Longest a test waits for what must come. Nothing is asserted about how long it took."""

POLL_S = 0.02

Protocol = str  # 'classic' or 'consumer'


@dataclass(slots=True)
class Log:
    """What a member's callbacks were told, in order: ('assigned' | 'revoked' | 'lost', partitions)."""

    events: list[tuple[str, list[int]]] = field(default_factory=list[tuple[str, list[int]]])
    generations: list[int] = field(default_factory=list[int])


class Member:
    """One member of a group: subscribes, acknowledges assignments without attaching, and collects what arrives."""

    def __init__(
        self,
        bootstrap_servers: str,
        group: str,
        topic: str,
        *,
        protocol: Protocol = "classic",
        on_commit: Callable[[KafkaError | None, list[TopicPartition]], None] | None = None,
        **options: object,
    ) -> None:
        self.topic = topic
        self.log = Log()
        self._closed = False
        self.owned: set[int] = set()
        self.attached: set[int] = set()
        self.records: list[Message] = []
        self.errors: list[tuple[int, int | None]] = []
        """Errors that came as messages: code and partition."""
        self.fatal: list[str] = []
        """Texts of errors that leave the client unusable: their code does not say why."""
        config: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "group.protocol": protocol,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
        if on_commit:
            config["on_commit"] = on_commit
        if protocol == "classic":
            config |= {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 2000,
                "heartbeat.interval.ms": 100,
            }
        self.consumer = Consumer(config | {name.replace("_", "."): value for name, value in options.items()})
        self.consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def attach(self, partition: int, offset: int, *, leader_epoch: int | None = None) -> None:
        """Fetch a partition from an offset, and not paused."""
        place = TopicPartition(self.topic, partition, offset)
        if leader_epoch is not None:
            place = TopicPartition(self.topic, partition, offset, leader_epoch=leader_epoch)
        self.consumer.incremental_assign([place])
        self.consumer.resume([TopicPartition(self.topic, partition)])
        self.attached.add(partition)

    def detach(self, partition: int) -> None:
        """Stop fetching a partition that stays assigned to us."""
        self.consumer.incremental_unassign([TopicPartition(self.topic, partition)])
        self.attached.remove(partition)

    def position(self, partition: int) -> int:
        return self.consumer.position([TopicPartition(self.topic, partition)])[0].offset

    def turn(self) -> None:
        """As the poll thread does: the first message by waiting, the rest without."""
        message = self.consumer.poll(POLL_S)
        if message is None:
            return
        for each in [message, *self.consumer.consume(500, 0)]:
            error = each.error()
            if error is None:
                self.records.append(each)
            else:
                self.errors.append((error.code(), each.partition()))
                if error.code() == KafkaError._FATAL:
                    self.fatal.append(error.str())

    def values(self, partition: int | None = None) -> list[str]:
        return [
            (message.value() or b"").decode()
            for message in self.records
            if partition is None or message.partition() == partition
        ]

    def close(self) -> None:
        """Leave the group in order. May be called again."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(KafkaException):  # a fenced member is out already
            self.consumer.unsubscribe()
            until(lambda: not self.owned, self)
        self.consumer.close()

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        consumer.incremental_assign([])  # acknowledges; attaching is decided later, elsewhere
        if self._closed:
            return
        partitions = [place.partition for place in places]
        self.owned |= set(partitions)
        self.log.events.append(("assigned", sorted(partitions)))
        self.log.generations.append(generation(consumer))

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._gone("revoked", consumer, places)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._gone("lost", consumer, places)

    def _gone(self, how: str, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [place.partition for place in places]
        consumer.incremental_unassign([place for place in places if place.partition in self.attached])
        self.attached -= set(partitions)
        self.owned -= set(partitions)
        self.log.events.append((how, sorted(partitions)))


def generation(consumer: Consumer) -> int:
    """The group's generation (classic) or the member's epoch (KIP-848), out of a value that is opaque by contract."""
    metadata: Any = consumer.consumer_group_metadata()
    assert metadata[:7] == b"CGMDv2:"
    return struct.unpack("=i", metadata[7:11])[0]


def until(condition: Callable[[], object], *members: Member) -> None:
    """Poll all members until something is so.

    Raises:
        TimeoutError: It never came. Says what the members were told.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            told = [(member.log.events, member.errors, len(member.records)) for member in members]
            raise TimeoutError(f"it never came; events, errors and number of records: {told}")
        for member in members:
            member.turn()


def produce(
    bootstrap_servers: str, topic: str, values: Sequence[str | None], *, partition: int = 0, **fields: Any
) -> None:
    """Write records and wait until the broker has them."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    errors: list[KafkaError | None] = []
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=lambda error, _: errors.append(error), **fields)
    assert producer.flush(PATIENCE_S) == 0
    assert errors == [None] * len(values)


class Members:
    """Makes members of one group, and closes them at the end."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.group = unique("group")
        self._broker = broker
        self._topic = topic
        self._made: list[Member] = []

    def __call__(self, *, protocol: GroupProtocol = GroupProtocol.CLASSIC, **options: Any) -> Member:
        member = Member(self._broker.bootstrap_servers, self.group, self._topic, protocol=protocol.value, **options)
        self._made.append(member)
        return member

    def close(self) -> None:
        """Close all."""
        for member in self._made:
            member.close()
