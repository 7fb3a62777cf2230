"""Puts records into a topic and looks at its logs: what the demo needs of Kafka besides the consumers.

Idempotent, so that a lost reply neither doubles nor reorders what was produced. A record that could not be delivered
is remembered, and raised by the next call.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic  # not exported by `admin`, whose documentation names it

from engine.errors import ConfigurationError

_REQUEST_S = 10.0
"""Longest one question to the brokers may take."""

_CONTACT_S = 8.0
"""Longest wait for the first answer of brokers: a person waits for it."""

_GROUP_LOOK_S = 0.5
"""Between two tries to delete a group that has members."""

_DELIVERY = timedelta(minutes=2)
"""How long a record may be under way: longer than a broker takes to restart."""


class FeedError(Exception):
    """A record was not delivered, or something was not removed."""


@dataclass(frozen=True, slots=True)
class LogBounds:
    """Where a partition's log begins and ends."""

    partition: int
    start: int
    end: int


class Feed:
    """Topics, from outside. `produce` and `flush` belong to one thread."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._connection: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
        self._servers = bootstrap_servers
        self._producer = Producer(
            {
                **self._connection,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": round(_DELIVERY.total_seconds() * 1000),
            }
        )
        self._failure: str | None = None
        self.delivered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._producer.purge()
        self._producer.flush(1)

    def produce(self, topic: str, key: str, value: bytes) -> None:
        """Hand a record over; waits while the client's queue is full.

        Raises:
            FeedError: An earlier record was not delivered.
        """
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._on_delivery)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)
        self._check()

    def flush(self, timeout: timedelta) -> bool:
        """Wait until all is delivered, at most so long; returns whether it is. Raises `FeedError` as `produce`."""
        left = self._producer.flush(timeout.total_seconds())
        self._check()
        return not left

    def reach(self) -> None:
        """Make sure that there are brokers.

        Raises:
            ConfigurationError: There is no answer in 8 seconds.
        """
        try:
            AdminClient(self._connection).list_topics(timeout=_CONTACT_S)
        except KafkaException as error:
            raise ConfigurationError(
                f"Kafka at {self._servers} did not answer within {_CONTACT_S:.0f} s: {error.args[0].str()}\n"
                f"  Check the address, the network, and that this listener wants neither TLS nor SASL."
            ) from None

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create a topic on real brokers, and wait until its partitions have leaders.

        Raises:
            ConfigurationError: The brokers cannot be reached, or refuse.
        """
        # Any: the client's stubs leave its futures without a type.
        admin: Any = AdminClient(self._connection)
        try:
            admin.list_topics(timeout=_REQUEST_S)
            created = admin.create_topics([NewTopic(topic, partitions, -1)], request_timeout=_REQUEST_S)
            created[topic].result(2 * _REQUEST_S)
            deadline = time.monotonic() + _REQUEST_S
            while time.monotonic() < deadline:
                found = admin.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions
                if len(found) == partitions and all(partition.leader >= 0 for partition in found.values()):
                    return
                time.sleep(0.05)
        except KafkaException as error:
            raise ConfigurationError(f"Kafka at {self._servers}: topic {topic}: {error.args[0].str()}") from None
        raise ConfigurationError(f"Kafka at {self._servers}: topic {topic} has no leaders")

    def delete_topic(self, topic: str) -> None:
        """Delete a topic from real brokers, if they have it. Raises `FeedError` when they refuse."""
        admin: Any = AdminClient(self._connection)
        try:
            admin.delete_topics([topic], request_timeout=_REQUEST_S)[topic].result(2 * _REQUEST_S)
        except KafkaException as error:
            if self._may_have(admin, topic):
                raise FeedError(f"topic {topic} was not deleted: {error.args[0].str()}") from None

    def _may_have(self, admin: Any, topic: str) -> bool:
        """Whether the brokers have a topic, or do not say."""
        try:
            return topic in admin.list_topics(timeout=_REQUEST_S).topics
        except KafkaException:
            return True

    def delete_group(self, group: str, within: timedelta) -> None:
        """Delete a consumer group from real brokers, if they have it; waits until its dead members have timed out.

        Raises:
            FeedError: They refuse, or it still has members after so long.
        """
        admin: Any = AdminClient(self._connection)
        deadline = time.monotonic() + within.total_seconds()
        while True:
            try:
                admin.delete_consumer_groups([group], request_timeout=_REQUEST_S)[group].result(2 * _REQUEST_S)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.GROUP_ID_NOT_FOUND:
                    return
                if code != KafkaError.NON_EMPTY_GROUP or time.monotonic() > deadline:
                    raise FeedError(f"group {group} was not deleted: {error.args[0].str()}") from None
                time.sleep(_GROUP_LOOK_S)
            else:
                return

    def bounds(self, topic: str, partitions: int) -> list[LogBounds]:
        """Where each partition's log begins and ends now."""
        consumer = Consumer({**self._connection, "group.id": f"{topic}-look"})
        try:
            found: list[LogBounds] = []
            for partition in range(partitions):
                watermarks = cast(
                    # Its stub forgets that no answer in time is None.
                    "tuple[int, int] | None",
                    consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_REQUEST_S),
                )
                if watermarks is None:
                    raise FeedError(f"{topic}: partition {partition} does not answer")
                found.append(LogBounds(partition, *watermarks))
            return found
        finally:
            consumer.close()

    def _on_delivery(self, error: KafkaError | None, _: object) -> None:
        if error is None:
            self.delivered += 1
        else:
            self._failure = error.str()

    def _check(self) -> None:
        if self._failure is not None:
            raise FeedError(f"a record was not delivered: {self._failure}")
