"""Where an operator's `earliest`, `latest`, time or offset is in a partition's log."""

from dataclasses import dataclass
from datetime import datetime

from confluent_kafka import KafkaException

from consumers.cluster import Cluster
from consumers.settings import GroupSettings, StartAt
from consumers.validation import Log
from engine.errors import ConfigurationError

Target = int | datetime | StartAt
"""An offset, the first record not older than a time, or an end of the log."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a target is, and the log it is in."""

    offset: int
    log: Log


async def locate(settings: GroupSettings, topic: str, partition: int, target: Target) -> Located:
    """Ask the brokers.

    Raises:
        ConfigurationError: They do not answer, have no such partition, or its log does not have the offset.
    """
    cluster = Cluster(settings)
    await cluster.open([topic])
    place = (topic, partition)
    try:
        if partition not in (await cluster.topic(topic)).partitions:
            raise ConfigurationError(f"topic {topic!r} has no partition {partition} in Kafka")
        log = await cluster.log(topic, partition)
        match target:
            case int():
                offset = target
            case datetime():
                offset = (await cluster.at_time([place], int(target.timestamp() * 1000)))[place]
            case StartAt.LATEST:
                offset = (await cluster.ends([place], committed_only=True))[place]
            case _:
                offset = log.start
    except KafkaException as error:
        raise ConfigurationError(f"Kafka does not say what the log of {topic}-{partition} holds: {error}") from error
    finally:
        cluster.close()
    if not log.start <= offset <= log.end:
        raise ConfigurationError(
            f"the log of {topic}-{partition} has offsets {log.start} to {log.end} (the next one), not {offset}"
        )
    return Located(offset, log)
