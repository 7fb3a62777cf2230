"""What a deployment decides: settings from the environment, over a file, over the defaults below.

    PROCESSOR_KAFKA_GROUP=orders        one variable per setting: section and name
    processor.yaml or processor.toml    `password: ${KAFKA_PASSWORD}`, `schema: ${SCHEMA:-dbos}`

A wrong value or an unknown key is refused at start, with the nearest known name. Secrets are `SecretStr`: no `repr`,
log line or error shows them. The text under a field is its line in docs/reference/settings.md.
"""

from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from engine.addresses import check_conninfo
from processor.config_backpressure import BackpressureSettings
from processor.config_formats import PayloadSettings, RegistrySettings
from processor.config_kafka import REFUSED_KEYS, KafkaSettings, checked_extra
from processor.config_retention import RetentionSettings
from processor.config_tracing import TracingSettings
from processor.config_web import WebSettings
from processor.section import Command, Duration, Section, Size


class PostgresSettings(Section):
    """Where the tables are."""

    dsn: SecretStr = SecretStr("")
    """Connection string, `postgresql://user:password@host/database` or `host=... dbname=...`. Empty: libpq's own
    variables (PGHOST, PGUSER, PGPASSWORD, PGDATABASE, ...)."""

    direct_dsn: SecretStr | None = None
    """Connection string around a pooler in transaction mode, for migrations and notifications. Unset: `dsn`."""

    schema_name: str = Field(default="dbos", alias="schema", pattern=r"^[^\x00]{1,63}$")
    """Schema of the system tables. One processor per schema; several groups and apps may share it."""

    pool_max: int = Field(default=8, ge=1, le=1_000)
    """Connections for transactional steps and claims. The process also has two per committer, and two more."""

    connect_timeout: Duration = timedelta(seconds=10)
    """Longest to wait for a connection to open."""

    statement_timeout: Duration = timedelta(seconds=30)
    """Longest any statement may take, those of handlers too. Behind a pooler (`direct_dsn`) it is the role's to say."""

    prepared_statements: bool = True
    """Off for poolers in transaction mode that do not know prepared statements (PgBouncer before 1.21). Slower."""

    @field_validator("dsn", "direct_dsn")
    @classmethod
    def _libpq_can_read_it(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_conninfo(value.get_secret_value())
        return value


class PartitionSettings(Section):
    """Where partitions begin, and what may not happen silently to them."""

    start: Literal["earliest", "latest", "timestamp", "committed"] = "earliest"
    """Where a topic's partitions begin at the very first start of the group: resolved once, stored before the first
    record is read. 'committed' takes the group's offsets from Kafka, to move here from another consumer. Partitions
    that come later begin at the earliest, whatever this says."""

    start_timestamp: AwareDatetime | None = None
    """For `start: timestamp`: the first record at or after it, `2026-01-31T00:00:00Z`."""

    on_topic_recreated: Literal["halt", "new_incarnation"] = "halt"
    """When a topic was deleted and made anew: stop and say so, or begin it from the start under new workflow IDs."""

    on_retention_loss: Literal["halt", "skip"] = "halt"
    """When Kafka deleted records that were not read: stop and say so, or go on behind a recorded gap."""

    parked_max: int = Field(default=10_000, ge=1)
    """Records of one partition waiting behind a busy or blocked key before the partition is paused."""

    @model_validator(mode="after")
    def _a_start_by_time_has_a_time(self) -> Self:
        if (self.start == "timestamp") != (self.start_timestamp is not None):
            raise ValueError("start: timestamp and start_timestamp belong together")
        return self


class ExecutorSettings(Section):
    """How much one process takes on, and when it counts as dead."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    """A name that at most one process has at a time, across restarts: a start under it declares the predecessor dead
    at once instead of after a lease. Unset: none."""

    version: str | None = Field(default=None, min_length=1, max_length=200)
    """Version of the workflows' code, instead of a fingerprint of each; one that a workflow's decorator gives goes before.
    What another version began, this one does not go on with, but for records' workflows. Unset: fingerprints."""

    in_flight_max: int = Field(default=2_000, ge=1)
    """Workflows accepted and not finished, all partitions together. Beyond it partitions pause; the rest stays in
    Kafka."""

    in_flight_bytes_max: Size = 64 * 1024 * 1024
    """Bytes of their payloads."""

    backlog_max: int = Field(default=4_000, ge=1)
    """Records of one partition waiting in memory for room before the partition is paused."""

    persist_after: Duration = timedelta(milliseconds=20)
    """A record that ran or waited so long gets its row; what ends sooner needs one commit."""

    inputs_inline_max: Size = 64 * 1024
    """A record's inputs up to this length stand in its row of `workflow_status`, longer ones in `workflow_inputs`."""

    lease: Duration = timedelta(seconds=10)
    """Silence after which a process counts as dead and others take its partitions."""

    heartbeat: Duration = timedelta(seconds=3)
    """Between two signs of life."""

    drain: Duration = timedelta(seconds=30)
    """How long a stop waits for steps that still run. Keep it below the pod's terminationGracePeriodSeconds."""

    committers: int = Field(default=2, ge=1, le=64)
    """Connections that commit, each with partitions of its own, so that one's fsync overlaps another's work."""

    flush_rows_max: int = Field(default=2_000, ge=1, le=50_000)
    """Workflows in one commit."""

    threads: int = Field(default=16, ge=1, le=1_000)
    """Threads for handlers and steps that are not async."""

    @model_validator(mode="after")
    def _lease_outlives_two_lost_heartbeats(self) -> Self:
        if self.lease < 3 * self.heartbeat:
            raise ValueError("lease: must be at least three heartbeats, or a slow one is taken for a death")
        return self


class QueueSettings(Section):
    """Which queues this process takes from."""

    listen: tuple[str, ...] | None = None
    """Names of the queues, of those that the app registers. Unset: all of them. Empty: none, for a process that only
    enqueues, or whose machine is for other work."""


PRODUCER_KEYS: dict[str, str] = {
    "transactional.id": "outbox.prefix",
    "transaction.timeout.ms": "outbox.transaction_timeout",
    "compression.type": "outbox.compression",
    "compression.codec": "outbox.compression",
    "partitioner": "outbox.partitioner",
    "enable.idempotence": "always on: without it a lost reply doubles or reorders events",
    "acks": "always all: else a broker that dies loses events that count as published",
    "request.required.acks": "always all: else a broker that dies loses events that count as published",
    "message.timeout.ms": "a third of outbox.transaction_timeout",
    "delivery.timeout.ms": "a third of outbox.transaction_timeout",
    "message.max.bytes": "brokers decide; events are bounded by outbox.event_bytes_max",
}
"""Client properties that `outbox.extra` may not have, beside those of `kafka.extra`, and why, or which setting they have."""


class OutboxSettings(Section):
    """Publishing to Kafka in the commit of its cause, and the relay that carries it there."""

    relay: bool = True
    """Whether `processor run` also relays, or stands by for it: one of all processes of a schema does. Off: something
    else must run, as `processor relay`, or nothing is published."""

    event_bytes_max: Size = 1_000_000
    """Most bytes of an event's key, value and headers. Brokers refuse more than their `message.max.bytes` (1 MiB)."""

    batch_max: int = Field(default=2_000, ge=1, le=50_000)
    """Most events of one Kafka transaction."""

    batch_bytes_max: Size = 8 * 1024 * 1024
    """Most bytes of one Kafka transaction, unless one event alone has more."""

    prefix: str = Field(default="onceflow-relay", pattern=r"^[a-zA-Z0-9._-]{1,200}$")
    """Before the outbox's own name in the transactional ID and the group of its position: for ACLs by prefix."""

    position_topic: str = Field(default="onceflow.relay", pattern=r"^[a-zA-Z0-9._-]{1,249}$")
    """Topic of one partition that stays empty: the relay's position is an offset of it. Made where it is missing."""

    partitioner: Literal["murmur2_random", "murmur2", "consistent_random", "consistent", "fnv1a_random"] = (
        "murmur2_random"
    )
    """How a key chooses its partition. The default is that of Java's clients."""

    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    """Of what is sent."""

    transaction_timeout: Duration = timedelta(seconds=60)
    """After which brokers end what a dead relay left open, if no other takes over: readers wait so long at most. Brokers
    have a maximum (`transaction.max.timeout.ms`)."""

    refused_retry: Duration = timedelta(seconds=30)
    """Between two tries of a topic that Kafka refuses: missing, not allowed, or an event larger than it takes."""

    extra: dict[str, str | int | float | bool] = Field(default={})
    """Other librdkafka properties of the producer (`linger.ms: 20`). Those that would break a guarantee are refused."""

    @field_validator("extra")
    @classmethod
    def _extra_breaks_no_guarantee(cls, value: dict[str, Any]) -> dict[str, Any]:
        return checked_extra(value, REFUSED_KEYS | PRODUCER_KEYS)


class HttpSettings(Section):
    """The server of `/metrics`, `/livez` and `/readyz`."""

    enabled: bool = True
    """Whether there is one."""

    host: str = "0.0.0.0"  # noqa: S104  # probes and scrapes come from outside of the pod
    """Address to listen on."""

    port: int = Field(default=9464, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""


class LogSettings(Section):
    """What is written to standard error."""

    format: Literal["json", "console"] = "json"
    """One JSON object a line, or lines for people."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""


class MetricsSettings(Section):
    """How finely times are counted."""

    latency_buckets_s: tuple[float, ...] = (
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600,
    )  # fmt: skip
    """Upper bounds of the latency histograms' buckets, in seconds, rising."""

    @field_validator("latency_buckets_s")
    @classmethod
    def _buckets_rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] <= 0:
            raise ValueError("upper bounds above 0, each larger than the one before")
        return value


class Settings(Section):
    """Everything a deployment decides."""

    postgres: PostgresSettings = PostgresSettings()
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    partitions: PartitionSettings = PartitionSettings()
    executor: ExecutorSettings = ExecutorSettings()
    queues: QueueSettings = QueueSettings()
    outbox: OutboxSettings = OutboxSettings()
    retention: RetentionSettings = RetentionSettings()
    backpressure: BackpressureSettings = BackpressureSettings()
    payloads: PayloadSettings = PayloadSettings()
    http: HttpSettings = HttpSettings()
    web: WebSettings = WebSettings()
    logs: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()

    migrate: tuple[Command, ...] = ()
    """The user's own commands that `processor migrate` runs, in order, after the system tables: a line, split as a
    shell would but run without one, or a list of words. PROCESSOR_POSTGRES_DSN is set for them. Shown as it is written, so
    that a secret is `${NAME}`; a password as it is, is refused."""

    rollback: tuple[Command, ...] = ()
    """The user's own commands that `processor rollback` runs, in order. System tables only go forward."""
