"""The poll thread when something goes wrong: exceptions, clients that became unusable, logs that are others, brokers away.

"Case n" is row n of the table of cases known to lose or duplicate records.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, Message

from consumers.contact import Contact
from consumers.handover import Place, Sorted
from consumers.mock import Api, MockCluster
from consumers.settings import GroupProtocol
from engine.errors import ConfigurationError
from tests.conformance.members import Broker, produce
from tests.conformance.poll_thread import PATIENCE_S, Steered, Thread, Threads, Told, until, values
from tests.fixtures.kafka import Kafka, unique
from tests.fixtures.relay import relay

# -- exceptions


class Stumbling(Steered):
    """Raises once where messages have left the client and were not handed over."""

    stumbles = 3

    def _hand_over(self, messages: Any) -> None:
        if self.stumbles:
            self.stumbles -= 1
            raise MemoryError("between the client and us")
        super()._hand_over(messages)


async def test_an_exception_between_the_client_and_us_loses_nothing(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    """Cases 7, 9, 14: the client's position has advanced; every partition is attached again at our own."""
    produce(broker.bootstrap_servers, topic, values(2_000))
    produce(broker.bootstrap_servers, topic, values(2_000), partition=1)
    thread = threads(protocol=protocol, kind=Stumbling)
    await thread.joined(4)

    numbers = [thread.attach(0), thread.attach(1, 700)]
    await until(lambda: all(thread.offsets(n)[-1:] == [1_999] for n in numbers), thread)

    assert thread.offsets(numbers[0]) == list(range(2_000))
    assert thread.offsets(numbers[1]) == list(range(700, 2_000))
    assert thread.told.kinds("recreated") == ["recreated"] * 3
    assert thread.told.kinds() == ["assigned"]


class Broken(Steered):
    """Has a bug where records are handed over."""

    turns = 0

    def _hand_over(self, messages: Any) -> None:
        self.turns += 1
        raise TypeError(f"a bug of ours, with {len(messages)} messages")


async def test_a_bug_of_ours_ends_the_thread_and_does_not_come_again_at_every_turn(
    broker: Broker, topic: str, threads: Threads
) -> None:
    produce(broker.bootstrap_servers, topic, values(10))
    thread = threads(kind=Broken)
    await thread.joined(4)
    thread.attach(0)

    await until(lambda: thread.told.failure is not None, thread)
    left = await thread.poller.close(5)

    assert left
    assert isinstance(thread.told.failure, TypeError)
    assert isinstance(thread.poller, Broken)
    assert thread.poller.turns == 1
    assert thread.told.kinds("recreated") == []


class Deaf(Told):
    """Has a bug where an assignment is taken."""

    def assigned(self, assignments: Mapping[Place, int], generation: int) -> None:
        raise KeyError("a bug of ours")


async def test_what_cannot_be_taken_on_the_loop_ends_the_listener(broker: Broker, topic: str, threads: Threads) -> None:
    """An assignment that the loop only logs an error about would never be claimed."""
    thread = threads()
    thread.told.__class__ = Deaf
    await thread.poller.start()

    await until(lambda: isinstance(thread.told.failure, KeyError), thread)


