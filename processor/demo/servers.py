"""The servers of a run: the demo's own, or given ones, on which nothing stays that it made.

    Kafka       two topics and a consumer group: on the mock cluster in a process of its own, or on real brokers
    Postgres    a schema: in the embedded one, or in a given database

Whether given servers answer is found out before anything is made; what may have been made is removed, and no more.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from typing import ParamSpec

from consumers.feed import Feed, FeedError
from consumers.mock_process import MockClusterProcess
from processor.demo.books import Books
from processor.demo.show import Show
from processor.embedded import EmbeddedPostgres

PARTITIONS = 8
"""Of each of the two topics: so many that the mock cluster, which keeps 5 MiB of each, keeps everything."""

MEMBER_SILENCE = timedelta(seconds=6)
"""After which Kafka gives the partitions of a dead worker to the other. The least that brokers accept by default."""

DROP_S = 30.0
"""Longest that dropping the schema may take."""

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Topics:
    """Brokers, and what is this run's on them: a group, and topics of orders by card and on account."""

    address: str
    feed: Feed
    group: str
    by_card: str
    on_account: str


@asynccontextmanager
async def kafka(given: str | None, show: Show) -> AsyncGenerator[Topics]:
    """Topics on the brokers given, or on a mock cluster; removed at the end, when the group's members have ended."""
    group = f"demo.{token_hex(4)}"
    names = [f"{group}.{name}" for name in ("card", "account")]
    if given is not None:
        with Feed(given) as feed:
            await asyncio.to_thread(feed.reach)
            made: list[str] = []
            try:
                for name in names:
                    made.append(name)  # perhaps, also if there is no answer
                    await _to_its_end(feed.create_topic, name, PARTITIONS)
                show.say(f"Kafka at {given}, topics {' and '.join(names)}")
                yield Topics(given, feed, group, *names)
            finally:
                await asyncio.to_thread(_remove, feed, group, made, show)
        return
    with MockClusterProcess() as cluster:
        cluster.call("set_initial_rebalance_delay", delay=0.1)
        cluster.call("set_heartbeat_interval", interval=0.2)
        cluster.call("set_session_timeout", timeout=MEMBER_SILENCE.total_seconds())
        for name in names:
            cluster.call("create_topic", name=name, partitions=PARTITIONS)
        show.say(f"librdkafka's mock cluster at {cluster.bootstrap_servers}, topics {' and '.join(names)}")
        with Feed(cluster.bootstrap_servers) as feed:
            yield Topics(cluster.bootstrap_servers, feed, group, *names)


def _remove(feed: Feed, group: str, topics: list[str], show: Show) -> None:
    """Topics and group of real brokers; says what stays."""
    for topic in topics:
        try:
            feed.delete_topic(topic)
        except FeedError as error:
            show.say(str(error))
    try:
        # Static members do not leave: the group is empty when the brokers have missed them for long enough.
        feed.delete_group(group, 3 * MEMBER_SILENCE)
    except FeedError as error:
        show.say(str(error))


async def _to_its_end(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run it in a thread, and wait for it also if this is cancelled: what it makes has to be removed after it."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


@asynccontextmanager
async def books(given: str | None, show: Show) -> AsyncGenerator[Books]:
    """The tables of this run, in an embedded Postgres or in a schema of a given one."""
    if given is None:
        with EmbeddedPostgres() as postgres:
            books = Books(postgres.dsn, "dbos")
            await books.open()
            show.say("embedded Postgres, fsync on")
            yield books
        return
    books = Books(given, f"processor_demo_{token_hex(4)}")
    await books.reach()
    try:
        await books.open()
        show.say(f"Postgres as given, schema {books.schema}")
        yield books
    finally:
        try:
            await asyncio.wait_for(books.drop(), DROP_S)
        except Exception as error:  # noqa: BLE001  # whatever the server says: the user has to know what is left
            show.say(f"schema {books.schema} was not dropped: {error}")
