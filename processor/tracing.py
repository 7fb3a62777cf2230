"""Spans of OpenTelemetry for what the engine does: the other side of `engine/tracing.py`. The only importer of opentelemetry, with
`processor/trace_export.py` and `processor/web/tracing.py`.

    producer's span ─▶ process orders        from delivery to durable end          CONSUMER
                         ├─ fulfil           the workflow's code, each time it runs
                         │    ├─ charge      a step, each try
                         │    ├─ record      a transaction, until it is decided
                         │    └─ create shipments.requested                        PRODUCER, whose context the event carries
                         └─ commit           the flush; linked to all it commits, and they to it

A record that brings no context, and a workflow that was started outside of any trace, are in a trace whose ID is made of
theirs: whoever goes on with them, in whatever process, finds the same one (`DerivedIds`). Names of attributes are those of the
semantic conventions for messaging and databases; ours begin with `onceflow.`.
"""

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from hashlib import blake2b
from inspect import iscoroutinefunction
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engine.current import current_run, current_step
from engine.errors import Suspended
from engine.failures import summary
from engine.flush import Work
from engine.handlers import Handler, HandlerKind, Step
from engine.records import UNREADABLE_HEADERS, Headers, Record
from engine.runner import Ending, Row, Run, Standing
from engine.starts import Start
from engine.states import WorkflowStatus
from engine.tracing import HEADERS, TRACEPARENT, context_of, with_context

SCOPE: Final = "onceflow"
"""Of the tracer."""

ERROR_MAX: Final = 1_000
"""Characters of an error in a span."""

Attributes = dict[str, str | bool | int | float]

_derived: ContextVar[int | None] = ContextVar("derived_trace_id", default=None)
_w3c = TraceContextTextMapPropagator()
_NOWHERE = Context()


class DerivedIds(RandomIdGenerator):
    """Trace IDs for a `TracerProvider`: what belongs to no other trace is in one that is named after its workflow.

    A program that brings a provider of its own gives it these (`TracerProvider(id_generator=DerivedIds())`), or workflows
    that go on elsewhere begin another trace there, unless they belong to one that came with their record.
    """

    def generate_trace_id(self) -> int:
        """The trace of the workflow that a span begins for, else a random one."""
        return _derived.get() or super().generate_trace_id()


@dataclass(slots=True)
class _Trace:
    """What a run has: the span of its record, if one started it, and where its other spans belong."""

    record: Span | None
    context: Context
    at: SpanContext
    """What a flush links to."""


