"""Settings of the schema registry, and of keys for payloads. Sections of `processor.config.Settings`."""

from datetime import timedelta
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from processor.section import Duration, Section, map_as_text


class RegistrySslSettings(Section):
    """How the connection to the registry is encrypted, with an `https` URL. Paths of PEM files."""

    ca: str | None = None
    """The CA's certificates. Unset: those that come with the client."""

    certificate: str | None = None
    """The client's certificate."""

    key: str | None = None
    """The client's private key, if it is not in the certificate's file."""

    key_password: SecretStr | None = None
    """Of the private key."""


class RegistryOauthSettings(Section):
    """Tokens by client credentials (OIDC), instead of a password or a token as it is."""

    token_url: str | None = None
    """Where tokens come from."""

    client_id: str | None = None
    """The public ID."""

    client_secret: SecretStr | None = None
    """The secret."""

    scope: str | None = None
    """What to ask for."""


class RegistrySettings(Section):
    """The schema registry of topics in Avro, JSON Schema and Protobuf. While it does not answer about a schema, the
    partitions that need it wait.
    """

    url: str | None = None
    """`https://registry:8081`; several with commas between are tried in turn. No credentials in it."""

    username: str | None = None
    """For basic authentication."""

    password: SecretStr | None = None
    """For basic authentication."""

    bearer_token: SecretStr | None = None
    """A token as it is."""

    logical_cluster: str = ""
    """With a token, where the registry wants it (Confluent Cloud): `lsrc-...`."""

    identity_pool: str | None = None
    """With a token, where the registry wants it (Confluent Cloud): `pool-...`."""

    timeout: Duration = timedelta(seconds=5)
    """Of one request."""

    retry_max: Duration = timedelta(seconds=10)
    """Longest time between two tries while it does not answer."""

    known_max: int = Field(default=1_000, ge=1)
    """Schemas that are kept in memory."""

    subject_names: Literal["topic", "record", "topic_record"] = "topic"
    """How a topic's schema is called there: `orders-value`, the record's name in the schema, or `orders-` and that name."""

    register_schemas: bool = False
    """Whether a program that publishes registers its schema where it is not there. Else it must be there."""

    normalize: bool = False
    """Whether schemas that differ in spelling only count as the same."""

    oauth: RegistryOauthSettings = RegistryOauthSettings()
    ssl: RegistrySslSettings = RegistrySslSettings()

    @field_validator("url", mode="before")
    @classmethod
    def _list_of_urls(cls, value: object) -> object:
        return ",".join(str(item) for item in value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # a YAML list

    @field_validator("url")
    @classmethod
    def _no_credentials_in_it(cls, value: str | None) -> str | None:
        if value is not None and any("@" in each.partition("://")[2].partition("/")[0] for each in value.split(",")):
            raise ValueError("credentials in a URL, which is shown: they are registry.username and registry.password")
        return value


class PayloadSettings(Section):
    """With what users' payloads are sealed in the tables (AES-GCM). Without a key they are stored readable."""

    key: str | None = None
    """ID of the key that seals what is written from now on. Unset: nothing is sealed, and what is sealed is still read."""

    keys: dict[str, SecretStr] = Field(default={})
    """Keys by ID, each 32 bytes in base64 (`openssl rand -base64 32`): the one that seals, and those of older rows. In a
    file a map, or its JSON from one variable: `keys: ${PAYLOAD_KEYS}`."""

    keys_dir: str | None = None
    """Folder with more of them, a file each that is named by the key's ID, as a mounted Secret has."""

    @field_validator("keys", mode="before")
    @classmethod
    def _map_as_text(cls, value: object) -> object:
        return map_as_text(value, '{"key ID": "base64"}')
