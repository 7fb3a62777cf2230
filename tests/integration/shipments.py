"""What tests of publishing share: handlers of every kind that ask for shipments, and what is in the outbox."""

import json
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from engine.outbox import waiting
from engine.pool import connect
from engine.settings import EngineSettings
from engine.store.outbox import OutboxRow
from processor import App, SyncTransaction, Topic, Transaction
from processor.testing import Bench


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


def headers_of(row: OutboxRow) -> dict[str, bytes]:
    return {name: b64decode(value) for name, value in json.loads(row.headers or "[]")}
