"""What the tests of tracing share: a provider that keeps its spans, and how they are read."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanContext

from processor.tracing import DerivedIds, Spans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Kept:
    """A process's spans, as they would be exported."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(ParentBased(sampler or ALWAYS_ON), id_generator=DerivedIds())
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = Spans(self.provider, namespace="tests")

    def all(self, name: str | None = None) -> Sequence[ReadableSpan]:
        found = self.exporter.get_finished_spans()
        return [span for span in found if name in (None, span.name)]

    def one(self, name: str) -> ReadableSpan:
        found = self.all(name)
        assert len(found) == 1, f"{len(found)} spans {name!r} of {[span.name for span in self.all()]}"
        return found[0]


def trace_of(span: ReadableSpan) -> str:
    return f"{_context_of(span).trace_id:032x}"


def id_of(span: ReadableSpan) -> int:
    return _context_of(span).span_id


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def _context_of(span: ReadableSpan) -> SpanContext:
    assert span.context is not None, "a span that has ended was begun"
    return span.context
