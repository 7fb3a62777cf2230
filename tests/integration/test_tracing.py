"""Tracing on a real Postgres: which spans there are, whose children, and that a crash does not change the trace."""

import asyncio
import json
import logging
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased
from opentelemetry.trace import StatusCode, get_current_span
from pydantic import BaseModel

from engine.crashpoints import CrashPoint
from engine.payloads import PayloadKeys
from processor import App, DeadLetter, Retry, TerminalError, Topic, Transaction, publish
from processor.logs import LogObserver
from processor.testing import Bench
from processor.tracing import TraceIds, trace_id
from tests.integration.test_sealed_payloads import NEW
from tests.integration.tracing import PARENT, TRACE, TRACEPARENT, Kept, id_of, linked, parent_of, trace_of

HEADERS = [("traceparent", TRACEPARENT.encode()), ("tracestate", b"vendor=1")]


class Order(BaseModel):
    n: int
    note: str = ""


class Shop:
    """An app with one handler of each kind."""

    def __init__(self) -> None:  # noqa: C901  # a list of handlers
        self.app = App("shop")
        self.orders = Topic("orders", Order, key=lambda order: str(order.n))
        self.sales = Topic("sales", Order, key=lambda order: str(order.n))
        self.clicks = Topic("clicks", Order)
        self.told = Topic("told", Order)
        self.seen: list[int] = []
        app, told, seen = self.app, self.told, self.seen

        @app.step(retry=Retry(attempts=2, first_delay=timedelta(milliseconds=1)))
        async def charge(order: Order) -> str:
            seen.append(get_current_span().get_span_context().span_id)
            if order.note == "once" and len(seen) == 1:
                raise ValueError("not yet")
            return f"receipt {order.n}"

        @app.transaction()
        async def record(tx: Transaction, order: Order) -> None:
            await tx.execute("INSERT INTO sale VALUES (%s)", (order.n,))
            await tx.publish(told, order, headers={"from": "record"})

        @app.workflow(on=self.orders, on_failure=DeadLetter(topic="orders.dead"))
        async def fulfil(order: Order) -> str:
            await charge(order)
            if order.note == "bad":
                raise TerminalError("no stock")
            await record(order)
            await publish(told, order)
            return "done"

        @app.transaction(on=self.sales)
        async def book(tx: Transaction, order: Order) -> None:
            await tx.execute("INSERT INTO sale VALUES (%s)", (order.n,))

        @app.batch(on=self.clicks, size=10)
        async def load(tx: Transaction, clicks: Sequence[Order]) -> None:
            await tx.execute("INSERT INTO sale VALUES (%s)", (len(clicks),))

        @app.step()
        def look(n: int) -> int:
            seen.append(get_current_span().get_span_context().span_id)
            return n

        @app.transaction()
        def keep(tx: Any, n: int) -> None:
            tx.execute("INSERT INTO sale VALUES (%s)", (n,))

        @app.workflow()
        def audit(n: int) -> int:
            keep(look(n))
            return n

        @app.workflow()
        async def parent(n: int) -> int:
            return await (await audit.start(n)).result()

        self.charge, self.record, self.audit, self.parent = charge, record, audit, parent


async def opened(bench: Bench) -> None:
    await bench.execute("CREATE TABLE sale (n int)")


