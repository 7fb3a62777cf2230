"""The poll thread on both brokers and both group protocols: what it attaches, hands over, gives up and survives.

"Case n" is row n of the table of cases known to lose or duplicate records.
"""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from consumers.backpressure import PauseReason
from consumers.handover import Place, Sorted
from consumers.mock import Api, MockCluster
from consumers.settings import GroupProtocol
from engine.errors import ConfigurationError
from tests.conformance.members import produce
from tests.conformance.poll_thread import PATIENCE_S, Steered, Thread, Told, until
from tests.fixtures.kafka import Kafka, unique

Broker = MockCluster | Kafka


@pytest.fixture
def topic(broker: Broker) -> str:
    """A topic of four partitions."""
    name = unique("polled")
    broker.create_topic(name, 4)
    return name


@pytest.fixture(params=GroupProtocol, ids=lambda protocol: protocol.value)
def protocol(request: pytest.FixtureRequest) -> GroupProtocol:
    return request.param


class Threads(Protocol):
    def __call__(self, **options: Any) -> Thread: ...


@pytest.fixture
async def threads(broker: Broker, topic: str) -> AsyncGenerator[Threads]:
    """Makes members of one group, and closes them at the end."""
    made: list[Thread] = []
    group = unique("group")

    def make(**options: Any) -> Thread:
        made.append(Thread(broker.bootstrap_servers, group, topic, **options))
        return made[-1]

    yield make
    for thread in made:
        assert await thread.poller.close(PATIENCE_S)


def values(count: int) -> list[str]:
    return [str(i) for i in range(count)]


# -- attaching


