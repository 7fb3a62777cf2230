"""What we rely on in the client, on both brokers: whatever passes here may be tested on the mock cluster elsewhere.

`MOCK_CANNOT` (conftest) is the whole list of what the mock cluster does not do. The cases behind the rules: docs/reference/cases.md.
"""

import pytest
from confluent_kafka import OFFSET_INVALID, TIMESTAMP_CREATE_TIME, KafkaError, KafkaException, Producer, TopicPartition

from consumers.settings import GroupProtocol
from tests.conformance.members import PATIENCE_S, Broker, Members, produce, until
from tests.fixtures.kafka import unique

# -- attaching


def test_an_assignment_is_attached_later_at_an_offset_of_our_own(
    broker: Broker, topic: str, members: Members, protocol: GroupProtocol
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


def test_a_partition_that_was_never_attached_can_be_revoked(members: Members, protocol: GroupProtocol) -> None:
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
