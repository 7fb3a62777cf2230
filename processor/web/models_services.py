"""What the admin API shows of versions, moves, queues, schedules, retention and the outbox, field by field. Times are in UTC."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel

from engine.inspection import PartitionRow, VersionRow
from engine.outbox import RelayState
from engine.schedules import Schedule
from engine.seeks import Seek
from engine.store.outbox import OutboxRow
from engine.store.queues import QueueDepth
from processor.web.models import at


class Forked(BaseModel):
    """The workflow that was begun."""

    workflow_id: str


class KnownVersion(BaseModel):
    """A version of a workflow's code. `executors`: live ones that have it; `open`: its workflows that have not ended."""

    name: str
    version: str
    first_at: datetime | None
    executors: int
    open: int

    @classmethod
    def of(cls, row: VersionRow) -> Self:
        """The row."""
        return cls(
            name=row.name,
            version=row.version,
            first_at=_instant(row.first_at_ms),
            executors=row.executors,
            open=row.open,
        )


class Sought(BaseModel):
    """A seek, `done` or planned. `gaps`: offsets that are passed over, first and last and one; `horizon`: rows below were deleted."""

    done: bool
    next_before: int
    next_after: int
    epoch: int
    incarnation: int
    owner_alive: bool
    open: int
    horizon: int | None
    gaps: Sequence[tuple[int, int]]
    taken_back: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, seek: Seek, before: PartitionRow, *, done_now: bool) -> Self:
        """What it does."""
        return cls(
            done=done_now,
            next_before=seek.before.next,
            next_after=seek.after.next,
            epoch=seek.epoch,
            incarnation=seek.after.incarnation,
            owner_alive=seek.owner_alive,
            open=before.open,
            horizon=seek.horizon,
            gaps=[(start, end) for start, end in seek.gaps],
            taken_back=[(start, end) for start, end in seek.taken_back],
        )


class CancelledInPartition(BaseModel):
    """How many open workflows were cancelled, or would be."""

    done: bool
    workflows: int


class ShownQueue(BaseModel):
    """A queue. Numbers stop at 10,000."""

    queue: str
    ready: int
    delayed: int
    places: int
    oldest_at: datetime | None
    is_paused: bool
    listeners: int

    @classmethod
    def of(cls, row: QueueDepth) -> Self:
        """The row."""
        return cls(
            queue=row.queue,
            ready=row.ready,
            delayed=row.delayed,
            places=row.places,
            oldest_at=_instant(row.oldest_at),
            is_paused=row.is_paused,
            listeners=row.listeners,
        )


class ShownSchedule(BaseModel):
    """A schedule: `active`, `paused`, or `absent` where no live executor has it."""

    name: str
    cron: str
    timezone: str
    catch_up: str
    version: str
    state: str
    executors: int
    last_tick: datetime | None
    next_tick: datetime | None
    due_since: datetime | None
    paused_at: datetime | None
    paused_by: str | None
    note: str | None

    @classmethod
    def of(cls, row: Schedule) -> Self:
        """The row."""
        return cls(
            name=row.name,
            cron=row.expression,
            timezone=row.timezone,
            catch_up=row.catch_up,
            version=row.version,
            state=row.state,
            executors=row.executors,
            last_tick=_instant(row.last_tick_at),
            next_tick=_instant(row.next_at) if row.state == "active" else None,
            due_since=_instant(row.due_since),
            paused_at=_instant(row.paused_at),
            paused_by=row.paused_by,
            note=row.note,
        )


class Filled(BaseModel):
    """Ticks of a range that were started, and those that had their workflows already."""

    started: int
    stood: int


class Kept(BaseModel):
    """How long rows of one kind are kept after they have ended; none: for ever."""

    handler: str
    kind: str
    keep: timedelta | None


class ShownRetention(BaseModel):
    """The policies in force, and why nothing is deleted, if so."""

    policies: Sequence[Kept]
    paused: str | None


class Due(BaseModel):
    """Rows that have outlived their policy."""

    handler: str
    kind: str
    rows: int


class ShownRelay(BaseModel):
    """Who relays the outbox, and what waits. `waiting` stops at 10,000."""

    name: str
    executor_id: str | None
    is_alive: bool
    epoch: int
    batches: int
    halted: str | None
    waiting: int
    oldest_at: datetime | None

    @classmethod
    def of(cls, state: RelayState) -> Self:
        """The row."""
        return cls(
            name=state.name,
            executor_id=state.executor_id,
            is_alive=state.is_alive,
            epoch=state.epoch,
            batches=state.number,
            halted=state.halted,
            waiting=state.waiting,
            oldest_at=_instant(state.oldest_at),
        )


class ShownEvent(BaseModel):
    """An event that waits. Key and value (bytes in base64) and headers only for operators, who ask for them."""

    event_id: int
    topic: str
    created_at: datetime
    size: int
    key: str | None = None
    value: str | None = None
    headers: str | None = None

    @classmethod
    def of(cls, row: OutboxRow, *, payloads: bool) -> Self:
        """The row, with what is of users or without."""
        shown = cls(
            event_id=row.outbox_id,
            topic=row.topic,
            created_at=at(row.created_at),
            size=len(row.key or b"") + len(row.value or b"") + len(row.headers or ""),
        )
        if not payloads:
            return shown
        return shown.model_copy(update={"key": _base64(row.key), "value": _base64(row.value), "headers": row.headers})


def _instant(epoch_ms: int | None) -> datetime | None:
    return None if epoch_ms is None else at(epoch_ms)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()
