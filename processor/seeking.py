"""Moves a partition's progress, for `processor partitions seek` and for the admin API: what Kafka holds is asked first."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from consumers.offsets import Located, Target, locate
from consumers.settings import StartAt
from consumers.validation import Log
from engine.inspection import PartitionRow, list_partitions
from engine.partitions import PartitionActError, Place, unknown
from engine.progress import Progress
from engine.seeks import Anew, Seek, seek
from processor.config import Settings
from processor.wiring import group_settings

Locate = Callable[[str, str, int, Target], Coroutine[Any, Any, Located]]
"""Asks Kafka where a target is: consumer group, topic, partition, target."""


def locate_by(settings: Settings) -> Locate:
    """Ask the brokers of these settings."""
    return lambda group, topic, partition, target: locate(group_settings(settings, group), topic, partition, target)


def target_of(text: str) -> Target:
    """An offset, 'earliest', 'latest', or a time with its zone. Raises `ValueError` that says what it is not."""
    if text.isascii() and text.isdecimal():
        return int(text)
    if text in ("earliest", "latest"):
        return StartAt(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no offset, 'earliest', 'latest' or time") from None
    if at.tzinfo is None:
        raise ValueError(f"{text!r}: a time needs its zone, as 2026-01-31T08:00:00Z")
    return at


async def move(
    connection: Any,
    schema: str,
    place: Place,
    *,
    target: Target,
    locate: Locate,
    note: str,
    actor: str,
    new_incarnation: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> tuple[Seek, PartitionRow]:
    """Move it, or say what that would do. Returns that, and the partition as it stood before.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        place: Which partition.
        target: Where to.
        locate: Asks Kafka.
        note: Why, for the audit.
        actor: Who.
        new_incarnation: From there on the log has other records than before.
        force: Also where rows were deleted already.
        dry_run: Change nothing.

    Raises:
        PartitionActError: There is no such partition, or its log is another one, or rows were deleted there.
        ConfigurationError: Kafka does not have that offset, or does not answer.
    """
    stored = await list_partitions(connection, schema, group=place.group)
    partition = next((each for each in stored if each.topic_partition == place.topic_partition), None)
    if partition is None:
        raise unknown(place)
    ref = place.ref(partition.handler)
    found = await locate(place.group, ref.topic, ref.partition, target)
    if not force:
        _refuse_former_topic(place, partition.progress, found.log)
    if not new_incarnation:
        _refuse_another_log(place, partition.progress, found.log)
    done = await seek(
        connection,
        schema,
        place,
        to=found.offset,
        note=note,
        actor=actor,
        anew=Anew(found.log.topic_id, found.log.start) if new_incarnation else None,
        force=force,
        dry_run=dry_run,
    )
    return done, partition


def _refuse_former_topic(place: Place, progress: Progress, log: Log) -> None:
    """A broker that lags tells an ID that the topic had before: nothing is decided by its answer."""
    if log.topic_id in progress.former:
        raise PartitionActError(
            f"{place}: brokers tell the topic's former ID {log.topic_id}: one that lags. Try again in a moment.\n"
            f"  If the cluster was restored to what it was before, say so (--force)."
        )


def _refuse_another_log(place: Place, progress: Progress, log: Log) -> None:
    """A seek within a log that is not the one of the progress: the next claim would only halt again."""
    processed = max(progress.next, progress.high)
    if progress.topic_id and log.topic_id and progress.topic_id != log.topic_id:
        reason = f"topic {place.topic_partition.rpartition('-')[0]!r} is another one under the same name"
    elif log.end < processed:
        reason = f"the log of {place.topic_partition} ends at {log.end}, and records up to {processed} were processed"
    else:
        return
    raise PartitionActError(
        f"{reason}: the same offsets name other records.\n"
        f"  With --new-incarnation those from --to on get workflow IDs of their own."
    )


__all__ = ["Locate", "locate_by", "move", "target_of"]
