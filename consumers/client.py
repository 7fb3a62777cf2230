"""The client's configuration: what protects a guarantee is pinned here, the rest comes from settings.

Pinned, because each is a way to lose records (numbers: the case table in `docs/guarantees.md`):

    enable.auto.commit=false, enable.auto.offset.store=false   progress is in Postgres, with the effect       (1, 6)
    auto.offset.reset=error                                    never jump silently                            (12, 21)
    isolation.level=read_committed                             no aborted records                             (27)
    allow.auto.create.topics=false                             a misspelt topic is an error
    partition.assignment.strategy=cooperative-sticky           or KIP-848; eager revokes everything each time

Secrets appear in no log and no message: a configuration is never shown.
"""

import logging
import struct
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.oauth import OauthTokens
from consumers.settings import GroupProtocol, GroupSettings, Security
from engine.errors import ConfigurationError

Config = dict[str, Any]


class Connection(Protocol):
    """What every client is told: of a group's member, of the relay."""

    @property
    def bootstrap_servers(self) -> str: ...  # noqa: D102  # as in the settings
    @property
    def client_id(self) -> str: ...  # noqa: D102
    @property
    def security(self) -> Security: ...  # noqa: D102
    @property
    def options(self) -> Mapping[str, str | int | float | bool]: ...  # noqa: D102


_Client = TypeVar("_Client")

client_log = logging.getLogger("consumers.librdkafka")
"""Where the client's own log goes: connection trouble, mostly."""

FETCH_WAIT_MS = 100
"""How long a broker may hold an empty fetch. A partition that attaches waits for the fetch under way: 500 ms by default."""

WITHHELD_MAX = 20
"""Lines of the client's own log that are kept while it is not known whether it gets through."""

SESSION_TIMEOUT_MS = 15_000
HEARTBEAT_MS = 3_000

PINNED: Mapping[str, str | bool] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
}
"""What no option may change, here and in the settings' own fields below."""

_OWN_FIELDS = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "group.id": "kafka.group",
    "group.protocol": "kafka.group_protocol",
    "group.instance.id": "kafka.group_instance_id",
    "session.timeout.ms": "kafka.session_timeout",
    "max.poll.interval.ms": "kafka.max_poll_interval",
    "sasl.password": "kafka.sasl.password",
}
_CLASSIC_ONLY = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")


