"""A request of the client that never returns (I9).

librdkafka's `send_offsets_to_transaction` does not, whatever its time-out, while its group's coordinator is away; when
brokers are back, it does. `test_relay.py::test_brokers_that_are_killed_and_come_back_lose_and_double_nothing` meets it.
"""

import asyncio
import threading
from collections.abc import Generator

import pytest

from consumers import relay, transactions
from consumers.position import Position
from consumers.telemetry import RelayInterrupted
from engine.crashpoints import CrashPoint
from tests.fixtures.kafka import Kafka, unique
from tests.integration.relaying import PATIENCE_S, Outbox, Process, running, until, values


class Stuck:
    """The first request of a kind waits until the test has ended, whatever its time-out."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ends = threading.Event()

    def wait(self) -> None:
        if not self.began.is_set():
            self.began.set()
            self.ends.wait()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Generator[Stuck]:
    stuck, real = Stuck(), transactions.Transactions._commit  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(transactions, "OVERDUE_S", 0.2)

    def commit(self: transactions.Transactions, position: Position, deadline: float) -> None:
        if not stuck.began.is_set():
            with self._within(0.1):  # pyright: ignore[reportPrivateUsage]
                stuck.wait()
        real(self, position, deadline)

    monkeypatch.setattr(transactions.Transactions, "_commit", commit)
    yield stuck
    stuck.ends.set()


async def test_a_request_that_never_returns_is_left_behind_and_all_is_published_once(
    kafka: Kafka, database: str, stuck: Stuck
) -> None:
    topic = unique("events")
    kafka.create_topic(topic, 1)
    outbox = await Outbox(database).named_anew()
    async with running(process := Process(database, kafka.bootstrap_servers)):
        await outbox.publish("a", "b", "c", topic=topic)
        await until(stuck.began.is_set)
        await outbox.emptied()
        assert "never returned" in process.saw(RelayInterrupted)[0].error
        stuck.ends.set()  # the producer that was left behind has been fenced
        await outbox.publish("d", topic=topic)
        await outbox.emptied()

    assert values(kafka.bootstrap_servers, topic) == ["a", "b", "c", "d"]


async def test_a_stop_does_not_wait_for_a_request_that_never_returns(kafka: Kafka, database: str, stuck: Stuck) -> None:
    topic = unique("events")
    kafka.create_topic(topic, 1)
    outbox = await Outbox(database).named_anew()
    async with running(Process(database, kafka.bootstrap_servers)):
        await outbox.publish("a", topic=topic)
        await until(stuck.began.is_set)

    assert not stuck.ends.is_set()
    async with running(Process(database, kafka.bootstrap_servers)):
        await outbox.emptied()
    assert values(kafka.bootstrap_servers, topic) == ["a"]


async def test_a_request_that_was_given_up_and_returns_after_all_is_not_followed_by_a_commit(
    kafka: Kafka, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: who waited for it has gone on with another producer, or has ended."""
    topic = unique("events")
    kafka.create_topic(topic, 1)
    outbox = await Outbox(database).named_anew()
    given_up: list[CrashPoint] = []
    async with running(process := Process(database, kafka.bootstrap_servers)):

        def reach(point: CrashPoint) -> None:
            if point is CrashPoint.RELAY_POSITIONED and not given_up:
                given_up.append(point)
                assert process.relay._transactions is not None  # pyright: ignore[reportPrivateUsage]
                process.relay._transactions.cancel()  # pyright: ignore[reportPrivateUsage]

        monkeypatch.setattr(transactions, "reach", reach)
        await outbox.publish("a", topic=topic)
        await outbox.emptied()

        assert given_up
        assert "given up" in process.saw(RelayInterrupted)[0].error
    assert values(kafka.bootstrap_servers, topic) == ["a"]


async def test_a_process_whose_requests_never_return_again_and_again_ends(
    kafka: Kafka, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: what is left behind is bounded. Nothing is published twice by who comes next."""
    topic = unique("events")
    kafka.create_topic(topic, 1)
    outbox = await Outbox(database).named_anew()
    ends = threading.Event()
    real = transactions.Transactions._commit  # pyright: ignore[reportPrivateUsage]

    def commit(self: transactions.Transactions, position: Position, deadline: float) -> None:
        with self._within(0.1):  # pyright: ignore[reportPrivateUsage]
            ends.wait()

    monkeypatch.setattr(transactions, "OVERDUE_S", 0.1)
    monkeypatch.setattr(relay, "RETRY_MAX_S", 0.1)
    monkeypatch.setattr(transactions.Transactions, "_commit", commit)
    try:
        async with running(process := Process(database, kafka.bootstrap_servers)):
            await outbox.publish("a", topic=topic)
            with pytest.raises(relay.StuckError, match="5 requests to Kafka have not returned"):
                await asyncio.wait_for(process.relay.failed, PATIENCE_S)
    finally:
        ends.set()
    monkeypatch.setattr(transactions.Transactions, "_commit", real)

    async with running(Process(database, kafka.bootstrap_servers)):
        await outbox.emptied()
    assert values(kafka.bootstrap_servers, topic) == ["a"]
