"""What we rely on in the client, on both brokers: groups, their members and topics; and the mock cluster's own faults."""

import time
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from consumers.mock import Api, MockCluster
from consumers.settings import GroupProtocol
from tests.conformance.members import PATIENCE_S, Broker, Member, Members, generation, produce, until
from tests.fixtures.kafka import unique

ANSWER_S = 5
"""Longest to wait for an answer that the mock cluster never gives."""

FENCE_TURNS = 200
"""Longest a fenced member may take to notice, in turns of both members, 40 ms. Real Kafka takes about 20."""


# -- groups


def test_two_members_share_and_the_rest_falls_to_who_stays(members: Members, protocol: GroupProtocol) -> None:
    """Cooperative: the first keeps what it keeps; only what moves is revoked, and nobody owns it twice."""
    first = members(protocol=protocol)
    until(lambda: len(first.owned) == 4, first)
    second = members(protocol=protocol)
    until(lambda: len(first.owned) == len(second.owned) == 2, first, second)
    assert first.owned | second.owned == {0, 1, 2, 3}
    revoked = [event for event in first.log.events if event[0] == "revoked"]
    assert revoked == [("revoked", sorted(second.owned))]

    second.close()
    until(lambda: len(first.owned) == 4, first)

    assert second.log.events[-1][0] in {"revoked", "lost"}
    assert [event for event in first.log.events if event[0] != "assigned"] == revoked


def test_the_generation_is_known_in_the_callback_and_grows(members: Members, protocol: GroupProtocol) -> None:
    """A hint by which requests for a partition are judged (P9); never a fence."""
    first = members(protocol=protocol)
    until(lambda: len(first.owned) == 4, first)
    before = first.log.generations[-1]
    assert before > 0

    second = members(protocol=protocol)
    until(lambda: len(first.owned) == len(second.owned) == 2, first, second)

    assert second.log.generations[-1] > before
    until(lambda: generation(first.consumer) == generation(second.consumer), first, second)


def test_a_member_that_polls_too_late_loses_its_partitions_and_gets_them_back(
    members: Members, protocol: GroupProtocol
) -> None:
    """An error message, then `on_lost`, then a new assignment by itself."""
    member = members(protocol=protocol, max_poll_interval_ms=2000)
    until(lambda: len(member.owned) == 4, member)
    member.attach(0, 0)

    time.sleep(4)  # not polling is what is tested, and the client looks once a second: there is nothing to wait for
    until(lambda: len(member.log.events) >= 3 and len(member.owned) == 4, member)

    assert [code for code, _ in member.errors] == [KafkaError._MAX_POLL_EXCEEDED]
    assert [how for how, _ in member.log.events] == ["assigned", "lost", "assigned"]
    assert member.consumer.assignment() == []


def test_offsets_are_mirrored_to_the_group(members: Members, topic: str, protocol: GroupProtocol) -> None:
    """For lag tools: committed asynchronously, never read back by us."""
    member = members(protocol=protocol)
    until(lambda: len(member.owned) == 4, member)
    member.attach(0, 0)

    member.consumer.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=True)
    until(lambda: committed(member, topic) == 7, member)


def test_the_groups_offsets_can_be_read_by_an_administrator(members: Members, topic: str, admin: Any) -> None:
    """For the migration of a group that used to commit to Kafka."""
    from confluent_kafka import ConsumerGroupTopicPartitions

    member = members()
    until(lambda: len(member.owned) == 4, member)
    member.consumer.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=True)
    until(lambda: committed(member, topic) == 7, member)

    request = [ConsumerGroupTopicPartitions(members.group, [TopicPartition(topic, 0)])]
    answer = admin.list_consumer_group_offsets(request)[members.group].result(PATIENCE_S)

    assert answer.topic_partitions[0].offset == 7


def test_a_static_member_is_fenced_by_its_successor(members: Members) -> None:
    """It comes as a message that says only that it is fatal; which kind of fatal is in its text."""
    first = members(group_instance_id="one")
    until(lambda: len(first.owned) == 4, first)
    second = members(group_instance_id="one")

    for _ in range(FENCE_TURNS):
        if first.errors:
            break
        second.turn()
        first.turn()

    assert [code for code, _ in first.errors] == [KafkaError._FATAL]
    assert "fenced by other consumer with same group.instance.id" in first.fatal[0]


