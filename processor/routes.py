"""HTTP triggers and roles, as an app declares them. Needs no web library: what serves them is `processor.web`.

@app.workflow(on=Http("POST", "/orders/{order_id}"), roles=["customer"])
@app.post("/orders/{order_id}", roles=["customer"])                         the same, shorter

@app.authenticate
async def who(request: IncomingRequest) -> Identity | None: ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar, Unpack, cast

from engine.errors import ConfigurationError
from engine.identity import Identity, acting, checked_roles
from processor.policies import Retry

if TYPE_CHECKING:
    from processor.workflows import CallableDecorator

Method = Literal["GET", "POST", "PUT", "DELETE"]
METHODS: Final = ("GET", "POST", "PUT", "DELETE")

PATH_MAX: Final = 500
WAIT_MAX: Final = timedelta(minutes=5)
"""Longest an answer may wait for a result: proxies and clients give up about then."""
HEADERS_MAX: Final = 50

RESERVED: Final = ("/admin", "/dbos-", "/openapi.json", "/workflows")
"""Where paths of the server's own begin."""

_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+|\{[a-z_][a-z0-9_]*\}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True)
class Http:
    """A method and a path that start a workflow: one for each request, or for each `Idempotency-Key`.

    Names in braces are arguments of the function; its other simple arguments are the query's, models the body's. The answer is
    202 with the workflow's ID, once its row is durable.

    Attributes:
        method: GET, POST, PUT or DELETE.
        path: As `/orders/{order_id}`.
        wait: Answer 200 with the result instead, if there is one within this time, at most five minutes.
        public: Whether anybody may call it, without saying who it is.
        headers: Names of request headers that are stored with the workflow. Others may hold secrets and are not.
    """

    method: Method
    path: str
    wait: timedelta | None = None
    public: bool = False
    headers: Iterable[str] = ()

    def __post_init__(self) -> None:
        """Raises `ConfigurationError` for what is no method, path or header."""
        what = f"Http({self.method!r}, {self.path!r})"
        if self.method not in METHODS:
            raise ConfigurationError(f"{what}: the method is one of {', '.join(METHODS)}")
        _check_path(what, self.path)
        wait = cast("Any", self.wait)
        if wait is not None and not (isinstance(wait, timedelta) and timedelta(0) < wait <= WAIT_MAX):
            raise ConfigurationError(f"{what}: wait={wait!r}: a timedelta of up to {WAIT_MAX}, or None to answer 202")
        if isinstance(self.headers, str):
            raise ConfigurationError(f"{what}: headers={self.headers!r}: a tuple of names, as ({self.headers!r},)")
        names = frozenset(str(name).lower() for name in self.headers)
        if len(names) > HEADERS_MAX or not all(_HEADER.fullmatch(name) for name in names):
            raise ConfigurationError(f"{what}: headers={sorted(names)}: names of headers, at most {HEADERS_MAX}")
        if secrets := names & _SECRET_HEADERS:
            raise ConfigurationError(f"{what}: {sorted(secrets)} would be stored readable in every row: leave it out")
        object.__setattr__(self, "headers", names)

    @property
    def arguments(self) -> list[str]:
        """Names in braces, in order."""
        return re.findall(r"\{([a-z0-9_]+)\}", self.path)

    @property
    def shape(self) -> tuple[str, str]:
        """Method and path without the names: two of one shape are one."""
        return self.method, re.sub(r"\{[a-z0-9_]+\}", "{}", self.path)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The call that started a workflow, as far as it is stored: the same whenever the workflow is run again.

    Attributes:
        method, route: Of the trigger, as `POST` and `/orders/{order_id}`.
        path, query: As they came, the query without its '?'.
        headers: Those that the trigger names, by their names in small letters.
        client: Address of the caller, or of the last proxy before this server.
    """

    method: str
    route: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    client: str | None = None

    def text(self, stored: Iterable[str]) -> str:
        """The column `request`: with the headers that are stored."""
        kept = {name: value for name, value in self.headers.items() if name in frozenset(stored)}
        whole = {"method": self.method, "route": self.route, "path": self.path, "query": self.query}
        return json.dumps(whole | {"headers": kept, "client": self.client})

    @classmethod
    def of(cls, text: str | None) -> HttpRequest | None:
        """The call that such a text is of; `None` for anything else that a row may have there."""
        try:
            found: Any = json.loads(text or "null")
        except ValueError:
            return None
        if not isinstance(found, dict) or "method" not in found or "route" not in found:
            return None
        whole = cast("dict[str, Any]", found)
        names = ("method", "route", "path", "query", "client")
        values = {name: whole[name] for name in names if isinstance(whole.get(name), str)}
        return cls(**{"path": ""} | values, headers=dict(whole.get("headers") or {}))


@dataclass(frozen=True, slots=True)
class IncomingRequest(HttpRequest):
    """A call that nobody has let in yet, with all of its headers.

    Attributes:
        read: What reads the body.
    """

    read: Callable[[], Awaitable[bytes]] = field(kw_only=True, repr=False)

    async def body(self) -> bytes:
        """The body's bytes, for those who check a signature over them. Bounded by `web.request_bytes_max`."""
        return await self.read()


