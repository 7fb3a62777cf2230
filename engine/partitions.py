"""Acts of operators on partitions: pause, resume, release, cancel. Every one is recorded in `audit`.

A live owner is not asked: it finds holds, and what was cancelled, with its next look, within a second. Moving a
partition's progress is engine/seeks.py.
"""

import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from engine.errors import EngineError
from engine.ids import SourceRef
from engine.progress import Progress
from engine.store import cancels, event_dispatch_kv, executor, holds
from engine.store.event_dispatch_kv import ProgressRow
from engine.store.statement import send

ROWS_CHANNEL = "processor_rows"
"""Of hints: rows or holds have changed."""

OF_FORMER_TOPICS = "of former topics of that name"

DETAILED_MAX = 20
"""Holds whose reasons an audit row repeats: a partition may have one for each key."""


class PartitionActError(EngineError):
    """A partition does not exist, or an act on it is refused. The message says which, and nothing was changed."""


class Place(NamedTuple):
    """A partition of a group, as operators name it: `topic-partition`."""

    group: str
    topic_partition: str

    @property
    def service_name(self) -> str:
        """`service_name` of its rows."""
        return f"kafka:{self.group}"

    @property
    def arguments(self) -> str:
        """As a command line names it, for messages that say what to type."""
        return f"{shlex.quote(self.topic_partition)} --group {shlex.quote(self.group)}"

    def ref(self, handler: str) -> SourceRef:
        """As the engine sees it."""
        topic, _, number = self.topic_partition.rpartition("-")
        return SourceRef(self.group, handler, topic, int(number))

    def __str__(self) -> str:
        return f"{self.group}|{self.topic_partition}"


def place_of(service_name: str, key: str) -> Place:
    """The partition of a progress row."""
    return Place(service_name.removeprefix("kafka:"), key)


async def pause(connection: AsyncConnection[Any], schema: str, place: Place, *, note: str, actor: str) -> bool:
    """Stop a partition until it is resumed, whoever owns it. False: it was paused already.

    Raises:
        PartitionActError: There is no such partition.
    """
    async with connection.transaction():
        await _read(connection, schema, place)
        placing = holds.place(
            services=[place.service_name],
            keys=[place.topic_partition],
            ordering_keys=[None],
            kinds=["pause"],
            reasons=[note],
            workflows=[None],
        )
        if not (await send(connection, schema, placing)).rowcount:
            return False
        await record_act(connection, schema, place, actor=actor, action="pause", what="", note=note)
        await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload="pause"))
    return True


async def resume(connection: AsyncConnection[Any], schema: str, place: Place, *, note: str, actor: str) -> int:
    """Take an operator's pause away; what else holds the partition stays. Returns how many there were.

    Raises:
        PartitionActError: There is no such partition.
    """
    return await _lift(connection, schema, place, ["pause"], actor=actor, action="resume", note=note)


async def release(connection: AsyncConnection[Any], schema: str, place: Place, *, note: str, actor: str) -> int:
    """Lift every hold of a partition and its keys: it goes on within a second. Returns how many there were.

    Raises:
        PartitionActError: There is no such partition.
    """
    return await _lift(connection, schema, place, ["block", "halt", "pause"], actor=actor, action="release", note=note)


async def cancel(
    connection: AsyncConnection[Any],
    schema: str,
    place: Place,
    *,
    former_only: bool,
    note: str,
    actor: str,
    dry_run: bool = False,
) -> int:
    """Cancel the open workflows of a partition, whoever runs them or nobody. Returns how many.

    One that runs begins nothing after its step under way; one that waits ends within a second; their keys go on.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        place: Which partition.
        former_only: Only those of topics that had its name before the one there is now (P30).
        note: Why, for the record.
        actor: Who.
        dry_run: Change nothing.

    Raises:
        PartitionActError: There is no such partition.
    """
    async with connection.transaction(force_rollback=dry_run):
        stored = await _read(connection, schema, place)
        ref, incarnation = place.ref(stored.handler), Progress.decode(stored.value, place).incarnation
        sources = list(ref.former_names(incarnation if former_only else incarnation + 1))
        count = (await send(connection, schema, cancels.cancel_sources(sources=sources))).rowcount
        if count:
            what = f"{count} open workflows" + (f" {OF_FORMER_TOPICS}" if former_only else "")
            await record_act(connection, schema, place, actor=actor, action="cancel", what=what, note=note)
            await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload="cancel"))
    return count


async def _lift(
    connection: AsyncConnection[Any],
    schema: str,
    place: Place,
    kinds: Sequence[str],
    *,
    actor: str,
    action: str,
    note: str,
) -> int:
    async with connection.transaction():
        await _read(connection, schema, place)
        cursor = await send(
            connection, schema, holds.lift(service=place.service_name, key=place.topic_partition, kinds=kinds)
        )
        lifted = await cursor.fetchall()
        if lifted:
            what = "; ".join(f"{kind}: {reason}" for kind, reason in lifted[:DETAILED_MAX])
            await record_act(
                connection, schema, place, actor=actor, action=action, what=f"{len(lifted)} holds: {what}", note=note
            )
            await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload=action))
    return len(lifted)


async def _read(connection: AsyncConnection[Any], schema: str, place: Place) -> ProgressRow:
    reading = event_dispatch_kv.read(services=[place.service_name], keys=[place.topic_partition])
    stored = await (await send(connection, schema, reading)).fetchone()
    if stored is None:
        raise unknown(place)
    return stored


async def record_act(
    connection: AsyncConnection[Any], schema: str, place: Place, *, actor: str, action: str, what: str, note: str
) -> None:
    """A row of `audit` about a partition: who did what, and why."""
    detail = "; ".join(each for each in (what, note) if each)
    await send(connection, schema, holds.audit(actor=actor, action=action, subject=str(place), detail=detail))


def unknown(place: Place) -> PartitionActError:
    """What to say of a partition without progress."""
    return PartitionActError(
        f"group {place.group!r} has no partition {place.topic_partition!r}: see `processor partitions list`"
    )
