"""What the engine tells about itself: frozen events, observed by metrics, logs, traces and tests.

The events are a documented contract; the engine calls no metrics or logging library. An observer is called in the
thread of the event (nearly always the engine's loop), must be quick, and cannot break the engine: what it raises
is given to `threading.excepthook`. Hot-path events are one a flush, never one a record.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.ids import SourceRef, WorkflowId
from engine.states import WorkflowStatus


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class WorkflowsFinished(Event):
    """Workflows of one handler became durably terminal in one commit.

    `latencies_s`: from the record's timestamp (or the start, without a record) to the commit.
    """

    handler: str
    status: WorkflowStatus
    latencies_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class StepsFinished(Event):
    """Checkpoints of one step became durable in one commit. `outcome`: 'success' or 'error'."""

    handler: str
    step: str
    outcome: str
    durations_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class Flushed(Event):
    """A flush was committed. `kind`: 'journaled', 'fused', 'commons' (workflows without a source) or 'release'.

    `duration_s`: from BEGIN to the reply of COMMIT. `works`: workflows that share it. `waited_s`: how long the
    checkpoint that waited longest has waited, from the end of its step until now; none where there is no checkpoint.
    """

    kind: str
    duration_s: float
    works: int
    waited_s: float | None
    rows: int
    checkpoints: int
    outcomes: int
    partitions: int


@dataclass(frozen=True, slots=True)
class TransactionsCommitted(Event):
    """A transactional step's commit, which several workflows at that step may share.

    `duration_s`: from BEGIN to the reply of COMMIT, users' functions included.
    """

    step: str
    duration_s: float
    workflows: int


@dataclass(frozen=True, slots=True)
class FlushRetried(Event):
    """A flush, or the transaction of a step, is sent again, or, of an 'unknown commit', its outcome read.

    `reason`: 'weather', 'unknown commit', 'fenced', 'bisect'.
    """

    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class RecordsDelivered(Event):
    """Records came from Kafka to their inbox. `size`: bytes in memory."""

    source: SourceRef
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class RecordsDecided(Event):
    """Records passed without a workflow, by decision. `decision`: 'filtered', 'tombstone' or 'known'."""

    source: SourceRef
    decision: str
    count: int


@dataclass(frozen=True, slots=True)
class SourceClaimed(Event):
    """`after_death`: taken from a dead owner; `open_rows`: workflows taken over."""

    source: SourceRef
    epoch: int
    after_death: bool
    open_rows: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class SourceReleased(Event):
    """`late_runs`: steps that still ran."""

    source: SourceRef
    late_runs: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class SourceDropped(Event):
    """A source was taken from us, or given up. `reason`: 'fenced', 'executor dead', 'database went back', ..."""

    source: SourceRef
    reason: str


@dataclass(frozen=True, slots=True)
class HoldPlaced(Event):
    """A key ('block') or a partition ('halt', 'pause') does not go on until an operator decides."""

    source: SourceRef
    kind: str
    reason: str
    workflow_id: WorkflowId | None


@dataclass(frozen=True, slots=True)
class DecodingWaits(Event):
    """A partition does not go on before something that its format needs is there. Once for each reason."""

    source: SourceRef
    reason: str


@dataclass(frozen=True, slots=True)
class DecodingResumed(Event):
    """It is there, and the partition goes on."""

    source: SourceRef
    waited_s: float


@dataclass(frozen=True, slots=True)
class DeadLettered(Event):
    """A record was given up; its dead letter is durable."""

    source: SourceRef | None
    handler: str
    workflow_id: WorkflowId
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class HandedOver(Event):
    """Late runs that ended under the row fence. `finished`: with an outcome; the others were handed on."""

    source: SourceRef
    finished: bool


@dataclass(frozen=True, slots=True)
class PayloadUnreadable(Event):
    """A workflow waits: what it needs is sealed with a key that is not configured here, or was changed."""

    workflow_id: WorkflowId
    reason: str


@dataclass(frozen=True, slots=True)
class LateResultRefused(Event):
    """A zombie's or cancelled workflow's write matched nothing (I6)."""

    workflow_id: WorkflowId
    reason: str


@dataclass(frozen=True, slots=True)
class SuspectStarted(Event):
    """A workflow that was running when its process died is started again; from 2 attempts on alone (P22)."""

    workflow_id: WorkflowId
    attempts: int
    alone: bool


@dataclass(frozen=True, slots=True)
class WorkflowsTaken(Event):
    """Workflows without a source were taken. `reason`: 'due' (they rested), 'dead' (their executor died, P29), 'left' (by a worker of executions)."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class QueueTaken(Event):
    """Workflows of a queue were taken. `reason`: 'ready' (they start), 'due' (they rested), 'dead' (their executor died).

    `waits_s`: of those that start, from their enqueueing.
    """

    queue: str
    reason: str
    count: int
    waits_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class WorkflowsExpired(Event):
    """Workflows were cancelled because their time was over."""

    count: int


