"""A member of a consumer group with the real engine: claims, rebalances, holds, pauses.

"Case n" is row n of the table of cases known to lose or duplicate records.
"""

import asyncio
import threading
from datetime import timedelta

from confluent_kafka import Consumer, TopicPartition

from consumers import telemetry
from consumers.mock import MockCluster
from consumers.settings import GroupProtocol, Subscription
from engine.telemetry import SourceClaimed
from tests.conformance.members import produce
from tests.integration.members import Broker, Member, Members, fetch, ids, lift_holds, settled, texts, until

OPERATOR = frozenset({"operator"})


# -- every record once


async def test_every_record_becomes_a_workflow_once_and_progress_reaches_the_end(
    broker: Broker, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    """I1, I2, I3; and the lag that tools see is 0."""
    broker.create_topic(topic, 4)
    for partition in range(4):
        produce(broker.bootstrap_servers, topic, texts(f"{partition}-", 250), partition=partition, key="k")
    member = await members(broker, protocol=protocol)

    await settled(database, 1_000, member)
    await until(lambda: [p.lag for p in member.partitions.values()] == [0] * 4, member)

    assert set(member.ran.values()) == {1}
    assert f"{topic}-3-249" in await ids(database)
    group = member.group.snapshot().group
    await until_committed(broker, group, topic, [250] * 4, member)


async def test_partitions_move_between_members_while_records_flow(
    broker: Broker, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    """I2, I4, P9, P11: two join, one leaves, and everything runs once; a revoked partition waits for no handler."""
    broker.create_topic(topic, 4)
    first = await members(broker, protocol=protocol, body=a_little)
    flow(broker, topic, "alone")
    second = await members(broker, protocol=protocol, body=a_little)
    flow(broker, topic, "joined")
    await until(lambda: len(first.partitions) == len(second.partitions) == 2, first, second)
    flow(broker, topic, "both")
    await first.stop()
    flow(broker, topic, "left")

    await settled(database, 1_600, first, second)
    await until(lambda: set(second.states.values()) == {"attached"} and len(second.states) == 4, second)

    rounds = ("alone", "joined", "both", "left")
    assert first.ran.keys() | second.ran.keys() == {
        f"{r}-{p}-{i}" for r in rounds for p in range(4) for i in range(100)
    }
    assert second.ran


async def test_a_crashed_members_partitions_are_taken_over(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """P2, case 31: its claims are refused while it might live, and taken when its lease has run out."""
    mock_cluster.create_topic(topic, 2)
    first = await members(mock_cluster, body=a_little)
    for partition in range(2):
        produce(mock_cluster.bootstrap_servers, topic, texts(f"{partition}-", 200), partition=partition)
    await until(lambda: len(first.ran) > 50, first)

    await first.crash()
    second = await members(mock_cluster)
    await settled(database, 400, second)

    assert any(claimed.after_death for claimed in second.told(SourceClaimed))


async def test_a_member_that_froze_changes_nothing_when_it_thaws(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """Case 30: its poll thread was silent for too long, its partitions are another's, and both go on."""
    mock_cluster.create_topic(topic, 2)
    frozen = await members(mock_cluster, max_poll_interval=timedelta(seconds=2))
    produce(mock_cluster.bootstrap_servers, topic, texts("a", 50))
    await settled(database, 50, frozen)

    thaw = freeze(frozen)
    other = await members(mock_cluster)
    await until(lambda: len(other.partitions) == 2, other)
    produce(mock_cluster.bootstrap_servers, topic, texts("b", 50))
    await settled(database, 100, frozen, other)
    thaw.set()
    await until(lambda: len(frozen.partitions) == len(other.partitions) == 1, frozen, other)
    for partition in range(2):
        produce(mock_cluster.bootstrap_servers, topic, texts(f"c{partition}-", 50), partition=partition)

    await settled(database, 200, frozen, other)


# -- holds and pauses


async def test_a_held_partition_is_claimed_and_not_fetched_until_its_hold_is_lifted(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    mock_cluster.create_topic(topic, 2)
    member = await members(mock_cluster)
    await until(lambda: member.states == {0: "attached", 1: "attached"}, member)

    await hold(database, f"{topic}-0", member)
    await until(lambda: member.states == {0: "held", 1: "attached"}, member)
    for partition in range(2):
        produce(mock_cluster.bootstrap_servers, topic, texts(f"{partition}-", 5), partition=partition)
    await settled(database, 5, member)
    await lift_holds(database)
    await settled(database, 10, member)

    assert member.states == {0: "attached", 1: "attached"}


async def test_an_operators_pause_outlives_a_new_attach(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """Case 13: reasons to pause are applied again after every attach."""
    mock_cluster.create_topic(topic, 1)
    member = await members(mock_cluster)
    await until(lambda: member.states == {0: "attached"}, member)
    member.group.pause(topic, 0)
    await until(lambda: member.partitions[0].paused == OPERATOR, member)
    attached = len(member.told(telemetry.PartitionAttached))

    [source] = member.engine.sources.attached()
    source.drop("for the test")
    await until(lambda: len(member.told(telemetry.PartitionAttached)) > attached, member)
    await until(lambda: member.partitions[0].paused == OPERATOR, member)
    produce(mock_cluster.bootstrap_servers, topic, ["late"])
    member.group.pause(topic, 0, paused=False)

    await settled(database, 1, member)


async def test_a_claim_that_the_engine_ended_is_taken_again(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """P6, P10: fenced, detached at once, claimed again, and every record still runs once."""
    mock_cluster.create_topic(topic, 1)
    member = await members(mock_cluster)
    produce(mock_cluster.bootstrap_servers, topic, texts("a", 100))
    await settled(database, 100, member)

    await fetch(database, "UPDATE dbos.event_dispatch_kv SET update_seq = update_seq + 1 WHERE key = %s", f"{topic}-0")
    produce(mock_cluster.bootstrap_servers, topic, texts("b", 100))
    await settled(database, 200, member)

    assert len(member.told(SourceClaimed)) >= 2


async def test_a_renamed_handler_waits_until_somebody_says_so(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, texts("a", 3))
    first = await members(mock_cluster)
    await settled(database, 3, first)
    await first.stop()

    second = await members(mock_cluster, Subscription(topic=topic, handler="ship"))
    await until(lambda: second.states == {0: "halted"}, second)
    assert "renamed_from='fulfil'" in second.partitions[0].reason
    await second.stop()
    produce(mock_cluster.bootstrap_servers, topic, texts("b", 3))
    third = await members(mock_cluster, Subscription(topic=topic, handler="ship", renamed_from="fulfil"))
    await settled(database, 6, third)

    assert third.ran.keys() == set(texts("b", 3))


# -- helpers


def flow(broker: Broker, topic: str, round_: str) -> None:
    """A hundred records of one key into each of four partitions."""
    for partition in range(4):
        produce(broker.bootstrap_servers, topic, texts(f"{round_}-{partition}-", 100), partition=partition, key="k")


async def a_little(text: str) -> None:
    await asyncio.sleep(0.002)


def freeze(member: Member) -> threading.Event:
    """Stop a member's poll thread between two polls until the event is set."""
    thaw = threading.Event()
    poller = member.group._poller  # pyright: ignore[reportPrivateUsage]  # nothing else can stop it
    assert poller is not None
    poller._ask(lambda: (thaw.wait(60), None)[1])  # pyright: ignore[reportPrivateUsage]
    return thaw


async def hold(database: str, key: str, member: Member) -> None:
    service = f"kafka:{member.group.snapshot().group}"
    await fetch(
        database,
        "INSERT INTO dbos.hold (service_name, key, kind, reason, created_at) VALUES (%s, %s, 'pause', 'test', 0)",
        service,
        key,
    )


def committed(broker: Broker, group: str, topic: str, partitions: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "log_level": 0})
    try:
        found = consumer.committed([TopicPartition(topic, partition) for partition in range(partitions)], timeout=30)
        return [each.offset for each in found]
    finally:
        consumer.close()


async def until_committed(broker: Broker, group: str, topic: str, expected: list[int], member: Member) -> None:
    for _ in range(300):
        if await asyncio.to_thread(committed, broker, group, topic, len(expected)) == expected:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{committed(broker, group, topic, len(expected))}, not {expected}; {member.group.snapshot()}")
