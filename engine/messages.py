"""Messages to workflows: sent in the commit of the sender's checkpoint, received in that of the receiver's (P31).

    send ─▶ is there a receiver? ─▶ checkpoint; effect: the message's row ─▶ goes on at once
    recv ─▶ all before is durable ─▶ oldest of its topic ─┬─ there ─▶ checkpoint with it; effect: its row goes
                                       ▲                  └─ none ──▶ in memory or at rest until one comes
                                       └────────────────────────────────────────────┘

A message is read first, and its row goes with the checkpoint that says it was received: a workflow runs in one place,
behind one fence, so nobody else takes it between the two, and a run that is fenced out takes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from engine.asked import Asked
from engine.clock import now_ms
from engine.effects import Placed, Rows, add, admit
from engine.errors import WorkflowNotFoundError
from engine.failures import decode_error
from engine.given_errors import record_error
from engine.sealed_rows import Seal, sealed_values
from engine.signals import Signal
from engine.store import notifications as store
from engine.store import waiting, workflow_status
from engine.store.notifications import OldestRow
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement, send
from engine.timers import Place, place_of, waits_of
from engine.unreadable import once_readable
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.handles import Connect
    from engine.reach import Reach
    from engine.runner import Run

SEND, RECV = "DBOS.send", "DBOS.recv"

NULL_TOPIC = "__null__topic__"
"""Of a message without a topic, as the seed's clients write it."""

UNDURABLE_MAX = 1_000
"""Checkpoints of one workflow that may wait for their flush before it sends or receives more (I10)."""

LARGE = 16 << 10
"""Characters of a value that waits until all before it is durable, so that values in memory are few or small (I10)."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way, with the checkpoint of its sender or from outside.

    Attributes:
        destination: The workflow that receives it.
        topic: Of its topic, it is the newest.
        text: As JSON.
        key: Another one under the same key is not sent.
    """

    destination: str
    topic: str
    text: str
    key: str | None = None

    def sealed(self, seal: Seal | None) -> Message:
        """As its row will have it."""
        return self if seal is None else replace(self, text=seal(self.text))

    @property
    def signal(self) -> Signal:
        """Who waits for it."""
        return Signal("message", self.destination, self.topic)

    @property
    def touches(self) -> Sequence[str]:
        """Its receiver: there, or resting, but not in between."""
        return (self.destination,)

    @property
    def wakes(self) -> Sequence[Signal]:
        """Its receiver."""
        return (self.signal,)

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any]:
        """New rows, in order."""
        messages = [each.effect for each in placed if isinstance(each.effect, Message)]
        return store.send_recorded(
            ids=[each.run.id for each in placed],
            function_ids=[each.function_id for each in placed],
            destinations=[message.destination for message in messages],
            topics=[message.topic for message in messages],
            messages=sealed_values([message.text for message in messages], engine.payloads.seal),
            keys=[message.key for message in messages],
        )

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """Tell receivers elsewhere. A message has one: where it is awaited here, it is not elsewhere."""
        del rows
        signals = [each.effect.signal for each in placed if isinstance(each.effect, Message)]
        engine.hints.brought(signal for signal in signals if not engine.waits.is_awaited(signal))


@dataclass(frozen=True, slots=True)
class Received:
    """A message that a checkpoint says was received: its row goes."""

    message_id: str
    touches: Sequence[str] = ()
    wakes: Sequence[Signal] = ()

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any]:
        """Delete the rows."""
        del engine
        return store.consume(
            ids=[each.run.id for each in placed],
            function_ids=[each.function_id for each in placed],
            messages=[each.effect.message_id for each in placed if isinstance(each.effect, Received)],
        )

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """Nobody waits for that."""


class Messages:
    """What of one process receives."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns: dict[tuple[Run, str], _Turn] = {}
        self.asked: Asked[tuple[str, str], OldestRow] = Asked(engine, self._read)
        """The oldest message of (workflow, topic)."""

    async def _read(self, boxes: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], OldestRow]:
        asked = store.oldest(destinations=[i for i, _ in boxes], topics=[topic for _, topic in boxes])
        async with self._engine.pool.connection() as connection:
            cursor = await send(connection, self._engine.settings.schema, asked)
            return {boxes[row.number - 1]: row for row in await cursor.fetchall()}

    def turn(self, run: Run, topic: str) -> AbstractAsyncContextManager[None]:
        """Calls that a workflow has gathered receive one after the other: what one has read is not another's as well."""
        return self._turn(run, topic)

    @asynccontextmanager
    async def _turn(self, run: Run, topic: str) -> AsyncGenerator[None]:
        turn = self._turns.setdefault((run, topic), _Turn(asyncio.Lock()))
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[run, topic]


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock
    wanted: int = 0


# -- in workflows --