class Spans:
    """Makes the spans of one engine.

    Attributes:
        tracer: OpenTelemetry's.

    Args:
        provider: Of OpenTelemetry: its sampler, its processors and exporters.
        namespace: What tells workflows of the same ID apart that are of other systems: part of derived trace IDs.
    """

    def __init__(self, provider: TracerProvider, *, namespace: str = "") -> None:
        self.tracer = provider.get_tracer(SCOPE)
        self._namespace = namespace

    # -- code --

    def code(self, handler: Handler, body: Callable[..., Any]) -> Callable[..., Any]:
        """The code of a handler's workflows, each call in a span of its own."""
        if handler.is_async:

            async def traced(argument: Any) -> Any:
                with self._workflow(_here()):
                    return await body(argument)

            return traced

        def traced_in_thread(argument: Any) -> Any:
            with self._workflow(_here()):
                return body(argument)

        return traced_in_thread

    def grouped(self, runs: Sequence[Run], handler: Handler) -> Callable[..., Any]:
        """A fused handler's function: one span for a batch, linked to its records; else one for each record."""
        function = handler.function
        is_batch = handler.kind is HandlerKind.BATCH
        if handler.is_async:

            async def traced(tx: Any, argument: Any) -> Any:
                with self._batch(runs, handler.name) if is_batch else self._workflow(_here()):
                    return await function(tx, argument)

            return traced

        def traced_in_thread(tx: Any, argument: Any) -> Any:
            with self._batch(runs, handler.name) if is_batch else self._workflow(_here()):
                return function(tx, argument)

        return traced_in_thread

    def step(self, step: Step) -> Step:
        """The same step with each try in a span. A sync one that has a thread of its own is awaited, as an async one is."""
        if not get_current_span().is_recording():
            return step
        name, function = step.name, step.function
        if step.is_async or iscoroutinefunction(function):

            async def traced(*args: Any, **kwargs: Any) -> Any:
                with self._step(name):
                    return await function(*args, **kwargs)

            return replace(step, function=traced)

        def traced_in_thread(*args: Any, **kwargs: Any) -> Any:
            with self._step(name):
                return function(*args, **kwargs)

        return replace(step, function=traced_in_thread)

    @contextmanager
    def transaction(self, run: Run, name: str, function_id: int) -> Generator[None]:
        """From its call until it is durable, or has failed."""
        if not get_current_span().is_recording():
            yield
            return
        attributes: Attributes = {
            "db.system.name": "postgresql",
            "onceflow.workflow.id": run.id,
            "onceflow.step.id": function_id,
        }
        with self._current(run, self.tracer.start_span(name, attributes=attributes)):
            yield

    # -- durable --

    def durable(self, kind: str, works: Sequence[Work], written: Sequence[Work], duration_s: float) -> None:
        """The span of a flush, beneath the first sampled record it commits and linked to all; and the end of theirs."""
        ended = time.time_ns()
        stands = {id(work) for work in written}
        traces = [(work, trace) for work in works if (trace := self._of_work(work)) is not None]
        committed = [trace for work, trace in traces if id(work) in stands and trace.at.trace_flags.sampled]
        link: Link | None = None
        if committed:
            attributes: Attributes = {
                "db.system.name": "postgresql",
                "onceflow.commit.kind": kind,
                "onceflow.commit.workflows": len(written),
                "onceflow.commit.checkpoints": sum(len(work.checkpoints) for work in written),
            }
            span = self.tracer.start_span(
                "commit",
                _beneath(committed[0].at),
                attributes=attributes,
                links=[Link(trace.at) for trace in committed],
                start_time=ended - int(duration_s * 1e9),
            )
            span.end(ended)
            link = Link(span.get_span_context())
        for work, trace in traces:
            if trace.record is None or work.ending is None:
                continue
            if not trace.record.is_recording():
                work.run.trace = None
                continue
            if link is not None and id(work) in stands:
                trace.record.add_link(link.context)
            self._ended(work.run, work.ending if id(work) in stands else None)

    def left(self, runs: Sequence[Run]) -> None:
        """What has not become durable here goes on elsewhere, or never was."""
        for run in runs:
            self._ended(run, None)

    # -- on the way out --

    @contextmanager
    def of_run(self, run: Run) -> Generator[None]:
        """The run's record's span is the current one."""
        trace = _trace_of(run)
        if trace is None:
            yield
            return
        with _attached(trace.context):
            yield

    def publishing(self, topic: str, headers: Headers) -> Headers:
        """A span of the event's creation, and its context as headers; neither outside of a trace."""
        current = get_current_span()
        if any(name == TRACEPARENT for name, _ in headers) or not current.get_span_context().is_valid:
            return headers
        if not current.is_recording():
            return headers + _headers(contexts.get_current())
        attributes: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "create",
            "messaging.destination.name": topic,
        }
        span = self.tracer.start_span(f"create {topic}", kind=SpanKind.PRODUCER, attributes=attributes)
        span.end()
        return headers + _headers(set_span_in_context(span))

    def burying(self, run: Run, headers: Headers) -> Headers:
        """With the context of what failed: whoever reads the dead letter is behind it, not beside it."""
        trace = _trace_of(run) or self._begun(run)
        return tuple(header for header in headers if header[0] not in HEADERS) + _headers(trace.context)

    def starting(self, start: Start) -> None:
        """The context of whoever starts it goes with it, in its row."""
        if get_current_span().get_span_context().is_valid:
            carrier: dict[str, str] = {}
            _w3c.inject(carrier)
            start.request = with_context(start.request, carrier)

    # -- spans --

    @contextmanager
    def _workflow(self, run: Run) -> Generator[None]:
        trace = _trace_of(run)
        if trace is None or trace.record is None:
            trace = self._begun(run)
        if trace.record is not None and not trace.record.is_recording():
            with _attached(trace.context):  # for what it publishes and starts
                yield
            if run.standing is not Standing.ACTIVE:
                run.trace = None
            return
        name = run.handler.name
        attributes: Attributes = {"onceflow.workflow.id": run.id, "onceflow.workflow.attempt": run.attempt + 1}
        if run.history:
            attributes["onceflow.workflow.steps_recorded"] = len(run.history)
        if run.recovery_attempts:
            attributes["onceflow.workflow.recovery_attempts"] = run.recovery_attempts
        if trace.record is None:
            span = self._root(name, run, trace.context, kind=SpanKind.INTERNAL, attributes=attributes)
            trace.at, trace.context = span.get_span_context(), set_span_in_context(span, _NOWHERE)
        else:
            span = self.tracer.start_span(name, trace.context, attributes=attributes)
        try:
            with self._current(run, span):
                yield
        finally:
            if run.standing is not Standing.ACTIVE:
                self._ended(run, None)

    @contextmanager
    def _batch(self, runs: Sequence[Run], name: str) -> Generator[None]:
        traces = [_trace_of(run) or self._begun(run) for run in runs]
        sampled = [trace for trace in traces if trace.at.trace_flags.sampled] or traces[:1]
        attributes: Attributes = {
            "messaging.system": "kafka",
            "messaging.batch.message_count": len(runs),
            "messaging.destination.name": runs[0].inbox.source.ref.topic,
            "db.system.name": "postgresql",
        }
        links = [Link(trace.at) for trace in sampled]
        span = self.tracer.start_span(name, _beneath(sampled[0].at), attributes=attributes, links=links)
        with self._current(runs[0], span):
            yield

    @contextmanager
    def _step(self, name: str) -> Generator[None]:
        step = current_step.get()
        assert step is not None, "in its function"
        attributes: Attributes = {
            "onceflow.workflow.id": step.workflow_id,
            "onceflow.step.id": step.function_id,
            "onceflow.step.attempt": step.attempt,
        }
        with self._current(_here(), self.tracer.start_span(name, attributes=attributes)):
            yield

    @contextmanager
    def _current(self, run: Run, span: Span) -> Generator[None]:
        """A span as the current one, and what is raised within as its outcome."""
        try:
            with _attached(set_span_in_context(span)):
                yield
        except Suspended:
            span.set_attribute("onceflow.suspended", True)
            raise
        except GeneratorExit:
            raise
        except BaseException as error:
            _failed(span, run, type(error).__qualname__, summary(error))
            raise
        finally:
            span.end()

    # -- traces of runs --

    def _begun(self, run: Run) -> _Trace:
        """Where a run belongs. That of a record has a span from its delivery on."""
        if not run.home.has_source:
            parent = _extracted(context_of(run.origin.request) or _of_headers(run.record))
            trace = _Trace(None, parent, get_current_span(parent).get_span_context())
        else:
            record = run.record
            assert record is not None, "a record's run has its record when it begins, or ends without"
            at = time.time_ns() - (int((time.monotonic() - run.entered_at) * 1e9) if run.row is Row.NONE else 0)
            name, parent = f"process {record.topic}", _extracted(_of_headers(record))
            attributes = _of_record(run, record)
            span = self._root(name, run, parent, kind=SpanKind.CONSUMER, attributes=attributes, at=at)
            trace = _Trace(span, set_span_in_context(span, _NOWHERE), span.get_span_context())
        run.trace = trace
        return trace

    def _root(
        self,
        name: str,
        run: Run,
        parent: Context,
        *,
        kind: SpanKind,
        attributes: Attributes,
        at: int | None = None,
    ) -> Span:
        """A span beneath what it came from, if anything; otherwise the first of the workflow's own trace."""
        if get_current_span(parent).get_span_context().is_valid:
            return self.tracer.start_span(name, parent, kind, attributes, start_time=at)
        token = _derived.set(trace_id(self._namespace, run.id, 0 if run.record is None else run.record.timestamp_ms))
        try:
            return self.tracer.start_span(name, parent, kind, attributes, start_time=at)
        finally:
            _derived.reset(token)

    def _of_work(self, work: Work) -> _Trace | None:
        """The trace of what a flush writes. A record that never ran (no event of its topic) has its span now."""
        run = work.run
        trace = _trace_of(run)
        if trace is None and work.ending is not None and run.home.has_source and run.record is not None:
            return self._begun(run)
        return trace

    def _ended(self, run: Run, ending: Ending | None) -> None:
        """The end of the record's span; of one that was ended nothing more is said. `None`: not durable by this run."""
        trace = _trace_of(run)
        if trace is None or trace.record is None:
            return
        span, run.trace = trace.record, None
        if ending is None:
            span.set_attribute("onceflow.outcome", "left")
        elif not ending.is_final:
            span.set_attribute("onceflow.outcome", "rests")
        else:
            span.set_attribute("onceflow.outcome", ending.status.value.lower())
            if ending.status is not WorkflowStatus.SUCCESS:
                span.set_attribute("onceflow.dead_letter.reason", ending.reason)
                _failed(span, run, ending.reason or "failed", ending.summary)
        span.end()


