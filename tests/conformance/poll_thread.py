"""A poll thread under test: what it tells the loop is recorded, and every assigned partition may be attached by hand."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, Protocol

from confluent_kafka import KafkaError

from consumers.errors import Meaning
from consumers.handover import Place
from consumers.poller import Poller
from consumers.settings import GroupProtocol, GroupSettings
from engine.records import Record

PATIENCE_S = 60
"""Longest a test waits for what must come. Nothing is asserted about how long it took."""


@dataclass
class Intake:
    """What a partition's records go into."""

    congested: bool = False


@dataclass
class Told:
    """What the poll thread told the loop (`PollListener`), in order."""

    events: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    owned: dict[Place, int] = field(default_factory=dict[Place, int])
    generations: list[int] = field(default_factory=list[int])
    records: dict[int, list[Record]] = field(default_factory=dict[int, list[Record]])
    positions: dict[int, int] = field(default_factory=dict[int, int])
    failure: BaseException | None = None
    takes: bool = True
    untaken: int = 0
    poller: Poller | None = None
    largest_batch: int = 0

    def assigned(self, assignments: Mapping[Place, int], generation: int) -> None:
        self.owned |= assignments
        self.generations.append(generation)
        self.events.append(("assigned", sorted(assignments)))

    def revoked(self, places: Sequence[Place], *, lost: bool) -> None:
        for place in places:
            self.owned.pop(place, None)
        self.events.append(("lost" if lost else "revoked", sorted(places)))

    def delivered(self, batches: Sequence[tuple[int, int, list[Record]]]) -> None:
        assert len({number for number, _, _ in batches}) == len(batches), "one list for each attachment"
        for number, since, records in batches:
            before = self.records.get(number)
            assert since <= records[0].offset, "from its beginning on"
            assert not before or since > before[-1].offset, "behind the one before"
            self.records.setdefault(number, []).extend(records)
            self.untaken += len(records)
            self.largest_batch = max(self.largest_batch, len(records))
        if self.takes:
            self.take()

    def take(self) -> None:
        assert self.poller is not None
        self.poller.taken(self.untaken)
        self.untaken = 0

    def reached(self, positions: Sequence[tuple[int, int]]) -> None:
        self.positions |= dict(positions)

    def refused(self, attachment: int, error: str) -> None:
        self.events.append(("refused", attachment, error))

    def paused(self, attachment: int, reasons: frozenset[str]) -> None:
        self.events.append(("paused", attachment, reasons))

    def troubled(self, error: KafkaError, meaning: Meaning) -> None:
        self.events.append(("troubled", error.name(), meaning))

    def recreated(self, error: str, retry_s: float) -> None:
        self.events.append(("recreated", error, retry_s))

    def poll_failed(self, error: BaseException) -> None:
        self.failure = error

    def kinds(self, *wanted: str) -> list[str]:
        return [event[0] for event in self.events if event[0] in (wanted or ("assigned", "revoked", "lost"))]


class Steered(Poller):
    """The poll thread as it is, with a way into it."""

    def run_between_polls(self, command: Callable[[], object]) -> None:
        """Run something in the poll thread."""
        self._ask(lambda: (command(), None)[1])

    def break_down(self) -> None:
        """What the client's error callback does when the client has become unusable."""
        error = KafkaError(KafkaError._FATAL, "injected", fatal=True)
        self.run_between_polls(lambda: self._on_error(error))

    def look_at_positions(self) -> None:
        """At once, not at the next tenth of a second."""
        assert self._consumer is not None
        consumer = self._consumer
        self.run_between_polls(lambda: self._report_positions(consumer))


class Thread:
    """A poll thread of one group's member, and what it told."""

    _numbers = count(1)

    def __init__(
        self,
        bootstrap_servers: str,
        group: str,
        topic: str,
        *,
        protocol: GroupProtocol = GroupProtocol.CLASSIC,
        kind: Callable[..., Steered] = Steered,
        **changes: Any,
    ) -> None:
        if protocol is GroupProtocol.CLASSIC:
            changes.setdefault("session_timeout", timedelta(seconds=2))
        settings = GroupSettings(bootstrap_servers=bootstrap_servers, group=group, protocol=protocol, **changes)
        self.topic = topic
        self.group = group
        self.told = Told()
        self.poller = self.told.poller = kind(settings, [topic], self.told)
        self.intakes: dict[int, Intake] = {}

    async def joined(self, partitions: int) -> None:
        await self.poller.start()
        await until(lambda: len(self.told.owned) == partitions, self)

    def attach(self, partition: int, offset: int = 0, *, leader_epoch: int | None = None) -> int:
        place = (self.topic, partition)
        return self.attach_as(self.told.owned[place], partition, offset, leader_epoch=leader_epoch)

    def attach_as(self, assignment: int, partition: int, offset: int = 0, *, leader_epoch: int | None = None) -> int:
        number = next(self._numbers)
        intake = self.intakes[number] = Intake()
        self.poller.attach(
            assignment=assignment,
            number=number,
            place=(self.topic, partition),
            offset=offset,
            leader_epoch=leader_epoch,
            topic_id="",
            source=intake,
        )
        return number

    def offsets(self, number: int) -> list[int]:
        return [record.offset for record in self.told.records.get(number, [])]

    async def turns(self, turns: int = 3) -> None:
        """Until the thread has come round a few times: what it was going to do, it has done."""
        for _ in range(turns):
            done = asyncio.Event()
            loop = asyncio.get_running_loop()
            self.poller.run_between_polls(lambda done=done, loop=loop: loop.call_soon_threadsafe(done.set))
            await asyncio.wait_for(done.wait(), PATIENCE_S)


async def until(condition: Callable[[], object], *threads: Thread) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: It never came. Says what the threads told.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            told = [(thread.told.events, thread.told.failure) for thread in threads]
            raise TimeoutError(f"it never came; {told}")
        await asyncio.sleep(0.005)


class Threads(Protocol):
    """The fixture `threads`: makes a poll thread of the test's group."""

    def __call__(self, **options: Any) -> Thread: ...


def values(count: int) -> list[str]:
    return [str(i) for i in range(count)]
