"""Where spans go: the program's own provider of OpenTelemetry, or one made of settings and of the standard variables.

a provider is there (opentelemetry-instrument, or the program's) ─▶ that one, whatever the settings say of exporting
else one of ours ─▶ batches ─▶ OTLP over HTTP; known to everything else in this process, so that what instruments
                                libraries, and users' own tracers, add to the same traces
"""

import atexit
import os
import sys
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from engine.errors import ConfigurationError
from processor.config_tracing import TracingSettings
from processor.tracing import DerivedIds, Spans

_NAMESPACE = ("service.namespace", "service.name", "deployment.environment.name")
"""Attributes of the resource that tell systems apart in which workflows have the same IDs."""


def spans_of(settings: TracingSettings, app_name: str) -> Spans:
    """The spans of a process, and where they go.

    Raises:
        ConfigurationError: A standard variable asks for an exporter that there is none of.
    """
    resource = _resource(settings, app_name)
    namespace = "/".join(str(resource.attributes.get(name, "")) for name in _NAMESPACE)
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        provider = _provider(settings, resource)
        trace.set_tracer_provider(provider)
    return Spans(provider, namespace=namespace)


def flush_spans() -> None:
    """Send what there is, before the process ends. Waits for the collector, for as long as the exporter does (10 s)."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush()


def spans_of_program() -> Spans | None:
    """Of a program that runs no engine: only where it has a provider of its own does anything go on from here."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else Spans(provider)


def _provider(settings: TracingSettings, resource: Resource) -> TracerProvider:
    sampler = None if settings.sample_ratio is None else ParentBased(TraceIdRatioBased(settings.sample_ratio))
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False, id_generator=DerivedIds())
    if (exporter := _exporter(settings, os.environ)) is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    atexit.register(provider.shutdown)
    return provider


def _exporter(settings: TracingSettings, variables: Mapping[str, str]) -> SpanExporter | None:
    if settings.endpoint is not None:
        return OTLPSpanExporter(endpoint=settings.endpoint)
    match name := variables.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp":
        case "otlp":
            protocol = variables.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or variables.get(
                "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
            )
            if protocol != "http/protobuf":
                raise ConfigurationError(
                    f"tracing: OTLP is sent as http/protobuf, and OTEL_EXPORTER_OTLP_PROTOCOL says {protocol!r}.\n"
                    f"  Collectors take it on port 4318. Or start the program under opentelemetry-instrument, whose\n"
                    f"  provider is used as it is."
                )
            return OTLPSpanExporter()
        case "console":
            return ConsoleSpanExporter(out=sys.stderr)
        case "none":
            return None
        case _:
            raise ConfigurationError(
                f"tracing: OTEL_TRACES_EXPORTER is {name!r}, and there are otlp, console and none.\n"
                f"  Or start the program under opentelemetry-instrument, whose provider is used as it is."
            )


def _resource(settings: TracingSettings, app_name: str) -> Resource:
    said = OTELResourceDetector().detect().attributes.get("service.name")
    return Resource.create({"service.name": settings.service_name or str(said or app_name)})


__all__ = ["flush_spans", "spans_of", "spans_of_program"]
