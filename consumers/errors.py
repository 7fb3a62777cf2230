"""What an error of the client means for us. Pure.

The client reports errors as messages among the records and to a callback. Nearly all of them it retries by itself;
these do not go away on their own:

    RESET     a partition's offset is not in the log: validate again, decide by policy   (cases 20, 21)
    LEFT      we polled too late and left the group; the client joins again by itself
    FENCED    another process has our group.instance.id: only the operator can settle it  (case 36)
    FATAL     the client is unusable: close it and make another
    DENIED    credentials or permissions: the operator
    PASSING   the client retries
"""

# ruff: noqa: SLF001  # the client's own error codes begin with an underscore, and are documented so

from enum import Enum

from confluent_kafka import KafkaError, KafkaException

from engine.errors import EngineError
from engine.faults import comes_from_outside

TIMED_OUT = KafkaError._TIMED_OUT
NO_BROKERS = KafkaError._ALL_BROKERS_DOWN

UNREACHED = frozenset({TIMED_OUT, KafkaError._TRANSPORT, NO_BROKERS})
"""Nobody answered: brokers are away, or the client has lost sight of them."""


class Meaning(Enum):
    """What to do about an error."""

    RESET = "reset"
    LEFT = "left"
    FENCED = "fenced"
    FATAL = "fatal"
    DENIED = "denied"
    PASSING = "passing"


_MEANINGS = {
    KafkaError._AUTO_OFFSET_RESET: Meaning.RESET,
    KafkaError.OFFSET_OUT_OF_RANGE: Meaning.RESET,
    KafkaError._LOG_TRUNCATION: Meaning.RESET,
    KafkaError._MAX_POLL_EXCEEDED: Meaning.LEFT,
    KafkaError.FENCED_INSTANCE_ID: Meaning.FENCED,
    KafkaError.UNRELEASED_INSTANCE_ID: Meaning.FATAL,
    KafkaError._FATAL: Meaning.FATAL,
    KafkaError._AUTHENTICATION: Meaning.DENIED,
    KafkaError._SSL: Meaning.DENIED,
    KafkaError.SASL_AUTHENTICATION_FAILED: Meaning.DENIED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: Meaning.DENIED,
    KafkaError.GROUP_AUTHORIZATION_FAILED: Meaning.DENIED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: Meaning.DENIED,
}


_FENCED = "fenced by other consumer with same group.instance.id"


def meaning_of(error: KafkaError) -> Meaning:
    """Judge an error by its code; whatever else is marked fatal makes the client unusable."""
    if error.code() == KafkaError._FATAL and _FENCED in error.str().lower():
        return Meaning.FENCED  # the error callback is told of a fatal error under this code, with its cause as text
    known = _MEANINGS.get(error.code())
    if known is not None:
        return known
    return Meaning.FATAL if error.fatal() else Meaning.PASSING


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help: brokers, Postgres or the machine raised it. Anything else is a bug of ours."""
    return isinstance(error, KafkaException | EngineError) or comes_from_outside(error)


def is_truncation(text: str) -> bool:
    """Whether a reset says that the log itself was cut: what was processed is no longer what the log holds."""
    return "truncat" in text.lower()
