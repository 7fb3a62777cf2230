"""Retries at rest, and a look at the database that was asked for before they came to rest (P28)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from engine.scan import Scan
from processor import App, Retry, Topic
from processor.testing import Bench


class Order(BaseModel):
    order_id: str


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_look_that_is_older_than_a_rest_does_not_wake_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P28: it has read that the row is due, which then ran, failed again, and rests for two hours more."""
    app, attempts = App("shop"), 0
    orders = Topic("orders", Order, key=lambda order: order.order_id)
    has_read, goes_on, is_over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    take_rest: Callable[..., Awaitable[None]] = vars(Scan)["_take_rest"]

    async def slow(scan: Scan, connection: Any, sources: Any, rows: Any) -> None:
        has_read.set()
        await goes_on.wait()
        await take_rest(scan, connection, sources, rows)
        is_over.set()

    @app.workflow(on=orders, retry=Retry(attempts=5, first_delay=timedelta(hours=1)))
    async def fulfil(order: Order) -> None:
        nonlocal attempts
        attempts += 1
        raise ConnectionError("away")

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(order_id="a"))
        await until(lambda: attempts == 1)
        await bench.settle()
        monkeypatch.setattr(Scan, "_take_rest", slow)
        await bench.execute("UPDATE dbos.workflow_status SET kafka_wake_at = 0")
        bench.engine.scan.hint()
        await has_read.wait()

        await bench.advance(timedelta(hours=2))
        await until(lambda: attempts == 2)
        await bench.settle()
        goes_on.set()
        await is_over.wait()
        await bench.settle()
        assert attempts == 2

        monkeypatch.undo()
        await bench.execute("UPDATE dbos.workflow_status SET kafka_wake_at = 0")
        bench.engine.scan.hint()
        await until(lambda: attempts == 3)