def test_a_static_member_comes_back_to_its_partitions(members: Members) -> None:
    """A restart within the session timeout moves nothing."""
    first, other = members(group_instance_id="one"), members(group_instance_id="two")
    until(lambda: len(first.owned) == len(other.owned) == 2, first, other)
    owned = set(first.owned)
    kept = set(other.owned)
    others = len(other.log.events)

    first.close()
    again = members(group_instance_id="one")
    until(lambda: len(again.owned) == 2, again, other)

    assert (again.owned, other.owned) == (owned, kept)
    assert {how for how, moved in other.log.events[others:] if moved} == set()


# -- topics


def test_a_re_created_topic_has_another_id(broker: Broker, topic: str, admin: Any) -> None:
    """The only reliable sign that offsets mean other records now."""
    from confluent_kafka import TopicCollection

    def topic_id() -> str:
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=ANSWER_S)
        return str(described[topic].result(ANSWER_S).topic_id)

    before = topic_id()
    broker.delete_topic(topic)
    broker.create_topic(topic, 4)

    assert topic_id() != before


def test_a_missing_topic_is_an_error(broker: Broker) -> None:
    """allow.auto.create.topics=false: a misspelt topic does not come to life."""
    member = Member(broker.bootstrap_servers, unique("group"), unique("missing"))
    try:
        until(lambda: member.errors or member.owned, member)
        assert [code for code, _ in member.errors] == [KafkaError.UNKNOWN_TOPIC_OR_PART]
    finally:
        member.close()


def test_topics_can_be_listed(broker: Broker, topic: str, admin: Any) -> None:
    found = admin.list_topics(topic, timeout=PATIENCE_S).topics[topic]

    assert sorted(found.partitions) == [0, 1, 2, 3]


# -- the mock cluster's own: faults on command, as other tests use them


def test_an_injected_error_of_a_mirror_commit_is_reported(mock_cluster: MockCluster) -> None:
    topic = unique("conformance")
    mock_cluster.create_topic(topic, 4)
    results: list[Any] = []
    member = Member(
        mock_cluster.bootstrap_servers, unique("group"), topic, on_commit=lambda error, _: results.append(error)
    )
    try:
        until(lambda: len(member.owned) == 4, member)
        mock_cluster.push_errors(Api.OFFSET_COMMIT, KafkaError.REBALANCE_IN_PROGRESS)
        member.consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=True)
        until(lambda: results, member)
        assert results[0].code() == KafkaError.REBALANCE_IN_PROGRESS
    finally:
        member.close()


def test_a_broker_that_comes_back_delivers_the_rest(mock_cluster: MockCluster) -> None:
    topic = unique("conformance")
    mock_cluster.create_topic(topic)
    produce(mock_cluster.bootstrap_servers, topic, ["0"])
    member = Member(
        mock_cluster.bootstrap_servers, unique("group"), topic, reconnect_backoff_ms=10, reconnect_backoff_max_ms=50
    )
    try:
        until(lambda: member.owned, member)
        member.attach(0, 0)
        until(lambda: member.values() == ["0"], member)
        mock_cluster.broker_down()
        member.turn()
        mock_cluster.broker_up()
        produce(mock_cluster.bootstrap_servers, topic, ["1"])
        until(lambda: member.values() == ["0", "1"], member)
    finally:
        member.close()


def test_requests_of_clients_can_be_seen(mock_cluster: MockCluster) -> None:
    mock_cluster.create_topic("t")
    mock_cluster.track_requests()

    produce(mock_cluster.bootstrap_servers, "t", ["0"])

    assert Api.PRODUCE in mock_cluster.requests()
    assert Api.FETCH not in mock_cluster.requests()


def committed(member: Member, topic: str) -> int:
    return member.consumer.committed([TopicPartition(topic, 0)], timeout=PATIENCE_S)[0].offset
