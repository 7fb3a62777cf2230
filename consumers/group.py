"""One member of a consumer group, as a service on the engine's loop.

    brokers ◀──▶ Poller (thread) ──records, assignments──▶ Group ──▶ Partition ──▶ engine.sources
                       ▲                                              │
                       └───────────── attach, detach, mirror ◀────────┘

Kafka says which partitions are ours; Postgres says who may run them (P9). The group is the dispatcher between the two:
it keeps one `Partition` for each assigned partition and hands on what the poll thread brings, by attachment number.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException

from consumers import telemetry
from consumers.assignment import State
from consumers.backpressure import PauseReason
from consumers.cluster import Cluster
from consumers.errors import Meaning, may_pass
from consumers.handover import Place
from consumers.lag import LogEnd, LogEnds
from consumers.partition import Partition
from consumers.poller import Poller
from consumers.progress import Mirror
from consumers.settings import GroupSettings, Subscription, check_subscriptions, subscription_of
from consumers.starts import Starts
from consumers.surroundings import Surroundings
from engine.errors import ConfigurationError
from engine.ids import SourceRef
from engine.records import Record
from engine.sources import Sources
from engine.telemetry import ServiceFailed, Telemetry

CLOSE_S = 10.0
"""Longest wait for the client to leave the group at a stop. Longer, brokers notice by themselves."""


QUIET_S = 10.0
"""An error that passes is told once in that time."""


class HasSources(Protocol):
    """What a group needs of the engine."""

    @property
    def sources(self) -> Sources:
        """Where partitions are claimed."""
        ...


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """An assigned partition, for metrics and for people. `lag` is `None` while the log's end is not known."""

    source: SourceRef
    state: State
    reason: str
    paused: frozenset[str]
    next: int | None
    high: int | None
    log_end: LogEnd | None
    lag: int | None


@dataclass(frozen=True, slots=True)
class GroupSnapshot:
    """A member at one moment. `poll_age_s`: since the poll thread last came round; alive while it is small."""

    group: str
    poll_age_s: float
    generation: int
    partitions: tuple[PartitionSnapshot, ...]


