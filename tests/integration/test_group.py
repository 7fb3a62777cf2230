"""A member of a consumer group with the real engine: claims, rebalances, first starts, logs that are not what they were.

"Case n" is row n of the table of cases known to lose or duplicate records.
"""

import asyncio
import ctypes
import os
import threading
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import confluent_kafka
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.cimpl import NewPartitions

from consumers import telemetry
from consumers.mock import MockCluster
from consumers.settings import GroupProtocol, OnGap, OnRecreated, Security, StartAt, StartAtTime, Subscription
from engine.errors import ConfigurationError
from engine.migrations import migrate
from engine.telemetry import ServiceFailed, SourceClaimed
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka, KafkaServer, unique
from tests.fixtures.kafka import Security as BrokerSecurity
from tests.fixtures.postgres import PostgresServer
from tests.integration.members import Member, fetch, ids, settled, texts, until, workflows

Broker = MockCluster | Kafka

OPERATOR = frozenset({"operator"})


@pytest.fixture
def topic() -> str:
    return unique("orders")


@pytest.fixture(params=GroupProtocol, ids=lambda protocol: protocol.value)
def protocol(request: pytest.FixtureRequest) -> GroupProtocol:
    return request.param


class Members(Protocol):
    async def __call__(self, broker: Broker, *subscriptions: Subscription, **changes: Any) -> Member: ...


@pytest.fixture
async def members(database: str, topic: str) -> AsyncGenerator[Members]:
    """Starts members of one group over one database, and stops them at the end."""
    made: list[Member] = []
    group = unique("billing")

    async def start(broker: Broker, *subscriptions: Subscription, **changes: Any) -> Member:
        prepare: Callable[[Member], None] | None = changes.pop("prepare", None)
        chosen = subscriptions or (Subscription(topic=topic, handler="fulfil"),)
        member = Member(
            changes.pop("database", database), broker.bootstrap_servers, changes.pop("group", group), *chosen, **changes
        )
        made.append(member)
        return await member.start(prepare)

    yield start
    await asyncio.gather(*(member.stop() for member in made), return_exceptions=True)


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


# -- where to begin


async def test_latest_is_resolved_once_for_all_partitions(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    """K5: what was there is skipped by decision; what comes while nobody runs is not."""
    broker.create_topic(topic, 2)
    produce(broker.bootstrap_servers, topic, texts("before", 5))
    latest = Subscription(topic=topic, handler="fulfil", start=StartAt.LATEST)
    first = await members(broker, latest)
    await until(lambda: set(first.states.values()) == {"attached"}, first)
    await first.stop()
    for partition in range(2):
        produce(broker.bootstrap_servers, topic, texts(f"between{partition}-", 5), partition=partition)

    second = await members(broker, latest)
    await settled(database, 10, second)

    assert all(text.startswith("between") for text in second.ran)


async def test_a_group_moves_from_its_offsets_in_kafka(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    """Migration: from what the group had committed; a partition it never committed begins at its start."""
    kafka.create_topic(topic, 2)
    for partition in range(2):
        produce(kafka.bootstrap_servers, topic, texts(f"{partition}-", 10), partition=partition)
    group = unique("moved")
    commit(kafka, group, topic, 7)

    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=StartAt.COMMITTED), group=group)
    await settled(database, 13, member)

    assert {"0-7", "0-8", "0-9", "1-0"} <= member.ran.keys()
    assert "0-6" not in member.ran


async def test_a_group_without_offsets_in_kafka_does_not_guess(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, ["0"])

    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=StartAt.COMMITTED))
    await until(lambda: "no committed offsets" in member.partitions[0].reason if member.partitions else False, member)

    assert member.states == {0: "halted"}
    assert await ids(database) == []


async def test_a_start_at_a_time_finds_the_first_record_since(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    kafka.create_topic(topic, 2)
    for second in (1_000, 2_000, 3_000):
        produce(kafka.bootstrap_servers, topic, [str(second)], timestamp=second * 1_000)

    start = StartAtTime(datetime.fromtimestamp(1_500, UTC))
    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=start))
    await settled(database, 2, member)

    assert member.ran.keys() == {"2000", "3000"}


async def test_a_partition_discovered_later_starts_at_its_beginning(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    """Section 2.5 of the notes: with `latest`, what is produced before its discovery would be skipped."""
    kafka.create_topic(topic, 1)
    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=StartAt.LATEST))
    await until(lambda: member.states == {0: "attached"}, member)

    kafka.admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
    produce(kafka.bootstrap_servers, topic, texts("early", 5), partition=1)
    await settled(database, 5, member)

    assert len(member.ran) == 5