def consumer_config(settings: GroupSettings) -> Config:
    """What `Consumer` is made of, without callbacks.

    Raises:
        ConfigurationError: An option that would break a guarantee, or that the group protocol does not know.
    """
    _check_options(settings)
    config = _common_config(settings) | {
        "group.id": settings.group,
        "group.protocol": settings.protocol.value,
        "max.poll.interval.ms": _ms(settings.max_poll_interval.total_seconds()),
        "topic.metadata.refresh.interval.ms": _ms(settings.metadata_refresh.total_seconds()),
        "fetch.wait.max.ms": FETCH_WAIT_MS,
        "fetch.max.bytes": max(settings.prefetch_bytes_max, 1024 * 1024),
        "queued.max.messages.kbytes": max(settings.prefetch_bytes_max // 1024, 1),
        # With a small prefetch the default back-off of 1 s after a full queue would be all one measures.
        "fetch.queue.backoff.ms": 10,
    }
    if settings.instance_id is not None:
        config["group.instance.id"] = settings.instance_id
    if settings.protocol is GroupProtocol.CLASSIC:
        session_ms = _ms(settings.session_timeout.total_seconds()) if settings.session_timeout else SESSION_TIMEOUT_MS
        config["session.timeout.ms"] = session_ms
        config["heartbeat.interval.ms"] = min(HEARTBEAT_MS, max(session_ms // 3, 1))
        config["partition.assignment.strategy"] = "cooperative-sticky"
    return config | dict(settings.options) | dict(PINNED)


def connection_config(settings: Connection) -> Config:
    """What any client is made of: the connection alone, and of the options those that are about it."""
    about_consumers = (
        *("group.", "fetch.", "queued.", "partition.", "session.", "heartbeat.", "max.p"),
        *("enable.auto.", "enable.partition.", "auto.", "isolation.", "allow.auto.", "check.crcs"),
    )
    options = {name: value for name, value in settings.options.items() if not name.startswith(about_consumers)}
    return _common_config(settings) | options


def new_consumer(
    settings: GroupSettings,
    *,
    on_error: Callable[[KafkaError], None],
    on_commit: Callable[[KafkaError | None, list[TopicPartition]], None],
) -> Consumer:
    """Make a consumer; it connects by itself, but waits for a first OAuth token. The callbacks must not raise (case 7)."""
    config = consumer_config(settings) | {"error_cb": on_error, "on_commit": on_commit}
    return made(lambda: Consumer(config, logger=client_log), config)


def new_admin(
    settings: Connection, *, on_error: Callable[[KafkaError], None], lines: "logging.Logger | Withheld" = client_log
) -> AdminClient:
    """Make an admin client; waits for a first OAuth token. Keep a reference: its futures die with it.

    `lines` is where its own log goes.
    """
    config: Config = {**connection_config(settings), "error_cb": on_error}
    # Any: its stub wants a Logger, and it calls `log`.
    logger: Any = lines
    return made(lambda: AdminClient(config, logger=logger), config)


class Withheld:
    """The client's own log until it is known whether it gets through: a failed start says once, in an error, what these
    lines say at every attempt. The last ones are written when it has got through, and whatever comes then.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[Any, ...]] | None = deque(maxlen=WITHHELD_MAX)

    def log(self, *line: Any) -> None:
        """What the client calls: level, format, arguments."""
        if self._lines is None:
            client_log.log(*line)
        else:
            self._lines.append(line)

    def release(self) -> None:
        """It has got through."""
        lines, self._lines = self._lines, None
        for line in lines or ():
            client_log.log(*line)


def _common_config(settings: Connection) -> Config:
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": settings.client_id,
        "socket.keepalive.enable": True,
        "log.connection.close": False,
        "reconnect.backoff.max.ms": 5_000,
        **_security_config(settings.security),
    }


def _security_config(security: Security) -> Config:
    tls = security.tls or any((security.ca, security.certificate, security.key))
    protocol = ("SASL_" if security.mechanism else "") + ("SSL" if tls else "PLAINTEXT")
    return {"security.protocol": protocol, **(_tls_config(security) if tls else {}), **_sasl_config(security)}


def _tls_config(security: Security) -> Config:
    config: Config = {}
    for name, value in (("ca", security.ca), ("certificate", security.certificate), ("key", security.key)):
        if value is not None:
            is_pem = "-----BEGIN" in value
            if not is_pem and not Path(value).is_file():
                # Of a key not what it says: that may be the key, without its first line.
                said = "such file" if name == "key" else f"file {value!r}"
                raise ConfigurationError(f"kafka.ssl.{name}: there is no {said}, and it is no PEM text")
            config[f"ssl.{name}.{'pem' if is_pem else 'location'}"] = value
    if security.key_password is not None:
        config["ssl.key.password"] = security.key_password
    if not security.verify_hostname:
        config["ssl.endpoint.identification.algorithm"] = "none"
    return config


def _sasl_config(security: Security) -> Config:
    if security.mechanism is None:
        if security.username or security.password or security.oauth_token:
            raise ConfigurationError(
                "kafka.sasl: credentials are given, but no mechanism. Name one: PLAIN, SCRAM-SHA-512, OAUTHBEARER"
            )
        return {}
    config: Config = {"sasl.mechanism": security.mechanism}
    if security.username is not None:
        config["sasl.username"] = security.username
    if security.password is not None:
        config["sasl.password"] = security.password
    if security.oauth_token is not None:
        config["oauth_cb"] = OauthTokens(security.oauth_token)
    return config


def _check_options(settings: GroupSettings) -> None:
    for name, value in settings.options.items():
        if name in PINNED and str(value).lower() != str(PINNED[name]).lower():
            raise ConfigurationError(
                f"kafka.extra: {name}={value}: it is always {PINNED[name]}.\n"
                f"  Progress is kept in Postgres, in the commit of the effects; another value loses records."
            )
        if name == "partition.assignment.strategy" and value != "cooperative-sticky":
            raise ConfigurationError(
                f"kafka.extra: partition.assignment.strategy={value}: only cooperative-sticky (or group_protocol 'consumer').\n"
                f"  An eager assignor takes every partition from every member at each rebalance. A group that still has\n"
                f"  members with one must be upgraded with all of them stopped."
            )
        if name in _CLASSIC_ONLY and settings.protocol is GroupProtocol.CONSUMER:
            raise ConfigurationError(
                f"kafka.extra: {name}: with group_protocol 'consumer' the brokers decide that (KIP-848)"
            )
        if name in _OWN_FIELDS:
            raise ConfigurationError(f"kafka.extra: {name}: set {_OWN_FIELDS[name]} instead")
    if settings.session_timeout is not None and settings.protocol is GroupProtocol.CONSUMER:
        raise ConfigurationError(
            "kafka.session_timeout: with group_protocol 'consumer' the brokers decide that: group.consumer.session.timeout.ms"
        )


def made(make: Callable[[], _Client], config: Config) -> _Client:
    """A client, or what is wrong with its configuration: with no more of that than the client's own words."""
    if isinstance(tokens := config.get("oauth_cb"), OauthTokens):
        tokens.have_first(str(config.get("sasl.oauthbearer.config", "")))
    try:
        return make()
    except (KafkaException, ValueError, TypeError) as error:
        told = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise ConfigurationError(
            f"the Kafka client cannot be set up: {told}\n"
            f"  It is told what kafka.extra and the other settings under kafka say, of the relay those under outbox too."
        ) from error


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 0)


def generation_of(consumer: Consumer) -> int:
    """Generation or member epoch of the assignment: a hint, from a value that is opaque by contract; 0 where unreadable."""
    metadata = consumer.consumer_group_metadata()
    prefix = b"CGMDv2:"
    if not isinstance(metadata, bytes) or not metadata.startswith(prefix) or len(metadata) < len(prefix) + 4:
        return 0
    (generation,) = struct.unpack_from("=i", metadata, len(prefix))
    return max(int(generation), 0)
