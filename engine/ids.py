"""Names of things: workflow IDs, sources, tokens. Pure.

A record's workflow ID is a function of its coordinates, so that a redelivery meets its own row (I2):

    topic-partition-offset               the group that first registered the topic in this database
    group|topic-partition-offset         any other group
    topic~2-partition-offset             the second topic of that name (incarnation)

Both numbers stand last, so an ID parses unambiguously from the right whatever the topic is called.
"""

import secrets
from dataclasses import dataclass
from typing import NamedTuple, NewType
from zlib import crc32

WorkflowId = NewType("WorkflowId", str)
ExecutorId = NewType("ExecutorId", str)
OwnerToken = NewType("OwnerToken", str)
"""`owner_xid` of a running row: the token of the claim (or the executor) that runs it. At most 40 characters."""

OrderingKey = NewType("OrderingKey", int)
"""Signed 64-bit hash of a record's ordering key. Two keys that collide run one after the other; nothing else happens."""

PARTITION_KEY = OrderingKey(0)
"""The one ordering key of a partition whose records run strictly in order."""


_HALF = 1 << 63


def new_executor_id() -> ExecutorId:
    """An ID new at every start: time does not matter, only that it was never used."""
    return ExecutorId(secrets.token_hex(8))


def new_token() -> OwnerToken:
    """A claim token: unguessable, so that no two claims ever share one."""
    return OwnerToken(secrets.token_hex(16))


def ordering_key(key: bytes) -> OrderingKey:
    """Hash a key to what the rows store. Never `PARTITION_KEY`, so that no key shares its meaning.

    Two checksums, of the key and of the key backwards: 0.2 µs, where a cryptographic hash takes 0.5, and every record
    has one. Whoever makes two keys collide on purpose could have sent the same key twice.
    """
    return OrderingKey(((crc32(key) << 32) | crc32(key[::-1])) - _HALF or 1)


@dataclass(frozen=True, slots=True, order=True)
class SourceRef:
    """A partition as the engine sees it: an ordered source of records for one handler.

    Attributes:
        group: Kafka consumer group.
        handler: Name of the registered handler.
        topic: Topic.
        partition: Partition number.
    """

    group: str
    handler: str
    topic: str
    partition: int

    @property
    def service_name(self) -> str:
        """`event_dispatch_kv.service_name`."""
        return f"kafka:{self.group}"

    @property
    def key(self) -> str:
        """`event_dispatch_kv.key`."""
        return f"{self.topic}-{self.partition}"

    def name(self, incarnation: int) -> str:
        """`workflow_status.kafka_source`: the group and the incarnation always in it."""
        return f"{self.group}|{_topic(self.topic, incarnation)}-{self.partition}"

    def former_names(self, incarnation: int) -> tuple[str, ...]:
        """`name` of the topics that had this one's name before it, oldest first."""
        return tuple(self.name(former) for former in range(1, incarnation))

    def id_prefix(self, *, owns_topic: bool, incarnation: int) -> str:
        """What stands before the offset in this partition's workflow IDs."""
        prefix = "" if owns_topic else f"{self.group}|"
        return f"{prefix}{_topic(self.topic, incarnation)}-{self.partition}-"

    def __str__(self) -> str:
        return f"{self.group}|{self.topic}-{self.partition}"


def _topic(topic: str, incarnation: int) -> str:
    return topic if incarnation == 1 else f"{topic}~{incarnation}"


class SourceParts(NamedTuple):
    """`workflow_status.kafka_source`, taken apart: the progress row it belongs to, and the n-th topic of that name."""

    service_name: str
    key: str
    incarnation: int


def parts_of(source: str) -> SourceParts | None:
    """The inverse of `SourceRef.name`; `None` for what it never returns. A topic has neither '|' nor '~' (Kafka)."""
    group, bar, rest = source.rpartition("|")
    named, _, partition = rest.rpartition("-")
    topic, tilde, incarnation = named.rpartition("~")
    if not tilde:
        topic, incarnation = named, "1"
    if not (bar and topic and incarnation.isdecimal() and partition.isdecimal()):
        return None
    return SourceParts(f"kafka:{group}", f"{topic}-{partition}", int(incarnation))
