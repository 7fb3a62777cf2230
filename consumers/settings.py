"""What a member of a consumer group is told: where the brokers are, what it consumes, and its limits. Pure, frozen.

`processor` fills these from files and environment. What protects a guarantee is no setting: see `consumers.client`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from engine.errors import ConfigurationError
from engine.outgoing import is_topic_name

OauthToken = Callable[[str], tuple[str, float]]
"""`sasl.oauthbearer.config` to (token, expiry in epoch seconds). Called in a thread of the client's; may block."""


class StartAt(Enum):
    """Where a topic that has no progress at all begins. Resolved once, stored before the first fetch (K5)."""

    EARLIEST = "earliest"
    LATEST = "latest"
    COMMITTED = "committed"
    """The group's offsets in Kafka, for a migration; a partition without one begins at the earliest."""


@dataclass(frozen=True, slots=True)
class StartAtTime:
    """Begin at the first record not older than this; at the end where there is none."""

    at: datetime

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError(f"StartAtTime({self.at}): a time needs its timezone")


class OnRecreated(Enum):
    """The topic was deleted and created again: the same offsets now name other records."""

    HALT = "halt"
    NEW_INCARNATION = "new incarnation"
    """Begin at the start of the new log; workflow IDs become `topic~2-partition-offset`."""


class OnGap(Enum):
    """Retention removed records that were not processed."""

    HALT = "halt"
    SKIP = "skip"
    """Go on behind the gap, which is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A topic, or every topic that matches `^regex`, and the handler it goes to.

    Attributes:
        topic: Name, or a pattern that starts with `^`. The classic protocol searches, `group.protocol=consumer`
            matches the whole name (the broker's RE2): end a pattern in `.*` and both agree.
        handler: Name of the registered handler.
        renamed_from: The handler's former name, if its progress is stored under that.
        start: Where to begin when no partition of the topic has progress.
        on_recreated: What to do when the topic is another one under the same name.
        on_gap: What to do when retention passed the progress.
    """

    topic: str
    handler: str
    renamed_from: str | None = None
    start: StartAt | StartAtTime = StartAt.EARLIEST
    on_recreated: OnRecreated = OnRecreated.HALT
    on_gap: OnGap = OnGap.HALT

    def __post_init__(self) -> None:
        if self.is_pattern:
            try:
                re.compile(self.topic)
            except re.error as error:
                raise ConfigurationError(f"topic pattern {self.topic!r} is no regular expression: {error}") from error

    @property
    def is_pattern(self) -> bool:
        """Whether `topic` is a pattern, as the client and the brokers see it."""
        return self.topic.startswith("^")


