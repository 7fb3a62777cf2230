"""The one thread that touches the client.

    loop                                  this thread, again and again
    ────                                  ────────────────────────────
    attach, detach, hold, mirror ──────▶  obey what was asked
                                          rest or pause, if nothing can be taken          (backpressure)
                                          poll(t), which runs rebalance callbacks, then consume(n, 0)
    batches, one list an attachment ◀───  sort by attachment, hand over with one wake-up of the loop
    assigned, revoked, lost, reset  ◀───

Why it is so (measured and read in the client's source):

- `consume(n, t)` waits the whole `t` for `n` records; `poll(t)` returns with the first, `consume(n, 0)` never waits.
- An exception out of `poll` or `consume` destroys records whose position has already advanced (case 7). So callbacks
  never raise, and after any exception every partition is attached again at *our own* next offset: 1 + the last one
  handed over.
- Assigning nothing in the callback and attaching later is allowed by the client. So a claim in Postgres, however slow,
  delays no rebalance; and a revoked partition is detached before the callback returns, whatever the loop is doing.
- An attachment has a number that is never used again. What was fetched under an old number is recognised by it, never
  by topic, partition and offset, which come back (case 4).
"""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.backpressure import Patience, PauseReason, Pauses
from consumers.bridge import Bridge
from consumers.client import generation_of, new_consumer
from consumers.contact import Contact, knows_brokers
from consumers.errors import NO_BROKERS, Meaning, meaning_of
from consumers.handover import Attachment, Congestible, Place, PollListener, Sorted, sort
from consumers.pace import POLL_S, Pace, Standing
from consumers.settings import GroupSettings
from engine.errors import ConfigurationError

REBALANCE_S = 10.0
"""No mirror commit for this long after a revocation, or until the assignment that follows. KIP-848 may send none."""

REST_S = 0.002
"""A rest while nothing can be taken; ends early when the loop has taken a batch."""


