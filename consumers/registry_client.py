"""The client of a schema registry: made from settings, and what its errors mean. The only place that knows both.

What it needs is optional: `onceflow[avro]`, `[jsonschema]` or `[protobuf]`. Secrets are in no message: what is refused is
named by its setting.
"""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from consumers.settings import RegistrySettings
from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import SchemaRegistryClient

T = TypeVar("T")

TEXT_MAX = 200
"""Characters of an error's text. A proxy answers with a page."""

_NOT_FOUND = (40401, 40402, 40403)
"""Subject, version, schema: what a registry says of what it does not have. A 404 without it is not from a registry."""


class Verdict(Enum):
    """What an error of the registry says about the question."""

    ABSENT = "absent"
    """There is no such thing."""
    REFUSED = "refused"
    """It was understood and is not done: a schema that is none, or not compatible."""
    TROUBLE = "trouble"
    """Nothing: the registry is away, overloaded, does not know us, or is none."""


def needing(extra: str, import_: Callable[[], T]) -> T:
    """What an optional dependency has. `extra`: what brings it, of ours.

    Raises:
        ConfigurationError: It is not installed. Says how.
    """
    try:
        return import_()
    except ImportError as error:
        raise ConfigurationError(
            f"a topic's format needs {error.name or error}, which is not installed: pip install 'onceflow[{extra}]'"
        ) from error


def new_client(settings: RegistrySettings) -> "SchemaRegistryClient":
    """Make a client; it contacts nobody.

    Raises:
        ConfigurationError: A setting is wrong or missing, or the client is not installed.
    """

    def client_class() -> "type[SchemaRegistryClient]":
        from confluent_kafka.schema_registry import SchemaRegistryClient

        return SchemaRegistryClient

    made = needing("avro", client_class)
    config = client_config(settings)
    try:
        return made.new_client(config)  # pyright: ignore[reportUnknownMemberType]  # its dict is of anything
    except (ValueError, TypeError, OSError) as error:
        raise ConfigurationError(f"registry: the client cannot be set up: {type(error).__name__}: {error}") from None


def client_config(settings: RegistrySettings) -> dict[str, Any]:
    """What the client is made of. Raises `ConfigurationError` for settings at odds."""
    _check_urls(settings.url)
    basic = settings.username is not None or settings.password is not None
    oauth = settings.oauth_token_url is not None
    if sum((basic, settings.bearer_token is not None, oauth)) > 1:
        raise ConfigurationError("registry: username and password, bearer_token, or oauth.token_url: one of them")
    config: dict[str, Any] = {
        "url": settings.url,
        "timeout": settings.timeout.total_seconds(),
        "max.retries": 0,  # here, with a reason that can be seen
        "cache.capacity": settings.known_max,
    }
    if basic:
        config["basic.auth.user.info"] = f"{settings.username or ''}:{settings.password or ''}"
    elif settings.bearer_token is not None:
        config |= {
            "bearer.auth.credentials.source": "STATIC_TOKEN",
            "bearer.auth.token": settings.bearer_token,
            **_tenant(settings),
        }
    elif oauth:
        config |= {
            "bearer.auth.credentials.source": "OAUTHBEARER",
            "bearer.auth.client.id": settings.oauth_client_id or "",
            "bearer.auth.client.secret": settings.oauth_client_secret or "",
            "bearer.auth.scope": settings.oauth_scope or "",
            "bearer.auth.issuer.endpoint.url": settings.oauth_token_url,
            **_tenant(settings),
        }
    for name in ("ca", "certificate", "key"):
        if (path := getattr(settings, name)) is not None:
            if not Path(path).exists():
                raise ConfigurationError(f"registry.ssl.{name}: there is no file {path!r}")
            config[f"ssl.{name}.location"] = path
    if settings.key_password is not None:
        config["ssl.key.password"] = settings.key_password
    return config


def judge(error: Exception) -> tuple[Verdict, str]:
    """What an error means, and its text for people."""
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    if not isinstance(error, SchemaRegistryError):
        return Verdict.TROUBLE, f"{type(error).__name__}: {error}"[:TEXT_MAX]
    status, code = error.http_status_code, error.error_code
    text = f"HTTP {status}: {error.error_message}"[:TEXT_MAX]
    if status == 404:
        if code in _NOT_FOUND:
            return Verdict.ABSENT, text
        return Verdict.TROUBLE, f"{text} (which is not what a schema registry says of a schema: is registry.url right?)"
    if status in (401, 403):
        return Verdict.TROUBLE, f"{text} (it does not take our credentials)"
    return (Verdict.REFUSED if status in (409, 422) else Verdict.TROUBLE), text


def _tenant(settings: RegistrySettings) -> dict[str, str]:
    pool = {} if settings.identity_pool is None else {"bearer.auth.identity.pool.id": settings.identity_pool}
    return {"bearer.auth.logical.cluster": settings.logical_cluster} | pool


def _check_urls(urls: str) -> None:
    for url in urls.split(","):
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https", "mock") or not parts.netloc:
            raise ConfigurationError("registry.url: http://host:port or https://host, several with commas between")
        _check_port(parts)
        if parts.username is not None or parts.password is not None:
            # The client's errors name the URL, and logs would show it.
            raise ConfigurationError("registry.url: credentials do not belong there: registry.username and password")


def _check_port(url: SplitResult) -> None:
    try:
        is_port = url.port != 0
    except ValueError:
        is_port = False
    if not is_port:
        raise ConfigurationError(
            f"registry.url: {url.netloc.rpartition('@')[2]!r}: the port is a number from 1 to 65535"
        )