class Group:
    """One member of a consumer group."""

    def __init__(
        self,
        engine: HasSources,
        settings: GroupSettings,
        subscriptions: Sequence[Subscription],
        events: Telemetry,
        *,
        also: Sequence[str] = (),
    ) -> None:
        """`also`: further topics that must be there, as those of dead letters."""
        self._also = tuple(also)
        self._subscriptions = tuple(subscriptions)
        check_subscriptions(self._subscriptions)
        self._settings = settings
        self._events = events
        self._engine = engine
        self._partitions: dict[Place, Partition] = {}
        self._leaving: dict[Place, asyncio.Task[None]] = {}
        self._paused: dict[int, frozenset[str]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._quiet_until: dict[int, float] = {}
        self._mirror = Mirror()
        self._generation = 0
        self._poller: Poller | None = None
        self._stopping = False
        self.failed: asyncio.Future[None]
        """Fails when the member cannot go on; the process should end. Made by `start`."""

    async def start(self) -> None:
        """Check the brokers and the topics, and join the group.

        Raises:
            ConfigurationError: Settings contradict each other, brokers do not answer or do not let us in, or a topic
                does not exist; within `startup_max`.
        """
        assert self._poller is None, "a group is started once"
        self.failed = asyncio.get_running_loop().create_future()
        self._cluster = Cluster(self._settings)
        await self._cluster.open([*(s.topic for s in self._subscriptions if not s.is_pattern), *self._also])
        self._ends = LogEnds(self._cluster)
        self._poller = Poller(self._settings, [s.topic for s in self._subscriptions], self)
        sources = self._engine.sources
        self._around = Surroundings(
            sources=sources,
            starts=Starts(sources, self._cluster),
            cluster=self._cluster,
            poller=self._poller,
            settings=self._settings,
            telemetry=self._events,
            failed=self._fail,
        )
        await self._poller.start()
        self._repeat("lag", self._settings.lag_every, self._look_at_lag)
        self._repeat("topic check", self._settings.topic_check_every, self._look_at_topics)
        hints = asyncio.create_task(self._pass_on_hints(sources), name="hints about claims")
        hints.add_done_callback(self._on_life_ended)
        self._tasks.append(hints)
        if self._settings.mirror_every:
            self._repeat("mirror", self._settings.mirror_every, self._mirror_progress)

    async def stop(self, drain: timedelta) -> None:
        """Detach and release everything, then leave the group. Takes at most `drain`, and `CLOSE_S` to leave.

        Polling goes on until all is released, so that no member that waits for us is kept waiting by Kafka as well.
        """
        if self._poller is None or self._stopping:
            return
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        await self._mirror_progress()
        self._poller.detach_all()
        for place in list(self._partitions):
            self._take_away(place, lost=False)
        lives = set(self._leaving.values())
        if lives:
            _, unfinished = await asyncio.wait(lives, timeout=drain.total_seconds())
            for life in unfinished:
                life.cancel()
        if not await self._poller.close(CLOSE_S):
            self._events.emit(ServiceFailed("poller", TimeoutError("the client did not leave in time"), None))
        await asyncio.to_thread(self._cluster.close)
        if not self.failed.done():
            self.failed.cancel()

    def pause(self, topic: str, partition: int, *, paused: bool = True) -> None:
        """Stop or resume fetching one partition, in this process only. What outlives it is a hold of the engine's."""
        assert self._poller is not None, "started"
        place = (topic, partition)
        (self._around.operator_pauses.add if paused else self._around.operator_pauses.discard)(place)
        found = self._partitions.get(place)
        if found is not None and found.number is not None:
            self._poller.hold(found.number, PauseReason.OPERATOR, on=paused)

    def snapshot(self) -> GroupSnapshot:
        """The member now. Cheap: read at every scrape."""
        beat = self._poller.beat if self._poller is not None else time.monotonic()
        return GroupSnapshot(
            group=self._settings.group,
            poll_age_s=max(time.monotonic() - beat, 0.0),
            generation=self._generation,
            partitions=tuple(self._snapshot(place, partition) for place, partition in sorted(self._partitions.items())),
        )

    # -- what the poll thread brings, on the loop (PollListener)

    def assigned(self, assignments: Mapping[Place, int], generation: int) -> None:
        """Begin a partition's life here; after the end of its former one, if that is not over yet."""
        self._generation = generation
        if self._stopping:
            return
        refs: list[SourceRef] = []
        for place, assignment in assignments.items():
            self._take_away(place, lost=True)
            topic, number = place
            try:
                subscription = subscription_of(topic, self._subscriptions, self._settings.protocol)
            except ConfigurationError as error:
                self._fail(error)
                return
            ref = SourceRef(self._settings.group, subscription.handler, topic, number)
            refs.append(ref)
            partition = Partition(
                ref,
                subscription,
                self._around,
                assignment=assignment,
                generation=generation,
                former=self._leaving.get(place),
            )
            partition.life.add_done_callback(self._on_life_ended)
            self._partitions[place] = partition
        self._events.emit(telemetry.PartitionsAssigned(tuple(refs), generation))

    def revoked(self, places: Sequence[Place], *, lost: bool) -> None:
        """End partitions' lives here; their releases run beside the rebalance."""
        refs = tuple(self._partitions[place].ref for place in places if place in self._partitions)
        for place in places:
            self._take_away(place, lost=lost)
        if refs:
            self._events.emit(telemetry.PartitionsRevoked(refs, lost))

    def delivered(self, batches: Sequence[tuple[int, int, list[Record]]]) -> None:
        """Hand each list to its partition, unless the attachment has ended (case 4)."""
        assert self._poller is not None, "started"
        count = stale = 0
        for number, since, records in batches:
            count += len(records)
            partition = self._around.attached.get(number)
            if partition is None:
                stale += len(records)
            else:
                partition.deliver(since, records)
        self._poller.taken(count)
        if stale:
            self._events.emit(telemetry.StaleBatchDropped(stale))

    def reached(self, positions: Sequence[tuple[int, int]]) -> None:
        """Tell sources how far Kafka is beyond their last record."""
        for number, offset in positions:
            partition = self._around.attached.get(number)
            if partition is not None:
                partition.reached(offset)

    def refused(self, attachment: int, error: str) -> None:
        """Back to validation."""
        partition = self._around.attached.get(attachment)
        if partition is not None:
            partition.refused(error)

    def paused(self, attachment: int, reasons: frozenset[str]) -> None:
        """Remember for the snapshot, and tell."""
        partition = self._around.attached.get(attachment)
        self._paused = {n: r for n, r in self._paused.items() if n in self._around.attached and n != attachment}
        if partition is not None:
            self._paused[attachment] = reasons
            self._events.emit(telemetry.PartitionPaused(partition.ref, reasons))

    def troubled(self, error: KafkaError, meaning: Meaning) -> None:
        """The client reports an error; nearly always it retries by itself, many times a second while brokers are away."""
        now = time.monotonic()
        if meaning is Meaning.PASSING and now < self._quiet_until.get(error.code(), 0.0):
            return
        self._quiet_until[error.code()] = now + QUIET_S
        self._events.emit(telemetry.ClientError(error.name(), error.str(), meaning.value))

    def recreated(self, error: str, retry_s: float) -> None:
        """The client was given up, or everything was attached again."""
        self._events.emit(telemetry.ClientRecreated(error, retry_s))

    def poll_failed(self, error: BaseException) -> None:
        """The poll thread has ended, or could not hand over: what it tells from now on may lie behind a gap (I1)."""
        self._around.attached.clear()
        self._fail(error)

    # -- helpers

    def _take_away(self, place: Place, *, lost: bool) -> None:
        partition = self._partitions.pop(place, None)
        if partition is None:
            return
        partition.revoke(lost=lost)
        life = self._leaving[place] = partition.life
        if life.done():
            del self._leaving[place]
        else:
            life.add_done_callback(lambda ended: self._forget(place, ended))

    def _forget(self, place: Place, life: asyncio.Task[None]) -> None:
        if self._leaving.get(place) is life:
            del self._leaving[place]

    def _on_life_ended(self, life: asyncio.Task[None]) -> None:
        """Of a partition, or of a task of the group's own: what it raised is a bug of ours."""
        if not life.cancelled() and (error := life.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._events.emit(ServiceFailed(f"group {self._settings.group}", error, None))
        if not self.failed.done():
            self.failed.set_exception(error)

    def _repeat(self, name: str, every: timedelta, action: Callable[[], Awaitable[None]]) -> None:
        async def forever() -> None:
            while True:
                try:
                    await action()
                except Exception as error:
                    if not may_pass(error):
                        raise
                    self._events.emit(ServiceFailed(name, error, every.total_seconds()))
                await asyncio.sleep(every.total_seconds())

        task = asyncio.create_task(forever(), name=f"{name} of group {self._settings.group}")
        task.add_done_callback(self._on_life_ended)
        self._tasks.append(task)

    async def _pass_on_hints(self, sources: Sources) -> None:
        while True:
            await sources.woken.wait()
            sources.woken.clear()
            for partition in self._partitions.values():
                partition.woken()

    async def _look_at_topics(self) -> None:
        """A topic created again under an attached partition: the client goes on at the old offset, without a word."""
        for topic in {place[0] for place, partition in self._partitions.items() if partition.number is not None}:
            try:
                topic_id = (await self._cluster.topic(topic)).topic_id
            except KafkaException as error:  # deleted, for instance; the others are looked at all the same
                self._events.emit(ServiceFailed("topic check", error, self._settings.topic_check_every.total_seconds()))
                continue
            for place, partition in list(self._partitions.items()):
                if place[0] == topic:
                    partition.seen(topic_id)

    async def _look_at_lag(self) -> None:
        self._cluster.serve()
        if self._partitions:
            await self._ends.refresh(list(self._partitions))

    async def _mirror_progress(self) -> None:
        assert self._poller is not None, "started"
        progress = {
            place: partition.source.progress.next
            for place, partition in self._partitions.items()
            if partition.source is not None
        }
        if news := self._mirror.news(progress):
            self._poller.mirror(news)

    def _snapshot(self, place: Place, partition: Partition) -> PartitionSnapshot:
        progress = partition.source.progress if partition.source is not None else None
        end = self._ends.get(place)
        paused = self._paused.get(partition.number, frozenset()) if partition.number is not None else frozenset[str]()
        return PartitionSnapshot(
            source=partition.ref,
            state=partition.state,
            reason=partition.reason,
            paused=paused,
            next=progress.next if progress else None,
            high=progress.high if progress else None,
            log_end=end,
            lag=end.lag(progress.next) if end and progress else None,
        )