class Poller:
    """The poll thread. Its methods are called on the loop and return at once; it obeys in order."""

    def __init__(self, settings: GroupSettings, topics: Sequence[str], listener: PollListener) -> None:
        self.beat = time.monotonic()
        """When the thread last came round; for liveness."""
        self._settings = settings
        self._topics = list(topics)
        self._listener = listener
        self._bridge = Bridge(failed=listener.poll_failed, alone=self._close)
        self._tell = self._bridge.tell
        self._ask = self._bridge.ask
        self._thread = threading.Thread(target=self._run, name="kafka-poll", daemon=True)
        self._ended = asyncio.Event()
        # From here on the thread's own.
        self._first: Consumer | None = None
        self._consumer: Consumer | None = None
        self._owned: dict[Place, int] = {}
        self._attached: dict[Place, Attachment] = {}
        self._fetched: dict[str, str] = {}
        """IDs of the topics that this client has fetched, by name."""
        self._assignments = 0
        self._handed = 0
        self._taken = 0  # written on the loop
        self._rebalancing_until = 0.0
        self._pace = Pace(settings)
        self._standing = Standing(settings)
        self._patience = Patience()
        self._contact = Contact()
        self._broken: BaseException | None = None
        self._fatal: KafkaError | None = None
        self._closing = False

    # -- called on the loop

    async def start(self) -> None:
        """Join the group.

        Raises:
            ConfigurationError: The client refuses its configuration.
        """
        self._bridge.open()
        self._first = await asyncio.to_thread(self._new_client)
        self._thread.start()

    def attach(
        self,
        *,
        assignment: int,
        number: int,
        place: Place,
        offset: int,
        leader_epoch: int | None,
        topic_id: str,
        source: Congestible,
    ) -> None:
        """Fetch a partition from `offset`, if Kafka's assignment of that number still stands.

        A client that has fetched a topic of that name with another ID is given up first, and a new one joins the group: it
        would take the new topic's leader epochs for older than those it knows, and fetch nothing, without a word (case 19).
        """
        topic, number_of = place
        attachment = Attachment(number, topic, number_of, offset, leader_epoch, source)
        self._ask(partial(self._attach, assignment, attachment, topic_id))

    def detach(self, number: int) -> None:
        """Stop fetching an attachment. What is under way still arrives, under its number."""
        self._ask(partial(self._detach_number, number))

    def detach_all(self) -> None:
        """Stop fetching everything, and attach nothing any more; keep polling."""
        self._ask(self._detach_all)

    def hold(self, number: int, reason: PauseReason, *, on: bool) -> None:
        """Add a reason to pause an attachment, or take it away."""
        self._ask(partial(self._hold, number, reason, on))

    def mirror(self, offsets: Mapping[Place, int]) -> None:
        """Commit offsets to Kafka, asynchronously, unless a rebalance is under way."""
        self._ask(partial(self._mirror, offsets))

    def taken(self, count: int) -> None:
        """The loop has taken that many of the records handed over."""
        self._taken += count
        self._bridge.wake()

    async def close(self, timeout_s: float) -> bool:
        """Leave the group and end the thread. False: it has not ended in time, and is left to the process's exit."""
        if not self._thread.is_alive():
            return True
        self._ask(self._close)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    self._turn()
                except BaseException as error:  # noqa: BLE001  # whatever it is, nothing handed over may be skipped
                    self._survive(error)
        except BaseException as error:  # noqa: BLE001  # the thread ends: somebody must know
            self._tell(self._listener.poll_failed, error)
        finally:
            self._leave()
            self._tell(self._ended.set)

    def _turn(self) -> None:
        self.beat = time.monotonic()
        self._bridge.obey()
        if self._closing:
            return
        consumer = self._consumer or self._join()
        if self._regulate(consumer):
            self._bridge.rest(REST_S)
            return
        message = consumer.poll(self._pace.poll_s(self.beat, (a.pauses for a in self._attached.values())))
        if message is not None:
            self._contact.heard(self.beat)
            self._hand_over([message, *consumer.consume(self._pace.batch_size() - 1, 0)])
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        if self._standing.is_stranded(self.beat):
            self._fatal = KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "lost everything, and was assigned nothing since")
            raise KafkaException(self._fatal)
        if self._contact.is_due(self.beat):
            self._look_for_brokers(consumer)
        if self._pace.is_positions_due(self.beat):
            self._report_positions(consumer)

    def _look_for_brokers(self, consumer: Consumer) -> None:
        """Raise `KafkaException` for a client that has reached no broker for too long: another one may."""
        topic = next((each for each in self._topics if not each.startswith("^")), "")
        if knows_brokers(consumer, topic):
            self._contact.heard(self.beat)
        elif self._contact.is_gone(self.beat):
            self._fatal = KafkaError(NO_BROKERS, "it reaches no broker any more")
            raise KafkaException(self._fatal)

    # -- records

    def _hand_over(self, messages: Sequence[Message]) -> None:
        """Give the loop one list of records for each attachment; move our next offsets once it has them."""
        found = self._sort(messages)
        for error in found.errors:
            self._on_error(error)
        if found.batches:
            self._tell(self._listener.delivered, [(a.number, a.next, records) for a, records in found.batches])
            for attachment, records in found.batches:
                self._handed += len(records)
                attachment.handed_over(records)
            self._pace.saw(found.mean_size())
        for attachment, text in found.refused:
            if self._attached.get(attachment.place()) is attachment:
                self._detach([attachment])
                self._tell(self._listener.refused, attachment.number, text)

    def _sort(self, messages: Sequence[Message]) -> Sorted:
        return sort(messages, self._attached)

    def _report_positions(self, consumer: Consumer) -> None:
        """Tell how far the client is beyond the last record: control records and gaps end there (case 25).

        The position becomes invalid at every attach, and moves in order with the records, all of which have been
        handed over by now; so it never runs ahead of them.
        """
        if not self._attached:
            return
        reached: list[tuple[int, int]] = []
        for position in consumer.position([a.bare() for a in self._attached.values()]):
            attachment = self._attached[position.topic, position.partition]
            if position.offset > attachment.next:
                attachment.next = position.offset
                reached.append((attachment.number, position.offset))
        if reached:
            self._tell(self._listener.reached, reached)

    # -- backpressure

    def _regulate(self, consumer: Consumer) -> bool:
        """Whether to rest instead of polling; pauses and resumes otherwise."""
        now = self.beat
        behind = self._handed - self._taken >= self._settings.batch_max
        blocked = bool(self._attached) and (behind or all(a.source.congested for a in self._attached.values()))
        if self._patience.rest(blocked, now):
            return True
        for attachment in self._attached.values():
            if behind or attachment.source.congested or attachment.pauses.reasons:
                self._pause(consumer, attachment, PauseReason.BEHIND, on=behind)
                self._pause(consumer, attachment, PauseReason.CONGESTED, on=attachment.source.congested)
        return False

    def _pause(self, consumer: Consumer, attachment: Attachment, reason: PauseReason, *, on: bool) -> None:
        change = attachment.pauses.set(reason, on, self.beat)
        if change is None:
            return
        (consumer.pause if change else consumer.resume)([attachment.bare()])
        reasons = frozenset(r.value for r in attachment.pauses.reasons)
        self._tell(self._listener.paused, attachment.number, reasons)

    # -- commands

    def _attach(self, assignment: int, attachment: Attachment, topic_id: str) -> None:
        if self._consumer is None or self._owned.get(attachment.place()) != assignment:
            return  # revoked in the meantime; the loop will hear of it, or has
        if topic_id and self._fetched.setdefault(attachment.topic, topic_id) != topic_id:
            self._fatal = KafkaError(KafkaError.INCONSISTENT_TOPIC_ID, f"{attachment.topic} was created again")
            raise KafkaException(self._fatal)
        self._detach([a for a in (self._attached.get(attachment.place()),) if a is not None])
        try:
            self._consumer.incremental_assign([attachment.at_next()])
            # A pause outlives unassign and assign in this client: start from a known state.
            self._consumer.resume([attachment.bare()])
        except KafkaException as error:
            self._tell(self._listener.refused, attachment.number, str(error))
            raise
        self._attached[attachment.place()] = attachment

    def _detach_number(self, number: int) -> None:
        self._detach([a for a in self._attached.values() if a.number == number])

    def _detach_all(self) -> None:
        self._detach(list(self._attached.values()))
        self._owned.clear()

    def _detach(self, attachments: Sequence[Attachment]) -> None:
        if not attachments:
            return
        self._pace.expect(self.beat)
        for attachment in attachments:
            del self._attached[attachment.place()]
        if self._consumer is not None:
            self._unassign(self._consumer, [a.place() for a in attachments])

    def _hold(self, number: int, reason: PauseReason, on: bool) -> None:
        for attachment in self._attached.values():
            if attachment.number == number and self._consumer is not None:
                self._pause(self._consumer, attachment, reason, on=on)

    def _mirror(self, offsets: Mapping[Place, int]) -> None:
        owned = [TopicPartition(*place, offset) for place, offset in offsets.items() if place in self._owned]
        if owned and self._consumer is not None and self.beat >= self._rebalancing_until:
            self._consumer.commit(offsets=owned, asynchronous=True)

    def _close(self) -> None:
        self._closing = True

    # -- the client's callbacks: inside poll, consume and close, in this thread

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            consumer.incremental_assign([])  # attached later, one by one, when claimed
            self._rebalancing_until = 0.0
            self._standing.assigned()
            self._contact.heard(time.monotonic())
            self._pace.expect(time.monotonic())
            given: dict[Place, int] = {}
            for each in partitions:
                self._assignments += 1
                given[each.topic, each.partition] = self._owned[each.topic, each.partition] = self._assignments
            self._tell(self._listener.assigned, given, generation_of(consumer))
        except BaseException as error:  # noqa: BLE001  # raising here destroys records (case 7)
            self._broken = error

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._gone(consumer, partitions, lost=False)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._gone(consumer, partitions, lost=True)

    def _gone(self, consumer: Consumer, partitions: list[TopicPartition], *, lost: bool) -> None:
        try:
            places = [(each.topic, each.partition) for each in partitions]
            owned = [place for place in places if self._owned.pop(place, None) is not None]
            for place in owned:
                self._attached.pop(place, None)
            self._rebalancing_until = time.monotonic() + REBALANCE_S
            if lost and owned:
                self._standing.lost(time.monotonic())
            if owned:
                self._tell(partial(self._listener.revoked, owned, lost=lost))
            self._unassign(consumer, places)
        except BaseException as error:  # noqa: BLE001  # raising here destroys records (case 7)
            self._broken = error

    def _on_error(self, error: KafkaError) -> None:
        try:
            meaning = meaning_of(error)
            if meaning in (Meaning.FATAL, Meaning.FENCED):
                self._fatal = error
            self._tell(self._listener.troubled, error, meaning)
        except BaseException as wrong:  # noqa: BLE001  # raising here destroys records (case 7)
            self._broken = wrong

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:  # noqa: ARG002
        if error is not None:
            self._on_error(error)

    @staticmethod
    def _unassign(consumer: Consumer, places: Sequence[Place]) -> None:
        """Unassign what is assigned in the client; always called, because the client wants an answer to a revocation."""
        wanted = set(places)
        consumer.incremental_unassign([p for p in consumer.assignment() if (p.topic, p.partition) in wanted])

    # -- the client's life

    def _join(self) -> Consumer:
        self._consumer, self._first = self._first or self._new_client(), None
        self._contact.heard(self.beat)
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        return self._consumer

    def _new_client(self) -> Consumer:
        return new_consumer(self._settings, on_error=self._on_error, on_commit=self._on_commit)

    def _survive(self, error: BaseException) -> None:
        """After an exception: attach everything again at our own next offset, with a new client if need be.

        Only after one of the client's, or of a machine without memory (case 7): it may not come again. One of our own
        code would, at every turn.

        Raises:
            BaseException: The error itself, where it is a bug of ours.
            ConfigurationError: Another process has our `group.instance.id`. Joining again would throw that one out.
        """
        if self._fatal is not None and meaning_of(self._fatal) is Meaning.FENCED:
            raise ConfigurationError(
                f"another process has joined group {self._settings.group!r} with kafka.group_instance_id "
                f"{self._settings.instance_id!r}: {self._fatal.str()}\n"
                f"  Give every process one of its own that it keeps across restarts (the ordinal of a StatefulSet)."
            ) from error
        if not isinstance(error, KafkaException | RuntimeError | MemoryError):
            raise error
        if self._fatal is None and self._consumer is not None:
            try:
                self._attach_again(self._consumer)
            except (KafkaException, RuntimeError) as worse:
                error = worse
            else:
                self._tell(self._listener.recreated, repr(error), 0.0)
                return
        retry_s = self._standing.next_retry_s()
        self._tell(self._listener.recreated, repr(error), retry_s)
        self._leave()
        self._fatal = None
        deadline = time.monotonic() + retry_s
        while not self._closing and time.monotonic() < deadline:
            self.beat = time.monotonic()
            self._bridge.rest(POLL_S)
            self._bridge.obey()

    def _attach_again(self, consumer: Consumer) -> None:
        attachments = list(self._attached.values())
        self._unassign(consumer, [a.place() for a in attachments])
        consumer.incremental_assign([a.at_next() for a in attachments])
        for attachment in attachments:
            consumer.resume([attachment.bare()])
            before, attachment.pauses = attachment.pauses, Pauses()
            for reason in before.reasons:
                self._pause(consumer, attachment, reason, on=True)

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if self._owned:
            self._tell(partial(self._listener.revoked, list(self._owned), lost=True))
        self._owned.clear()
        self._attached.clear()
        self._fetched.clear()
        self._standing.left()
        if consumer is not None:
            try:
                consumer.close()
            except (KafkaException, RuntimeError) as error:
                self._tell(self._listener.recreated, repr(error), 0.0)
