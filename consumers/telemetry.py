"""What this package tells about itself: events beside the engine's, seen by the same observers."""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.ids import SourceRef
from engine.telemetry import Event


@dataclass(frozen=True, slots=True)
class PartitionsAssigned(Event):
    """Kafka gave us partitions. Nothing is fetched before they are claimed and attached."""

    sources: tuple[SourceRef, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class PartitionsRevoked(Event):
    """Kafka took partitions. `lost`: without asking, because we were silent for too long."""

    sources: tuple[SourceRef, ...]
    lost: bool


@dataclass(frozen=True, slots=True)
class PartitionAttached(Event):
    """Fetching begins at `offset`. `waited_s`: since the assignment."""

    source: SourceRef
    offset: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class PartitionHalted(Event):
    """A partition does not go on by itself."""

    source: SourceRef
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionPaused(Event):
    """Fetching of an attached partition stopped or went on. Empty `reasons`: it goes on."""

    source: SourceRef
    reasons: frozenset[str]


@dataclass(frozen=True, slots=True)
class OffsetRefused(Event):
    """Kafka does not have the offset we asked for; the partition is validated again."""

    source: SourceRef
    error: str


@dataclass(frozen=True, slots=True)
class GapAccepted(Event):
    """Retention removed records before they were processed, and the policy is to go on. [start, end) is recorded."""

    source: SourceRef
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TopicRecreated(Event):
    """The topic is another one under the same name, and the policy is to go on with a new incarnation."""

    source: SourceRef
    former_id: str
    topic_id: str


@dataclass(frozen=True, slots=True)
class ClientRecreated(Event):
    """The client was unusable; another one joins the group after `retry_s`."""

    error: str
    retry_s: float


@dataclass(frozen=True, slots=True)
class ClientError(Event):
    """The client reports an error. `meaning`: see `consumers.errors`."""

    code: str
    message: str
    meaning: str


@dataclass(frozen=True, slots=True)
class StaleBatchDropped(Event):
    """Records of an attachment that has ended; its successor fetches them again."""

    count: int


@dataclass(frozen=True, slots=True)
class RelayClaimed(Event):
    """This process moves the outbox to Kafka from now on."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RelayReleased(Event):
    """It does so no longer."""

    reason: str


@dataclass(frozen=True, slots=True)
class OutboxPublished(Event):
    """A batch of the outbox was committed in Kafka. `counts`: events by topic; `size`: bytes of keys and values."""

    counts: Mapping[str, int]
    size: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class RelayInterrupted(Event):
    """A transaction of the relay failed, or what became of it is not known. It opens anew after `retry_s` and sees."""

    error: str
    retry_s: float


@dataclass(frozen=True, slots=True)
class TopicRefused(Event):
    """Kafka takes no events of a topic: they wait in the outbox and are tried again every `retry_s`. The others go on."""

    topic: str
    error: str
    retry_s: float


@dataclass(frozen=True, slots=True)
class RelayHalted(Event):
    """Kafka and Postgres have different histories of the outbox: nothing is published until an operator decides."""

    reason: str
