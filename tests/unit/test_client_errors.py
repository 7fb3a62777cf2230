"""What the client's errors mean for us."""

import pytest
from confluent_kafka import KafkaError

from consumers.errors import Meaning, is_truncation, meaning_of


@pytest.mark.parametrize(
    "code, meaning",
    [
        (KafkaError._AUTO_OFFSET_RESET, Meaning.RESET),
        (KafkaError._MAX_POLL_EXCEEDED, Meaning.LEFT),
        (KafkaError.FENCED_INSTANCE_ID, Meaning.FENCED),
        (KafkaError.UNRELEASED_INSTANCE_ID, Meaning.FATAL),
        (KafkaError._AUTHENTICATION, Meaning.DENIED),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Meaning.DENIED),
        (KafkaError._ALL_BROKERS_DOWN, Meaning.PASSING),
        (KafkaError._TRANSPORT, Meaning.PASSING),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Meaning.PASSING),
        (KafkaError.ILLEGAL_GENERATION, Meaning.PASSING),
    ],
)
def test_an_error_is_judged_by_its_code(code: int, meaning: Meaning) -> None:
    """Cases 20, 21, 36."""
    assert meaning_of(KafkaError(code)) is meaning


def test_whatever_is_fatal_makes_the_client_unusable() -> None:
    assert meaning_of(KafkaError(KafkaError._TRANSPORT, "gone", fatal=True)) is Meaning.FATAL


def test_a_fenced_static_member_is_recognised_by_what_the_callback_is_told() -> None:
    """Case 36: under the code of any fatal error, as librdkafka 2.16 words it."""
    text = "Fatal error: Broker: Static consumer fenced by other consumer with same group.instance.id: Fatal ..."

    assert meaning_of(KafkaError(KafkaError._FATAL, text)) is Meaning.FENCED


def test_a_truncation_is_recognised_by_what_the_client_says() -> None:
    assert is_truncation("fetch failed due to Partition log truncation detected at offset 30")
    assert not is_truncation("fetch failed due to requested offset not available on the broker")