async def test_nothing_is_fetched_before_it_is_attached_and_everything_after(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    """Case 12: from an absolute offset, which is ours, once and in order."""
    produce(broker.bootstrap_servers, topic, values(500), partition=1)
    thread = threads(protocol=protocol)
    await thread.joined(4)
    await thread.turns()
    assert thread.told.records == {}

    number = thread.attach(1, 100)
    await until(lambda: len(thread.offsets(number)) >= 400, thread)

    assert thread.offsets(number) == list(range(100, 500))
    assert thread.told.generations[0] > 0


async def test_an_attach_for_an_assignment_that_is_over_does_nothing(
    broker: Broker, topic: str, threads: Threads
) -> None:
    """Case 5: revoked and given back while the claim was under way; that claim's attach comes too late."""
    produce(broker.bootstrap_servers, topic, ["0"])
    thread = threads()
    await thread.joined(4)
    before = thread.told.owned[topic, 0]

    stale = thread.attach_as(before - 100, 0)
    current = thread.attach(0)
    await until(lambda: thread.offsets(current) == [0], thread)

    assert thread.offsets(stale) == []


async def test_records_of_two_attachments_are_told_apart(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    """Case 4: the same offsets come again after a detach, under another number."""
    produce(broker.bootstrap_servers, topic, values(50))
    thread = threads(protocol=protocol)
    await thread.joined(4)
    first = thread.attach(0)
    await until(lambda: len(thread.offsets(first)) == 50, thread)

    thread.poller.detach(first)
    second = thread.attach(0, 20)
    await until(lambda: len(thread.offsets(second)) == 30, thread)

    assert thread.offsets(first) == list(range(50))
    assert thread.offsets(second) == list(range(20, 50))


async def test_a_partition_that_was_paused_flows_when_it_is_attached_again(
    broker: Broker, topic: str, threads: Threads
) -> None:
    """Case 13: this client's pause outlives a detach; a new attachment starts without."""
    produce(broker.bootstrap_servers, topic, values(10))
    thread = threads()
    await thread.joined(4)
    first = thread.attach(0)
    await until(lambda: len(thread.offsets(first)) == 10, thread)
    thread.poller.hold(first, PauseReason.OPERATOR, on=True)
    await until(lambda: ("paused", first, frozenset({"operator"})) in thread.told.events, thread)

    thread.poller.detach(first)
    second = thread.attach(0, 5)
    await until(lambda: len(thread.offsets(second)) == 5, thread)


# -- rebalances


async def test_a_revoked_partition_is_detached_before_the_other_member_gets_it(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    """P11: the revocation is told before anything else; what stays goes on where it was."""
    produce(broker.bootstrap_servers, topic, values(10), partition=0)
    first = threads(protocol=protocol)
    await first.joined(4)
    numbers = {partition: first.attach(partition) for partition in range(4)}
    await until(lambda: len(first.offsets(numbers[0])) == 10, first)

    second = threads(protocol=protocol)
    await second.joined(2)
    await until(lambda: len(first.told.owned) == 2, first, second)
    for partition in range(4):
        produce(broker.bootstrap_servers, topic, ["late"], partition=partition)
    kept = sorted(partition for _, partition in first.told.owned)
    await until(lambda: all(first.offsets(numbers[p]) for p in kept), first)

    assert first.told.owned.keys().isdisjoint(second.told.owned)
    lost = sorted(set(range(4)) - set(kept))
    assert all(first.offsets(numbers[p]) == list(range(10 if p == 0 else 0)) for p in lost)
    assert all(first.offsets(numbers[p]) == list(range(11 if p == 0 else 1)) for p in kept)


async def test_closing_hands_partitions_on_at_once(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    first, second = threads(protocol=protocol), threads(protocol=protocol)
    await first.poller.start()
    await second.joined(2)
    await until(lambda: len(first.told.owned) == 2, first, second)

    assert await first.poller.close(PATIENCE_S)
    await until(lambda: len(second.told.owned) == 4, second)


async def test_a_thread_that_was_stopped_too_long_loses_its_partitions_and_gets_them_back(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    """Case 30: as after SIGSTOP. What was attached is not; a new attach goes on where the records are due."""
    produce(broker.bootstrap_servers, topic, values(10))
    thread = threads(protocol=protocol, max_poll_interval=timedelta(seconds=2))
    await thread.joined(4)
    before = thread.attach(0)
    await until(lambda: len(thread.offsets(before)) == 10, thread)

    # Not polling is what is tested, and the client looks once a second at most: there is nothing to wait for.
    thread.poller.run_between_polls(lambda: time.sleep(4))
    await until(lambda: thread.told.kinds() == ["assigned", "lost", "assigned"], thread)
    produce(broker.bootstrap_servers, topic, ["10"])
    after = thread.attach(0, 10)
    await until(lambda: thread.offsets(after) == [10], thread)

    assert thread.offsets(before) == list(range(10))
    assert ("troubled", "_MAX_POLL_EXCEEDED") in [event[:2] for event in thread.told.events]


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


async def test_positions_pass_what_is_no_record(broker: Broker, topic: str, threads: Threads) -> None:
    """Case 25: the control record at the end of a transaction, or the lag would never be 0."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": unique("tx")})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for value in values(5):
        producer.produce(topic, value, partition=0)
    producer.commit_transaction(PATIENCE_S)
    thread = threads()
    await thread.joined(4)

    number = thread.attach(0)
    await until(lambda: thread.told.positions.get(number) == 6, thread)

    assert thread.offsets(number) == list(range(5))


async def test_a_position_is_never_that_of_a_former_attachment(broker: Broker, topic: str, threads: Threads) -> None:
    """I1: after an attach further back, an old position would declare records passed that were not read yet."""
    produce(broker.bootstrap_servers, topic, values(10))
    thread = threads()
    await thread.joined(4)
    first = thread.attach(0)
    await until(lambda: len(thread.offsets(first)) == 10, thread)

    thread.poller.detach(first)
    second = thread.attach(0, 2)
    thread.poller.look_at_positions()
    await until(lambda: len(thread.offsets(second)) == 8, thread)

    assert second not in thread.told.positions


# -- backpressure


async def test_a_congested_partition_stops_while_others_flow_and_goes_on_without_loss(
    broker: Broker, topic: str, threads: Threads
) -> None:
    """I10 and case 11: nothing is lost or repeated by pausing."""
    thread = threads(batch_max=10)
    await thread.joined(4)
    full, other = thread.attach(0), thread.attach(1)
    await thread.turns()
    thread.intakes[full].congested = True
    await until(lambda: ("paused", full, frozenset({"congested"})) in thread.told.events, thread)

    produce(broker.bootstrap_servers, topic, values(200))
    produce(broker.bootstrap_servers, topic, values(200), partition=1)
    await until(lambda: len(thread.offsets(other)) == 200, thread)
    assert thread.offsets(full) == []
    thread.intakes[full].congested = False
    await until(lambda: len(thread.offsets(full)) == 200, thread)

    assert thread.offsets(full) == list(range(200))
    assert ("paused", full, frozenset()) in thread.told.events


async def test_a_loop_that_takes_nothing_is_handed_a_bounded_number_of_records(
    broker: Broker, topic: str, threads: Threads
) -> None:
    """I10: two batches, however long it takes; and the membership is kept meanwhile."""
    produce(broker.bootstrap_servers, topic, values(5_000))
    thread = threads(batch_max=100)
    await thread.joined(4)
    thread.told.takes = False

    number = thread.attach(0)
    await until(lambda: ("paused", number, frozenset({"behind"})) in thread.told.events, thread)
    handed = len(thread.offsets(number))
    await thread.turns(20)
    assert len(thread.offsets(number)) == handed < 300
    thread.told.takes = True
    thread.told.take()
    await until(lambda: len(thread.offsets(number)) == 5_000, thread)

    assert thread.offsets(number) == list(range(5_000))
    assert thread.told.kinds() == ["assigned"]


async def test_batches_are_small_where_records_are_large(broker: Broker, topic: str, threads: Threads) -> None:
    """I10: a hand-over is bounded in bytes too, from the mean size of the records so far."""
    produce(broker.bootstrap_servers, topic, ["x" * 10_000] * 400)
    thread = threads(batch_bytes_max=50_000)
    await thread.joined(4)
    first = thread.attach(0)
    await until(lambda: len(thread.offsets(first)) == 400, thread)
    thread.poller.detach(first)
    thread.told.largest_batch = 0

    second = thread.attach(0)
    await until(lambda: len(thread.offsets(second)) == 400, thread)

    assert thread.told.largest_batch < 10


# -- the mirror


async def test_progress_is_mirrored_to_the_group(
    broker: Broker, topic: str, threads: Threads, protocol: GroupProtocol
) -> None:
    """For tools; of partitions that are ours only."""
    thread = threads(protocol=protocol)
    await thread.joined(4)

    thread.poller.mirror({(topic, 0): 7, ("elsewhere", 0): 3})
    await until(lambda: committed(broker, thread, topic) == 7, thread)

    assert thread.told.kinds("troubled") == []


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


def committed(broker: Broker, thread: Thread, topic: str) -> int:
    """What the group has committed, asked by a consumer that does not join."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": thread.group, "log_level": 0})
    try:
        return consumer.committed([TopicPartition(topic, 0)], timeout=PATIENCE_S)[0].offset
    finally:
        consumer.close()