class GroupProtocol(Enum):
    """How members agree on who has what."""

    CLASSIC = "classic"
    CONSUMER = "consumer"
    """KIP-848: the broker assigns; Kafka 4.0 or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """TLS and SASL. Secrets are left out of `repr` and of every log.

    Attributes:
        tls: Encrypt; implied by a certificate or CA below.
        ca: Path of the CA's certificates, or their PEM text.
        certificate, key, key_password: Client certificate and key: paths, or PEM texts.
        verify_hostname: Compare the broker's certificate with its name.
        mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or GSSAPI; `None`: no SASL.
        username, password: For PLAIN and SCRAM.
        oauth_token: For OAUTHBEARER.
    """

    tls: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)
    key_password: str | None = field(default=None, repr=False)
    verify_hostname: bool = True
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    oauth_token: OauthToken | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """One member of one consumer group.

    Attributes:
        bootstrap_servers: `host:port`, comma separated.
        group: Consumer group; part of every workflow's identity.
        client_id: As brokers log it.
        security: TLS and SASL.
        protocol: Classic (cooperative-sticky) or KIP-848.
        instance_id: `group.instance.id` for static membership: stable and unique per process (StatefulSet ordinal).
        session_timeout: Silence after which the coordinator takes the partitions away. Classic only; `None`: 15 s, and
            not the client's 45, because a join that Kafka handshakes twice freezes the group for that long (case 38).
        max_poll_interval: Silence of the poll loop after which the client leaves the group.
        metadata_refresh: How soon new partitions and topics are noticed (classic).
        batch_max: Most records in one hand-over.
        batch_bytes_max: Bytes that a hand-over aims at, from the mean size of records so far.
        prefetch_bytes_max: Records the client fetches ahead, all partitions together.
        mirror_every: Between two commits of progress to Kafka, for tools; zero: never.
        lag_every: Between two looks at the ends of the logs.
        topic_check_every: Between two looks whether an attached topic was created again, which the client does not notice.
        reclaim_every: An assigned partition that could not be attached is claimed again (P10): the engine's lease.
        startup_max: How long brokers may take to answer at start.
        request_max: Longest any request to a broker may take afterwards.
        options: Passed on to the client as they are, except what would break a guarantee.
    """

    bootstrap_servers: str
    group: str
    client_id: str = "onceflow"
    security: Security = Security()
    protocol: GroupProtocol = GroupProtocol.CLASSIC
    instance_id: str | None = None
    session_timeout: timedelta | None = None
    max_poll_interval: timedelta = timedelta(minutes=5)
    metadata_refresh: timedelta = timedelta(minutes=1)
    batch_max: int = 1_000
    batch_bytes_max: int = 4 * 1024 * 1024
    prefetch_bytes_max: int = 16 * 1024 * 1024
    mirror_every: timedelta = timedelta(seconds=5)
    lag_every: timedelta = timedelta(seconds=15)
    topic_check_every: timedelta = timedelta(seconds=5)
    reclaim_every: timedelta = timedelta(seconds=10)
    startup_max: timedelta = timedelta(seconds=15)
    request_max: timedelta = timedelta(seconds=10)
    options: Mapping[str, str | int | float | bool] = field(
        default_factory=dict[str, str | int | float | bool], repr=False
    )

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise ConfigurationError("kafka.bootstrap_servers is empty: name at least one broker as host:port")
        if not self.group:
            raise ConfigurationError("group is empty: progress is stored under the group's name")
        if "|" in self.group:
            raise ConfigurationError(f"group {self.group!r}: '|' separates the group from the topic in workflow IDs")
        for name in ("batch_max", "batch_bytes_max", "prefetch_bytes_max"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """The one that moves the outbox to Kafka.

    Attributes:
        bootstrap_servers: `host:port`, comma separated.
        client_id: As brokers log it.
        security: TLS and SASL.
        options: Further client options of consumers and producers alike, as `GroupSettings.options`.
        producer_options: Further options of the producer. Those that would break a guarantee are refused.
        prefix: Before the outbox's own name, in the transactional ID and the group of its position: for ACLs.
        position_topic: Empty topic of one partition on which the position is committed; made where it is missing.
        batch_rows_max: Most events of one transaction.
        batch_bytes_max: Most bytes of one, unless one event alone has more.
        compression: Of what is sent.
        partitioner: How a key chooses its partition.
        transaction_timeout: After which brokers abort what a dead relay left open; readers wait so long at most.
        refused_retry: Between two tries of a topic that Kafka refuses.
        refresh: Between two commits of a position that does not move, before brokers forget it (`offsets.retention`).
        request_max: Longest any one request may take.
    """

    bootstrap_servers: str
    client_id: str = "onceflow"
    security: Security = Security()
    options: Mapping[str, str | int | float | bool] = field(
        default_factory=dict[str, str | int | float | bool], repr=False
    )
    producer_options: Mapping[str, str | int | float | bool] = field(
        default_factory=dict[str, str | int | float | bool], repr=False
    )
    prefix: str = "onceflow-relay"
    position_topic: str = "onceflow.relay"
    batch_rows_max: int = 2_000
    batch_bytes_max: int = 8 * 1024 * 1024
    compression: str = "lz4"
    partitioner: str = "murmur2_random"
    transaction_timeout: timedelta = timedelta(seconds=60)
    refused_retry: timedelta = timedelta(seconds=30)
    refresh: timedelta = timedelta(hours=1)
    request_max: timedelta = timedelta(seconds=10)

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise ConfigurationError("kafka.bootstrap_servers is empty: name at least one broker as host:port")
        if not is_topic_name(self.position_topic):
            raise ConfigurationError(f"position_topic {self.position_topic!r}: Kafka has no topic of this name")
        for name in ("batch_rows_max", "batch_bytes_max"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1")


class SubjectNames(Enum):
    """How the subject is called under which a topic's schema stands in the registry."""

    TOPIC = "topic"
    """`orders-value`."""
    RECORD = "record"
    """The name of the record in the schema."""
    TOPIC_RECORD = "topic_record"
    """`orders-` and the name of the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """The way to a schema registry. Secrets are left out of `repr` and of every log.

    Attributes:
        url: Of the registry; several with commas between are tried in turn. `mock://name`: one within this process.
        username, password: Basic authentication.
        bearer_token: A token as it is.
        oauth_client_id, oauth_client_secret, oauth_scope, oauth_token_url: Tokens by client credentials (OIDC).
        logical_cluster, identity_pool: What Confluent Cloud wants with a token.
        ca, certificate, key, key_password: Paths of PEM files, and the key's password.
        timeout: Of one request.
        retry_max: Longest back-off between two tries.
        known_max: Answers that are kept.
        subject_names: How subjects are called.
        registers: Whether a schema that is published with is registered; else it must be there.
        normalizes: Whether the registry takes schemas that differ in spelling for the same.
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    bearer_token: str | None = field(default=None, repr=False)
    oauth_client_id: str | None = None
    oauth_client_secret: str | None = field(default=None, repr=False)
    oauth_scope: str | None = None
    oauth_token_url: str | None = None
    logical_cluster: str = ""
    identity_pool: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)
    timeout: timedelta = timedelta(seconds=5)
    retry_max: timedelta = timedelta(seconds=10)
    known_max: int = 1_000
    subject_names: SubjectNames = SubjectNames.TOPIC
    registers: bool = False
    normalizes: bool = False