def send_from(run: Run, message: Message) -> Coroutine[Any, Any, None]:
    """Send from a workflow: remembered, and it goes on at once; the message comes with the next flush.

    Raises:
        WorkflowNotFoundError: It has no receiver; remembered as well.
        Suspended: The run may not go on here.
    """
    return _sent(run, run.next_function_id(SEND), message)


async def _sent(run: Run, function_id: int, message: Message) -> None:
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        return
    engine = run.home.engine
    started = now_ms()
    if message.destination != run.id and message.destination not in engine.commons.runs:
        if not run.is_ready():
            await run.ready()  # a child's row comes with a flush of ours
        try:
            await engine.results.look(message.destination)
        except WorkflowNotFoundError as error:
            await admit(run, undurable_max=UNDURABLE_MAX)
            raise record_error(run, function_id, SEND, error, started) from None
    await admit(run, undurable_max=0 if len(message.text) > LARGE else UNDURABLE_MAX)
    add(run, function_id, message)
    run.checkpoint(Checkpoint(run.id, function_id, SEND, "null", None, started, now_ms()))


def receive(run: Run, topic: str, timeout: timedelta | None) -> Coroutine[Any, Any, str]:
    """The oldest message of a topic, once there is one: JSON text; `null` when the time is over.

    Raises:
        Suspended: The workflow rests until one comes, or may not go on here.
    """
    return _received(run, topic, place_of(run, RECV, timeout))


async def _received(run: Run, topic: str, place: Place) -> str:
    function_id = place.function_id
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        return recorded.output or "null"
    engine = run.home.engine
    started = now_ms()
    async with engine.messages.turn(run, topic):
        message_id, text = await once_readable(run, lambda: _oldest(run, topic, place.until))
        await admit(run, undurable_max=UNDURABLE_MAX)
        if message_id is not None:
            add(run, function_id, Received(message_id))
        run.checkpoint(Checkpoint(run.id, function_id, RECV, text, None, started, now_ms()))
        return text


async def _oldest(run: Run, topic: str, until: int) -> tuple[str | None, str]:
    """ID and text of the oldest message, once there is one; no ID and `null` when the time is over."""
    engine = run.home.engine
    while True:
        if not run.is_ready():
            await run.ready()  # what it received before is gone
        found = await engine.messages.asked.get((run.id, topic))
        if found is not None:
            return found.message_id, engine.payloads.open(found.message, f"message {found.message_id} to {run.id}")
        if until <= now_ms():
            return None, "null"
        await waits_of(run).until(run, until, (Signal("message", run.id, topic),))


# -- outside --


async def send_outside(reach: Reach, message: Message) -> None:
    """Send from outside of workflows: durable when it returns.

    Raises:
        WorkflowNotFoundError: It has no receiver. That of a record which Kafka has is waited for, two seconds (P8).
    """
    sealed = message.sealed(reach.payloads.seal)
    while not (delivered := await deliver(reach.pool.connection, reach.settings.schema, sealed)).is_known:
        await reach.results.look(message.destination)
    reach.waits.signalled((message.signal,))
    reach.hints.brought((message.signal,))
    if delivered.is_woken:
        reach.hints.rows()


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a message from outside.

    Attributes:
        is_known: It has a receiver; where it has none, nothing was written.
        is_woken: Its receiver was at rest, and is due now.
    """

    is_known: bool
    is_woken: bool


async def deliver(connect: Connect, schema: str, message: Message) -> Delivered:
    """Write a message, once: where the reply to COMMIT was lost, what became of the transaction is asked for (P24)."""
    written: tuple[str, Delivered] | None = None

    async def attempt() -> Delivered:
        nonlocal written
        async with connect() as connection:
            if written is not None and await _is_committed(connection, schema, written[0]):
                return written[1]
            # The reply that names the transaction is read before COMMIT is sent.
            async with connection.pipeline(), connection.transaction():
                await send(connection, schema, workflow_status.lock(ids=[message.destination]))
                sent = await send(
                    connection,
                    schema,
                    store.send_one(
                        destination=message.destination, topic=message.topic, message=message.text, key=message.key
                    ),
                )
                woken = await send(
                    connection,
                    schema,
                    waiting.wake(kinds=["message"], targets=[message.destination], names=[message.topic]),
                )
                row = await sent.fetchone()
                assert row is not None, "one row, whatever was written"
                delivered = Delivered(row[0], bool(await woken.fetchall()))
                written = (row[1], delivered)
        return delivered

    return await through_weather(attempt)


ASK_AGAIN_S = 0.05
"""Between two looks at a transaction of ours that the server still runs."""


async def _is_committed(connection: AsyncConnection[Any], schema: str, xid: str) -> bool:
    while True:
        cursor = await send(connection, schema, store.committed(xid=xid))
        row = await cursor.fetchone()
        assert row is not None, "one row"
        match row[0]:
            case "committed":
                return True
            case "aborted":
                return False
            case "in progress":
                await asyncio.sleep(ASK_AGAIN_S)
            case _:
                raise psycopg.DataError(f"transaction {xid} is too old for its outcome to be known")
