"""Ordered sources (partitions): registering, first start, claims, requests, releases. See docs/decisions/0001."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from engine.ids import ExecutorId, OwnerToken, SourceRef
from engine.progress import Progress
from engine.records import Record


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition without progress begins: an absolute offset, resolved before the first fetch."""

    offset: int
    topic_id: str = ""
    leader_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Another live executor holds the claim; it has been asked to release. Try again after `retry_s`, or when woken."""

    owner: ExecutorId
    retry_s: float


class SourceListener(Protocol):
    """Who is told that a source ended from the engine's side. Called on the loop; must not wait."""

    def dropped(self, source: "Source", reason: str) -> None:
        """The claim is gone, or the partition halted: detach it from Kafka; claim again if still assigned."""
        ...


class Source:
    """One claim of one partition: from `Sources.claim` until released, lost or dropped."""

    ref: SourceRef
    epoch: int
    token: OwnerToken
    progress: Progress
    held: str | None
    """Reason of a hold on the whole partition ('halt' or 'pause'), read by `open`: claimed, not to be attached."""
    congested: bool
    """Whether the consumer should pause the partition. Written on the loop, read by the poll thread."""

    async def open(self, listener: SourceListener) -> None: ...
    def deliver(self, records: list[Record]) -> None: ...
    def reached(self, offset: int) -> None: ...
    async def release(self) -> None: ...
    def lose(self, reason: str) -> None: ...
    async def halt(self, reason: str) -> None: ...


class Sources:
    """Every source of this process. `engine.sources`."""

    async def register(self, group: str, topic: str) -> bool: ...
    async def stored(self, group: str, topic: str) -> dict[int, Progress]: ...
    async def first_start(self, group: str, handler: str, topic: str, starts: Mapping[int, Start]) -> None: ...
    async def claim(self, ref: SourceRef, *, generation: int, renamed_from: str | None = None) -> Source | Busy: ...
    async def new_incarnation(self, ref: SourceRef, *, topic_id: str, start: int, by: str) -> None: ...
    async def skip_gap(self, source: Source, *, to: int, reason: str, by: str) -> None: ...