async def test_a_record_continues_the_trace_of_its_producer_with_a_span_for_each_part(database: str) -> None:
    """Record, workflow, step, transaction, event, commit: in one trace, each beneath what it is a part of."""
    shop, kept = Shop(), Kept()
    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        await opened(bench)
        await bench.deliver(shop.orders, Order(n=7), headers=HEADERS)
        await bench.settle()
        [event, other] = await bench.fetch_all("SELECT record_headers FROM dbos.outbox ORDER BY outbox_id")

    process, fulfil, charge, record = (kept.one(name) for name in ("process orders", "fulfil", "charge", "record"))
    created = kept.all("create told")
    commits = kept.all("commit")
    assert {trace_of(span) for span in kept.all()} == {TRACE}
    assert parent_of(process) == int(PARENT, 16)
    assert parent_of(fulfil) == id_of(process)
    assert {parent_of(charge), parent_of(record)} == {id_of(fulfil)}
    assert [parent_of(span) for span in created] == [id_of(record), id_of(fulfil)]
    assert shop.seen == [id_of(charge)]  # current in the user's code: what it calls is beneath it
    assert commits
    assert all(linked(span) == {id_of(process)} for span in commits)
    assert linked(process) == {id_of(commits[-1])}
    assert process.kind.name == "CONSUMER"
    assert created[0].kind.name == "PRODUCER"
    assert dict(process.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.consumer.group.name": "shop",
        "messaging.message.body.size": 17,
        "onceflow.workflow.id": "orders-0-0",
        "onceflow.outcome": "success",
    }
    assert (process.start_time or 0) <= (fulfil.start_time or 0)
    assert (process.end_time or 0) >= max(span.end_time or 0 for span in (fulfil, charge, record))
    for row, span in zip((event, other), created, strict=True):
        headers = _headers(row[0])
        assert headers["traceparent"] == f"00-{TRACE}-{id_of(span):016x}-01"
        assert headers["tracestate"] == "vendor=1"
    assert _headers(event[0])["from"] == "record"


async def test_a_workflow_that_another_process_goes_on_with_stays_in_its_trace(database: str) -> None:
    """I4, and the trace: what a crash interrupts is gone on with by an engine that knows nothing but the row."""
    shop, before, after = Shop(), Kept(), Kept()
    async with Bench(shop.app, database, tracing=before.spans) as bench:
        await opened(bench)
        bench.crash(at=CrashPoint.TRANSACTION_DURABLE)
        await bench.deliver(shop.orders, Order(n=1), headers=HEADERS)
        while not bench.crashes:
            await asyncio.sleep(0)
        bench.tracing = after.spans
        bench.log.clear()  # the record comes from its row alone
        await bench.settle()
        await bench.claim(bench.ref(shop.orders))
        await bench.settle()

    assert len(shop.seen) == 1
    assert before.one("charge")
    assert {trace_of(span) for span in after.all()} == {TRACE}
    process, fulfil = after.one("process orders"), after.one("fulfil")
    assert parent_of(process) == int(PARENT, 16)
    assert (fulfil.attributes or {})["onceflow.workflow.steps_recorded"] == 2
    assert not after.all("charge")


async def test_a_record_without_context_is_in_one_trace_whoever_goes_on_with_it(database: str) -> None:
    """The trace's ID is made of the workflow's: nothing is stored for it."""
    shop, before, after = Shop(), Kept(), Kept()
    async with Bench(shop.app, database, tracing=before.spans) as bench:
        await opened(bench)
        bench.crash(after=shop.charge)
        await bench.deliver(shop.orders, Order(n=1), timestamp_ms=1_700_000_000_000)
        while not bench.crashes:
            await asyncio.sleep(0)
        bench.tracing = after.spans
        await bench.settle()
        [request] = await bench.fetch_all("SELECT request FROM dbos.workflow_status")

    mine = f"{trace_id('tests', 'orders-0-0', 1_700_000_000_000):032x}"
    assert {trace_of(span) for span in (*before.all(), *after.all())} == {mine}
    assert "traceparent" not in request[0]
    assert after.one("process orders").parent is None


async def test_what_is_not_sampled_has_no_spans_and_hands_that_on(database: str) -> None:
    """The producer's decision, and ours about traces that begin here: a commit is linked to the sampled ones only."""
    shop, kept = Shop(), Kept(TraceIdRatioBased(0.0))
    unsampled = [("traceparent", TRACEPARENT.removesuffix("1").encode() + b"0")]
    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        await opened(bench)
        for n, headers in enumerate([[], unsampled]):
            await bench.deliver(shop.orders, Order(n=n), headers=headers)
        await bench.settle()
        assert not kept.all()
        await bench.deliver(shop.orders, Order(n=2), headers=HEADERS)
        await bench.settle()
        rows = await bench.fetch_all("SELECT record_headers FROM dbos.outbox ORDER BY outbox_id")

    sampled = [int(_headers(row[0])["traceparent"][-2:], 16) & 1 for row in rows]
    assert sorted(sampled) == [0, 0, 0, 0, 1, 1]
    assert {trace_of(span) for span in kept.all()} == {TRACE}
    assert all(linked(span) == {id_of(kept.one("process orders"))} for span in kept.all("commit"))


