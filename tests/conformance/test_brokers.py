"""What we rely on in the client, on both brokers: whatever passes here may be tested on the mock cluster elsewhere.

`MOCK_CANNOT` is the whole list of what the mock cluster does not do. Its rows run there too and must fail: a release of
librdkafka that learns one of them shows up here. The cases behind the rules: docs/reference/cases.md.
"""

import time
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, TIMESTAMP_CREATE_TIME, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.mock import Api, MockCluster
from tests.conformance.members import PATIENCE_S, Member, Protocol, generation, produce, until
from tests.fixtures.kafka import Kafka, unique

Broker = MockCluster | Kafka

MOCK_CANNOT = {
    "test_records_of_an_aborted_transaction_are_not_delivered": "it delivers them: it keeps no transaction index",
    "test_a_static_member_is_fenced_by_its_successor": "it lets two members share a group.instance.id",
    "test_a_re_created_topic_has_another_id": "it does not answer DescribeTopics: it names no controller",
    "test_offsets_for_a_time_are_found": "it answers -1 for every timestamp",
}

FENCE_TURNS = 200
"""Longest a fenced member may take to notice, in turns of both members, 40 ms. Real Kafka takes about 20."""
ANSWER_S = 5
"""Longest to wait for an answer that the mock cluster never gives."""


@pytest.fixture(autouse=True)
def known_to_fail_on_the_mock_cluster(request: pytest.FixtureRequest) -> None:
    reason = MOCK_CANNOT.get(request.node.originalname)
    if reason and "mock" in request.node.callspec.id:
        request.applymarker(pytest.mark.xfail(reason=f"mock cluster: {reason}", strict=True))


@pytest.fixture
def topic(broker: Broker) -> str:
    """A topic of four partitions."""
    name = unique("conformance")
    broker.create_topic(name, 4)
    return name


@pytest.fixture(params=["classic", "consumer"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    """Both group protocols: cooperative-sticky, and KIP-848."""
    return request.param


@pytest.fixture
def admin(broker: Broker) -> Any:
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})


