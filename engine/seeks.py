"""Moving a partition's progress by hand: back, forward, or to another log under the same name (I3, P30).

A live owner is not asked. A seek is a claim: it raises the epoch, so that the owner's next flush or heartbeat finds
itself fenced, and whoever claims the partition next begins where the seek says.
"""

from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from engine import incarnations
from engine.ids import ExecutorId, SourceRef, new_token
from engine.partitions import PartitionActError, Place, record_act, unknown
from engine.progress import Progress
from engine.ranges import Range, merged, without
from engine.source import CLAIM_CHANNEL
from engine.store import event_dispatch_kv, executor, holds
from engine.store.statement import send


@dataclass(frozen=True, slots=True)
class Anew:
    """The log that a new incarnation begins in: Kafka's ID of its topic, '' where brokers have none, and its start."""

    topic_id: str
    start: int


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
    anew: Anew | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Seek:
    """Move a partition's progress. Whether Kafka has the offset is the caller's to ask.

    Back: records from `to` are delivered again. Those that have a row are known and do not run again (I4); those that
    a filter passed over are decided anew, and stay counted once; of gaps, what is delivered after all is taken back.
    Forward: what is passed over is a recorded gap (I1), where it was never decided; open workflows go on wherever they
    are. To another log: its records have nothing to do with those that had their offsets before.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        place: Which partition.
        to: The next offset.
        note: Why, for the record.
        actor: Who.
        anew: Offsets from `to` on name other records than before: a new incarnation, whose workflows have IDs of their
            own. What its log holds below `to` is a recorded gap.
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
        ref, before = place.ref(row.handler), Progress.decode(row.value, place)
        owner_alive = not before.released and await _is_alive(connection, schema, before.owner)
        # An owner that died without releasing leaves a claim to be taken with caution (P21).
        released = before.released or owner_alive
        horizon: int | None = None
        taken_back: list[Range] = []
        if anew is not None:
            gaps = without((anew.start, to), ())
            after = incarnations.another(before, topic_id=anew.topic_id, start=to, token=new_token(), released=released)
            await incarnations.leave_behind(connection, schema, ref, after.incarnation)
        else:
            source = ref.name(before.incarnation)
            horizon = await _horizon(connection, schema, source)
            if horizon is not None and to < horizon and not force:
                raise PartitionActError(
                    f"{place}: rows below offset {horizon} were deleted, so records from {to} on would run again.\n"
                    f"  Seek to {horizon} or above, or say that they shall (--force)."
                )
            taken_back = await _take_back(connection, schema, source, to)
            gaps = without((before.next, to), before.counted)
            after = before.to(
                next=to,
                high=max(to, before.high),
                token=new_token(),
                released=released,
                # Of the last record persisted, which may stand above `to`: the client would find a truncated log.
                leader_epoch=None,
                counted=tuple(merged([*before.counted, *without((to, before.next), taken_back)])),
            )
        done = Seek(before, after, row.epoch + 1, owner_alive, horizon, tuple(gaps), tuple(taken_back))
        await send(
            connection,
            schema,
            event_dispatch_kv.write(
                service=place.service_name,
                key=place.topic_partition,
                handler=row.handler,
                epoch=done.epoch,
                value=after.encode(),
            ),
        )
        await _record(connection, schema, place, ref, done, note=note, actor=actor)
    return done


async def _record(
    connection: AsyncConnection[Any],
    schema: str,
    place: Place,
    ref: SourceRef,
    done: Seek,
    *,
    note: str,
    actor: str,
) -> None:
    source = ref.name(done.after.incarnation)
    for start, end in done.gaps:
        gap = holds.gap(source=source, start=start, end=end, reason=f"seek: {note}", by=actor)
        await send(connection, schema, gap)
    what = f"{done.before.next} to {done.after.next}, "
    if done.after.incarnation != done.before.incarnation:
        what += f"incarnation {done.after.incarnation}, "
    what += f"epoch {done.epoch}"
    if done.taken_back:
        what += "; taken back: gaps " + ", ".join(f"[{start}, {end})" for start, end in done.taken_back)
    await record_act(connection, schema, place, actor=actor, action="seek", what=what, note=note)
    hint = f"released {place.service_name} {place.topic_partition}"
    await send(connection, schema, executor.notify(channel=CLAIM_CHANNEL, payload=hint))


async def _horizon(connection: AsyncConnection[Any], schema: str, source: str) -> int | None:
    found = await (await send(connection, schema, holds.horizon(source=source))).fetchone()
    return None if found is None else found[0]


async def _take_back(connection: AsyncConnection[Any], schema: str, source: str, to: int) -> list[Range]:
    opened = await (await send(connection, schema, holds.gaps_above(source=source, offset=to))).fetchall()
    if opened:
        await send(connection, schema, holds.take_back_gaps(source=source, offset=to))
    return opened


async def _is_alive(connection: AsyncConnection[Any], schema: str, owner: str | None) -> bool:
    if owner is None:
        return False
    cursor = await send(connection, schema, executor.is_gone(executor_id=ExecutorId(owner)))
    row = await cursor.fetchone()
    return row is not None and not row[0]
