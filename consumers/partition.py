"""One assigned partition, from Kafka's assignment to its release: the loop's side of `consumers.assignment`.

    wait for the release of its former life here, if it came back
    ┌▶ progress if it has none (starts) ─▶ claim, until it is not busy ─▶ open: its open workflows run from here on
    │      ─▶ validate against the log ─▶ attach, unless it is held
    └── the claim ended, or Kafka refused the offset: give the claim back, wait a little ◀──┘

Nothing here delays a rebalance. When Kafka takes the partition, the poll thread has detached it already, and the
release runs beside the rebalance; whatever was awaited at that moment ends by its own timeout and finds that it is over.
"""

import asyncio
import random
import time
from contextlib import suppress

from confluent_kafka import KafkaException

from consumers import telemetry
from consumers.assignment import Event, State, after
from consumers.backpressure import PauseReason
from consumers.errors import may_pass
from consumers.settings import Subscription
from consumers.surroundings import Surroundings
from consumers.validation import Attach, BeginIncarnation, Halt, Refusal, SkipGap, Wait, judge
from engine.errors import ConfigurationError, EngineError
from engine.failures import summary
from engine.ids import SourceRef
from engine.partitions import Place
from engine.records import Record
from engine.sources import RELEASED_ON_REQUEST, Busy, Source
from engine.telemetry import ServiceFailed

RETRY_FIRST_S = 0.1
"""Wait before a partition is claimed again after its claim ended; doubled each time, up to `reclaim_every`."""

STEADY_S = 10.0
"""Attached for this long, a partition starts over with the shortest wait."""

SECOND_LOOK_S = 1.0
"""Before a partition halts, or begins anew, for what a change of leaders or a broker that lags may show for a moment."""

AFTER_REQUEST_S = 1.0
"""Before a partition is claimed again that another member asked for: four times what that one waits between tries."""


class MissingRecordsError(EngineError):
    """Records were fetched and did not reach the engine: a bug, noticed before anything behind them ran."""


BY_POLICY = "policy"
"""Who decided, in the audit, where no operator did."""


