"""Settings of tracing. A section of `processor.config.Settings`."""

from pydantic import Field

from processor.section import Section


class TracingSettings(Section):
    """Spans of OpenTelemetry. Whatever is unset here is as the standard variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`,
    `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, …).
    """

    enabled: bool = False
    """Whether there are any. Needs the extra `otel`: `pip install 'onceflow[otel]'`. Off, it costs nothing."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Where spans go, by OTLP over HTTP, with its path: `http://collector:4318/v1/traces`."""

    sample_ratio: float | None = Field(default=None, ge=0, le=1)
    """Which part of the traces that begin here is recorded. Those that come with a record or a request are recorded if
    whoever began them does."""

    service_name: str | None = Field(default=None, min_length=1, max_length=200)
    """`service.name` of the spans. Unset, and without `OTEL_SERVICE_NAME`: the app's name."""
