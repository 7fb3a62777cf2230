"""Logs that are not what they were: topics made anew, logs that were cut, retention (cases 19 to 21)."""

import asyncio

from consumers import telemetry
from consumers.mock import MockCluster
from consumers.settings import GroupProtocol, OnGap, OnRecreated, Subscription
from engine.telemetry import SourceClaimed
from processor.cli import DONE, MISTAKE
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka, KafkaServer
from tests.integration.conftest import Command
from tests.integration.members import Broker, Member, Members, fetch, ids, lift_holds, settled, texts, until, workflows


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


async def test_a_topic_created_again_is_fetched_from_its_start_whatever_leader_epochs_its_client_has_seen(
    private_kafka: KafkaServer, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    """Case 19: a client takes the new topic's leader epochs, which begin at 0, for older than those that it knows, and
    fetches nothing, without a word. Every restart of a broker raises them.
    """
    kafka = private_kafka.kafka()
    kafka.create_topic(topic, 2)
    again = Subscription(topic=topic, handler="fulfil", on_recreated=OnRecreated.NEW_INCARNATION)
    member = await members(kafka, again, protocol=protocol)
    produce(kafka.bootstrap_servers, topic, texts("old", 10))
    await settled(database, 10, member)
    await asyncio.to_thread(private_kafka.restart)
    produce(kafka.bootstrap_servers, topic, texts("older", 10))
    await settled(database, 20, member)

    kafka.delete_topic(topic)
    kafka.create_topic(topic, 2)
    produce(kafka.bootstrap_servers, topic, texts("new", 40))
    await until(lambda: member.ran.keys() >= set(texts("new", 40)), member)
    await until(
        lambda: len(member.told(telemetry.TopicRecreated)) == 2, member
    )  # records without keys: all in one, maybe

    assert member.ran.keys() == {*texts("old", 10), *texts("older", 10), *texts("new", 40)}


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


async def interrupted(broker: Broker, topic: str, database: str, members: Members, subscription: Subscription) -> None:
    """Offsets 0 to 4 processed, 5 to 9 produced while nobody ran, 5 to 7 removed by retention."""
    broker.create_topic(topic, 1)
    produce(broker.bootstrap_servers, topic, texts("old", 5))
    first = await members(broker, subscription)
    await settled(database, 5, first)
    await first.stop()
    produce(broker.bootstrap_servers, topic, [f"old{i}" for i in range(5, 10)])
    broker.delete_records(topic, 0, before=8)


async def stored_topic_id(database: str) -> str:
    ((topic_id,),) = await fetch(database, "SELECT value::json ->> 'topic_id' FROM dbos.event_dispatch_kv")
    return topic_id


# -- what an operator does about it


async def begun_anew(command: Command, kafka: Broker, topic: str, member: Member, where: str) -> None:
    """The two commands the hold's reason names."""
    place = (f"{topic}-0", "--group", member.group.snapshot().group)
    seek = ("partitions", "seek", *place, "--note", "compared", "--new-incarnation", "--yes", "--to", where)
    for act in (seek, ("partitions", "release", *place)):
        code, _, errors = await command(*act, kafka=kafka.bootstrap_servers)
        assert (code, errors) == (DONE, "")


async def test_a_log_that_was_cut_goes_on_when_an_operator_says_where(
    mock_cluster: MockCluster, topic: str, database: str, members: Members, command: Command
) -> None:
    """Case 20, P30: halted with the command to use, then every record from there on runs, under an ID of its own."""
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, texts("old", 10))
    first = await members(mock_cluster)
    await settled(database, 10, first)
    await first.stop()
    mock_cluster.delete_topic(topic)
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, [*texts("old", 4), *texts("new", 3)])
    second = await members(mock_cluster)
    await until(lambda: second.states == {0: "held"}, second)
    assert "--new-incarnation" in second.partitions[0].reason

    await begun_anew(command, mock_cluster, topic, second, "4")
    await settled(database, 13, second)

    assert second.ran.keys() == set(texts("new", 3))
    assert f"{topic}~2-0-4" in await ids(database)
    assert await fetch(database, "SELECT from_offset, to_offset FROM dbos.gap") == [(0, 4)]


async def test_a_topic_created_again_goes_on_when_an_operator_says_so(
    private_kafka: KafkaServer, topic: str, database: str, members: Members, command: Command
) -> None:
    """Case 19, P30: without the policy, and without a restart of ours; the stored topic ID is the new topic's."""
    kafka = private_kafka.kafka()
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("old", 5))
    member = await members(kafka)
    await settled(database, 5, member)
    await asyncio.to_thread(private_kafka.restart)
    produce(kafka.bootstrap_servers, topic, texts("older", 5))
    await settled(database, 10, member)
    former = await stored_topic_id(database)
    kafka.delete_topic(topic)
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("new", 3))
    await until(lambda: member.states == {0: "held"}, member)
    seek = ("partitions", "seek", f"{topic}-0", "--group", member.group.snapshot().group, "--note", "x")
    refused, _, why = await command(*seek, "--yes", "--to", "earliest", kafka=kafka.bootstrap_servers)

    await begun_anew(command, kafka, topic, member, "earliest")
    await until(lambda: member.ran.keys() >= set(texts("new", 3)), member)

    assert (refused, "another one under the same name" in why) == (MISTAKE, True)
    assert f"{topic}~2-0-2" in await ids(database)
    assert await stored_topic_id(database) not in ("", former)