async def test_a_client_that_became_unusable_is_replaced(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    """Everything it owned is lost, and comes back to its successor."""
    produce(broker.bootstrap_servers, topic, values(10))
    thread = threads(protocol=protocol)
    await thread.joined(4)
    number = thread.attach(0)
    await until(lambda: len(thread.offsets(number)) == 10, thread)

    thread.poller.break_down()
    await until(lambda: thread.told.kinds() == ["assigned", "lost", "assigned"], thread)
    again = thread.attach(0, 4)
    await until(lambda: len(thread.offsets(again)) == 6, thread)

    assert thread.told.failure is None


async def test_a_fenced_static_member_ends_instead_of_fencing_its_successor(
    kafka: Kafka, request: pytest.FixtureRequest
) -> None:
    """Case 36: two processes with one instance ID would throw each other out for ever."""
    topic, group = unique("static"), unique("group")
    kafka.create_topic(topic, 4)
    first = Thread(kafka.bootstrap_servers, group, topic, instance_id="billing-0")
    second = Thread(kafka.bootstrap_servers, group, topic, instance_id="billing-0")
    await first.joined(4)

    await second.joined(4)
    await until(lambda: first.told.failure is not None, first, second)

    assert isinstance(first.told.failure, ConfigurationError)
    assert "billing-0" in str(first.told.failure)
    assert await second.poller.close(PATIENCE_S)


# -- the log


@pytest.mark.parametrize("offset", [3, 50], ids=["below the log", "above the log"])
async def test_an_offset_that_is_not_in_the_log_ends_its_attachment_and_no_other(
    broker: Broker, topic: str, threads: Threads, offset: int
) -> None:
    """Cases 20, 21: never a silent jump."""
    produce(broker.bootstrap_servers, topic, values(10))
    produce(broker.bootstrap_servers, topic, ["other"], partition=1)
    broker.delete_records(topic, 0, before=5)
    thread = threads()
    await thread.joined(4)

    outside, other = thread.attach(0, offset), thread.attach(1)
    await until(lambda: thread.told.kinds("refused") and thread.offsets(other), thread)
    inside = thread.attach(0, 8)
    await until(lambda: thread.offsets(inside) == [8, 9], thread)

    assert thread.offsets(outside) == []
    assert [event[1] for event in thread.told.events if event[0] == "refused"] == [outside]


async def test_a_leader_epoch_that_goes_back_is_another_log(mock_cluster: MockCluster) -> None:
    """Cases 19, 20: along a log it only grows. What came under the lower one is not handed over."""
    topic, group = unique("epochs"), unique("group")
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, values(5))
    thread = Thread(mock_cluster.bootstrap_servers, group, topic, kind=Descending)
    await thread.joined(1)

    number = thread.attach(0)
    await until(lambda: len(thread.offsets(number)) == 5, thread)
    produce(mock_cluster.bootstrap_servers, topic, values(5))
    await until(lambda: thread.told.kinds("refused"), thread)

    assert thread.offsets(number) == list(range(5))
    assert "leader epoch" in next(event for event in thread.told.events if event[0] == "refused")[2]
    assert await thread.poller.close(PATIENCE_S)


class Descending(Steered):
    """Sees records of a log whose leader epoch goes from 7 to 6 at offset 5."""

    def _sort(self, messages: Sequence[Message]) -> Sorted:
        return super()._sort([descending(message) for message in messages])


def descending(message: Message) -> Message:
    offset = message.offset()
    assert offset is not None
    return Message(
        message.topic(), message.partition(), offset, value=message.value(), leader_epoch=7 if offset < 5 else 6
    )


# -- what the group does to a member


@pytest.mark.parametrize("code", [KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID])
async def test_a_mirror_commit_that_costs_the_assignment_costs_no_record(mock_cluster: MockCluster, code: int) -> None:
    """Case 29: an answer that says we are no member makes the client give everything up, and join again."""
    topic, group = unique("mirrored"), unique("group")
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, values(10))
    thread = Thread(mock_cluster.bootstrap_servers, group, topic)
    await thread.joined(1)
    first = thread.attach(0)
    await until(lambda: len(thread.offsets(first)) == 10, thread)

    mock_cluster.push_errors(Api.OFFSET_COMMIT, code)
    thread.poller.mirror({(topic, 0): 7})
    await until(lambda: thread.told.kinds() == ["assigned", "lost", "assigned"], thread)
    second = thread.attach(0, 7)
    await until(lambda: len(thread.offsets(second)) == 3, thread)

    assert thread.offsets(second) == [7, 8, 9]
    assert await thread.poller.close(PATIENCE_S)