@dataclass(frozen=True, slots=True)
class TicksStarted(Event):
    """Ticks of a schedule have their rows. `delays_s`: from their times to that, by Postgres's clock; `late` of them were made up."""

    schedule: str
    delays_s: Sequence[float]
    late: int


@dataclass(frozen=True, slots=True)
class TicksPassedOver(Event):
    """Ticks were missed, and its `catch_up` says that they are not made up. At most 100 are counted."""

    schedule: str
    count: int


@dataclass(frozen=True, slots=True)
class TickRefused(Event):
    """A tick does not run: its ID is another workflow's."""

    schedule: str
    workflow_id: WorkflowId
    reason: str


@dataclass(frozen=True, slots=True)
class ScheduleChanged(Event):
    """A schedule is another from now on: the executor that started last has it otherwise."""

    schedule: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class HeartbeatRenewed(Event):
    """The lease goes on."""

    executor_id: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class ExecutorStarted(Event):
    """An executor registered."""

    executor_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ExecutorLost(Event):
    """This executor was marked dead, or its database went back; it starts anew under another ID."""

    executor_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExecutorBuried(Event):
    """This process marked another executor dead."""

    executor_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoreUnavailable(Event):
    """Postgres does not answer; everything waits (P25)."""

    error: str
    waiting_s: float


@dataclass(frozen=True, slots=True)
class StoreAvailable(Event):
    """Postgres answers again."""

    waited_s: float


@dataclass(frozen=True, slots=True)
class RetentionDeleted(Event):
    """Rows that had outlived their policies were deleted in one commit: how many, by handler and kind (`Kind`)."""

    deleted: Mapping[tuple[str, str], int]
    duration_s: float


@dataclass(frozen=True, slots=True)
class VacuumStarved(Event):
    """Deleted rows cannot be removed from the tables: an old snapshot keeps them.

    `kind`: 'transaction', 'prepared transaction' or 'replication slot'. `age_s`: seen to stand still for so long.
    `transactions`: begun since.
    """

    kind: str
    holder: str
    age_s: float
    transactions: int


@dataclass(frozen=True, slots=True)
class VacuumFreed(Event):
    """What kept deleted rows from being removed is gone."""


@dataclass(frozen=True, slots=True)
class IntakeSlowed(Event):
    """Fewer records are taken in: the database cannot follow. `reason`: 'commits', 'replicas', 'vacuum'.

    `measured_s`: what commits take, how far a standby is behind, for how long vacuum has been held.
    """

    reason: str
    measured_s: float


@dataclass(frozen=True, slots=True)
class IntakeRestored(Event):
    """As many are taken in as ever; or, of commits, fewer did not help."""

    reason: str
    slowed_s: float


@dataclass(frozen=True, slots=True)
class ServiceFailed(Event):
    """A service's loop raised what nobody expected; it goes on after `retry_s`, or the process ends where it is None."""

    service: str
    error: BaseException
    retry_s: float | None


Observer = Callable[[Event], None]


class Telemetry:
    """Hands every event to every observer, in order."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def add(self, observer: Observer) -> None:
        """Tell one more, after the others: a service that goes by what others do."""
        self._observers = (*self._observers, observer)

    def emit(self, event: Event) -> None:
        """Tell everyone; nobody's failure is the engine's."""
        for observe in self._observers:
            try:
                observe(event)
            except Exception as error:  # noqa: BLE001  # whatever an observer raises is its own affair
                error.add_note(f"Raised by a telemetry observer, {observe!r}, at {type(event).__name__}.")
                # Not `sys.unraisablehook`: Python's own takes no arguments that are not Python's own.
                raised = (type(error), error, error.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(raised))
