"""What tests of the relay share: relays beside each other in one process, a hand that publishes, a reader of committed records."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, TopicPartition
from psycopg import AsyncConnection

from consumers.relay import Relay
from consumers.settings import RelaySettings
from engine.engine import Engine
from engine.outbox import RelayState, relay_state, rename
from engine.outgoing import Headers, Outgoing
from engine.settings import EngineSettings
from engine.store import outbox
from engine.store.statement import send
from engine.telemetry import Event, Telemetry

PATIENCE_S = 60
"""Longest a test waits for what must come."""
EMPTIED_S = 150
"""The same for an outbox: a request that never returns, and waits before another try, are part of it."""

E = TypeVar("E", bound=Event)


class Process:
    """An engine without handlers, and its relay: what `processor relay` is."""

    def __init__(self, dsn: str, servers: str, *, settings: EngineSettings | None = None, **relay: Any) -> None:
        self.events: list[Event] = []
        telemetry = Telemetry((self.events.append,))
        base = settings or EngineSettings(conninfo=dsn, lease=timedelta(seconds=1.5), heartbeat=timedelta(seconds=0.3))
        self.engine = Engine(replace(base, conninfo=dsn), {}, telemetry)
        self.relay = Relay(self.engine, RelaySettings(bootstrap_servers=servers, **relay), telemetry)

    async def start(self) -> None:
        await self.engine.start()
        await self.relay.start()

    async def stop(self) -> None:
        await self.relay.stop(timedelta(seconds=20))
        await self.engine.stop(timedelta(seconds=5))

    def saw(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[E], count: int = 1) -> list[E]:
        await until(lambda: len(self.saw(kind)) >= count, lambda: f"{kind.__name__} in {self.events[-20:]}")
        return self.saw(kind)


async def until(condition: Callable[[], bool], what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it never happened: {what()}"
        await asyncio.sleep(0.01)


@dataclass
class Outbox:
    """A database's outbox, by hand."""

    dsn: str

    async def named_anew(self) -> "Outbox":
        """A test's database is a copy of the run's template: its outbox would have the name of every other's."""
        async with await AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await rename(connection, "dbos", note="a copy")
        return self

    async def publish(self, *names: str, topic: str, key: str | None = "k") -> None:
        """In a transaction of its own."""
        async with await AsyncConnection.connect(self.dsn) as connection:
            await self.publish_in(connection, *names, topic=topic, key=key)

    async def publish_bytes(self, value: bytes, *, topic: str, key: bytes, headers: Headers) -> None:
        """One event of any bytes, in a transaction of its own."""
        async with await AsyncConnection.connect(self.dsn) as connection:
            await append(connection, [Outgoing(topic, key, value, headers)])

    @staticmethod
    async def publish_in(connection: AsyncConnection[Any], *names: str, topic: str, key: str | None = "k") -> None:
        await append(connection, [Outgoing(topic, key.encode() if key else None, name.encode()) for name in names])

    async def state(self) -> RelayState:
        async with await AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            return await relay_state(connection, "dbos")

    async def emptied(self) -> None:
        """Wait until nothing waits. Fails when nothing moves for long."""
        moved_at, last = time.monotonic(), -1
        while (state := await self.state()).waiting:
            if state.waiting != last:
                moved_at, last = time.monotonic(), state.waiting
            assert time.monotonic() < moved_at + EMPTIED_S, f"not published: {state}"
            await asyncio.sleep(0.02)

    async def query(self, query: Any, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        async with await AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            cursor = await connection.execute(query, parameters or None)
            return await cursor.fetchall() if cursor.description else []


async def append(connection: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    for statement in outbox.publishing(events):
        await send(connection, "dbos", statement)


@asynccontextmanager
async def running(*processes: Process) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        for process in processes:
            await process.start()
            stack.push_async_callback(process.stop)
        yield


def read(servers: str, topic: str) -> list[Any]:
    """Every record that a reader of committed records gets, partition by partition, each in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"{topic}-reader",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: dict[int, list[Any]] = {number: [] for number in partitions}
        left = set(partitions)
        deadline = time.monotonic() + PATIENCE_S
        while left:
            assert time.monotonic() < deadline, f"an open transaction hides the end of {left}"
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found[message.partition() or 0].append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition() or 0)
        return [message for number in sorted(found) for message in found[number]]
    finally:
        consumer.close()


def values(servers: str, topic: str) -> list[str]:
    return [message.value().decode() for message in read(servers, topic)]
