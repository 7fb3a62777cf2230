"""Where spans go: by settings, by the standard variables, and what is refused."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from pydantic import ValidationError

from engine.errors import ConfigurationError
from engine.tracing import context_of, with_context
from processor import runtime
from processor.config_tracing import TracingSettings
from processor.trace_export import (
    _exporter,  # pyright: ignore[reportPrivateUsage]
)
from processor.tracing import trace_id

PARENT = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "baggage": "user=ada"}


def test_it_is_off_unless_asked_for() -> None:
    assert runtime.tracing_of(TracingSettings(), "shop") is None


def test_what_the_standard_variables_say_holds_unless_a_setting_says_otherwise() -> None:
    said = TracingSettings(endpoint="http://here:4318/v1/traces")

    assert isinstance(_exporter(TracingSettings(), {}), OTLPSpanExporter)
    assert isinstance(_exporter(TracingSettings(), {"OTEL_TRACES_EXPORTER": "console"}), ConsoleSpanExporter)
    assert _exporter(TracingSettings(), {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert isinstance(_exporter(said, {"OTEL_TRACES_EXPORTER": "none"}), OTLPSpanExporter)


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_TRACES_EXPORTER": "zipkin"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}],
    ids=["exporter", "protocol"],
)
def test_what_there_is_no_exporter_for_is_refused_and_says_what_to_do(variables: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="opentelemetry-instrument"):
        _exporter(TracingSettings(), variables)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"endpoint": "collector:4318"}, {"sample_ratio": 1.5}, {"service_name": ""}):
        with pytest.raises(ValidationError):
            TracingSettings.model_validate(wrong)


def test_without_the_extra_it_says_which() -> None:
    """In a process of its own: here the libraries are there."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from processor.config_tracing import TracingSettings\n"
        "from processor.runtime import tracing_of\n"
        "tracing_of(TracingSettings(enabled=True), 'shop')\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "pip install 'onceflow[otel]'" in ended.stderr


@pytest.mark.parametrize("request_text", [None, "", '{"parent": "p", "function_id": 1}', '{"method": "GET"}'])
def test_a_context_stands_behind_what_a_request_says_and_is_found_there(request_text: str | None) -> None:
    """Its beginning is what others go by; baggage may have secrets and is not stored."""
    stored = with_context(request_text, PARENT)

    assert stored is not None
    assert stored.startswith((request_text or "{")[:-1])
    assert context_of(stored) == {"traceparent": PARENT["traceparent"]}


@pytest.mark.parametrize("request_text", [None, "traceparent", '["traceparent"]', '{"traceparent": 1}', "{}"])
def test_what_is_no_context_is_none(request_text: str | None) -> None:
    assert context_of(request_text) == {}


def test_a_request_that_is_no_object_stays_as_it_is() -> None:
    assert with_context('"text"', PARENT) == '"text"'
    assert with_context('{"parent": "p"}', {}) == '{"parent": "p"}'


def test_derived_traces_are_apart_by_workflow_record_and_system() -> None:
    ids = {trace_id(*each) for each in (("a", "w", 0), ("b", "w", 0), ("a", "v", 0), ("a", "w", 1))}

    assert len(ids) == 4
    assert trace_id("a", "w", 0) in ids
    assert all(0 < each < 2**128 for each in ids)
