"""Settings of the HTTP server for triggers and the admin API. A section of `processor.config.Settings`."""

from datetime import timedelta
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from processor.section import Duration, Section, Size, map_as_text

AccessName = Literal["viewer", "operator", "admin"]


class WebSettings(Section):
    """The server of HTTP triggers and of the admin API, on a port of its own. Closed: but for `/dbos-healthz` and public
    triggers it answers nobody who does not say who it is.
    """

    enabled: bool = False
    """Whether there is one. Needs the extra `web`: `pip install 'onceflow[web]'`."""

    host: str = "0.0.0.0"  # noqa: S104  # called from outside of the pod; nothing is open without a token
    """Address to listen on."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it. With `run --processes` all processes share it."""

    tokens: dict[str, SecretStr] = Field(default={})
    """Bearer tokens by the names of who has them, each at least 32 characters (`openssl rand -hex 32`). In a file a map, or
    its JSON from one variable: `tokens: ${WEB_TOKENS}`."""

    access: dict[str, AccessName] = Field(default={})
    """Who of those may use the admin API, and how far: `{grafana: viewer, on-call: operator}`. A viewer looks, without
    payloads; an operator also sees payloads and acts; an admin may also delete, discard and read the audit."""

    roles: dict[str, tuple[str, ...]] = Field(default={})
    """Which roles of the app's own those have: `{shop: [customer]}`. Where the app has a function for it
    (`app.authenticate`), that says who calls its triggers, and not the tokens."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose X-Forwarded-For is believed. Without, all who come through one are one."""

    request_bytes_max: Size = 1024 * 1024
    """Most bytes of a request's body."""

    requests_max: int = Field(default=500, ge=1, le=100_000)
    """Requests that one process answers at the same time; more get 503."""

    rate_max: int = Field(default=100, ge=1, le=1_000_000)
    """Requests a second of one user, or of one address that does not say who it is; per process, more get 429."""

    refused_max: int = Field(default=60, ge=1, le=1_000_000)
    """Refused requests a minute of one address; then it gets 429 without a look at who it says it is."""

    request_timeout: Duration = timedelta(seconds=30)
    """Longest a request may take to arrive, and longest its answer may, beside what a trigger waits for a result."""

    @field_validator("tokens", "access", "roles", mode="before")
    @classmethod
    def _map_as_text(cls, value: object) -> object:
        return map_as_text(value, '{"name": "…"}')
