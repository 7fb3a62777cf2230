"""A fused group that is halved while a suspect waits: its parts are put off together, and run in their order (I7, P19, P22)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import LiteralString

import pytest

from processor import Retry, Topic, Transaction
from processor.testing import Bench
from tests.integration.protocol import Order, Shop, until
from tests.integration.test_suspects import LONG

entries = Topic("entries", Order, key=lambda order: order.key)

AS_IF_KILLED: LiteralString = (
    "UPDATE dbos.workflow_status SET recovery_attempts = 1, kafka_wake_at = NULL, owner_xid = 'x', executor_id = 'x'"
)


class Ledger(Shop):
    """A shop that also books entries, in one transaction for many."""

    def __init__(self) -> None:
        super().__init__(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
        self.booked: list[int] = []
        self.held: set[int] = set()
        self.bad: dict[int, LiteralString] = {}

        @self.app.transaction(on=entries)
        async def book(tx: Transaction, entry: Order) -> None:
            self.booked.append(entry.n)
            while entry.n in self.held:
                await asyncio.sleep(0.005)
            if (statement := self.bad.pop(entry.n, None)) is not None:
                await tx.execute(statement)
            await tx.execute("INSERT INTO entry (n) VALUES (%s)", (entry.n,))


@asynccontextmanager
async def with_a_suspect(database: str, *, lease: timedelta = LONG.lease) -> AsyncGenerator[tuple[Ledger, Bench]]:
    """A record that was running when its process died for the second time; its partition is not claimed yet."""
    shop = Ledger()
    async with Bench(shop.app, database, settings=replace(LONG, lease=lease)) as bench:
        await bench.execute("CREATE TABLE entry (n int, place bigserial)")
        shop.fails["first 0"] = 1
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        await bench.release(bench.ref(shop.topic))
        await bench.execute(AS_IF_KILLED)
        await bench.execute("DELETE FROM dbos.operation_outputs")
        yield shop, bench


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 / 0",
        "DO $$ BEGIN RAISE 'could not serialize access' USING ERRCODE = '40001'; END $$",
        "DO $$ BEGIN RAISE 'out of memory' USING ERRCODE = '53200'; END $$",
    ],
    ids=["fails", "conflicts", "weather"],
)
async def test_parts_of_a_group_that_are_put_off_keep_their_order(database: str, statement: LiteralString) -> None:
    """Whatever halves it; and what comes behind waits behind all of them."""
    async with with_a_suspect(database) as (shop, bench):
        shop.held, shop.bad = {99, 100}, {107: statement}
        await bench.deliver(entries, Order(key="w", n=99))
        await until(lambda: shop.booked == [99])
        for n in range(100, 107):
            await bench.deliver(entries, Order(key="x", n=n))
        await bench.deliver(entries, Order(key="bad", n=107))
        shop.held.discard(99)
        await until(lambda: shop.booked[-1] == 100)  # the group of all of them is under way
        await bench.claim(bench.ref(shop.topic))  # the suspect waits for it
        await until(lambda: bench.engine.suspects.is_closed)
        for n in range(108, 111):
            await bench.deliver(entries, Order(key="x", n=n))
        shop.held.clear()
        await until(lambda: shop.began.count("first 0") == 2)
        await bench.settle()

        rows = [n for (n,) in await bench.fetch_all("SELECT n FROM entry ORDER BY place")]
        of_one_key = [n for n in rows if n != 107]
        assert of_one_key == [99, *range(100, 107), *range(108, 111)]
        assert set(rows) - {107} == set(of_one_key)
