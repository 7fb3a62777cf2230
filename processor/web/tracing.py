"""Requests as spans: beneath the caller's trace, where it sends one, and around all that is started by them."""

from typing import Final

from opentelemetry import context as contexts
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.tracing import HEADERS
from processor.tracing import Spans, extracted
from processor.web.limits import METHODS, OTHER

UNTRACED: Final = frozenset({"/dbos-healthz"})
"""Asked every few seconds, and of no trace."""


class TracedRequests:
    """Puts each request of an application into a span of the kind SERVER.

    Args:
        app: What answers.
        spans: Of the engine that runs what requests start.
    """

    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app = app
        self._tracer = spans.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Its path is in no span: it may have in it what is its caller's, and the route has not."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else OTHER
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = extracted({name: value for name, value in carried.items() if name in HEADERS})
        attributes = {"http.request.method": method, "url.scheme": scope.get("scheme", "http")}
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, attributes)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_attribute("error.type", str(message["status"]))
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        token = contexts.attach(set_span_in_context(span))
        try:
            await self._app(scope, receive, answer)
        finally:
            contexts.detach(token)
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            span.end()


__all__ = ["TracedRequests"]
