"""Acts of operators on partitions: seek, pause, resume, release, cancel. Every one is recorded in `audit`.

A live owner is not asked. A seek is a claim (P30): it raises the epoch, so that the owner's next flush or heartbeat
finds itself fenced, and whoever claims the partition next begins where the seek says. Holds are found by the owner's
next scan, within a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from engine.errors import EngineError
from engine.ids import ExecutorId, SourceRef, new_token
from engine.progress import Progress
from engine.ranges import Range, merged, without
from engine.source import CLAIM_CHANNEL
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

    def ref(self, handler: str) -> SourceRef:
        """As the engine sees it."""
        topic, _, number = self.topic_partition.rpartition("-")
        return SourceRef(self.group, handler, topic, int(number))

    def __str__(self) -> str:
        return f"{self.group}|{self.topic_partition}"


def place_of(service_name: str, key: str) -> Place:
    """The partition of a progress row."""
    return Place(service_name.removeprefix("kafka:"), key)


@dataclass(frozen=True, slots=True)
class Seek:
    """A seek, done or planned.

    Attributes:
        before, after: Progress.
        epoch: After the seek.
        owner_alive: Whether a live executor has the claim and is fenced.
        horizon: Lowest offset whose rows still stand, `None` where nothing was ever deleted.
        gaps: What is passed over, and nobody ever decided.
        taken_back: What of earlier gaps is delivered after all.
    """

    before: Progress
    after: Progress
    epoch: int
    owner_alive: bool
    horizon: int | None
    gaps: tuple[Range, ...]
    taken_back: tuple[Range, ...]


async def seek(
    connection: AsyncConnection[Any],
    schema: str,
    place: Place,
    *,
    to: int,
    note: str,
    actor: str,
    force: bool = False,
    dry_run: bool = False,
) -> Seek:
    """Move a partition's progress (I3, P30). Whether Kafka has the offset is the caller's to ask.

    Back: records from `to` are delivered again. Those that have a row are known and do not run again (I4); those that
    a filter passed over are decided anew, and stay counted once; of gaps, what is delivered after all is taken back.
    Forward: what is passed over is a recorded gap (I1), where it was never decided; open workflows go on wherever they
    are.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        place: Which partition.
        to: The next offset.
        note: Why, for the record.
        actor: Who.
        force: Also below the horizon, where rows were deleted: those records run again.
        dry_run: Change nothing.

    Raises:
        PartitionActError: There is no such partition, or `to` lies below the horizon.
    """
    async with connection.transaction(force_rollback=dry_run):
        cursor = await send(
            connection, schema, event_dispatch_kv.lock(service=place.service_name, key=place.topic_partition)
        )
        row = await cursor.fetchone()
        if row is None:
            raise unknown(place)
        before = Progress.decode(row.value)
        source = place.ref(row.handler).name(before.incarnation)
        found = await (await send(connection, schema, holds.horizon(source=source))).fetchone()
        horizon = None if found is None else found[0]
        if horizon is not None and to < horizon and not force:
            raise PartitionActError(
                f"{place}: rows below offset {horizon} were deleted, so records from {to} on would run again.\n"
                f"  Seek to {horizon} or above, or say that they shall (--force)."
            )
        owner_alive = not before.released and await _is_alive(connection, schema, before.owner)
        opened = await (await send(connection, schema, holds.gaps_above(source=source, offset=to))).fetchall()
        passed = without((before.next, to), before.counted)
        after = before.to(
            next=to,
            high=max(to, before.high),
            token=new_token(),
            # An owner that died without releasing leaves a claim to be taken with caution (P21).
            released=before.released or owner_alive,
            # Of the last record persisted, which may stand above `to`: the client would find a truncated log.
            leader_epoch=None,
            counted=tuple(merged([*before.counted, *without((to, before.next), opened)])),
        )
        await send(
            connection,
            schema,
            event_dispatch_kv.write(
                service=place.service_name,
                key=place.topic_partition,
                handler=row.handler,
                epoch=row.epoch + 1,
                value=after.encode(),
            ),
        )
        if opened:
            await send(connection, schema, holds.take_back_gaps(source=source, offset=to))
        for start, end in passed:
            gap = holds.gap(source=source, start=start, end=end, reason=f"seek: {note}", by=actor)
            await send(connection, schema, gap)
        what = f"{before.next} to {to}, epoch {row.epoch + 1}"
        if opened:
            what += "; taken back: gaps " + ", ".join(f"[{start}, {end})" for start, end in opened)
        await _audit(connection, schema, place, actor=actor, action="seek", what=what, note=note)
        await send(
            connection,
            schema,
            executor.notify(channel=CLAIM_CHANNEL, payload=f"released {place.service_name} {place.topic_partition}"),
        )
    return Seek(before, after, row.epoch + 1, owner_alive, horizon, tuple(passed), tuple(opened))


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
        await _audit(connection, schema, place, actor=actor, action="pause", what="", note=note)
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
        ref, incarnation = place.ref(stored.handler), Progress.decode(stored.value).incarnation
        sources = list(ref.former_names(incarnation if former_only else incarnation + 1))
        count = (await send(connection, schema, cancels.cancel_sources(sources=sources))).rowcount
        if count:
            what = f"{count} open workflows" + (f" {OF_FORMER_TOPICS}" if former_only else "")
            await _audit(connection, schema, place, actor=actor, action="cancel", what=what, note=note)
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
            await _audit(
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


async def _is_alive(connection: AsyncConnection[Any], schema: str, owner: str | None) -> bool:
    if owner is None:
        return False
    cursor = await send(connection, schema, executor.is_gone(executor_id=ExecutorId(owner)))
    row = await cursor.fetchone()
    return row is not None and not row[0]


async def _audit(
    connection: AsyncConnection[Any], schema: str, place: Place, *, actor: str, action: str, what: str, note: str
) -> None:
    detail = "; ".join(each for each in (what, note) if each)
    await send(connection, schema, holds.audit(actor=actor, action=action, subject=str(place), detail=detail))


def unknown(place: Place) -> PartitionActError:
    """What to say of a partition without progress."""
    return PartitionActError(
        f"group {place.group!r} has no partition {place.topic_partition!r}: see `processor partitions list`"
    )
