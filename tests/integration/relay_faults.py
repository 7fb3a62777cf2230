"""What tests of the relay look at, and where they stop it."""

import threading
from typing import Self

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from engine.crashpoints import CrashPoint, armed
from tests.fixtures.kafka import Kafka
from tests.integration.relaying import PATIENCE_S


class Stalled:
    """Stops whoever reaches a crash point first, in the relay's thread, until it is told to go on."""

    def __init__(self, point: CrashPoint) -> None:
        self._point = point
        self._event = threading.Event()
        self.reached = False

    def __enter__(self) -> Self:
        armed[self._point] = self._stall
        return self

    def __exit__(self, *exc: object) -> None:
        self.go_on()
        armed.pop(self._point, None)

    def _stall(self, point: CrashPoint) -> None:
        armed.pop(point, None)
        self.reached = True
        if threading.current_thread() is threading.main_thread():
            raise StoppedError(point)  # on the loop, which must not stand still
        self._event.wait(PATIENCE_S)

    def go_on(self) -> None:
        self._event.set()


class StoppedError(BaseException):
    """The relay's task ends at a point that it passes on the loop."""


def stored_position(kafka: Kafka, group: str) -> tuple[int, str] | None:
    request = [ConsumerGroupTopicPartitions(group, [TopicPartition("onceflow.relay", 0)])]
    answer = kafka.admin.list_consumer_group_offsets(request)[group].result(30)
    [found] = answer.topic_partitions
    return None if found.offset < 0 else (found.offset, found.metadata)


def murmur2_partition(key: bytes, partitions: int) -> int:
    """As Java's default partitioner: independent of the client under test."""
    length, seed, m, mask = len(key), 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF
    h = (seed ^ length) & mask
    for at in range(0, length - length % 4, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    rest = key[length - length % 4 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % partitions
