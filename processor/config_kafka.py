"""Settings of the consumer group and of the way to the brokers. A section of `processor.config.Settings`."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from processor.broker_addresses import check_brokers
from processor.secrecy import is_secret_property
from processor.section import DURATION_SCHEMA, Duration, Section, Size
from processor.units import duration


class SaslSettings(Section):
    """How the client proves who it is, with `security_protocol` SASL_PLAINTEXT or SASL_SSL."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] | None = None
    """SASL mechanism."""

    username: str | None = None
    """For PLAIN and SCRAM."""

    password: SecretStr | None = None
    """For PLAIN and SCRAM."""

    kerberos_service_name: str | None = None
    """Principal name of the brokers, for GSSAPI."""

    kerberos_principal: str | None = None
    """Principal of this client, for GSSAPI."""

    kerberos_keytab: str | None = None
    """Path of the keytab, for GSSAPI."""

    oauthbearer_client_id: str | None = None
    """For OAUTHBEARER with OIDC: the public ID."""

    oauthbearer_client_secret: SecretStr | None = None
    """For OAUTHBEARER with OIDC: the secret."""

    oauthbearer_token_endpoint_url: str | None = None
    """For OAUTHBEARER with OIDC: where tokens come from."""

    oauthbearer_scope: str | None = None
    """For OAUTHBEARER with OIDC: what to ask for."""

    oauthbearer_config: SecretStr | None = None
    """For OAUTHBEARER without OIDC: text for the function that makes tokens, as a secret of yours."""

    oauthbearer_token: str | None = None
    """For OAUTHBEARER without OIDC: MODULE:function of yours. It gets `oauthbearer_config` ('' if unset) and returns a token and when it expires, in seconds since 1970. Called from a thread of the client's, at the start and before each token expires."""


class SslSettings(Section):
    """How the connection to the brokers is encrypted, with `security_protocol` SSL or SASL_SSL."""

    ca: str | None = None
    """The CA's certificates: a path, or the PEM text itself. Unset: the system's."""

    certificate: str | None = None
    """The client's certificate: a path, or the PEM text itself."""

    key: SecretStr | None = None
    """The client's private key: a path, or the PEM text itself."""

    key_password: SecretStr | None = None
    """Of the private key."""

    verify_hostname: bool = True
    """Whether a broker's certificate must name its host. Without it anybody with a certificate can be a broker."""


REFUSED_KEYS: dict[str, str] = {
    "enable.auto.commit": "progress is in Postgres, in the commit of its records; Kafka's copy is only a mirror",
    "enable.auto.offset.store": "progress is in Postgres, in the commit of its records; Kafka's copy is only a mirror",
    "auto.offset.reset": "a reset loses or repeats records silently; say partitions.start and on_retention_loss",
    "isolation.level": "records of aborted transactions are no records: read_committed",
    "group.id": "kafka.group",
    "group.instance.id": "kafka.group_instance_id",
    "group.protocol": "kafka.group_protocol",
    "bootstrap.servers": "kafka.bootstrap_servers",
    "metadata.broker.list": "kafka.bootstrap_servers",
    "client.id": "kafka.client_id",
    "client.rack": "kafka.client_rack",
    "security.protocol": "kafka.security_protocol",
    "allow.auto.create.topics": "a consumer that creates topics hides a wrong name",
    "enable.partition.eof": "the processor sets what it needs",
    "statistics.interval.ms": "the processor sets what it needs",
}
"""Client properties that `kafka.extra` may not have, and why, or which setting they have."""

_TYPED = re.compile(r"(sasl|ssl)\..*")


def checked_extra(value: dict[str, Any], refused: Mapping[str, str]) -> dict[str, Any]:
    """Client properties, if none of them is `refused`, is a secret, or has a setting of its own."""
    for key, given in value.items():
        if reason := refused.get(key):
            raise ValueError(f"{key} is not for extra: {reason}")
        if _TYPED.fullmatch(key) and (section := key.partition(".")[0]):
            field = key.partition(".")[2].replace(".", "_")
            known = SaslSettings.model_fields if section == "sasl" else SslSettings.model_fields
            setting = field.removesuffix("_pem")
            if setting in known:
                raise ValueError(f"{key} is not for extra, which is shown: kafka.{section}.{setting}")
        if is_secret_property(key) or "PRIVATE KEY-----" in str(given):
            raise ValueError(f"{key} is not for extra, which is shown: it holds a secret")
    return value


class KafkaSettings(Section):
    """The consumer group, and the way to the brokers."""

    bootstrap_servers: str = "localhost:9092"
    """Brokers to begin with, `host:port` with commas between. Without a port: 9092."""

    group: str = Field(default="", max_length=249)
    """Consumer group. Part of what progress and workflow IDs are kept under. Empty: the app's name."""

    group_protocol: Literal["classic", "consumer"] = "classic"
    """'consumer' is KIP-848's protocol: Kafka 4.0 or later."""

    group_instance_id: str | None = None
    """Static membership: a name that is this process's alone, as `${HOSTNAME}` in a StatefulSet. A restart within
    the session time-out causes no rebalance."""

    client_id: str = "processor"
    """How the brokers' logs and quotas call this client."""

    client_rack: str | None = None
    """Rack or zone of this process; brokers that know it serve from a replica nearby."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Encryption and authentication of the connection."""

    session_timeout: Duration | None = None
    """Silence after which the group's coordinator gives the partitions to others; classic protocol only (the new one
    has it on the broker). Unset: 15 s."""

    max_poll_interval: Duration = timedelta(minutes=5)
    """Silence of the poll loop after which this process leaves the group. No handler can block the poll loop."""

    mirror_every: Annotated[timedelta, BeforeValidator(duration), Field(ge=timedelta(0)), DURATION_SCHEMA] = timedelta(
        seconds=5
    )
    """Between two copies of the progress to Kafka, for lag tools and autoscalers; never read back. 0: never."""

    prefetch_bytes_max: Size = 16 * 1024 * 1024
    """Bytes the client fetches ahead, all partitions together."""

    extra: dict[str, str | int | float | bool] = Field(default={})
    """Other librdkafka properties, as they are called there (`fetch.min.bytes: 100000`). Those that would break a
    guarantee, or have a setting of their own, are refused."""

    sasl: SaslSettings = SaslSettings()
    ssl: SslSettings = SslSettings()

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _list_of_brokers(cls, value: object) -> object:
        return ",".join(str(item) for item in value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # a YAML list

    @field_validator("bootstrap_servers")
    @classmethod
    def _each_is_an_address(cls, value: str) -> str:
        check_brokers(value)
        return value

    @field_validator("extra")
    @classmethod
    def _extra_breaks_no_guarantee(cls, value: dict[str, Any]) -> dict[str, Any]:
        return checked_extra(value, REFUSED_KEYS)

    @model_validator(mode="after")
    def _sasl_has_its_mechanism(self) -> Self:
        if self.security_protocol.startswith("SASL") and self.sasl.mechanism is None:
            raise ValueError("security_protocol SASL_* needs sasl.mechanism")
        return self
