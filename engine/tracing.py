"""Where a trace meets the engine: what it asks of whoever makes spans, and how a trace's context stands in rows. Pure.

    record's headers ─┐                            ┌─ code of workflows, steps, transactions   spans, current while they run
    start's `request` ┴─▶ row, if there is one ──▶ ┼─ flush                                    a span, linked to what it commits
                                                   └─ publish, start, dead letter              the context goes on

Without tracing the engine has `None` in its place, and asks that once a step, a flush or a group: never once a record. A
context is stored where there is room already: with a record's other headers, or as a member of `request`. So whoever
goes on with a workflow goes on with its trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    from engine.flush import Work
    from engine.handlers import Handler, Step
    from engine.records import Headers
    from engine.runner import Run
    from engine.starts import Start

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
HEADERS: Final = frozenset({TRACEPARENT, TRACESTATE})
"""Of records, HTTP requests and events (W3C Trace Context)."""


class Tracing(Protocol):
    """Makes spans. Nothing of it raises of its own, or waits."""

    def code(self, handler: Handler, body: Callable[..., Any]) -> Callable[..., Any]:
        """The code of a handler's workflows, each call in a span of its own, beneath the trace of its run."""
        ...

    def grouped(self, runs: Sequence[Run], handler: Handler) -> Callable[..., Any]:
        """A fused handler's function for one group: a span for each call, linked to the records it is about."""
        ...

    def step(self, step: Step) -> Step:
        """The same step with its function in a span, for each try."""
        ...

    def transaction(self, run: Run, name: str, function_id: int) -> AbstractContextManager[None]:
        """A span from the call of a transactional step until it is decided."""
        ...

    def durable(self, kind: str, works: Sequence[Work], written: Sequence[Work], duration_s: float) -> None:
        """A flush is durable, and `written` of its works stand: a span for it; spans of what has ended end."""
        ...

    def left(self, runs: Sequence[Run]) -> None:
        """Runs that are none here any more: what is open of them ends."""
        ...

    def of_run(self, run: Run) -> AbstractContextManager[None]:
        """What is told of a run belongs to its trace."""
        ...

    def publishing(self, topic: str, headers: Headers) -> Headers:
        """The headers of an event, with the context it comes from, unless they have one."""
        ...

    def burying(self, run: Run, headers: Headers) -> Headers:
        """The headers of a dead letter, with the context of the run in the place of the record's own."""
        ...

    def starting(self, start: Start) -> None:
        """Give a start the context it comes from, where there is one."""
        ...


def traced(handlers: Mapping[str, Handler], tracing: Tracing | None) -> Mapping[str, Handler]:
    """Handlers that store the trace context of their records: without it, a recovered workflow would begin another trace."""
    if tracing is None:
        return handlers
    return {name: replace(each, stored_headers=each.stored_headers | HEADERS) for name, each in handlers.items()}


def with_context(request: str | None, context: Mapping[str, str]) -> str | None:
    """A start's `request` with the context of a trace behind what it says: its beginning is what others go by."""
    members = {name: value for name, value in context.items() if name in HEADERS}
    if TRACEPARENT not in members:
        return request
    added = json.dumps(members)[1:]
    if not request:
        return "{" + added
    return f"{request[:-1]}, {added}" if request.endswith("}") and request != "{}" else request


def context_of(request: str | None) -> Mapping[str, str]:
    """The context that `with_context` put there; empty: there is none."""
    if not request or TRACEPARENT not in request:
        return {}
    try:
        whole: Any = json.loads(request)
    except ValueError:
        return {}
    if not isinstance(whole, dict):
        return {}
    found = cast("dict[str, Any]", whole)
    return {name: value for name in HEADERS if isinstance(value := found.get(name), str)}


__all__ = ["HEADERS", "TRACEPARENT", "TRACESTATE", "Tracing", "context_of", "traced", "with_context"]
