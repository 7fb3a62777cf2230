"""Names of things: what a record's coordinates become, and back."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ids import (
    PARTITION_KEY,
    SourceParts,
    SourceRef,
    new_executor_id,
    new_token,
    ordering_key,
    parts_of,
)

REF = SourceRef("billing", "charge", "orders.eu-west", 7)
TOPICS = st.from_regex(r"[A-Za-z0-9._-]{1,60}", fullmatch=True)


def test_a_partition_has_its_names() -> None:
    """The seed's `kafka:group` and `topic-partition` (event_dispatch_kv), ours in `kafka_source` and IDs (I2)."""
    assert REF.service_name == "kafka:billing"
    assert REF.key == "orders.eu-west-7"
    assert REF.name(1) == "billing|orders.eu-west-7"
    assert REF.name(3) == "billing|orders.eu-west~3-7"
    assert REF.former_names(1) == ()
    assert REF.former_names(3) == ("billing|orders.eu-west-7", "billing|orders.eu-west~2-7")
    assert REF.id_prefix(owns_topic=True, incarnation=1) == "orders.eu-west-7-"
    assert REF.id_prefix(owns_topic=False, incarnation=1) == "billing|orders.eu-west-7-"
    assert REF.id_prefix(owns_topic=True, incarnation=2) == "orders.eu-west~2-7-"
    assert str(REF) == "billing|orders.eu-west-7"


@given(group=st.text(max_size=30), topic=TOPICS, partition=st.integers(0, 2**31 - 1), incarnation=st.integers(1, 10**6))
def test_a_sources_name_is_taken_apart_again(group: str, topic: str, partition: int, incarnation: int) -> None:
    ref = SourceRef(group, "h", topic, partition)
    assert parts_of(ref.name(incarnation)) == SourceParts(ref.service_name, ref.key, incarnation)


def test_a_sources_name_is_read_from_the_right_whatever_its_topic_is_called() -> None:
    assert parts_of("a|b|x~1-2~3-7") == SourceParts("kafka:a|b", "x~1-2-7", 3)


@pytest.mark.parametrize(
    "text", ["", "orders-7", "billing|orders", "billing|-7", "billing|orders-x", "billing|orders~x-7", "billing|~2-7"]
)
def test_what_is_no_sources_name_is_none(text: str) -> None:
    assert parts_of(text) is None


@given(st.binary(max_size=200))
def test_an_ordering_key_is_of_64_bits_and_never_the_partitions(key: bytes) -> None:
    hashed = ordering_key(key)
    assert -(2**63) <= hashed < 2**63
    assert hashed != PARTITION_KEY
    assert hashed == ((crc32(key) << 32 | crc32(key[::-1])) - 2**63 or 1)


def test_the_hash_stays_what_it_is() -> None:
    """Rows of earlier releases have it: a change would run two workflows of a key beside each other (I7).

    The last key was made to have the partition's, which is then another.
    """
    assert ordering_key(b"") == -(2**63)
    assert ordering_key(b"customer-1") == 7777677514074206624
    assert ordering_key("Zoë".encode()) == -1752953405705509245
    assert ordering_key(bytes.fromhex("0126555056eb8c5a02000000")) == PARTITION_KEY + 1


def test_ids_and_tokens_are_new_every_time_and_fit_their_columns() -> None:
    executors, tokens = {new_executor_id() for _ in range(1_000)}, {new_token() for _ in range(1_000)}
    assert len(executors) == len(tokens) == 1_000
    assert {len(each) for each in executors} == {16}
    assert {len(each) for each in tokens} == {32}
