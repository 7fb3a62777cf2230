"""The relay's producer: what is pinned for its guarantee, what may be set. Pure, but for making it."""

from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, Producer

from consumers.client import Config, client_log, connection_config, made
from consumers.settings import RelaySettings
from engine.errors import ConfigurationError

RETRY_BACKOFF_MS = 10
"""A transaction that follows another at once is told to try again until the former's markers are written: with the
client's 100 ms a transaction takes 59 to 125 ms, with 10 ms it takes 12 to 32 (decision 0008)."""

RETRY_BACKOFF_MAX_MS = 500

MISSING_TOPIC_MS = 5_000
"""How long the client looks for a topic that was there a moment ago."""

_OTHER_NAMES = frozenset({"request.required.acks", "compression.codec", "delivery.timeout.ms"})
"""Of what is pinned: the client would take them for it."""


def producer_config(settings: RelaySettings, transactional_id: str) -> Config:
    """What the producer is made of, without callbacks.

    Raises:
        ConfigurationError: An option that would break the guarantee, or has a setting of its own.
    """
    timeout_ms = int(settings.transaction_timeout.total_seconds() * 1000)
    pinned: Config = {
        "transactional.id": transactional_id,
        "transaction.timeout.ms": timeout_ms,
        # Before the transaction's: a partition without a leader is then known by its topic, and the others go on.
        "message.timeout.ms": max(timeout_ms // 3, 1),
        "message.max.bytes": 1_000_000_000,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": settings.partitioner,
        "compression.type": settings.compression,
    }
    for name, value in settings.producer_options.items():
        if name in _OTHER_NAMES or (name in pinned and str(value).lower() != str(pinned[name]).lower()):
            raise ConfigurationError(
                f"outbox.extra: {name}={value}: the relay sets it, or events could be lost, doubled or\n  reordered"
            )
    return {
        **connection_config(settings),
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "retry.backoff.max.ms": RETRY_BACKOFF_MAX_MS,
        "topic.metadata.propagation.max.ms": MISSING_TOPIC_MS,
        **dict(settings.producer_options),
        **pinned,
    }


def new_producer(settings: RelaySettings, transactional_id: str, *, on_error: Callable[[KafkaError], None]) -> Producer:
    """Make the producer; it connects by itself, but waits for a first OAuth token. The callback must not raise."""
    config = producer_config(settings, transactional_id) | {"error_cb": on_error}
    return made(lambda: Producer(config, logger=client_log), config)


def new_position_reader(settings: RelaySettings, group: str, *, on_error: Callable[[KafkaError], None]) -> Consumer:
    """A client that joins no group: it reads the offset that this one has, and names it to the producer."""
    config: Config = {
        **connection_config(settings),
        "group.id": group,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",  # of offsets as well: an open transaction's is waited for
        "allow.auto.create.topics": False,
        "error_cb": on_error,
    }
    return made(lambda: Consumer(config, logger=client_log), config)
