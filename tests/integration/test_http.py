"""The status server over a real socket."""

import json
from collections.abc import Generator
from contextlib import closing
from http.client import HTTPConnection

import pytest

from engine import telemetry
from processor import ConfigurationError
from processor.http import StatusServer
from processor.metrics import Metrics

WAIT_S = 60


class Process:
    """What probes ask."""

    def __init__(self) -> None:
        self.metrics = Metrics((0.1, 1))
        self.live: list[str] = []
        self.ready: list[str] = []

    def serve(self, port: int = 0) -> StatusServer:
        return StatusServer(
            host="127.0.0.1", port=port, metrics=self.metrics, live=lambda: self.live, ready=lambda: self.ready
        )


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def server(process: Process) -> Generator[StatusServer]:
    with process.serve() as server:
        yield server


def get(server: StatusServer, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    with closing(connection):
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()


def test_metrics_are_served_in_the_format_the_scraper_accepts(process: Process, server: StatusServer) -> None:
    process.metrics.observe(telemetry.FlushRetried("weather", "connection reset"))

    status, plain, body = get(server, "/metrics")
    _, open_metrics, _ = get(server, "/metrics", "application/openmetrics-text; version=1.0.0")

    assert (status, plain.partition(";")[0]) == (200, "text/plain")
    assert open_metrics.startswith("application/openmetrics-text")
    assert 'processor_flush_retries_total{reason="weather"} 1.0' in body


def test_probes_say_what_is_wrong(process: Process, server: StatusServer) -> None:
    assert [get(server, path)[0] for path in ("/livez", "/readyz")] == [200, 200]
    process.live, process.ready = ["the poll thread is stuck"], ["stopping"]

    status, content_type, body = get(server, "/livez")

    assert (status, content_type) == (503, "application/json")
    assert json.loads(body) == {"status": "failing", "problems": ["the poll thread is stuck"]}
    assert get(server, "/readyz?verbose=1")[0] == 503


def test_other_paths_are_not_found(server: StatusServer) -> None:
    status, _, body = get(server, "/")

    assert status == 404
    assert "/metrics" in body


def test_a_port_that_is_taken_is_said_with_what_to_do(process: Process, server: StatusServer) -> None:
    with pytest.raises(ConfigurationError, match=r"http\.port: 0"):
        process.serve(server.port)
