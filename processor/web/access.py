"""Who calls: by token, or as the app's own function says; what they may; how often.

Authorization: Bearer … ─▶ name ─┬─▶ web.access ─▶ viewer, operator, admin    the admin API
                                 └─▶ web.roles ──▶ roles of the app           triggers, unless …
app.authenticate(request) ─────────▶ Identity(user, roles)                    … the app has this
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from inspect import isawaitable, iscoroutinefunction
from typing import Any, cast

from starlette.requests import Request

from engine.errors import ConfigurationError
from engine.identity import Identity
from processor.config_web import WebSettings
from processor.routes import Authenticate, IncomingRequest
from processor.web.problems import Problem
from processor.web.rates import Rates

TOKEN_MIN = 32
"""Characters of a token: 128 bits in hexadecimal."""


class Access(IntEnum):
    """How far somebody may use the admin API; each may what those before it may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def title(self) -> str:
        """As the settings call it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has been let in.

    Attributes:
        identity: Who it is; `None`: it was not asked.
        access: To the admin API.
    """

    identity: Identity | None
    access: Access | None = None

    @property
    def actor(self) -> str:
        """As the audit calls it."""
        assert self.identity is not None, "an operator has a token, which has a name"
        return f"http:{self.identity.user}"

    def sees_payloads(self) -> bool:
        """Whether inputs, outputs and errors are for it."""
        return self.access is not None and self.access >= Access.OPERATOR


class Doorkeeper:
    """Lets in or refuses.

    Args:
        settings: Tokens, and what they are good for.
        authentication: Of the app.

    Raises:
        ConfigurationError: A token is too short, or is two people's; or somebody has access or roles and no token.
    """

    def __init__(self, settings: WebSettings, authentication: Authenticate | None) -> None:
        self._authentication = authentication
        self._callers = _callers(settings)
        self._rates = Rates(settings.rate_max, settings.rate_max)
        self._refusals = Rates(settings.refused_max / 60, settings.refused_max)

    def operator(self, request: Request, least: Access) -> Caller:
        """Somebody with a token that is good for the admin API. Raises `Problem`: 401, 403, 429."""
        caller = self._by_token(request)
        if caller is None:
            raise self._refused(request)
        self._count_user(caller)
        if caller.access is None or caller.access < least:
            raise Problem(HTTPStatus.FORBIDDEN, f"it takes the access of {least.title}: web.access")
        return caller

    async def user(self, request: Request, route: str) -> Caller:
        """Somebody who may call triggers, whatever their roles are. Raises `Problem`: 401, 429."""
        if self._authentication is None:
            caller = self._by_token(request)
        else:
            self._check_refusals(request)
            caller = await self._by_function(self._authentication, request, route)
        if caller is None:
            raise self._refused(request)
        self._count_user(caller)
        return caller

    def anybody(self, request: Request) -> Caller:
        """Whoever it is. Raises `Problem`: 429."""
        self._count(f"address {address(request)}")
        return Caller(None)

    # -- inside --

    def _by_token(self, request: Request) -> Caller | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Looked up by its hash: what a look-up takes says nothing of the tokens there are.
        return self._callers.get(_hashed(token.strip())) if scheme.lower() == "bearer" else None

    async def _by_function(self, authentication: Authenticate, request: Request, route: str) -> Caller | None:
        incoming = incoming_request(request, route)
        if iscoroutinefunction(authentication):
            said: Any = await cast("Awaitable[Any]", authentication(incoming))
        else:
            said = await asyncio.to_thread(authentication, incoming)
            if isawaitable(said):
                said = await said
        if said is None:
            return None
        if not isinstance(said, Identity):
            raise TypeError(f"app.authenticate returned {type(said).__name__}; it returns an Identity, or None")
        return Caller(said)

    def _count_user(self, caller: Caller) -> None:
        assert caller.identity is not None, "it has said who it is"
        self._count(f"user {caller.identity.user}")  # whatever roles it has by now

    def _count(self, key: str) -> None:
        if wait_s := self._rates.take(key, time.monotonic()):
            raise _too_many("too many requests", wait_s)

    def _check_refusals(self, request: Request) -> None:
        if wait_s := self._refusals.wait_s(address(request), time.monotonic()):
            raise _too_many("too many refused requests", wait_s)

    def _refused(self, request: Request) -> Problem:
        if wait_s := self._refusals.take(address(request), time.monotonic()):
            return _too_many("too many refused requests", wait_s)
        return Problem(
            HTTPStatus.UNAUTHORIZED,
            "it does not say who it is, or not credibly",
            headers={"WWW-Authenticate": "Bearer"},
        )


def address(request: Request) -> str:
    """Of the caller, or of the last proxy that is not trusted."""
    return request.client.host if request.client is not None else ""


def incoming_request(request: Request, route: str) -> IncomingRequest:
    """A request as an app's function sees it, and as it is stored."""
    return IncomingRequest(
        method=request.method,
        route=route,
        path=request.url.path,
        query=request.url.query,
        headers=dict(request.headers),
        client=address(request) or None,
        read=request.body,
    )


def _too_many(detail: str, wait_s: float) -> Problem:
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(max(1, round(wait_s)))})


def _callers(settings: WebSettings) -> Mapping[bytes, Caller]:
    callers: dict[bytes, Caller] = {}
    for name, secret in settings.tokens.items():
        token = secret.get_secret_value()
        if len(token) < TOKEN_MIN or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigurationError(
                f"web.tokens: the token of {name!r} is no token: at least {TOKEN_MIN} characters, without blanks.\n"
                f"  Make one: openssl rand -hex 32"
            )
        if (key := _hashed(token)) in callers:
            raise ConfigurationError(f"web.tokens: {name!r} has the token of another; it would not be known who acts")
        access = settings.access.get(name)
        identity = Identity(name, tuple(settings.roles.get(name, ())))
        callers[key] = Caller(identity, None if access is None else Access[access.upper()])
    for setting, named in (("access", settings.access), ("roles", settings.roles)):
        if unknown := sorted(set(named) - set(settings.tokens)):
            raise ConfigurationError(f"web.{setting}: {unknown[0]!r} has no token in web.tokens")
    return callers


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
