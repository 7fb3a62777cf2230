"""Inputs above a size stand in a table of their own, and every reader finds them there."""

import asyncio
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.dead_letters import list_dead_letters, retry
from engine.inspection import connected
from engine.settings import EngineSettings
from processor import App, TerminalError, Topic, Transaction
from processor.testing import Bench


class Order(BaseModel):
    order_id: str
    text: str


orders = Topic("orders", Order, key=lambda order: order.order_id)

LARGE = Order(order_id="large", text="ä" * 100_000)
SMALL = Order(order_id="small", text="x")
STORED = """
    SELECT w.kafka_offset, length(w.inputs) < 1000, length(i.inputs) > 100000
      FROM dbos.workflow_status AS w
      LEFT JOIN dbos.workflow_inputs AS i USING (workflow_uuid)
     ORDER BY w.kafka_offset
"""


async def test_large_inputs_stand_apart_and_recovery_finds_them(database: str) -> None:
    """I4, P15: a workflow that is taken over gets the same event, and goes on behind its recorded step."""
    seen: list[tuple[str, Order]] = []
    app = App("shop")

    @app.step()
    async def first(order: Order) -> None:
        seen.append(("first", order))

    @app.step()
    async def second(order: Order) -> None:
        seen.append(("second", order))

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await first(order)
        await second(order)

    async with Bench(app, database) as bench:
        await bench.deliver(orders, SMALL)
        await bench.settle()
        bench.crash(after=second)
        await bench.deliver(orders, LARGE)
        await bench.settle()
        stored = await bench.fetch_all(STORED)

    assert bench.crashes == 1
    assert stored == [(0, True, None), (1, True, True)]
    assert [step for step, order in seen if order == LARGE] == ["first", "second", "second"]


async def test_a_dead_letter_with_large_inputs_is_retried(database: str) -> None:
    failing = True
    ran: list[Order] = []
    app = App("shop")

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        if failing:
            raise TerminalError("not today")
        ran.append(order)

    async with Bench(app, database) as bench, connected(EngineSettings(conninfo=database)) as connection:
        await bench.deliver(orders, LARGE)
        await bench.deliver(orders, LARGE.model_dump_json().encode()[:-1], key=b"broken")
        await bench.settle()
        letters = await list_dead_letters(connection, "dbos")
        failing = False
        await retry(connection, "dbos", [letter.dead_letter_id for letter in letters if letter.reason == "failed"])
        async with asyncio.timeout(30):
            while not ran:
                await asyncio.sleep(0.01)
        await bench.settle()
        stored = await bench.fetch_all(STORED)

    assert {letter.reason: len(letter.record_value or b"") > 200_000 for letter in letters} == {
        "failed": True,
        "undecodable": True,
    }
    assert ran == [LARGE]
    assert stored == [(0, True, True), (1, True, True)]


async def test_a_fused_handlers_large_inputs_stand_apart(database: str) -> None:
    app = App("shop")

    @app.transaction(on=orders)
    async def book(tx: Transaction, order: Order) -> None:
        await tx.execute("SELECT 1")

    async with Bench(app, database) as bench:
        for order in (SMALL, LARGE, SMALL):
            await bench.deliver(orders, order)
        await bench.settle()
        stored = await bench.fetch_all(STORED)

    assert stored == [(0, True, None), (1, True, True), (2, True, None)]


@pytest.mark.parametrize("length, apart", [(1_000, 0), (1_001, 1)])
async def test_the_size_is_a_setting(database: str, length: int, apart: int) -> None:
    settings = EngineSettings(conninfo=database, inputs_inline_max=1_000, scan=timedelta(milliseconds=100))
    app = App("shop")

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None: ...

    async with Bench(app, database, settings=settings) as bench:
        around = len('{"args": [], "kwargs": {}}') + len(Order(order_id="o", text="").model_dump_json())
        await bench.deliver(orders, Order(order_id="o", text="x" * (length - around)))
        await bench.settle()
        count = await bench.fetch_all("SELECT count(*) FROM dbos.workflow_inputs")

    assert count == [(apart,)]


async def test_large_inputs_go_with_their_row(database: str) -> None:
    app = App("shop")

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None: ...

    async with Bench(app, database) as bench:
        await bench.deliver(orders, LARGE)
        await bench.settle()
        await bench.execute("DELETE FROM dbos.workflow_status")
        left = await bench.fetch_all("SELECT count(*) FROM dbos.workflow_inputs")

    assert left == [(0,)]