async def test_topics_that_match_a_pattern_are_consumed(
    broker: Broker, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    for name in ("eu", "us"):
        broker.create_topic(f"{topic}.{name}", 1)
        produce(broker.bootstrap_servers, f"{topic}.{name}", [name])

    member = await members(broker, Subscription(topic=f"^{topic}\\..*", handler="fulfil"), protocol=protocol)
    await settled(database, 2, member)

    assert await ids(database) == [f"{topic}.eu-0-0", f"{topic}.us-0-0"]


# -- logs that are not what they were


async def test_a_topic_created_again_halts_its_partitions(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    """Case 19: the same offsets name other records, and the client would go on without a word."""
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("old", 5))
    first = await members(kafka)
    await settled(database, 5, first)
    await first.stop()
    kafka.delete_topic(topic)
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("new", 10))

    second = await members(kafka)
    await until(lambda: second.states == {0: "held"}, second)

    assert "created again" in second.partitions[0].reason
    assert [halted.source.topic for halted in second.told(telemetry.PartitionHalted)] == [topic]
    assert not second.ran


async def test_a_topic_id_that_was_not_known_is_stored_when_it_is_and_counts_from_then_on(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    """Case 19: progress of a time when brokers told no IDs; the topic that is there now is taken for the one it was."""
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("old", 3))
    first = await members(kafka)
    await settled(database, 3, first)
    await first.stop()
    known = await stored_topic_id(database)
    await fetch(database, "UPDATE dbos.event_dispatch_kv SET value = replace(value, %s, '')", known)
    assert await stored_topic_id(database) == ""

    second = await members(kafka)
    while await stored_topic_id(database) != known:
        await asyncio.sleep(0.05)
    kafka.delete_topic(topic)
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("new", 5))
    await until(lambda: second.told(telemetry.PartitionHalted), second)

    assert "created again" in second.told(telemetry.PartitionHalted)[0].reason
    assert await stored_topic_id(database) == known


async def test_a_topic_created_again_under_an_attached_partition_is_noticed(
    kafka: Kafka, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    """Case 19, the silent one: the client of a live member goes on at the old offset of the new topic, without a word.

    Every record of the new topic runs in the end; what ran before it was noticed did so under the old incarnation.
    """
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("old", 30))
    again = Subscription(topic=topic, handler="fulfil", on_recreated=OnRecreated.NEW_INCARNATION)
    member = await members(kafka, again, protocol=protocol)
    await settled(database, 30, member)

    kafka.delete_topic(topic)
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("new", 40))
    await until(lambda: member.ran.keys() >= set(texts("new", 40)), member)
    await until(lambda: member.partitions[0].lag == 0, member)

    new_ids = [each for each in await ids(database) if each.startswith(f"{topic}~2-")]
    assert len(new_ids) == 40
    assert len(member.told(telemetry.TopicRecreated)) == 1


async def test_a_topic_created_again_is_a_new_incarnation_by_policy(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    """Case 19: every record of the new topic runs, under IDs that the old ones did not have."""
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("old", 5))
    again = Subscription(topic=topic, handler="fulfil", on_recreated=OnRecreated.NEW_INCARNATION)
    first = await members(kafka, again)
    await settled(database, 5, first)
    await first.stop()
    kafka.delete_topic(topic)
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("new", 10))

    second = await members(kafka, again)
    await settled(database, 15, second)

    assert second.ran.keys() == set(texts("new", 10))
    assert f"{topic}~2-0-9" in await ids(database)
    assert len(second.told(telemetry.TopicRecreated)) == 1


async def test_a_log_that_ends_below_what_was_processed_halts(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """Case 20, on brokers without topic IDs: new records would come under offsets that are taken."""
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, texts("old", 10))
    first = await members(mock_cluster)
    await settled(database, 10, first)
    await first.stop()
    mock_cluster.delete_topic(topic)
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, texts("new", 3))

    second = await members(mock_cluster)
    await until(lambda: second.states == {0: "held"}, second)

    assert "truncated" in second.partitions[0].reason
    assert not second.ran