class TraceIds(logging.Filter):
    """Gives every log line that is written within a trace its `trace_id` and `span_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every line passes."""
        found = get_current_span().get_span_context()
        if found.is_valid:
            record.trace_id, record.span_id = f"{found.trace_id:032x}", f"{found.span_id:016x}"
        return True


@contextmanager
def _attached(context: Context) -> Generator[None]:
    """A context as the current one. A coroutine that is closed is so in another one, and nobody goes on with its own."""
    token: Token[Context] | None = contexts.attach(context)
    try:
        yield
    except GeneratorExit:
        token = None
        raise
    finally:
        if token is not None:
            contexts.detach(token)


def trace_id(namespace: str, workflow_id: str, timestamp_ms: int) -> int:
    """The trace of a workflow that belongs to no other: the same for whoever runs it."""
    text = f"{namespace}\n{workflow_id}\n{timestamp_ms}"
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest()) or 1


def extracted(headers: Mapping[str, str]) -> Context:
    """The context that headers carry, by itself: whatever is current here is another trace's."""
    return _extracted(headers)


def _extracted(carrier: Mapping[str, str]) -> Context:
    return _w3c.extract(carrier, _NOWHERE) if TRACEPARENT in carrier else _NOWHERE


def _headers(context: Context) -> Headers:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, context)
    return tuple((name, value.encode()) for name, value in carrier.items())


