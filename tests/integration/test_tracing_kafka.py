"""A process with tracing from end to end: context from one topic's headers to another's, spans to a collector, log lines."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]  # generated
)

from tests.fixtures.kafka import Kafka, unique
from tests.integration.commands import WAIT_S, running
from tests.integration.relaying import Outbox, read
from tests.integration.tracing import PARENT, TRACE, TRACEPARENT

APP = """
import logging

from pydantic import BaseModel

from processor import App, Topic, publish


class Order(BaseModel):
    n: int


app = App("{name}")
told = Topic("{told}", Order)


@app.workflow(on=Topic("{orders}", Order))
async def fulfil(order: Order) -> None:
    logging.getLogger("shop").warning("order")
    await publish(told, order)
"""


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                collector.take(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Generator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.mark.kafka
async def test_a_trace_goes_through_a_process_from_topic_to_topic(
    tmp_path: Path, database: str, kafka: Kafka, collector: Collector
) -> None:
    """Two processes' starts and a relay: 4 s. The event is beneath what published it, which is beneath its producer."""
    orders, told = unique("orders"), unique("told")
    for topic in (orders, told):
        kafka.create_topic(topic)
    await Outbox(database).named_anew()
    (tmp_path / "shop.py").write_text(APP.format(name=unique("shop"), orders=orders, told=told))
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(orders, json.dumps({"n": 1}), headers=[("traceparent", TRACEPARENT.encode())])
    assert producer.flush(WAIT_S) == 0
    env = {
        "PROCESSOR_POSTGRES_DSN": database,
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PROCESSOR_HTTP_ENABLED": "false",
        "PROCESSOR_TRACING_ENABLED": "true",
        "PROCESSOR_TRACING_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}/v1/traces",
        "OTEL_SERVICE_NAME": "the-shop",
    }

    with running(tmp_path, "run", "shop:app", env=env) as program:
        line = json.loads(program.until('"event": "order"').string)
        messages: list[Any] = []
        while not messages:
            messages = read(kafka.bootstrap_servers, told)
        assert program.end() == 0

    found = {span.name: span for span in collector.spans}
    headers = dict(messages[0].headers())
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert collector.services == {"the-shop"}
    assert found[f"process {orders}"].parent_span_id.hex() == PARENT
    assert found["fulfil"].parent_span_id == found[f"process {orders}"].span_id
    assert headers["traceparent"].decode() == f"00-{TRACE}-{found[f'create {told}'].span_id.hex()}-01"
    assert (line["trace_id"], line["span_id"]) == (TRACE, found["fulfil"].span_id.hex())
    assert "commit" in found
    assert found[f"send {told}"].parent_span_id == found[f"create {told}"].span_id