class Partition:
    """A partition while it is assigned to us, and until it is released. Listens to its source (`SourceListener`)."""

    def __init__(
        self,
        ref: SourceRef,
        subscription: Subscription,
        surroundings: Surroundings,
        *,
        assignment: int,
        generation: int,
        former: "asyncio.Task[None] | None" = None,
    ) -> None:
        self.ref = ref
        self.state = State.ASSIGNED
        self.reason = ""
        """Why it is not attached, for people."""
        self.source: Source | None = None
        self._subscription = subscription
        self._around = surroundings
        self._assignment = assignment
        self._generation = generation
        self._former = former
        self._assigned_at = time.monotonic()
        self.number: int | None = None
        """Of the attachment, while it has one."""
        self._attached_at = 0.0
        self._ended = asyncio.Event()
        self._over = False
        self._lost = False
        self._refusal: Refusal | None = None
        self._retry_s = RETRY_FIRST_S
        self._is_waiting = False
        self._skip: tuple[int, int] | None = None
        """To which offset a gap is skipped, and the epoch under which that was judged."""
        self._told = ""
        self._releases: set[asyncio.Task[None]] = set()
        self.life = asyncio.create_task(self._live(), name=f"partition {ref}")

    # -- called by the group, on the loop

    def deliver(self, since: int, records: list[Record]) -> None:
        """Hand records of the current attachment to the engine: all that there is from `since` on, up to the last of them.

        If the engine has not had everything below `since`, what lies between was lost on the way here: nothing of this
        attachment is taken any more, and all of it is fetched again from the stored progress (I1).
        """
        if self.source is None:
            return
        if self.source.is_open and since > self.source.position:
            lost = f"what was fetched from offset {self.source.position} to {since - 1} did not arrive: it is fetched again"
            self._fail(MissingRecordsError(f"{self.ref}: {lost}"))
            return
        try:
            self.source.deliver(records)
        except BaseException as error:  # noqa: BLE001  # the records of the other partitions in this batch must go on
            self._break(error)

    def reached(self, offset: int) -> None:
        """Nothing below `offset` will come any more."""
        if self.source is None:
            return
        try:
            self.source.reached(offset)
        except BaseException as error:  # noqa: BLE001  # as above
            self._break(error)

    def refused(self, error: str) -> None:
        """The log is not what it was taken for: give the claim back and validate again."""
        self._refusal = Refusal(error, self._refusal.times + 1 if self._refusal else 1)
        self._around.telemetry.emit(telemetry.OffsetRefused(self.ref, error))
        self._end(error)

    def seen(self, topic_id: str) -> None:
        """The topic has this ID now."""
        if self.number is None or self.source is None or not topic_id:
            return
        # Not one that it had before: those never come back, and a broker that lags may tell it for a while.
        if self.source.topic_id not in ("", topic_id) and topic_id not in self.source.progress.former:
            self.refused(f"the topic has another ID now: {topic_id}")

    def woken(self) -> None:
        """A claim may have become free."""
        if self._is_waiting:
            self._ended.set()

    def revoke(self, *, lost: bool) -> None:
        """Kafka took it. The release begins at once, if there is a claim to release."""
        if self._over:
            return
        self._over, self._lost = True, lost
        self._detach()
        claimed = self.state in (State.VALIDATING, State.ATTACHED, State.HELD, State.HALTED)
        self._step(Event.LOSE if lost else Event.REVOKE, "lost" if lost else "revoked")
        if claimed:
            self._give_back()
        self._ended.set()

    # -- called by the engine, on the loop

    def dropped(self, source: Source, reason: str) -> None:
        """The engine ended the claim: detach, and claim again after a wait if it is still ours."""
        if source is self.source:
            self.source = None
            if reason == RELEASED_ON_REQUEST:
                # Kafka gave it to another member; our revocation is on its way. Leave the claim to that one.
                self._retry_s = max(self._retry_s, AFTER_REQUEST_S)
            self._end(reason)

    # -- its life

    async def _live(self) -> None:
        if self._former is not None:
            # Two lives of one partition in one process would release and claim the same row at once.
            await asyncio.wait([self._former])
            self._former = None
        while not self._over:
            try:
                await self._once()
            except ConfigurationError as error:
                self._halt(str(error))
                await self._until_ended(self._around.settings.reclaim_every.total_seconds())
            except Exception as error:
                if not may_pass(error):
                    self._detach()
                    raise
                self._fail(error)
            self._give_back()
            if not self._over:
                self._step(Event.DROP)
                await self._wait_before_next_try()
        await self._releasing()
        self._step(Event.RELEASED)

    async def _once(self) -> None:
        """One claim, from asking for it until it has ended."""
        source = await self._claim()
        if source is None:
            return
        self._ended.clear()
        self.source = source
        if self._over:
            return
        self._step(Event.CLAIMED)
        await self._skip_gap(source)
        await source.open(self)
        if self._is_past(source):
            return
        if source.held:
            # Kept: the engine ends the claim when the hold is lifted.
            self._hold(source.held)
            await self._until_ended()
            return
        self._step(Event.OPENED)
        if await self._validate(source):
            self._attach(source)
            await self._until_ended()

    async def _claim(self) -> Source | None:
        around, ref = self._around, self.ref
        while not self._over:
            await around.starts.ensure(ref, self._subscription)
            if self._over:
                return None
            self._step(Event.CLAIM)
            claimed = await around.sources.claim(
                ref, generation=self._generation, renamed_from=self._subscription.renamed_from
            )
            if not isinstance(claimed, Busy):
                return claimed
            if not self._over:
                self._step(Event.BUSY, f"waits for executor {claimed.owner} to release it")
                self._is_waiting = True
                await self._until_ended(claimed.retry_s * random.uniform(0.8, 1.2))
                self._is_waiting = False
                if not self._over:
                    self._ended.clear()
        around.sources.no_longer_wanted(ref)
        return None

    async def _validate(self, source: Source) -> bool:
        """Whether the partition may be attached. Meanwhile its open workflows run."""
        around, subscription = self._around, self._subscription
        doubted: str | None = None
        while not self._is_past(source):
            try:
                log = await around.cluster.log(self.ref.topic, self.ref.partition)
            except KafkaException as error:
                await self._look_again_later(f"Kafka does not say what the log holds: {error}")
                continue
            if self._is_past(source):
                return False
            verdict = judge(
                source.progress,
                log,
                place=Place(self.ref.group, self.ref.key),
                on_recreated=subscription.on_recreated,
                on_gap=subscription.on_gap,
                refusal=self._refusal,
            )
            match verdict:
                case Attach():
                    source.has_topic_id(log.topic_id)
                    return True
                case Wait(reason):
                    await self._look_again_later(reason)
                case BeginIncarnation() | Halt(certain=False) if doubted != log.topic_id:
                    # A second look, which must see the same topic: a broker may lag, or leaders change.
                    doubted = log.topic_id
                    await self._until_ended(SECOND_LOOK_S)
                case Halt(reason):
                    # A stored hold, which the next claim finds: it outlives this process and this assignment.
                    self._halt(reason)
                    self._retry_s = 0.0
                    await source.halt(reason)
                    return False
                case SkipGap(to):
                    # Only a claim that is not open yet can be moved: begin another one.
                    self._skip, self._refusal, self._retry_s = (to, source.epoch), None, 0.0
                    return False
                case BeginIncarnation(topic_id, start):
                    await self._begin_anew(source, topic_id, start)
                    return False
        return False

    async def _begin_anew(self, source: Source, topic_id: str, start: int) -> None:
        """Begin another incarnation, unless Kafka takes the partition first, or somebody claims it or moves it."""
        around, former_id = self._around, source.progress.topic_id
        self._give_back()
        await self._releasing()
        if self._over:
            return
        if await around.sources.new_incarnation(source, topic_id=topic_id, start=start, by=BY_POLICY):
            around.telemetry.emit(telemetry.TopicRecreated(self.ref, former_id, topic_id))
        self._refusal, self._retry_s = None, 0.0

    async def _skip_gap(self, source: Source) -> None:
        skip, self._skip = self._skip, None
        if skip is None or skip[1] + 1 != source.epoch:
            return  # somebody claimed it between, or an operator moved it: the gap may be another log's
        (to, _), start = skip, source.progress.next
        if start < to:
            reason = "retention passed the progress"
            await self._around.sources.skip_gap(source, to=to, reason=reason, by=BY_POLICY)
            self._around.telemetry.emit(telemetry.GapAccepted(self.ref, start, to))

    def _attach(self, source: Source) -> None:
        around, progress, place = self._around, source.progress, (self.ref.topic, self.ref.partition)
        self.number = next(around.numbers)
        around.attached[self.number] = self
        around.poller.attach(
            assignment=self._assignment,
            number=self.number,
            place=place,
            offset=progress.next,
            leader_epoch=progress.leader_epoch,
            topic_id=source.topic_id,
            source=source,
        )
        if place in around.operator_pauses:
            around.poller.hold(self.number, PauseReason.OPERATOR, on=True)
        self._step(Event.ATTACH)
        self._told = ""
        self._attached_at = time.monotonic()
        waited_s, self._assigned_at = self._attached_at - self._assigned_at, self._attached_at
        around.telemetry.emit(telemetry.PartitionAttached(self.ref, progress.next, waited_s))

    def _detach(self) -> None:
        number, self.number = self.number, None
        if number is not None:
            self._around.attached.pop(number, None)
            self._around.poller.detach(number)

    def _end(self, reason: str) -> None:
        """The claim, or the attachment under it, is over; `_live` goes on from here."""
        self._detach()
        self.reason = reason
        self._ended.set()

    def _break(self, error: BaseException) -> None:
        """The engine could not take what came: nothing more of this attachment may reach it (I1)."""
        self._end(summary(error))
        self._around.failed(error)

    def _fail(self, error: Exception) -> None:
        self._around.telemetry.emit(ServiceFailed(f"partition {self.ref}", error, self._retry_s))
        self._end(summary(error))

    def _hold(self, held: str) -> None:
        self._step(Event.HELD, held)
        self._tell_halted(held)

    def _halt(self, reason: str) -> None:
        if self._over:
            return
        self._step(Event.HALT, reason)
        self._refusal = None  # whoever decides, decides about this one as well
        self._tell_halted(reason)

    def _tell_halted(self, reason: str) -> None:
        """Once for each reason: a halt is found again as a hold by the next claim."""
        reason = reason.removeprefix("halt: ")
        if reason != self._told:
            self._told = reason
            self._around.telemetry.emit(telemetry.PartitionHalted(self.ref, reason))

    def _is_past(self, source: Source) -> bool:
        return self._over or self.source is not source

    # -- giving back

    def _give_back(self) -> None:
        """Begin to release the claim, if there is one."""
        source, self.source = self.source, None
        self._detach()
        if source is None:
            return
        if self._lost:
            source.lose("Kafka gave the partition to another member")
            return
        task = asyncio.create_task(self._release(source), name=f"release {self.ref}")
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, source: Source) -> None:
        try:
            await source.release()
        except Exception as error:  # noqa: BLE001  # its owner's death is then observed by others (P2)
            self._around.telemetry.emit(ServiceFailed(f"release {self.ref}", error, None))
            if not may_pass(error):
                self._around.failed(error)

    async def _releasing(self) -> None:
        while self._releases:
            await asyncio.wait(self._releases)

    # -- waiting

    async def _until_ended(self, timeout_s: float | None = None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()

    async def _look_again_later(self, reason: str) -> None:
        self.reason = reason
        self._around.telemetry.emit(ServiceFailed(f"partition {self.ref}", RuntimeError(reason), self._retry_s))
        await self._until_ended(self._next_retry_s())

    async def _wait_before_next_try(self) -> None:
        await self._releasing()
        if self._attached_at and time.monotonic() - self._attached_at > STEADY_S:
            self._retry_s = RETRY_FIRST_S
            self._refusal = None
        self._attached_at = 0.0
        self._ended.clear()
        if not self._over:
            await self._until_ended(self._next_retry_s())

    def _next_retry_s(self) -> float:
        retry_s = self._retry_s
        self._retry_s = min(max(retry_s * 2, RETRY_FIRST_S), self._around.settings.reclaim_every.total_seconds())
        return retry_s * random.uniform(0.8, 1.2)

    def _step(self, event: Event, reason: str | None = None) -> None:
        self.state = after(self.state, event)
        if reason is not None:
            self.reason = reason
        elif self.state is not State.ASSIGNED:
            self.reason = ""
