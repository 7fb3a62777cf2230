"""The poll thread on both brokers and both group protocols: what it attaches, hands over, holds back and mirrors.

"Case n" is row n of the table of cases known to lose or duplicate records.
"""

import time
from datetime import timedelta

from confluent_kafka import Consumer, Producer, TopicPartition

from consumers.backpressure import PauseReason
from consumers.settings import GroupProtocol
from tests.conformance.members import Broker, produce
from tests.conformance.poll_thread import PATIENCE_S, Thread, Threads, until, values
from tests.fixtures.kafka import unique

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


# -- positions


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


def committed(broker: Broker, thread: Thread, topic: str) -> int:
    """What the group has committed, asked by a consumer that does not join."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": thread.group, "log_level": 0})
    try:
        return consumer.committed([TopicPartition(topic, 0)], timeout=PATIENCE_S)[0].offset
    finally:
        consumer.close()