async def test_each_try_and_each_failure_is_told_and_the_dead_letter_carries_the_trace(database: str) -> None:
    shop, kept = Shop(), Kept()
    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        await opened(bench)
        await bench.deliver(shop.orders, Order(n=1, note="once"), headers=HEADERS)
        await bench.settle()
        first = kept.all()
        await bench.deliver(shop.orders, Order(n=2, note="bad"), headers=HEADERS)
        await bench.deliver(shop.orders, b"no order", headers=HEADERS)
        await bench.settle()
        dead = await bench.fetch_all(
            "SELECT record_headers FROM dbos.outbox WHERE topic = 'orders.dead' ORDER BY outbox_id"
        )

    tries = [span for span in first if span.name == "charge"]
    assert [(span.attributes or {})["onceflow.step.attempt"] for span in tries] == [1, 2]
    assert [span.status.status_code for span in tries] == [StatusCode.ERROR, StatusCode.UNSET]
    assert (tries[0].attributes or {})["error.type"] == "ValueError"
    records = kept.all("process orders")[1:]
    reasons = [(span.attributes or {})["onceflow.dead_letter.reason"] for span in records]
    assert sorted(map(str, reasons)) == ["failed", "undecodable"]
    assert {span.status.status_code for span in records} == {StatusCode.ERROR}
    carried = {_headers(row[0])["traceparent"] for row in dead}
    assert carried == {f"00-{TRACE}-{id_of(span):016x}-01" for span in records}


async def test_fused_handlers_have_a_span_for_each_record_or_one_linked_to_all(database: str) -> None:
    """P19: the handler's span is beneath its record's; of a batch it is beneath the first and linked to all."""
    shop, kept = Shop(), Kept()
    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        await opened(bench)
        await bench.deliver(shop.sales, Order(n=1), headers=HEADERS)
        await bench.settle()
        for n in range(3):
            await bench.deliver(shop.clicks, Order(n=n))
        await bench.settle()

    assert parent_of(kept.one("book")) == id_of(kept.one("process sales"))
    clicks = {id_of(span) for span in kept.all("process clicks")}
    assert len(clicks) == 3
    assert set[int]().union(*(linked(span) for span in kept.all("load"))) == clicks
    assert {str((span.attributes or {})["onceflow.commit.kind"]) for span in kept.all("commit")} == {"fused"}


async def test_workflows_without_a_record_are_in_the_trace_of_whoever_starts_them(database: str) -> None:
    """P31: the context is in the row, so that a child that is recovered is still its parent's; sync code has spans, too."""
    shop, kept, after = Shop(), Kept(), Kept()
    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        await opened(bench)
        with kept.provider.get_tracer("program").start_as_current_span("request") as request:
            handle = await shop.parent.start(3, id="p-1")
        assert await handle.result() == 3
        alone = await shop.parent.start(4, id="p-2")
        assert await alone.result() == 4
        rows = dict(await bench.fetch_all("SELECT workflow_uuid, request FROM dbos.workflow_status"))
        bench.tracing = after.spans
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'p-1-1'")
        await bench.execute("DELETE FROM dbos.operation_outputs WHERE workflow_uuid = 'p-1-1'")
        await bench.restart()
        await shop.app.resume_workflows(["p-1-1"])
        assert await shop.app.retrieve("p-1-1").result() == 3

    mine = f"{request.get_span_context().trace_id:032x}"
    parent, child = (next(s for s in kept.all(name) if trace_of(s) == mine) for name in ("parent", "audit"))
    look = next(span for span in kept.all("look") if trace_of(span) == mine)
    assert (parent_of(parent), parent_of(child)) == (request.get_span_context().span_id, id_of(parent))
    assert parent_of(look) == id_of(child)
    assert id_of(look) in shop.seen
    assert {trace_of(span) for span in kept.all("keep")} >= {mine}
    assert rows["p-1-1"].startswith('{"parent": "p-1", "function_id": 1, "traceparent": "00-')
    assert rows["p-2"] is None
    others = {trace_of(span) for span in kept.all("parent")} - {mine}
    assert others == {f"{trace_id('tests', 'p-2', 0):032x}"}
    assert (trace_of(after.one("audit")), parent_of(after.one("audit"))) == (mine, id_of(parent))


