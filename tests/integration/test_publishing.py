"""Events in the commit of their cause: from transactional steps, fused handlers and dead letters (I5, I9; P7, P19, P20)."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from processor import App, SyncTransaction, Topic, Transaction
from processor.testing import CrashPoint
from tests.fixtures.proxy import losing_proxy
from tests.integration.shipments import (
    KINDS,
    Order,
    Shipment,
    by_key,
    every_kind,
    in_outbox,
    orders,
    shipments,
    shipped,
    shop,
)


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
