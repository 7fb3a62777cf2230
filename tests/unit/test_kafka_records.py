"""A client's message as a record."""

from typing import Any

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message

from consumers.records import record_of


def message(**changes: Any) -> Message:
    whole: dict[str, Any] = {"topic": "orders", "partition": 3, "offset": 17, "key": b"k", "value": b"v"}
    whole |= {"timestamp": (TIMESTAMP_CREATE_TIME, 1_700_000_000_000), **changes}
    return Message(**whole)


def test_everything_that_identifies_a_record_arrives() -> None:
    record = record_of(message(leader_epoch=4, headers=[("trace", b"1"), ("none", None)]), "orders", 3, 17)

    assert str(record) == "orders-3-17"
    assert (record.key, record.value) == (b"k", b"v")
    assert record.timestamp_ms == 1_700_000_000_000
    assert record.headers == (("trace", b"1"), ("none", None))
    assert record.leader_epoch == 4


def test_a_tombstone_has_no_value_and_is_not_an_empty_one() -> None:
    assert record_of(message(value=None), "orders", 3, 17).value is None
    assert record_of(message(value=b""), "orders", 3, 17).value == b""


def test_bytes_arrive_as_they_are() -> None:
    """Case 40: a key that is no text, with a NUL in it, is no reason to drop or to stop."""
    assert record_of(message(key=b"\x00\xff"), "orders", 3, 17).key == b"\x00\xff"


def test_a_record_without_a_timestamp_or_leader_epoch() -> None:
    bare = record_of(message(timestamp=(TIMESTAMP_NOT_AVAILABLE, -1)), "orders", 3, 17)

    assert bare.timestamp_ms == 0
    assert bare.leader_epoch is None