class Impatient(Steered):
    """Waits a second, not a minute, after it lost everything."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._standing.rejoin_max_s = 1.0


async def test_a_member_that_is_left_with_nothing_joins_anew(mock_cluster: MockCluster) -> None:
    """I8: librdkafka gives up a KIP-848 assignment on this answer, and brokers, who know better, never send it again."""
    topic, group = unique("stuck"), unique("group")
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, values(10))
    thread = Thread(mock_cluster.bootstrap_servers, group, topic, protocol=GroupProtocol.CONSUMER, kind=Impatient)
    await thread.joined(1)

    mock_cluster.push_errors(Api.OFFSET_COMMIT, KafkaError.ILLEGAL_GENERATION)
    thread.poller.mirror({(topic, 0): 7})
    await until(lambda: thread.told.kinds("recreated") and thread.told.owned, thread)
    number = thread.attach(0, 7)
    await until(lambda: thread.offsets(number) == [7, 8, 9], thread)

    # Mostly. In one run of many the client itself found that it was stuck: the mock cluster refused its next heartbeat.
    why = next(event for event in thread.told.events if event[0] == "recreated")[1]
    assert "lost everything" in why or "ConsumerGroupHeartbeat fatal error" in why
    assert await thread.poller.close(PATIENCE_S)


# -- brokers that fail


class Curious(Steered):
    """Asks for brokers after half a second of silence, not half a minute."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.contact = self._contact = Contact(silence_s=0.5, every_s=0.5, gone_s=2.0)


async def test_a_client_that_reaches_no_broker_any_more_is_replaced(protocol: GroupProtocol) -> None:
    """I8: librdkafka forgets every broker when one answers that there are none (issue 5301), and may stop asking for ever.

    Here it is told not to bootstrap again, and the brokers move: a new client finds them at the address that is given.
    """
    topic, group = unique("moved"), unique("group")
    with MockCluster() as before, MockCluster() as after:
        for cluster in (before, after):
            cluster.set_initial_rebalance_delay(timedelta(milliseconds=50))
            cluster.set_heartbeat_interval(timedelta(milliseconds=50))
            cluster.create_topic(topic, 1)
            produce(cluster.bootstrap_servers, topic, values(10))
        async with relay(before.bootstrap_servers) as address:
            thread = Thread(
                address.address,
                group,
                topic,
                protocol=protocol,
                kind=Curious,
                options={"metadata.recovery.strategy": "none"},
            )
            await thread.joined(1)
            first = thread.attach(0, 0)
            await until(lambda: thread.offsets(first) == list(range(10)), thread)

            address.target = after.bootstrap_servers
            await asyncio.to_thread(before.close)
            await until(lambda: thread.told.kinds("recreated") and thread.told.owned, thread)
            second = thread.attach(0, 7)
            await until(lambda: thread.offsets(second) == [7, 8, 9], thread)

            assert "reaches no broker" in next(e for e in thread.told.events if e[0] == "recreated")[1]
            assert await thread.poller.close(PATIENCE_S)


async def test_a_client_that_only_has_nothing_to_read_is_kept(broker: Broker, topic: str, threads: Threads) -> None:
    """Silence is no sign: it is asked, and answers."""
    thread = threads(kind=Curious)
    await thread.joined(4)
    number = thread.attach(0, 0)
    contact = cast("Curious", thread.poller).contact
    heard = contact.heard_at

    await until(lambda: contact.heard_at > heard + 2.5, thread)  # longer than an unreachable one would be kept
    produce(broker.bootstrap_servers, topic, values(3))
    await until(lambda: thread.offsets(number) == [0, 1, 2], thread)

    assert not thread.told.kinds("recreated")


async def test_an_outage_of_the_brokers_loses_and_repeats_nothing(mock_cluster: MockCluster) -> None:
    topic, group = unique("outage"), unique("group")
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, values(100))
    thread = Thread(mock_cluster.bootstrap_servers, group, topic, session_timeout=timedelta(seconds=30))
    await thread.joined(1)
    number = thread.attach(0)
    await until(lambda: len(thread.offsets(number)) == 100, thread)

    mock_cluster.broker_down()
    await until(lambda: "_ALL_BROKERS_DOWN" in [e[1] for e in thread.told.events if e[0] == "troubled"], thread)
    beat = thread.poller.beat
    await until(lambda: thread.poller.beat > beat, thread)
    mock_cluster.broker_up()
    produce(mock_cluster.bootstrap_servers, topic, values(100))
    await until(lambda: len(thread.offsets(number)) == 200, thread)

    assert thread.offsets(number) == list(range(200))
    assert await thread.poller.close(PATIENCE_S)
