"""The relay: moves the outbox to Kafka, in commit order per key, exactly once for readers of committed records (I9).

    standby ──claim──▶ claimed ──work──▶ open ──▶ publish ──▶ form the next ──▶ publish ──▶ …
       ▲                  │                │                       │
       └──another's───────┴────────────────┴── in doubt: close ────┘        Kafka's position is none of ours: halted

One of all processes that could is at work: the claim says which (engine/batches.py). What protects the guarantee is not
the claim but the order of an opening: claim, fence older producers, read what stands under the claim, read Kafka's
position, compare (decision 0008). Whatever happens that is not plainly a refused record ends with another opening.

The loop belongs to the event loop; whatever waits for Kafka, to one thread.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException

from consumers import telemetry
from consumers.errors import TIMED_OUT, may_pass, meaning_of
from consumers.one_thread import OneThread
from consumers.position import HistoryError, Position, is_published
from consumers.producer import producer_config
from consumers.settings import RelaySettings
from consumers.transactions import RefusedError, Transactions
from engine.batches import BEAT_S, Batch, Batches, RelayLostError
from engine.crashpoints import CrashPoint, reach
from engine.failures import summary
from engine.tasks import end
from engine.telemetry import ServiceFailed, Telemetry

if TYPE_CHECKING:
    from engine.engine import Engine

T = TypeVar("T")

IDLE_FIRST_S = 0.05
IDLE_MAX_S = 2.0
"""Wait for something to publish, doubled each time there is nothing. A hint ends it."""

STANDBY_S = 5.0
"""Between two looks whether the claim is free."""

HALTED_S = 5.0
"""Between two looks whether somebody has decided."""

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
"""Wait before another opening after a failure, doubled each time until something is published."""

LEFT_MAX = 5
"""Requests that never returned, each with its thread and its client, behind which a process must end."""

QUIET_S = 10.0
"""An error of the client that passes is told once in that time."""


@dataclass(frozen=True, slots=True)
class RelaySnapshot:
    """The relay of one process at one moment.

    Attributes:
        is_active: Whether it has the claim.
        refused: Topics that Kafka refuses, which rest.
    """

    is_active: bool
    refused: tuple[str, ...]


class StuckError(Exception):
    """Requests do not return, again and again: a process that starts anew has clients, and threads, that are not stuck."""


class RelayTracing(Protocol):
    """Makes spans of what is published. Nothing of it raises of its own, or waits."""

    def sent(self, batch: Batch, began_ns: int, error: Exception | None) -> None:
        """A transaction is over. With an error it may have been committed all the same: the next opening finds out."""
        ...


class Relay:
    """The relay of one process: at work, or standing by.

    Args:
        engine: Whose executor and database.
        settings: Brokers, names, limits.
        events: Told what happens.
        tracing: Makes a span for each batch; `None`: nobody does.

    Raises:
        ConfigurationError: An option of the producer that would break the guarantee.
    """

    def __init__(
        self, engine: Engine, settings: RelaySettings, events: Telemetry, tracing: RelayTracing | None = None
    ) -> None:
        self._engine = engine
        self._tracing = tracing
        self._settings = settings
        self._events = events
        producer_config(settings, "")  # refused here, not at the first event
        self._batches = Batches(engine, rows_max=settings.batch_rows_max, bytes_max=settings.batch_bytes_max)
        self._thread = OneThread("relay")
        self._transactions: Transactions | None = None
        self._position: Position | None = None
        """As Kafka has it, while a producer is open."""
        self._committed_at = 0.0
        self._batch: Batch | None = None
        """Formed, and not published."""
        self._is_in_doubt = False
        """Something failed: only an opening says what has become of it."""
        self._refused: dict[str, float] = {}
        """Topics that Kafka refused last, and until when they rest."""
        self._idle_s = IDLE_FIRST_S
        self._retry_s = RETRY_FIRST_S
        self._quiet_until: dict[int, float] = {}
        self._left: set[asyncio.Future[Any]] = set()
        """Calls left behind that have not returned."""
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[None]
        """Fails when the relay cannot go on, by a bug of ours or the client's; the process should end. Made by `start`."""

    # -- life --

    async def start(self) -> None:
        """Begin. Contacts nobody by itself: Kafka when there is something to publish."""
        loop = asyncio.get_running_loop()
        self.failed = loop.create_future()
        self._task = loop.create_task(self._run(), name="relay")

    async def stop(self, drain: timedelta) -> None:
        """End behind the transaction under way, at most so long, and give the claim up: another takes it at once."""
        self._is_stopping = True
        if self._task is None:
            return
        hints = self._engine.outbox_hints
        hints.woken.set()
        hints.freed.set()
        await asyncio.wait({self._task}, timeout=drain.total_seconds())
        await end(self._task)
        await self._close()
        if self._batches.is_claimed:
            await self._batches.release()
            self._events.emit(telemetry.RelayReleased("stopped"))
        hints.relays_here = False
        self._thread.shutdown()

    def snapshot(self) -> RelaySnapshot:
        """Read at a scrape."""
        return RelaySnapshot(self._batches.is_claimed, tuple(sorted(self._refused)))

    # -- the loop --

    async def _run(self) -> None:
        try:
            while not self._is_stopping:
                if len(self._left) >= LEFT_MAX:
                    raise StuckError(f"{len(self._left)} requests to Kafka have not returned")
                rest_s = await self._survived_turn()
                if rest_s and not self._is_stopping:
                    await self._rest(rest_s)
        except Exception as error:  # noqa: BLE001  # a bug: nobody else would see that nothing is published
            self._events.emit(ServiceFailed("relay", error, None))
            if not self.failed.done():
                self.failed.set_exception(error)

    async def _survived_turn(self) -> float:
        try:
            return await self._turn()
        except RelayLostError as error:
            await self._lose(str(error))
        except Exception as error:
            if not may_pass(error):
                raise
            # Whatever it was: Kafka and Postgres say what has happened, at the next opening.
            self._is_in_doubt = True
            await self._close()
            wait_s = self._retry_s * random.uniform(0.5, 1.5)
            self._events.emit(telemetry.RelayInterrupted(summary(error), wait_s))
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
            return wait_s
        return 0.0

    async def _turn(self) -> float:
        """One thing after the other; returns how long to rest."""
        batches = self._batches
        if not batches.is_claimed:
            return await self._claim()
        if batches.stands.halted is not None:
            stands = await batches.look()
            return HALTED_S if stands.halted is not None else 0.0
        is_idle = self._batch is None and not self._is_in_doubt and not await batches.has_work(self._resting())
        if self._transactions is None:
            if is_idle:
                return await self._idle()
            await self._open()
        elif is_idle:
            await self._refresh_if_due()
            return await self._idle()
        elif self._batch is not None:
            await self._publish(self._batch)
        else:
            # The formed one, if there is one, is published: this was found at the opening, or done since.
            self._batch = await batches.next(is_published=True, refused=self._resting())
            reach(CrashPoint.RELAY_FORMED)
            self._idle_s = IDLE_FIRST_S
        return 0.0

    async def _claim(self) -> float:
        await self._close()
        await self._engine.until_alive()
        if not await self._batches.claim():
            self._engine.outbox_hints.relays_here = False
            return STANDBY_S
        self._engine.outbox_hints.relays_here = True
        self._refused.clear()
        self._events.emit(telemetry.RelayClaimed(self._batches.stands.epoch))
        reach(CrashPoint.RELAY_CLAIMED)
        return 0.0

    async def _open(self) -> None:
        """The order is the guarantee: the claim stands, older producers are fenced, then both sides are read."""
        batches = self._batches
        position = await self._in_thread(self._open_in_thread, batches.stands.outbox_name)
        stands = await batches.look()
        self._is_in_doubt = False
        self._committed_at = time.monotonic()
        if stands.halted is not None:
            await self._close()
            return
        if stands.adopts:
            await batches.adopt(
                number=None if position is None else position.number, token=None if position is None else position.token
            )
            self._position, self._batch = position, None
            return
        try:
            published = is_published(position, stands)
        except HistoryError as error:
            await batches.halt(str(error))
            self._events.emit(telemetry.RelayHalted(str(error)))
            await self._close()
            return
        self._position = position
        self._batch = await batches.formed() if stands.next_token is not None and not published else None

    def _open_in_thread(self, outbox_name: str) -> Position | None:
        # Made here as well: a client may wait for its first OAuth token.
        transactions = self._transactions = Transactions(self._settings, outbox_name, self._error_from_thread)
        return transactions.open()

    async def _publish(self, batch: Batch) -> None:
        transactions = self._transactions
        assert transactions is not None, "open"
        await self._engine.lease.wait_until_valid()
        if not self._batches.is_claimed:
            return  # it was another executor's by now, perhaps another's life
        started = time.monotonic()
        try:
            with self._traced(batch):
                await self._in_thread(transactions.publish, batch)
        except RefusedError as error:
            await self._form_without(error.topics)
            return
        self._batch = None
        self._position = Position(batch.number, batch.token)
        self._committed_at = time.monotonic()
        self._retry_s = RETRY_FIRST_S
        for topic in {row.topic for row in batch.rows} & self._refused.keys():
            del self._refused[topic]
        self._events.emit(telemetry.OutboxPublished(_counts(batch), _bytes(batch), self._committed_at - started))

    @contextmanager
    def _traced(self, batch: Batch) -> Generator[None]:
        if self._tracing is None:
            yield
            return
        began_ns = time.time_ns()
        try:
            yield
        except Exception as error:
            self._tracing.sent(batch, began_ns, error)
            raise
        self._tracing.sent(batch, began_ns, None)

    async def _form_without(self, topics: dict[str, str]) -> None:
        """Some topics rest; the others' events are a batch of their own.

        Nothing of the old one can be published any more: its transaction is aborted, and older producers are fenced.
        """
        until = time.monotonic() + self._settings.refused_retry.total_seconds()
        for topic, reason in topics.items():
            self._refused[topic] = until
            self._events.emit(telemetry.TopicRefused(topic, reason, self._settings.refused_retry.total_seconds()))
        self._batch = await self._batches.next(is_published=False, refused=self._resting())

    async def _idle(self) -> float:
        await self._batches.beat_if_due()
        rest_s, self._idle_s = self._idle_s, min(self._idle_s * 2, IDLE_MAX_S)
        return rest_s

    async def _refresh_if_due(self) -> None:
        transactions, position = self._transactions, self._position
        if transactions is None or position is None:
            return
        if time.monotonic() - self._committed_at >= self._settings.refresh.total_seconds():
            await self._in_thread(transactions.refresh, position)
            self._committed_at = time.monotonic()

    # -- helpers --

    def _resting(self) -> list[str]:
        """Topics that are not tried just now."""
        now = time.monotonic()
        return [topic for topic, until in self._refused.items() if until > now]

    async def _rest(self, seconds: float) -> None:
        """Wait, unless something was published, or, for who stands by, the claim is free."""
        hints = self._engine.outbox_hints
        woken = hints.woken if self._batches.is_claimed else hints.freed
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await woken.wait()
        if woken.is_set():
            woken.clear()
            self._idle_s = IDLE_FIRST_S

    async def _lose(self, reason: str) -> None:
        await self._close()
        self._batches.forget()
        self._engine.outbox_hints.relays_here = False
        self._events.emit(telemetry.RelayReleased(reason))

    async def _close(self) -> None:
        transactions, self._transactions = self._transactions, None
        self._batch = self._position = None
        if transactions is not None:
            call = asyncio.get_running_loop().run_in_executor(self._thread, transactions.close)
            while not call.done():
                await asyncio.wait({call}, timeout=BEAT_S / 2)
                if transactions.is_stuck:
                    self._leave_behind(call)
                    return
            call.result()

    def _leave_behind(self, call: asyncio.Future[Any]) -> None:
        """Go on in another thread: a call of this one's does not come back. The next opening fences its producer.

        Whatever becomes of the call, Kafka says what it has done at the next opening.
        """
        self._thread.shutdown()
        self._thread = OneThread("relay")
        self._left.add(call)
        call.add_done_callback(self._forget)

    def _forget(self, call: asyncio.Future[Any]) -> None:
        self._left.discard(call)
        if not call.cancelled():
            call.exception()  # looked at, or asyncio would log it

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Call in the relay's thread, and say meanwhile that we get on."""
        call = asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*arguments))
        lost: RelayLostError | None = None
        try:
            while not call.done():
                await asyncio.wait({call}, timeout=BEAT_S / 2)
                if lost is None and not call.done():
                    lost = await self._beaten()
                if self._transactions is not None and self._transactions.is_stuck:
                    self._transactions.cancel()
                    self._transactions = None
                    self._leave_behind(call)
                    raise lost or KafkaException(KafkaError(TIMED_OUT, "a request never returned"))
        finally:
            if not call.done() and self._transactions is not None:
                self._transactions.cancel()
        if lost is not None:
            with suppress(Exception):
                call.result()
            raise lost
        return call.result()

    async def _beaten(self) -> RelayLostError | None:
        try:
            await self._batches.beat_if_due()
        except RelayLostError as error:
            return error
        except Exception as error:
            if not may_pass(error):
                raise
        return None

    def _error_from_thread(self, error: KafkaError) -> None:
        """A client reports an error, in whatever thread of its own or ours; nearly always it retries by itself."""
        self._engine.from_thread(self._troubled, error)

    def _troubled(self, error: KafkaError) -> None:
        now = time.monotonic()
        if now < self._quiet_until.get(error.code(), 0.0):
            return
        self._quiet_until[error.code()] = now + QUIET_S
        self._events.emit(telemetry.ClientError(error.name(), error.str(), meaning_of(error).value))


def _counts(batch: Batch) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in batch.rows:
        counts[row.topic] = counts.get(row.topic, 0) + 1
    return counts


def _bytes(batch: Batch) -> int:
    return sum(len(row.key or b"") + len(row.value or b"") for row in batch.rows)
