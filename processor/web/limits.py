"""What bounds every request before anybody looks at it: how many, how large, how slow (I10). And what is told of it.

An ASGI application around the other. A body is counted as it comes, so that one of unknown length has the same limit.
"""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from processor.config_web import WebSettings
from processor.web.problems import Problem, retry_later
from processor.web.telemetry import HttpAnswered

OTHER = "other"
"""Route of what no route has, and method of what is none of HTTP's: callers choose both, and labels are bounded (I10)."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class Limits:
    """Bounds what it is put around.

    Args:
        app: What answers.
        settings: The bounds.
        tell: Told of each answer.
    """

    def __init__(self, app: ASGIApp, settings: WebSettings, tell: Callable[[HttpAnswered], None]) -> None:
        self._app = app
        self._settings = settings
        self._tell = tell
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            assert scope["type"] == "lifespan", f"the server takes no {scope['type']}"
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        self._in_flight += 1
        try:
            if (problem := self._refusal(scope)) is not None:
                await problem.response()(scope, receive, answer)
            else:
                await self._app(scope, _Body(receive, self._settings), answer)
        finally:
            self._in_flight -= 1
            route = getattr(scope.get("route"), "path", OTHER)
            method = scope["method"] if scope["method"] in METHODS else OTHER
            self._tell(HttpAnswered(route, method, status, time.monotonic() - began))

    def _refusal(self, scope: Scope) -> Problem | None:
        if self._in_flight > self._settings.requests_max:
            return retry_later("too many requests at the same time")
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._settings.request_bytes_max):
                return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._settings))
        return None


class _Body:
    """What a request sends, up to the limit, within the time."""

    def __init__(self, receive: Receive, settings: WebSettings) -> None:
        self._receive = receive
        self._settings = settings
        self._left = settings.request_bytes_max
        self._until = time.monotonic() + settings.request_timeout.total_seconds()
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()  # whether the client is still there
        try:
            async with asyncio.timeout(max(self._until - time.monotonic(), 0.0)):
                message: dict[str, Any] = dict(await self._receive())
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time") from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._settings))
        self._is_whole = not message.get("more_body", False)
        return message


def _too_large(settings: WebSettings) -> str:
    return f"a request's body has up to {settings.request_bytes_max:,} bytes"
