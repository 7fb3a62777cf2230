"""Members of a consumer group with a real engine and a real Postgres, as a process would run them."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import psycopg

from consumers.group import Group, PartitionSnapshot
from consumers.mock import MockCluster
from consumers.settings import GroupProtocol, GroupSettings, Subscription
from engine.engine import Engine
from engine.handlers import Handler, HandlerKind
from engine.records import Record
from engine.settings import EngineSettings
from engine.telemetry import Event, HeartbeatRenewed, Telemetry
from tests.fixtures.kafka import Kafka

E = TypeVar("E", bound=Event)

PATIENCE_S = 60
"""Longest a test waits for what must come. Nothing is asserted about how long it took."""


Broker = MockCluster | Kafka


class Text:
    """Payloads as text (`engine.handlers.Format`)."""

    embeds_json = False

    def decode(self, record: Record) -> str:
        return "" if record.value is None else record.value.decode()


def handler(name: str, function: Callable[[Any], Awaitable[Any]]) -> Handler:
    """A journaled handler of texts, ordered by key."""
    return Handler(
        name=name,
        kind=HandlerKind.JOURNALED,
        function=function,
        is_async=True,
        format=Text(),
        encode=json.dumps,
        ordering_key=lambda record, _: record.key,
    )


class Member:
    """One process's worth: an engine, a member of a group, and what they told."""

    def __init__(
        self,
        conninfo: str,
        bootstrap_servers: str,
        group: str,
        *subscriptions: Subscription,
        protocol: GroupProtocol = GroupProtocol.CLASSIC,
        lease: timedelta = timedelta(seconds=3),
        body: Callable[[str], Awaitable[None]] | None = None,
        **changes: Any,
    ) -> None:
        self.events: list[Event] = []
        self.ran: Counter[str] = Counter()
        self._body = body
        telemetry = Telemetry([self.events.append])
        handlers = {each.handler: handler(each.handler, self._run) for each in subscriptions}
        self.engine = Engine(
            EngineSettings(
                conninfo=conninfo, lease=lease, heartbeat=lease / 4, scan=timedelta(milliseconds=200), pool_max=4
            ),
            handlers,
            telemetry,
        )
        settings = GroupSettings(
            bootstrap_servers=bootstrap_servers,
            group=group,
            protocol=protocol,
            session_timeout=timedelta(seconds=2) if protocol is GroupProtocol.CLASSIC else None,
            metadata_refresh=timedelta(seconds=1),
            mirror_every=timedelta(milliseconds=500),
            lag_every=timedelta(milliseconds=500),
            topic_check_every=timedelta(milliseconds=200),
            reclaim_every=timedelta(seconds=1),
            startup_max=timedelta(seconds=10),
        )
        self.group = Group(self.engine, replace(settings, **changes), subscriptions, telemetry)

    async def _run(self, text: str) -> str:
        self.ran[text] += 1
        if self._body is not None:
            await self._body(text)
        return text

    async def start(self, prepare: "Callable[[Member], None] | None" = None) -> "Member":
        """Start; `prepare` is called when the engine stands and nothing is consumed yet."""
        await self.engine.start()
        try:
            if prepare is not None:
                prepare(self)
            await self.group.start()
        except BaseException:
            await self.engine.stop(timedelta(seconds=1))
            raise
        return self

    async def stop(self) -> None:
        await self.group.stop(timedelta(seconds=10))
        await self.engine.stop(timedelta(seconds=10))

    async def crash(self) -> None:
        """As `kill -9`: nothing more is written; brokers are told nothing that Postgres would hear of."""
        await self.engine.abort()
        await self.group.stop(timedelta(0))

    def told(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def news(self) -> list[Event]:
        """What it told, without the heartbeats."""
        return [event for event in self.events if not isinstance(event, HeartbeatRenewed)]

    @property
    def partitions(self) -> dict[int, PartitionSnapshot]:
        """By number: tests have one topic."""
        return {each.source.partition: each for each in self.group.snapshot().partitions}

    @property
    def states(self) -> dict[int, str]:
        return {number: each.state.value for number, each in self.partitions.items()}


class Members(Protocol):
    """The fixture `members`: starts a member of the test's group. `changes` are of its settings, `database`, `group`, `prepare`."""

    async def __call__(self, broker: Broker, *subscriptions: Subscription, **changes: Any) -> Member: ...


async def until(condition: Callable[[], object], *members: Member) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: It never came. Says where the members' partitions stand, and what they told last.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            told = "\n".join(f"{member.group.snapshot()}\n{member.news[-20:]}" for member in members)
            raise TimeoutError(f"it never came;\n{told}")
        await asyncio.sleep(0.01)


async def fetch(conninfo: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What the database holds."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = await connection.execute(query.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []


async def workflows(conninfo: str) -> Counter[str]:
    """Statuses of all workflows, by how many."""
    rows = await fetch(conninfo, "SELECT status, count(*) FROM dbos.workflow_status GROUP BY status")
    return Counter(dict(rows))


async def ids(conninfo: str) -> list[str]:
    """IDs of all workflows."""
    return [row[0] for row in await fetch(conninfo, "SELECT workflow_uuid FROM dbos.workflow_status ORDER BY 1")]


async def settled(conninfo: str, count: int, *members: Member) -> None:
    """Wait until so many workflows are SUCCESS and nothing is open, as long as it goes on."""
    moved_at, last = time.monotonic(), Counter[str]()
    while (found := await workflows(conninfo)) != {"SUCCESS": count}:
        if found != last:
            moved_at, last = time.monotonic(), found
        if time.monotonic() - moved_at > PATIENCE_S:
            told = "\n".join(f"{member.group.snapshot()}\n{member.news[-20:]}" for member in members)
            raise TimeoutError(f"{found}, not {count} SUCCESS;\n{told}")
        await asyncio.sleep(0.05)


async def lift_holds(conninfo: str) -> None:
    """Take every hold away, as an operator who decides nothing."""
    await fetch(conninfo, "DELETE FROM dbos.hold")


def texts(prefix: str, count: int) -> Sequence[str]:
    return [f"{prefix}{i}" for i in range(count)]
