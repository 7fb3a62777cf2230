"""What a queue is: its name and its limits, and what a place in it may be asked for. Pure (decision 0013)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from engine.clock import now_ms
from engine.errors import ConfigurationError
from engine.states import WorkflowStatus

if TYPE_CHECKING:
    from engine.starts import Start

INTERNAL = "_dbos_internal_queue"
"""Where the official client puts what it resumes or forks. Without limits, and every process takes from it."""

NAME_MAX = 200
"""Characters of a queue's name: it is in several indexes."""

KEY_MAX = 512
"""Characters of a partition key or deduplication ID: likewise."""

LIMIT_MAX = 1_000_000
"""Largest number of a limit: places are counted, up to the limit, whenever one is looked for."""

PERIOD_MIN, PERIOD_MAX = timedelta(milliseconds=1), timedelta(days=366)

PRIORITY_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue and its limits; with partition keys they hold for each key.

    Attributes:
        name: `workflow_status.queue_name`.
        concurrency: Workflows between their start and their end at a time, over all processes.
        worker_concurrency: Workflows whose code runs at a time, in one process.
        limit: So many starts in any period of this length, over all processes.
        priority: Whether its members have one.
        partitioned: Whether its members have a partition key.

    Raises:
        ConfigurationError: It is none, or a limit is not one.
    """

    name: str
    concurrency: int | None = None
    worker_concurrency: int | None = None
    limit: tuple[int, timedelta] | None = None
    priority: bool = False
    partitioned: bool = False

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > NAME_MAX or not self.name.isprintable():
            raise ConfigurationError(f"queue {self.name[:50]!r}: a name of 1 to {NAME_MAX} printable characters")
        for field in ("concurrency", "worker_concurrency"):
            _check_limit(f"queue {self.name!r}: {field}", getattr(self, field))
        if self.concurrency is not None and (self.worker_concurrency or 0) > self.concurrency:
            raise ConfigurationError(
                f"queue {self.name!r}: worker_concurrency={self.worker_concurrency} of one process is more than "
                f"concurrency={self.concurrency} of all"
            )
        if self.limit is not None:
            self._check_rate(self.limit)

    def _check_rate(self, limit: tuple[int, timedelta]) -> None:
        try:
            starts, period = limit
        except (TypeError, ValueError):
            starts, period = None, None
        if starts is None or not isinstance(period, timedelta):
            raise ConfigurationError(f"queue {self.name!r}: limit={limit!r} is no pair of a number and a timedelta")
        _check_limit(f"queue {self.name!r}: the starts of its limit", starts)
        if not PERIOD_MIN <= period <= PERIOD_MAX:
            raise ConfigurationError(f"queue {self.name!r}: the period of its limit, {period}: 1 ms to 366 days")

    @property
    def period_ms(self) -> int | None:
        """Of its rate limit."""
        return None if self.limit is None else int(self.limit[1] / timedelta(milliseconds=1))


def _check_limit(what: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LIMIT_MAX:
        raise ConfigurationError(f"{what} is {value!r}: a whole number, 1 to {LIMIT_MAX:,}, or None for no limit")


class _Calls:
    """Numbers in the order of calls, of all of a process; those of a later process are mostly higher."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, now_ms() * 1_000)
        return self._last


_calls = _Calls()


def next_place() -> int:
    """Order within a queue, among those of one moment."""
    return _calls.next()


def check_place(
    queue: QueueSpec,
    *,
    priority: int = 0,
    deduplication_id: str | None = None,
    partition_key: str | None = None,
    delay: timedelta | None = None,
) -> None:
    """Refuse a place that a queue does not have. Raises `ConfigurationError`."""
    name = queue.name
    if abs(priority) > PRIORITY_MAX:
        raise ConfigurationError(f"queue {name!r}: priority={priority}: at most {PRIORITY_MAX:,}, lower ones first")
    if priority and not queue.priority:
        raise ConfigurationError(
            f"queue {name!r}: priority={priority}, and it has no priorities: Queue({name!r}, priority=True)"
        )
    if queue.partitioned and partition_key is None:
        raise ConfigurationError(f"queue {name!r} is partitioned: partition_key= says whose limits and order count")
    if partition_key is not None and not queue.partitioned:
        raise ConfigurationError(
            f"queue {name!r}: partition_key={partition_key!r}, and it is not partitioned: Queue({name!r}, partitioned=True)"
        )
    for what, text in (("partition_key", partition_key), ("deduplication_id", deduplication_id)):
        if text is not None and (not text or len(text) > KEY_MAX or "\x00" in text):
            raise ConfigurationError(
                f"queue {name!r}: {what}={text[:50]!r}: 1 to {KEY_MAX} characters, none of them NUL"
            )
    if delay is not None and delay < timedelta(0):
        raise ConfigurationError(f"queue {name!r}: delay={delay}: not before now")


def enter(
    start: Start,
    queue: QueueSpec,
    *,
    priority: int = 0,
    deduplication_id: str | None = None,
    partition_key: str | None = None,
    delay: timedelta | None = None,
) -> None:
    """Make a start one of a queue's: ENQUEUED, and of no version until it starts."""
    start.status = WorkflowStatus.ENQUEUED
    start.queue, start.priority = queue.name, priority
    start.deduplication_id, start.partition_key = deduplication_id, partition_key
    start.version = None
    start.place = next_place()
    start.wake_at = now_ms() + int(delay / timedelta(milliseconds=1)) if delay else None


def by_name(queues: Sequence[QueueSpec]) -> dict[str, QueueSpec]:
    """What a process takes from: these, and what the official client resumes."""
    return {INTERNAL: QueueSpec(INTERNAL), **{queue.name: queue for queue in queues}}
