"""Kafka, both ends: the only importer of confluent_kafka. `Group` is one member of a consumer group.

settings  what a member is told            client      the client's configuration, what is pinned and why
group     the member, as a service         poller      the one thread that touches the client
partition one assigned partition's life    assignment  the same as a table
starts    where to begin without progress  validation  whether progress and log belong together
cluster   what brokers know                backpressure, progress, lag, records, errors, telemetry
relay     moves the outbox to Kafka        transactions, producer, position
oauth     tokens of a user's function
"""

from consumers.group import Group, GroupSnapshot, PartitionSnapshot
from consumers.relay import Relay, RelaySnapshot
from consumers.settings import (
    GroupProtocol,
    GroupSettings,
    OnGap,
    OnRecreated,
    RelaySettings,
    Security,
    StartAt,
    StartAtTime,
    Subscription,
)

__all__ = [
    "Group",
    "GroupProtocol",
    "GroupSettings",
    "GroupSnapshot",
    "OnGap",
    "OnRecreated",
    "PartitionSnapshot",
    "Relay",
    "RelaySettings",
    "RelaySnapshot",
    "Security",
    "StartAt",
    "StartAtTime",
    "Subscription",
]