async def test_a_request_continues_its_callers_trace_and_so_does_what_it_starts(database: str) -> None:
    """The context is in the workflow's row; the path is in no span, its route is. Admin requests have spans, probes none."""
    shop, kept = Shop(), Kept()

    @shop.app.post("/orders/{n}", public=True)
    async def order(n: int) -> int:
        return n

    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        client = bench.http().with_headers(traceparent=TRACEPARENT)
        answer = await client.post("/orders/42", headers={"Idempotency-Key": "k"})
        refused = await client.get("/admin/workflows")
        await client.get("/dbos-healthz")
        await bench.settle()
        [row] = await bench.fetch_all("SELECT request FROM dbos.workflow_status")

    request, run = kept.one("POST /orders/{n}"), kept.one("order")
    assert (answer.status, refused.status) == (202, 401)
    assert (trace_of(request), parent_of(request)) == (TRACE, int(PARENT, 16))
    assert (trace_of(run), parent_of(run)) == (TRACE, id_of(request))
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/orders/{n}",
        "http.response.status_code": 202,
        "url.scheme": "http",
    }
    assert (kept.one("GET /admin/workflows").attributes or {})["http.response.status_code"] == 401
    assert json.loads(row[0])["traceparent"] == f"00-{TRACE}-{id_of(request):016x}-01"
    assert not any("dbos-healthz" in span.name for span in kept.all())


async def test_of_a_sealed_record_no_error_is_in_a_span(database: str) -> None:
    """Decision 0012: users' errors quote payloads. The stored context is sealed with the record's other headers."""
    shop, before, after = Shop(), Kept(), Kept()
    async with Bench(shop.app, database, tracing=before.spans) as bench:
        await opened(bench)
        bench.settings = replace(bench.settings, payload_keys=PayloadKeys({"new": NEW}, "new"))
        await bench.restart()
        bench.crash(after=shop.charge)
        await bench.deliver(shop.orders, Order(n=1, note="bad"), headers=HEADERS)
        bench.tracing = after.spans
        await bench.settle()
        [request] = await bench.fetch_all("SELECT request FROM dbos.workflow_status")

    [fulfil] = after.all("fulfil")
    assert TRACE not in request[0]
    assert trace_of(fulfil) == TRACE
    assert (fulfil.attributes or {})["error.type"] == "TerminalError"
    assert not any(span.status.description for span in after.all())


async def test_log_lines_have_the_trace_they_belong_to(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """A handler's own lines, and the engine's about a record."""
    shop, kept = Shop(), Kept()
    caplog.handler.addFilter(TraceIds())
    observer = LogObserver()
    caplog.set_level(logging.INFO)
    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        bench.engine.telemetry.add(observer)
        await opened(bench)
        await bench.deliver(shop.orders, Order(n=2, note="bad"), headers=HEADERS)
        await bench.settle()

    lines = {record.getMessage(): record for record in caplog.records}
    assert vars(lines["dead lettered"])["trace_id"] == TRACE
    assert "trace_id" not in vars(lines["source claimed"])


async def test_without_tracing_nothing_of_it_is_stored_or_shown(database: str) -> None:
    """A header that nobody allowed is not kept: tracing is what asks for it."""
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await opened(bench)
        await bench.deliver(shop.orders, Order(n=1), headers=HEADERS)
        await bench.settle()
        [row] = await bench.fetch_all("SELECT request FROM dbos.workflow_status")
        events = await bench.fetch_all("SELECT record_headers FROM dbos.outbox")

    assert "traceparent" not in row[0]
    assert all("traceparent" not in str(headers) for (headers,) in events)


async def test_nothing_is_sampled_when_the_sampler_says_never(database: str) -> None:
    shop, kept = Shop(), Kept(ALWAYS_OFF)
    async with Bench(shop.app, database, tracing=kept.spans) as bench:
        await opened(bench)
        await bench.deliver(shop.orders, Order(n=1))
        await bench.settle()

    assert not kept.all()


def _headers(text: str | None) -> dict[str, str]:
    return {name: b64decode(value).decode("latin-1") for name, value in json.loads(text or "[]")}