Authenticate = Callable[[IncomingRequest], "Identity | Awaitable[Identity | None] | None"]
Hook = TypeVar("Hook", bound=Authenticate)


@contextmanager
def acting_as(identity: Identity | None) -> Generator[None]:
    """Workflows that this program starts inside have this identity, and need its roles. In a workflow it says nothing:
    what a workflow starts has the workflow's own.
    """
    token = acting.set(identity)
    try:
        yield
    finally:
        acting.reset(token)


class HttpOptions(TypedDict, total=False):
    """What `http`, `get`, `post`, `put` and `delete` take: of `Http`, and of `workflow`."""

    name: str | None
    roles: Sequence[str] | None
    wait: timedelta | None
    public: bool
    headers: Iterable[str]
    retry: Retry
    version: str | None


class Routes:
    """What of an app is about HTTP."""

    authentication: Authenticate | None = None
    """Says who calls; `None`: the tokens of the settings do."""

    def authenticate(self, fn: Hook) -> Hook:
        """Have this function say who calls an HTTP trigger, from a request: an `Identity`, or `None` for 401.

        Async, or sync: then it is called in a thread. What it raises is answered with 500, and lets nobody in. Without one, the
        tokens of the settings (`web.tokens`) do. The admin API takes only those.

        Raises:
            ConfigurationError: There is one already.
        """
        if not isinstance(cast("object", fn), FunctionType):
            raise ConfigurationError(f"authenticate: {fn!r} is no function")
        if self.authentication is not None:
            raise ConfigurationError("authenticate: there is one already; an app has one function that says who calls")
        self.authentication = fn
        return fn

    def http(self, method: Method, path: str, **options: Unpack[HttpOptions]) -> CallableDecorator:
        """`workflow(on=Http(method, path, wait=…, public=…, headers=…), name=…, roles=…, …)`: see both."""
        others: dict[str, Any] = dict(options)
        trigger = {name: others.pop(name) for name in ("wait", "public", "headers") if name in others}
        app: Any = self
        return app.workflow(on=Http(method, path, **trigger), **others)

    def get(self, path: str, **options: Unpack[HttpOptions]) -> CallableDecorator:
        """`http("GET", path, …)`."""
        return self.http("GET", path, **options)

    def post(self, path: str, **options: Unpack[HttpOptions]) -> CallableDecorator:
        """`http("POST", path, …)`."""
        return self.http("POST", path, **options)

    def put(self, path: str, **options: Unpack[HttpOptions]) -> CallableDecorator:
        """`http("PUT", path, …)`."""
        return self.http("PUT", path, **options)

    def delete(self, path: str, **options: Unpack[HttpOptions]) -> CallableDecorator:
        """`http("DELETE", path, …)`."""
        return self.http("DELETE", path, **options)


def given_roles(what: str, roles: Sequence[str] | None, http: Http | None = None) -> tuple[str, ...] | None:
    """Roles as a decorator was given them; `None`: those of the class or the app. Of what is public there are none."""
    if roles is None:
        return () if http is not None and http.public else None
    return checked_roles(what, roles)


def check_http(fn: FunctionType, on: Http, roles: tuple[str, ...] | None) -> None:
    """Refuse a function that lacks an argument of the path, and roles that nobody who calls could have."""
    what = f"workflow {fn.__qualname__}"
    missing = [name for name in on.arguments if name not in fn.__annotations__ or name == "return"]
    if missing:
        raise ConfigurationError(f"{what}: {on} has {{{missing[0]}}}, which is no argument of it")
    if on.public and roles:
        raise ConfigurationError(f"{what}: {on} is public, so nobody who calls it has a role; it requires {roles}")


def _check_path(what: str, path: object) -> None:
    if not isinstance(path, str) or not path.startswith("/") or len(path) > PATH_MAX:
        raise ConfigurationError(f"{what}: a path begins with '/' and has up to {PATH_MAX} characters")
    if path.startswith(RESERVED):
        raise ConfigurationError(f"{what}: paths that begin with {', '.join(RESERVED)} are the server's own")
    segments = path.removeprefix("/").split("/")
    if path != "/" and not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise ConfigurationError(
            f"{what}: a path has letters, digits and punctuation of URLs between its '/', or one name in braces, as\n"
            f"  /orders/{{order_id}}"
        )
    names = [segment for segment in segments if segment.startswith("{")]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{what}: a name in braces stands there twice")


__all__ = [
    "Authenticate",
    "Http",
    "HttpRequest",
    "Identity",
    "IncomingRequest",
    "Routes",
    "acting_as",
    "check_http",
    "given_roles",
]