def _of_headers(record: Record | None) -> Mapping[str, str]:
    if record is None or not record.headers or record.headers == UNREADABLE_HEADERS:
        return {}
    # What is not ASCII is no context; the propagator refuses it.
    return {name: (value or b"").decode("latin-1") for name, value in record.headers if name in HEADERS}


def _of_record(run: Run, record: Record) -> Attributes:
    """What the conventions say of a record. Not its key, which may be somebody's name."""
    made: Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": record.topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
        "messaging.consumer.group.name": run.inbox.source.ref.group,
        "messaging.message.body.size": len(record.value or b""),
        "onceflow.workflow.id": run.id,
    }
    if record.value is None:
        made["messaging.kafka.message.tombstone"] = True
    return made


def _failed(span: Span, run: Run, kind: str, said: str) -> None:
    """An error, without what it says where payloads are sealed: users' errors quote them (decision 0012)."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, said[:ERROR_MAX] if run.home.seal is None else None))


def _beneath(at: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(at), _NOWHERE)


def _trace_of(run: Run) -> _Trace | None:
    return getattr(run, "trace", None)


def _here() -> Run:
    run = current_run.get()
    assert run is not None, "in a workflow's code"
    return run


__all__ = ["DerivedIds", "Spans", "TraceIds", "extracted", "trace_id"]
