"""Whether a client still gets through to any broker. Pure, but for the one question it asks.

A broker that has just been fenced, or one that starts, answers a metadata request with no brokers at all. librdkafka
(2.13 to 2.16, issue 5301) then forgets every broker it knew, and may stop asking: it never connects again, raises
nothing, and its group gives the partitions to others, or to nobody. Only another client helps, which begins with the
addresses that are given.

So a client that brought nothing for a while is asked for the brokers it knows, which takes a millisecond; one that has
none for long is replaced. While brokers are really away that is another client now and then, and costs little: what it
owned is lost by then, or will be.
"""

from typing import Any, Protocol

from confluent_kafka import KafkaException

SILENCE_S = 15.0
"""Without a record or an assignment, before the client is asked."""

EVERY_S = 5.0
"""Between two questions."""

GONE_S = 30.0
"""Longest that it may know no broker: longer than the restart of one takes, shorter than anybody waits."""

ANSWER_S = 1.0
"""Longest wait for an answer. Nothing else is done in that time, and there is nothing else to do."""


class Asked(Protocol):
    """A client, as far as it is asked here: `Consumer`, `AdminClient`."""

    def list_topics(self, topic: str = ..., timeout: float = ...) -> Any:
        """Metadata of a topic, or of all (no name), with the brokers."""
        ...


class Contact:
    """Of one client after the other. Instants are seconds of one monotonic clock."""

    def __init__(self, *, silence_s: float = SILENCE_S, every_s: float = EVERY_S, gone_s: float = GONE_S) -> None:
        self.heard_at = 0.0
        """When it last showed that there are brokers, or was made."""
        self._asked_at = 0.0
        self._silence_s = silence_s
        self._every_s = every_s
        self._gone_s = gone_s

    def heard(self, now: float) -> None:
        """It brought something."""
        self.heard_at = now

    def is_due(self, now: float) -> bool:
        """Whether to ask now, which counts as asked."""
        if now - self.heard_at < self._silence_s or now - self._asked_at < self._every_s:
            return False
        self._asked_at = now
        return True

    def is_gone(self, now: float) -> bool:
        """Whether it has known no broker for too long."""
        return now - self.heard_at > self._silence_s + self._gone_s


def knows_brokers(client: Asked, topic: str) -> bool:
    """Ask a client whether it gets through to any broker. Waits for at most `ANSWER_S`."""
    try:
        return bool(client.list_topics(topic, timeout=ANSWER_S).brokers)
    except KafkaException:
        return False