def subscription_of(topic: str, subscriptions: tuple[Subscription, ...], protocol: GroupProtocol) -> Subscription:
    """The one subscription a topic belongs to: its own name before any pattern.

    Raises:
        ConfigurationError: Two patterns match it (half of its records would go to either handler), or none does.
    """
    for subscription in subscriptions:
        if subscription.topic == topic:
            return subscription
    matches = re.fullmatch if protocol is GroupProtocol.CONSUMER else re.search
    matching = [s for s in subscriptions if s.is_pattern and matches(s.topic, topic)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise ConfigurationError(f"topic {topic!r} was assigned, but no subscription matches it")
    patterns = " and ".join(f"{s.topic!r} ({s.handler})" for s in matching)
    raise ConfigurationError(
        f"topic {topic!r} matches {patterns}.\n"
        f"  One handler per topic and group: make the patterns disjoint, or subscribe to the topic by name."
    )


def check_subscriptions(subscriptions: tuple[Subscription, ...]) -> None:
    """Refuse an empty list and a topic that is subscribed twice (case 35)."""
    if not subscriptions:
        raise ConfigurationError("nothing to consume: register at least one handler on a topic")
    seen: dict[str, Subscription] = {}
    for subscription in subscriptions:
        other = seen.setdefault(subscription.topic, subscription)
        if other is not subscription:
            raise ConfigurationError(
                f"topic {subscription.topic!r} has two handlers, {other.handler!r} and {subscription.handler!r}.\n"
                f"  One handler per topic and group: each would see half of the records. Use a second group."
            )
