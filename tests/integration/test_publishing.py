"""Events in the commit of their cause: from transactional steps, fused handlers and dead letters (I5, I9; P7, P19, P20)."""

import asyncio
import json
import struct
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from engine.outbox import waiting
from engine.outgoing import PublishError
from engine.pool import connect
from engine.settings import EngineSettings
from engine.store.outbox import OutboxRow
from engine.telemetry import HandedOver
from processor import App, BlockKey, DeadLetter, FailurePolicy, Retry, SyncTransaction, Topic, Transaction
from processor.testing import Bench, CrashPoint
from tests.fixtures.proxy import losing_proxy


class Order(BaseModel):
    n: int
    note: str = ""


class Shipment(BaseModel):
    order: int
    part: int = 0


orders = Topic("orders", Order, key=lambda order: str(order.n % 5), headers=("trace",))
shipments = Topic("shipments", Shipment, key=lambda shipment: str(shipment.order % 5))


async def ship(tx: Transaction, order: Order) -> None:
    """One row, two events; what the order's note says goes wrong."""
    await tx.publish(shipments, Shipment(order=order.n, part=1), headers={"trace": "t"})
    await tx.execute("INSERT INTO shipped (n) VALUES (%s)", (order.n,))
    if order.note == "raises":
        raise ValueError("not today")
    if order.note == "conflicts":
        await tx.execute("INSERT INTO shipped (n) VALUES (%s)", (order.n,))
    await tx.publish(shipments, Shipment(order=order.n, part=2))


def ship_in_a_thread(tx: SyncTransaction, order: Order) -> None:
    tx.publish(shipments, Shipment(order=order.n, part=1), headers={"trace": "t"})
    tx.execute("INSERT INTO shipped (n) VALUES (%s)", (order.n,))
    if order.note == "raises":
        raise ValueError("not today")
    if order.note == "conflicts":
        tx.execute("INSERT INTO shipped (n) VALUES (%s)", (order.n,))
    tx.publish(shipments, Shipment(order=order.n, part=2))


def stepping(function: Any, **options: Any) -> App:
    """A workflow of one transactional step."""
    app = App("shop")
    transaction: Any = app.transaction
    step = transaction(name="ship", **options)(function)
    if function is ship_in_a_thread:

        @app.workflow(on=orders, breaker=None)
        def fulfil_in_a_thread(order: Order) -> None:
            step(order)

        return app

    @app.workflow(on=orders, breaker=None)
    async def fulfil(order: Order) -> None:
        await step(order)

    return app


def fused(function: Any) -> App:
    app = App("shop")
    app.transaction(on=orders, name="fulfil", breaker=None)(function)
    return app


def batched(function: Any) -> App:
    app = App("shop")
    if function is ship:

        @app.batch(on=orders, name="fulfil", breaker=None)
        async def fulfil(tx: Transaction, batch: Sequence[Order]) -> None:
            for order in batch:
                await ship(tx, order)
    else:

        @app.batch(on=orders, name="fulfil", breaker=None)
        def fulfil_in_a_thread(tx: SyncTransaction, batch: Sequence[Order]) -> None:
            for order in batch:
                ship_in_a_thread(tx, order)

    return app