class Members:
    """Makes members of one group, and closes them at the end."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.group = unique("group")
        self._broker = broker
        self._topic = topic
        self._made: list[Member] = []

    def __call__(self, **options: Any) -> Member:
        options.setdefault("protocol", "classic")
        member = Member(self._broker.bootstrap_servers, self.group, self._topic, **options)
        self._made.append(member)
        return member

    def close(self) -> None:
        for member in self._made:
            member.close()


@pytest.fixture
def members(broker: Broker, topic: str) -> Any:
    made = Members(broker, topic)
    yield made
    made.close()


# -- attaching


def test_an_assignment_is_attached_later_at_an_offset_of_our_own(
    broker: Broker, topic: str, members: Members, protocol: Protocol
) -> None:
    """`incremental_assign([])` in the callback keeps the membership and fetches nothing until we know where from."""
    produce(broker.bootstrap_servers, topic, ["0", "1", "2", "3"], partition=1)
    member = members(protocol=protocol)
    until(lambda: member.owned == {0, 1, 2, 3}, member)
    assert member.consumer.assignment() == []

    member.attach(1, 2)
    until(lambda: len(member.records) == 2, member)

    assert member.values() == ["2", "3"]
    assert [place.partition for place in member.consumer.assignment()] == [1]


def test_a_partition_that_was_never_attached_can_be_revoked(members: Members, protocol: Protocol) -> None:
    first = members(protocol=protocol)
    until(lambda: len(first.owned) == 4, first)
    first.attach(0, 0)

    second = members(protocol=protocol)
    until(lambda: len(first.owned) == len(second.owned) == 2, first, second)

    assert first.owned.isdisjoint(second.owned)
    assert {place.partition for place in first.consumer.assignment()} == first.attached


def test_the_rest_of_a_batch_is_taken_without_waiting(broker: Broker, topic: str, members: Members) -> None:
    """`poll` for the first, `consume(n, 0)` for what is there: fewer than n are no reason to wait."""
    member = members()
    until(lambda: member.owned, member)
    member.attach(0, 0)
    produce(broker.bootstrap_servers, topic, [str(i) for i in range(20)])

    until(lambda: len(member.records) == 20, member)

    assert member.consumer.consume(500, 0) == []
    assert member.values() == [str(i) for i in range(20)]


def test_a_pause_outlives_detach_and_attach(broker: Broker, topic: str, members: Members) -> None:
    """So every attach resumes explicitly."""
    produce(broker.bootstrap_servers, topic, ["0", "1"])
    member = members()
    until(lambda: member.owned, member)
    place = TopicPartition(topic, 0, 0)
    member.attach(0, 0)
    member.consumer.pause([place])
    member.detach(0)
    member.consumer.incremental_assign([place])
    member.attached.add(0)
    member.attach(1, 0)
    produce(broker.bootstrap_servers, topic, ["other"], partition=1)
    until(lambda: member.values(1) == ["other"], member)
    assert member.values(0) == []

    member.consumer.resume([place])
    until(lambda: len(member.values(0)) == 2, member)

    assert member.values(0) == ["0", "1"]


def test_pausing_loses_and_repeats_nothing(broker: Broker, topic: str, members: Members) -> None:
    expected = [str(i) for i in range(300)]
    produce(broker.bootstrap_servers, topic, expected)
    member = members(queued_min_messages=10)
    until(lambda: member.owned, member)
    member.attach(0, 0)

    for seen in range(0, 300, 60):
        until(lambda seen=seen: len(member.records) > seen, member)
        member.consumer.pause([TopicPartition(topic, 0)])
        member.turn()
        member.consumer.resume([TopicPartition(topic, 0)])
    until(lambda: len(member.records) >= 300, member)

    assert member.values() == expected


def test_seek_moves_an_attached_partition_and_no_other(broker: Broker, topic: str, members: Members) -> None:
    produce(broker.bootstrap_servers, topic, ["0", "1", "2"])
    member = members()
    until(lambda: member.owned, member)
    with pytest.raises(KafkaException):
        member.consumer.seek(TopicPartition(topic, 0, 1))
    member.attach(0, 0)
    until(lambda: len(member.records) == 3, member)

    member.consumer.seek(TopicPartition(topic, 0, 1))
    until(lambda: len(member.records) == 5, member)

    assert member.values() == ["0", "1", "2", "1", "2"]


def test_an_attach_may_name_the_leader_epoch_of_the_last_record(broker: Broker, topic: str, members: Members) -> None:
    produce(broker.bootstrap_servers, topic, ["0", "1"])
    member = members()
    until(lambda: member.owned, member)
    member.attach(0, 0)
    until(lambda: len(member.records) == 2, member)
    epoch = member.records[-1].leader_epoch()
    assert epoch is not None
    member.detach(0)
    produce(broker.bootstrap_servers, topic, ["2"])

    member.attach(0, 2, leader_epoch=epoch)
    until(lambda: len(member.records) == 3, member)

    assert member.values() == ["0", "1", "2"]


# -- where the log starts and ends


@pytest.mark.parametrize("offset", [3, 50], ids=["below the log", "above the log"])
def test_an_offset_outside_the_log_is_an_error_of_its_partition(
    broker: Broker, topic: str, members: Members, offset: int
) -> None:
    """auto.offset.reset=error: never a silent jump. The partition stops; others go on; an attach elsewhere heals it."""
    produce(broker.bootstrap_servers, topic, [str(i) for i in range(10)])
    produce(broker.bootstrap_servers, topic, ["other"], partition=1)
    broker.delete_records(topic, 0, before=5)
    member = members()
    until(lambda: member.owned, member)

    member.attach(0, offset)
    member.attach(1, 0)
    until(lambda: member.errors and member.values(1), member)

    assert member.errors == [(KafkaError._AUTO_OFFSET_RESET, 0)]
    assert member.values(0) == []
    assert member.position(0) == OFFSET_INVALID
    member.detach(0)
    member.attach(0, 8)
    until(lambda: len(member.values(0)) == 2, member)
    assert member.values(0) == ["8", "9"]


def test_the_ends_of_a_log_are_known(broker: Broker, topic: str, members: Members) -> None:
    produce(broker.bootstrap_servers, topic, [str(i) for i in range(6)])
    broker.delete_records(topic, 0, before=2)
    member = members()

    def ends() -> tuple[int, int]:
        return member.consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=PATIENCE_S)

    assert ends() == (2, 6)


def test_the_position_follows_what_was_delivered(broker: Broker, topic: str, members: Members) -> None:
    produce(broker.bootstrap_servers, topic, ["0", "1", "2"])
    member = members()
    until(lambda: member.owned, member)
    member.attach(0, 1)
    assert member.position(0) == OFFSET_INVALID

    until(lambda: len(member.records) == 2, member)

    assert member.position(0) == 3


def test_the_position_passes_control_records(broker: Broker, topic: str, members: Members) -> None:
    """Else the lag would be 1 for ever after a transaction, and nothing would scale to zero."""
    transactional(broker, topic, ["0", "1"], commit=True)
    member = members()
    until(lambda: member.owned, member)
    member.attach(0, 0)

    until(lambda: member.position(0) == 3, member)

    assert member.values() == ["0", "1"]


def test_records_of_an_aborted_transaction_are_not_delivered(broker: Broker, topic: str, members: Members) -> None:
    """And the position passes them: 2 aborted, a marker, 1 committed, a marker."""
    transactional(broker, topic, ["aborted", "aborted"], commit=False)
    transactional(broker, topic, ["committed"], commit=True)
    member = members()
    until(lambda: member.owned, member)
    member.attach(0, 0)

    until(lambda: member.position(0) == 5, member)

    assert member.values() == ["committed"]
    assert member.records[0].offset() == 3


def test_offsets_for_a_time_are_found(broker: Broker, topic: str, members: Members) -> None:
    for second in (1_000, 2_000, 3_000):
        produce(broker.bootstrap_servers, topic, [str(second)], timestamp=second)
    member = members()

    found = member.consumer.offsets_for_times([TopicPartition(topic, 0, 1_500)], timeout=PATIENCE_S)

    assert found[0].offset == 1


# -- records


def test_a_record_arrives_as_it_was_written(broker: Broker, topic: str, members: Members) -> None:
    """Headers keep order, repeats and nulls; keys and values tell nothing from empty; times are the producer's."""
    headers = [("trace", b"\x00\xff"), ("twice", b"1"), ("twice", b"2"), ("null", None), ("empty", b"")]
    produce(broker.bootstrap_servers, topic, ["value"], key=b"\x00key", headers=headers, timestamp=1_700_000_000_123)
    produce(broker.bootstrap_servers, topic, [None], key=b"")
    produce(broker.bootstrap_servers, topic, [""])
    member = members()
    until(lambda: member.owned, member)
    member.attach(0, 0)

    until(lambda: len(member.records) == 3, member)

    record, tombstone, empty = member.records
    assert (record.key(), record.value(), record.headers()) == (b"\x00key", b"value", headers)
    assert record.timestamp() == (TIMESTAMP_CREATE_TIME, 1_700_000_000_123)
    assert (record.topic(), record.partition(), record.offset()) == (topic, 0, 0)
    assert (tombstone.key(), tombstone.value(), tombstone.headers()) == (b"", None, None)
    assert (empty.key(), empty.value()) == (None, b"")


