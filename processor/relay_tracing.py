"""Spans of what the relay publishes: one for each topic of a batch, as the semantic conventions have them for messages that were
created before they are sent.

    create told      in whatever published it; its context is in the event's headers, and was in the outbox
      └─ send told   the relay's transaction, beneath the first sampled event of the topic and linked to the others

A consumer's span is beneath `create`, not beneath `send`: headers are published as they stand in the outbox.
"""

import time
from collections.abc import Sequence
from typing import Final

from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)

from consumers.transactions import headers_of
from engine.batches import Batch
from engine.failures import summary
from engine.store.outbox import OutboxRow
from engine.tracing import HEADERS, TRACEPARENT
from processor.tracing import ERROR_MAX, Attributes, Spans, extracted

LINKS_MAX: Final = 128
"""Of one span: what the SDK keeps unless it is told otherwise."""


class RelaySpans:
    """Makes them (`consumers.relay.RelayTracing`).

    Args:
        spans: Of the engine: its tracer.
    """

    def __init__(self, spans: Spans) -> None:
        self._tracer = spans.tracer

    def sent(self, batch: Batch, began_ns: int, error: Exception | None) -> None:
        """A span for each topic in which a sampled event is. Others are asked for nothing but their headers."""
        topics: dict[str, list[SpanContext]] = {}
        counts: dict[str, int] = {}
        for row in batch.rows:
            counts[row.topic] = counts.get(row.topic, 0) + 1
            if (created := _created(row)) is not None:
                topics.setdefault(row.topic, []).append(created)
        for topic, created in topics.items():
            self._span(batch, topic, counts[topic], created, began_ns, error)

    def _span(  # noqa: PLR0917  # of one caller
        self,
        batch: Batch,
        topic: str,
        count: int,
        created: Sequence[SpanContext],
        began_ns: int,
        error: Exception | None,
    ) -> None:
        attributes: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.batch.message_count": count,
            "onceflow.outbox.batch": batch.number,
        }
        span = self._tracer.start_span(
            f"send {topic}",
            set_span_in_context(NonRecordingSpan(created[0])),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=[Link(each) for each in created[:LINKS_MAX]],
            start_time=began_ns,
        )
        if error is not None:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, summary(error)[:ERROR_MAX]))
        span.end(time.time_ns())


def _created(row: OutboxRow) -> SpanContext | None:
    """Where an event was created, if that is sampled. One with a context of its user's is beneath that."""
    if row.headers is None or TRACEPARENT not in row.headers:
        return None
    carrier = {
        name: value.decode("latin-1") if isinstance(value, bytes) else value
        for name, value in headers_of(row.headers)
        if name in HEADERS and value is not None
    }
    found = get_current_span(extracted(carrier)).get_span_context()
    return found if found.is_valid and found.trace_flags.sampled else None


__all__ = ["LINKS_MAX", "RelaySpans"]