KINDS: dict[str, Callable[[], App]] = {
    "grouped step": lambda: stepping(ship),
    "sync step": lambda: stepping(ship_in_a_thread),
    "step alone": lambda: stepping(ship, isolation="serializable"),
    "fused": lambda: fused(ship),
    "fused sync": lambda: fused(ship_in_a_thread),
    "batch": lambda: batched(ship),
    "batch sync": lambda: batched(ship_in_a_thread),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def shop(app: App, dsn: str) -> AsyncGenerator[Bench]:
    async with Bench(app, dsn) as bench:
        await bench.execute("CREATE TABLE IF NOT EXISTS shipped (n integer PRIMARY KEY)")
        yield bench


async def in_outbox(bench: Bench, topic: str = "shipments") -> list[OutboxRow]:
    async with await connect(EngineSettings(conninfo=bench.dsn), "test") as connection:
        return await waiting(connection, "dbos", topic=topic, limit=1000)


async def shipped(bench: Bench) -> list[int]:
    return [n for (n,) in await bench.fetch_all("SELECT n FROM shipped ORDER BY n")]


def by_key(published: Sequence[Shipment]) -> dict[int, list[tuple[int, int]]]:
    """What a reader of one key sees, in order."""
    seen: dict[int, list[tuple[int, int]]] = {}
    for each in published:
        seen.setdefault(each.order % 5, []).append((each.order, each.part))
    return seen


@every_kind
async def test_an_event_is_there_if_and_only_if_its_cause_is(database: str, kind: str) -> None:
    """I9, I5: a function that raises, or whose statement fails, has published nothing, whoever shared its commit."""
    async with shop(KINDS[kind](), database) as bench:
        for n in range(40):
            await bench.deliver(orders, Order(n=n, note={7: "raises", 23: "conflicts"}.get(n, "")))
        await bench.settle()

        good = [n for n in range(40) if n not in (7, 23)]
        assert await shipped(bench) == good
        published = await bench.published(shipments)
        assert by_key(published) == {
            key: [(n, part) for n in good if n % 5 == key for part in (1, 2)] for key in range(5)
        }
        assert await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter") == [(2,)]


@every_kind
async def test_an_event_looks_as_its_topic_says(database: str, kind: str) -> None:
    async with shop(KINDS[kind](), database) as bench:
        await bench.deliver(orders, Order(n=8))
        await bench.settle()

        first, second = await in_outbox(bench)
        assert (first.topic, first.key, first.value) == ("shipments", b"3", b'{"order":8,"part":1}')
        assert json.loads(first.headers or "") == [["trace", "dA=="]]
        assert second.headers is None
        assert abs(first.created_at - second.created_at) < 1000


@pytest.mark.crash_points(
    *(CrashPoint.STEP_CALLED, CrashPoint.FLUSH_BUILT, CrashPoint.FLUSH_SENT, CrashPoint.FLUSH_DURABLE),
    *(CrashPoint.TRANSACTION_OPEN, CrashPoint.TRANSACTION_WRITTEN, CrashPoint.TRANSACTION_DURABLE),
    CrashPoint.FUSED_CALLED,
)
@pytest.mark.parametrize("kind", ["grouped step", "step alone", "fused", "batch sync"])
async def test_a_crash_anywhere_publishes_every_event_once(
    database: str, kind: str, crash_point: CrashPoint | None
) -> None:
    """I9, I5."""
    async with shop(KINDS[kind](), database) as bench:
        bench.crash(at=crash_point, times=2)
        for n in range(20):
            await bench.deliver(orders, Order(n=n))
        await bench.settle()

        assert await shipped(bench) == list(range(20))
        assert by_key(await bench.published(shipments)) == {
            key: [(n, part) for n in range(20) if n % 5 == key for part in (1, 2)] for key in range(5)
        }


@pytest.mark.parametrize("kind", ["grouped step", "step alone", "fused"])
async def test_a_lost_reply_of_the_commit_publishes_once(database: str, kind: str) -> None:
    """P23, P24: the function may run again only if its commit is known not to have been."""
    async with losing_proxy(database) as (proxy, through), shop(KINDS[kind](), through) as bench:
        proxy.marker = b"lock_outbox_keys"
        proxy.lose_commits = 2
        for n in range(20):
            await bench.deliver(orders, Order(n=n))
        await bench.settle()

        assert proxy.lost == 2
        assert await shipped(bench) == list(range(20))
        assert len(await bench.published(shipments)) == 40


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_was_published_since_a_savepoint_is_rolled_back_with_it(database: str, is_async: bool) -> None:
    app = App("shop")

    @app.transaction(name="ship")
    async def ship_what_works(tx: Transaction, order: Order) -> None:
        await tx.publish(shipments, Shipment(order=order.n, part=1))
        await tx.execute('SAVEPOINT "Try"')
        await tx.publish(shipments, Shipment(order=order.n, part=2))
        await tx.execute("savepoint inner_one")
        await tx.publish(shipments, Shipment(order=order.n, part=3))
        await tx.execute('ROLLBACK TO SAVEPOINT "Try"')
        await tx.publish(shipments, Shipment(order=order.n, part=4))
        await tx.execute('RELEASE "Try"')

    @app.transaction(name="ship sync")
    def ship_what_works_sync(tx: SyncTransaction, order: Order) -> None:
        tx.publish(shipments, Shipment(order=order.n, part=1))
        tx.execute("SAVEPOINT try")
        tx.publish(shipments, Shipment(order=order.n, part=2))
        tx.execute("ROLLBACK TO TRY")
        tx.publish(shipments, Shipment(order=order.n, part=4))

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        if is_async:
            await ship_what_works(order)
        else:
            await app.run_step(ship_what_works_sync, order)

    async with shop(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        assert [each.part for each in await bench.published(shipments)] == [1, 4]


async def test_an_event_that_is_refused_is_the_handlers_failure(database: str) -> None:
    """The message names topic and reason; nothing of its transaction stands."""
    app = App("shop")
    wrong: list[Callable[[Transaction], Any]] = [
        lambda tx: tx.publish(shipments, Order(n=1)),  # type: ignore[arg-type]  # what a type checker would find
        lambda tx: tx.publish(Topic("^ship.*", Shipment), Shipment(order=1)),
        lambda tx: tx.publish(Topic("large", bytes), b"x" * 1_000_001),
        lambda tx: tx.publish(Topic("gone", Shipment, tombstone="deliver"), None),
        lambda tx: tx.publish(shipments, Shipment(order=1), headers={"": "empty"}),
        lambda tx: tx.publish(shipments, Shipment(order=1), headers={"n": 5}),  # type: ignore[dict-item]
    ]

    @app.transaction()
    async def publish_wrongly(tx: Transaction, order: Order) -> None:
        await tx.execute("INSERT INTO shipped (n) VALUES (%s)", (order.n,))
        await wrong[order.n](tx)

    @app.workflow(on=orders, breaker=None)
    async def fulfil(order: Order) -> None:
        await publish_wrongly(order)

    async with shop(app, database) as bench:
        for n in range(len(wrong)):
            await bench.deliver(orders, Order(n=n))
        await bench.settle()

        errors = await bench.fetch_all("SELECT error::json ->> 'message' FROM dbos.dead_letter ORDER BY kafka_offset")
        for (message,), expected in zip(
            errors,
            [
                "topic 'shipments': the Order cannot be encoded",
                "topic '^ship.*': a pattern stands for many topics",
                "topic 'large': the bytes has 1000001 bytes with key and headers, and outbox.event_bytes_max is 1000000",
                "topic 'gone': a tombstone says which key it deletes",
                "topic 'shipments': '' is no name of a header",
                "topic 'shipments': header 'n' is int; it takes str, bytes or None",
            ],
            strict=True,
        ):
            assert message.startswith(expected)
        assert await shipped(bench) == []
        assert await bench.fetch_all("SELECT count(*) FROM dbos.outbox") == [(0,)]


async def test_a_read_only_step_can_publish_nothing(database: str) -> None:
    app = App("shop")

    @app.transaction(read_only=True)
    async def look(tx: Transaction, order: Order) -> None:
        await tx.publish(shipments, Shipment(order=order.n))

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await look(order)

    async with shop(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        [(message,)] = await bench.fetch_all("SELECT error::json ->> 'message' FROM dbos.dead_letter")
        assert message == "topic 'shipments': transaction 'look' is read-only"


async def test_a_transaction_that_has_ended_publishes_nothing_more(database: str) -> None:
    app = App("shop")
    kept: list[Transaction] = []

    @app.transaction()
    async def keep(tx: Transaction, order: Order) -> None:
        kept.append(tx)

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await keep(order)

    async with shop(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        with pytest.raises(Exception, match="the transaction has ended"):
            await kept[0].publish(shipments, Shipment(order=1))


async def test_a_tombstone_and_a_key_of_its_own(database: str) -> None:
    app = App("shop")
    profiles = Topic("profiles", Shipment, key=lambda shipment: shipment.order, tombstone="deliver")

    @app.transaction(on=orders)
    async def delete(tx: Transaction, order: Order) -> None:
        await tx.publish(profiles, None, key="7")
        await tx.publish(profiles, Shipment(order=1), key=b"\xff")

    async with shop(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        assert [(row.key, row.value) for row in await in_outbox(bench, "profiles")] == [
            (b"7", None),
            (b"\xff", b'{"order":1,"part":0}'),
        ]
        assert await bench.published(profiles) == [None, Shipment(order=1)]


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


def headers_of(row: OutboxRow) -> dict[str, bytes]:
    return {name: b64decode(value) for name, value in json.loads(row.headers or "[]")}


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
