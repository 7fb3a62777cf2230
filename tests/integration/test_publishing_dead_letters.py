"""Dead letters with a topic are published with the outcome that causes them (I9, P31)."""

import asyncio
import struct

import pytest

from engine.outgoing import PublishError
from engine.telemetry import HandedOver
from processor import App, BlockKey, DeadLetter, FailurePolicy, Retry, Transaction
from processor.testing import Bench
from tests.integration.shipments import Order, Shipment, headers_of, in_outbox, orders, shipments

# -- dead letters


class Shop:
    """A handler that fails for notes that say so."""

    def __init__(self, policy: FailurePolicy, *, retry: Retry | None = None, kind: str = "journaled") -> None:
        self.app = App("shop")
        self.gate = asyncio.Event()
        self.gate.set()

        @self.app.step()
        async def look(order: Order) -> None:
            await self.gate.wait()

        async def fulfil(order: Order) -> None:
            await look(order)
            if order.note:
                raise ValueError(order.note) from KeyError("deeper")

        async def fulfil_fused(tx: Transaction, order: Order) -> None:
            if order.note:
                await tx.publish(shipments, Shipment(order=order.n))
                raise ValueError(order.note) from KeyError("deeper")

        if kind == "journaled":
            self.app.workflow(on=orders, on_failure=policy, breaker=None, name="fulfil")(fulfil)
        else:
            self.app.transaction(on=orders, on_failure=policy, breaker=None, name="fulfil")(fulfil_fused)


@pytest.mark.parametrize("kind", ["journaled", "fused"])
async def test_a_dead_letter_with_a_topic_is_published_as_it_came(database: str, kind: str) -> None:
    """I9: original bytes, allowed headers, and whence and why under the names that tools know."""
    async with Bench(Shop(DeadLetter(topic="orders.dead"), kind=kind).app, database) as bench:
        await bench.deliver(
            orders,
            b'{"n": 3,  "note": "broken"}',
            key=b"\x00\xff",
            offset=41,
            partition=2,
            headers=[("trace", b"t1"), ("secret", b"s")],
            timestamp_ms=1_700_000_000_123,
        )
        await bench.deliver(orders, Order(n=4))
        await bench.settle()

        [row] = await in_outbox(bench, "orders.dead")
        assert (row.key, row.value) == (b"\x00\xff", b'{"n": 3,  "note": "broken"}')
        assert headers_of(row) == {
            "trace": b"t1",
            "kafka_dlt-original-topic": b"orders",
            "kafka_dlt-original-partition": struct.pack(">i", 2),
            "kafka_dlt-original-offset": struct.pack(">q", 41),
            "kafka_dlt-original-timestamp": struct.pack(">q", 1_700_000_000_123),
            "kafka_dlt-original-consumer-group": b"shop",
            "kafka_dlt-exception-fqcn": b"builtins.ValueError",
            "kafka_dlt-exception-message": b"broken",
            "kafka_dlt-exception-cause-fqcn": b"builtins.KeyError",
            "processor-reason": b"failed",
            "processor-handler": b"fulfil",
            "processor-workflow": b"orders-2-41",
        }
        assert await in_outbox(bench, "shipments") == []
        assert await bench.fetch_all("SELECT workflow_uuid FROM dbos.dead_letter") == [("orders-2-41",)]


async def test_undecodable_records_are_published_as_well(database: str) -> None:
    async with Bench(Shop(DeadLetter(topic="orders.dead")).app, database) as bench:
        await bench.deliver(orders, b"\xff\x00no json")
        await bench.deliver(orders, b'{"n": "no number"}')
        await bench.settle()

        rows = await in_outbox(bench, "orders.dead")
        assert [row.value for row in rows] == [b"\xff\x00no json", b'{"n": "no number"}']
        assert {headers_of(row)["processor-reason"] for row in rows} == {b"undecodable"}


@pytest.mark.parametrize("policy", [DeadLetter(), BlockKey()])
async def test_other_policies_publish_nothing(database: str, policy: FailurePolicy) -> None:
    async with Bench(Shop(policy).app, database) as bench:
        await bench.deliver(orders, Order(n=1, note="broken"))
        await bench.settle()

        assert await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter") == [(1,)]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.outbox") == [(0,)]


async def test_a_record_that_kills_its_process_is_published_when_it_is_buried(database: str) -> None:
    """P22: its bytes come back from its row."""
    app = App("shop")

    @app.step()
    async def die(order: Order) -> None:
        if order.note == "kills":
            bench.cut()
            await asyncio.Event().wait()

    @app.workflow(on=orders, on_failure=DeadLetter(topic="orders.dead"))
    async def fulfil(order: Order) -> None:
        await die(order)

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(n=1, note="kills"), headers=[("trace", b"t1"), ("secret", b"s")])
        await bench.deliver(orders, Order(n=2))
        await bench.settle()

        [row] = await in_outbox(bench, "orders.dead")
        assert row.value == b'{"n":1,"note":"kills"}'
        headers = headers_of(row)
        assert headers["processor-reason"] == b"killed its process"
        assert (headers["trace"], headers.get("secret")) == (b"t1", None)


async def test_a_late_run_that_fails_publishes_under_its_row_fence(database: str) -> None:
    """P12: its partition has left when it ends."""
    shop = Shop(DeadLetter(topic="orders.dead"))
    async with Bench(shop.app, database) as bench:
        shop.gate.clear()
        await bench.deliver(orders, Order(n=1, note="broken"))
        while not bench.engine.tasks:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        await bench.release(bench.ref(orders))
        shop.gate.set()
        async with asyncio.timeout(60):
            while not (rows := await in_outbox(bench, "orders.dead")):
                await bench.claim(bench.ref(orders))
                await asyncio.sleep(0.02)
        await bench.settle()

        assert any(isinstance(event, HandedOver) and event.finished for event in bench.events)
        assert [headers_of(row)["processor-workflow"] for row in rows] == [b"orders-0-0"]
        assert len(await in_outbox(bench, "orders.dead")) == 1


async def test_a_workflow_that_was_cancelled_meanwhile_publishes_no_dead_letter(database: str) -> None:
    """P7: only where the outcome was written."""
    shop = Shop(DeadLetter(topic="orders.dead"))
    async with Bench(shop.app, database) as bench:
        shop.gate.clear()
        await bench.deliver(orders, Order(n=1, note="broken"))
        async with asyncio.timeout(60):
            while not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE status = 'PENDING'"):
                await asyncio.sleep(0.01)
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED', owner_xid = NULL")
        shop.gate.set()
        await bench.deliver(orders, Order(n=2))
        await bench.settle()

        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status ORDER BY 1") == [
            ("CANCELLED",),
            ("SUCCESS",),
        ]
        assert await in_outbox(bench, "orders.dead") == []


def test_the_topic_of_dead_letters_is_checked_where_it_is_named() -> None:
    with pytest.raises(ValueError, match="the name of a topic"):
        DeadLetter(topic="no topic")
    with pytest.raises(ValueError, match="the name of a topic"):
        DeadLetter(topic=orders)  # type: ignore[arg-type]
    assert issubclass(PublishError, Exception)
