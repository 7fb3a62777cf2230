"""Gauges of one engine at one moment, for scrapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.depths import Depth, OutboxDepth
from engine.ids import SourceRef
from engine.retention import RetentionSnapshot
from engine.store.queues import QueueDepth

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.source import Source


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """Gauges of one claimed partition.

    Attributes:
        next, high, position: Stored progress; 1 + highest persisted; next offset expected from Kafka.
        in_flight: Workflows known here that are not terminal.
        backlog: Records delivered that wait for room.
        parked: Rows at rest behind their keys.
        waits: Why nothing more of it can be decoded yet; `None`: nothing is in the way.
        oldest_ms: Timestamp of the oldest record that waits or runs, epoch ms; `None` if there is none.
    """

    ref: SourceRef
    epoch: int
    next: int
    high: int
    position: int
    in_flight: int
    backlog: int
    parked: int
    blocked_keys: int
    held: str | None
    congested: bool
    waits: str | None
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """Gauges of one engine."""

    executor_id: str
    sources: tuple[SourceSnapshot, ...]
    in_flight: int
    in_flight_bytes: int
    backlog_bytes: int
    late_runs: int
    lease_silence_s: float
    lease_is_valid: bool
    pool: Mapping[str, int]
    dead_letters: tuple[Depth, ...]
    stranded: tuple[tuple[str, int], ...]
    """(name, count) of workflows without a source whose code is nowhere."""
    outbox: OutboxDepth | None
    """In one process of all."""
    queues: tuple[QueueDepth, ...]
    """Likewise."""
    retention: RetentionSnapshot | None
    """In one process of all."""
    intake: tuple[tuple[str, float], ...]
    """(reason, share of the limit in flight that is left while the database cannot follow)."""
    schedules: tuple[tuple[str, float, bool], ...]
    """(name, seconds for which a tick has been due and not started, whether it is paused)."""


def snapshot_of(engine: Engine) -> EngineSnapshot:
    """Read everything."""
    return EngineSnapshot(
        executor_id=engine.executor_id,
        sources=tuple(_snapshot(source) for source in engine.sources.attached()),
        in_flight=engine.in_flight,
        in_flight_bytes=engine.in_flight_bytes,
        backlog_bytes=engine.backlog_bytes,
        late_runs=len(engine.late),
        lease_silence_s=engine.lease.silence_s,
        lease_is_valid=engine.lease.is_valid(),
        pool=engine.pool.snapshot(),
        dead_letters=engine.depths.latest,
        stranded=engine.depths.stranded,
        outbox=engine.depths.outbox,
        queues=engine.depths.queues,
        retention=engine.retention.snapshot,
        intake=engine.brakes.shares,
        schedules=tuple(
            (name, state.overdue_s, state.is_paused) for name, state in sorted(engine.scheduler.states.items())
        ),
    )


def _snapshot(source: Source) -> SourceSnapshot:
    inbox = source.inbox
    oldest: int | None = None
    if inbox.runs:
        record = next(iter(inbox.runs.values())).record
        oldest = record.timestamp_ms if record is not None else None
    elif inbox.backlog:
        oldest = inbox.backlog[0].timestamp_ms
    return SourceSnapshot(
        ref=source.ref,
        epoch=source.epoch,
        next=source.progress.next,
        high=source.progress.high,
        position=inbox.offsets.position,
        in_flight=len(inbox.runs),
        backlog=len(inbox.backlog),
        parked=inbox.parked,
        blocked_keys=len(inbox.keys.blocked),
        held=source.held,
        congested=source.congested,
        waits=inbox.undecided.reason,
        oldest_ms=oldest,
    )