def test_a_compressed_batch_arrives_record_by_record(broker: Broker, topic: str, members: Members) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "compression.type": "zstd", "linger.ms": 50})
    for number in range(100):
        producer.produce(topic, str(number) * 50, partition=0)
    producer.flush(PATIENCE_S)
    member = members()
    until(lambda: member.owned, member)

    member.attach(0, 90)
    until(lambda: len(member.records) == 10, member)

    assert [record.offset() for record in member.records] == list(range(90, 100))


# -- groups


def test_two_members_share_and_the_rest_falls_to_who_stays(members: Members, protocol: Protocol) -> None:
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


def test_the_generation_is_known_in_the_callback_and_grows(members: Members, protocol: Protocol) -> None:
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
    members: Members, protocol: Protocol
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


def test_offsets_are_mirrored_to_the_group(members: Members, topic: str, protocol: Protocol) -> None:
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


# -- arranging


def transactional(broker: Broker, topic: str, values: list[str], *, commit: bool) -> None:
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "transactional.id": unique("transaction"), "log_level": 0}
    )
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    producer.flush(PATIENCE_S)
    if commit:
        producer.commit_transaction(PATIENCE_S)
    else:
        producer.abort_transaction(PATIENCE_S)


def committed(member: Member, topic: str) -> int:
    return member.consumer.committed([TopicPartition(topic, 0)], timeout=PATIENCE_S)[0].offset