async def test_retention_beyond_progress_halts_until_the_operator_decides(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    """Case 21: nothing is skipped silently; lifting the hold without a decision finds the gap again."""
    await interrupted(broker, topic, database, members, Subscription(topic=topic, handler="fulfil"))

    member = await members(broker)
    await until(lambda: member.states == {0: "held"}, member)
    assert "[5, 8)" in member.partitions[0].reason
    await lift_holds(database)
    claims = len(member.told(SourceClaimed))
    await until(lambda: len(member.told(SourceClaimed)) > claims and member.states == {0: "held"}, member)

    assert await workflows(database) == {"SUCCESS": 5}


async def test_retention_beyond_progress_is_a_recorded_gap_by_policy(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    """Case 21, I1: a decision that is written down."""
    skip = Subscription(topic=topic, handler="fulfil", on_gap=OnGap.SKIP)
    await interrupted(broker, topic, database, members, skip)

    member = await members(broker, skip)
    await settled(database, 7, member)

    gaps = await fetch(database, "SELECT from_offset, to_offset FROM dbos.gap")
    assert gaps == [(5, 8)]
    assert [(gap.start, gap.end) for gap in member.told(telemetry.GapAccepted)] == [(5, 8)]
    assert member.ran.keys() == {"old8", "old9"}


async def test_retention_that_passes_an_attached_partition_is_noticed(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """Case 21: while it is attached, by the client's refusal; back to validation, which records the gap."""
    mock_cluster.create_topic(topic, 1)
    skip = Subscription(topic=topic, handler="fulfil", on_gap=OnGap.SKIP)
    member = await members(mock_cluster, skip)
    produce(mock_cluster.bootstrap_servers, topic, texts("a", 5))
    await settled(database, 5, member)
    member.group.pause(topic, 0)
    await until(lambda: member.partitions[0].paused, member)

    produce(mock_cluster.bootstrap_servers, topic, texts("b", 10))
    mock_cluster.delete_records(topic, 0, before=9)
    member.group.pause(topic, 0, paused=False)
    await settled(database, 11, member)

    assert len(member.told(telemetry.OffsetRefused)) >= 1
    assert await fetch(database, "SELECT from_offset, to_offset FROM dbos.gap") == [(5, 9)]


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


# -- outages


async def test_an_outage_of_postgres_at_an_assignment_disturbs_no_rebalance(
    mock_cluster: MockCluster, topic: str, private_postgres: PostgresServer, members: Members
) -> None:
    """Section 0.7 of the notes: claims wait for Postgres, the group settles without."""
    address = private_postgres.dsn()
    await migrate(address)
    mock_cluster.create_topic(topic, 2)
    member = Member(
        address,
        mock_cluster.bootstrap_servers,
        unique("billing"),
        Subscription(topic=topic, handler="fulfil"),
    )
    await member.engine.start()
    await asyncio.to_thread(private_postgres.stop, "immediate")
    try:
        await member.group.start()
        await until(lambda: len(member.partitions) == 2, member)
        assert "attached" not in member.states.values()
        await asyncio.to_thread(private_postgres.start)
        await until(lambda: set(member.states.values()) == {"attached"}, member)
        produce(mock_cluster.bootstrap_servers, topic, texts("a", 20))
        await settled(address, 20, member)
    finally:
        await member.stop()


async def test_an_outage_of_the_brokers_loses_and_repeats_nothing(
    private_kafka: KafkaServer, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    """Killed, and back with the same data."""
    kafka = private_kafka.kafka()
    kafka.create_topic(topic, 2)
    member = await members(kafka, protocol=protocol)
    produce(kafka.bootstrap_servers, topic, texts("a", 100))
    await settled(database, 100, member)

    await asyncio.to_thread(private_kafka.kill)
    await asyncio.to_thread(private_kafka.start)
    await asyncio.to_thread(produce, kafka.bootstrap_servers, topic, texts("b", 100), partition=1)
    await settled(database, 200, member)

    assert set(member.ran.values()) == {1}


# -- what bad producers send


async def test_a_header_whose_name_is_no_text_makes_one_dead_letter_and_stops_nobody(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """Case 40: the client cannot give such headers, and says so with an error that would come at every try."""
    mock_cluster.create_topic(topic, 1)
    # Enough of them that Python has specialised the call which reads the headers.
    before = texts("before", 100)
    produce(mock_cluster.bootstrap_servers, topic, before, key="k")
    produce_with_a_header_named(b"\xff\xfe", mock_cluster.bootstrap_servers, topic, b"strange")
    produce(mock_cluster.bootstrap_servers, topic, ["after"], key="k")

    member = await members(mock_cluster)
    await until(lambda: member.ran.keys() == {*before, "after"}, member)
    while (found := await workflows(database)) != {"SUCCESS": 101, "ERROR": 1}:
        assert found.total() <= 102
        await asyncio.sleep(0.05)

    ((reason, value, error),) = await fetch(database, "SELECT reason, record_value, error FROM dbos.dead_letter")
    assert (reason, value) == ("undecodable", b"strange")
    assert "a header's name is not UTF-8" in error
    assert not member.told(telemetry.ClientRecreated)


# -- bugs of ours


def break_down(*_: object, **__: object) -> None:
    raise TypeError("a bug of ours")


async def test_a_bug_where_records_are_taken_ends_the_member_and_loses_nothing(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    """I1: no position that lies behind the records which were not taken moves progress; the next process runs them."""
    broker.create_topic(topic, 2)
    broken = await members(broker)
    await until(lambda: set(broken.states.values()) == {"attached"}, broken)
    (source,) = (each for each in broken.engine.sources.attached() if each.ref.partition == 0)
    source.inbox.deliver = break_down
    for partition in range(2):
        produce(broker.bootstrap_servers, topic, texts(f"{partition}-", 20), partition=partition, key="k")

    await until(broken.group.failed.done, broken)
    await broken.stop()
    healthy = await members(broker)
    await settled(database, 40, broken, healthy)

    assert isinstance(broken.group.failed.exception(), TypeError)
    assert not [text for text in broken.ran if text.startswith("0-")]
    assert set((broken.ran + healthy.ran).values()) == {1}


@pytest.mark.parametrize("where", ["claim", "stored"])
async def test_a_bug_in_a_partitions_life_ends_the_member_and_is_not_tried_again(
    broker: Broker, topic: str, members: Members, where: str
) -> None:
    broker.create_topic(topic, 1)

    def prepare(member: Member) -> None:
        setattr(member.engine.sources, where, break_down)

    broken = await members(broker, prepare=prepare)
    await until(broken.group.failed.done, broken)

    assert isinstance(broken.group.failed.exception(), TypeError)
    assert [event.error for event in broken.told(ServiceFailed)] == [broken.group.failed.exception()]


async def test_progress_that_a_newer_version_wrote_halts_its_partition_alone(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    broker.create_topic(topic, 2)
    first = await members(broker)
    await until(lambda: set(first.states.values()) == {"attached"}, first)
    await first.stop()
    await fetch(
        database,
        """UPDATE dbos.event_dispatch_kv
              SET value = left(value, -1) || ',"newer":1}'
            WHERE key = %s AND service_name LIKE 'kafka:%%'""",
        f"{topic}-0",
    )

    second = await members(broker)
    await until(lambda: "newer" in second.partitions[0].reason if second.partitions else False, second)

    assert second.states[0] == "halted"
    assert "a newer version wrote it" in second.partitions[0].reason


# -- what is wrong at start


async def test_a_topic_that_does_not_exist_is_named_at_start(broker: Broker, topic: str, members: Members) -> None:
    with pytest.raises(ConfigurationError, match=topic):
        await members(broker)


async def test_brokers_that_do_not_answer_are_named_at_start(topic: str, database: str) -> None:
    """Within `startup_max`, with the client's last word."""
    subscription = Subscription(topic=topic, handler="fulfil")
    member = Member(database, "127.0.0.1:9", "billing", subscription, startup_max=timedelta(seconds=1))

    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:9 did not answer"):
        await member.start()


@pytest.mark.private_kafka
async def test_wrong_credentials_are_refused_at_start(topic: str, database: str) -> None:
    """And right ones are not."""
    with KafkaServer(security=BrokerSecurity()) as server:
        kafka = server.kafka()
        kafka.create_topic(topic, 1)
        produce(kafka.bootstrap_servers, topic, ["0"])
        subscription = Subscription(topic=topic, handler="fulfil")

        def member(password: str) -> Member:
            security = Security(
                tls=True,
                ca=os.fspath(server.ca_file),
                mechanism="SCRAM-SHA-512",
                username="alice",
                password=password,
            )
            return Member(database, server.scram_servers, unique("billing"), subscription, security=security)

        with pytest.raises(ConfigurationError, match="does not let us in") as refused:
            await member("guessed").start()
        assert "guessed" not in str(refused.value)
        right = await member("alice-secret").start()
        await settled(database, 1, right)
        await right.stop()


@pytest.mark.private_kafka
async def test_oauth_tokens_are_asked_for(topic: str, database: str) -> None:
    from base64 import urlsafe_b64encode
    from json import dumps
    from time import time

    def token(config: str) -> tuple[str, float]:
        assert config == ""
        expires = time() + 300
        parts = [{"alg": "none"}, {"sub": "alice", "iat": int(time()), "exp": int(expires)}]
        encoded = [urlsafe_b64encode(dumps(part).encode()).rstrip(b"=").decode() for part in parts]
        return ".".join([*encoded, ""]), expires

    with KafkaServer(security=BrokerSecurity()) as server:
        kafka = server.kafka()
        kafka.create_topic(topic, 1)
        produce(kafka.bootstrap_servers, topic, ["0"])
        security = Security(tls=True, ca=os.fspath(server.ca_file), mechanism="OAUTHBEARER", oauth_token=token)
        subscription = Subscription(topic=topic, handler="fulfil")

        member = Member(database, server.oauth_servers, unique("billing"), subscription, security=security)
        await member.start()
        await settled(database, 1, member)
        await member.stop()


# -- helpers


def produce_with_a_header_named(name: bytes, bootstrap_servers: str, topic: str, value: bytes) -> None:
    """As producers in other languages can: this client's own takes text only."""
    folder = Path(confluent_kafka.__file__).parent
    (library,) = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/librdkafka*")][:1]
    client = ctypes.CDLL(str(library))
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(client, function).restype = ctypes.c_void_p
    said = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(client.rd_kafka_conf_new())
    client.rd_kafka_conf_set(settings, b"bootstrap.servers", bootstrap_servers.encode(), said, 512)
    producer = ctypes.c_void_p(client.rd_kafka_new(0, settings, said, 512))
    headers = ctypes.c_void_p(client.rd_kafka_headers_new(1))
    client.rd_kafka_header_add(headers, name, len(name), b"v", 1)
    # RD_KAFKA_VTYPE_: TOPIC 1, PARTITION 3, VALUE 4, MSGFLAGS 7 (2: copy), HEADERS 10, END 0.
    size = ctypes.c_size_t(len(value))
    assert client.rd_kafka_producev(producer, 1, topic.encode(), 3, 0, 4, value, size, 7, 2, 10, headers, 0) == 0
    assert client.rd_kafka_flush(producer, 10_000) == 0
    client.rd_kafka_destroy(producer)


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


async def interrupted(broker: Broker, topic: str, database: str, members: Members, subscription: Subscription) -> None:
    """Offsets 0 to 4 processed, 5 to 9 produced while nobody ran, 5 to 7 removed by retention."""
    broker.create_topic(topic, 1)
    produce(broker.bootstrap_servers, topic, texts("old", 5))
    first = await members(broker, subscription)
    await settled(database, 5, first)
    await first.stop()
    produce(broker.bootstrap_servers, topic, [f"old{i}" for i in range(5, 10)])
    broker.delete_records(topic, 0, before=8)


async def hold(database: str, key: str, member: Member) -> None:
    service = f"kafka:{member.group.snapshot().group}"
    await fetch(
        database,
        "INSERT INTO dbos.hold (service_name, key, kind, reason, created_at) VALUES (%s, %s, 'pause', 'test', 0)",
        service,
        key,
    )


async def stored_topic_id(database: str) -> str:
    ((topic_id,),) = await fetch(database, "SELECT value::json ->> 'topic_id' FROM dbos.event_dispatch_kv")
    return topic_id


async def lift_holds(database: str) -> None:
    await fetch(database, "DELETE FROM dbos.hold")


def committed(broker: Broker, group: str, topic: str, partitions: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "log_level": 0})
    try:
        found = consumer.committed([TopicPartition(topic, partition) for partition in range(partitions)], timeout=30)
        return [each.offset for each in found]
    finally:
        consumer.close()


def commit(broker: Broker, group: str, topic: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "log_level": 0})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    finally:
        consumer.close()


async def until_committed(broker: Broker, group: str, topic: str, expected: list[int], member: Member) -> None:
    for _ in range(300):
        if await asyncio.to_thread(committed, broker, group, topic, len(expected)) == expected:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{committed(broker, group, topic, len(expected))}, not {expected}; {member.group.snapshot()}")
