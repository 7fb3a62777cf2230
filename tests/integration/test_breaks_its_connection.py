"""A record whose own statement looks like bad weather, every time: it waits by itself, nobody else does (P25, P26; decision 0034)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import LiteralString

import pytest

from engine.settings import EngineSettings
from engine.telemetry import FlushRetried
from processor import App, SyncTransaction, Topic, Transaction
from processor.testing import Bench
from tests.integration.protocol import FAST, Order, until_row

BREAKS: LiteralString = "SELECT pg_terminate_backend(pg_backend_pid())"
SHORT: LiteralString = "DO $$ BEGIN RAISE 'temporary file size exceeds temp_file_limit' USING ERRCODE = '53400'; END $$"
MANY = 40
BAD = 17


class Books:
    """A handler that writes its records down, and sends a statement beforehand that is bad while `statement` is set."""

    def __init__(self, kind: str, statement: LiteralString) -> None:
        self.statement: LiteralString | None = statement
        self.topic = topic = Topic("orders", Order, key=lambda order: order.key)
        self.app = app = App("books")

        async def book(tx: Transaction, order: Order) -> None:
            if order.n == BAD and self.statement is not None:
                await tx.execute(self.statement)
            await tx.execute("INSERT INTO booked (n) VALUES (%s)", (order.n,))

        def book_all(tx: SyncTransaction, orders: Sequence[Order]) -> None:
            for order in orders:
                if order.n == BAD and self.statement is not None:
                    tx.execute(self.statement)
                tx.execute("INSERT INTO booked (n) VALUES (%s)", (order.n,))

        match kind:
            case "fused":
                app.transaction(on=topic)(book)
            case "batch":
                app.batch(on=topic, size=10)(book_all)
            case _:
                step = app.transaction()(book)

                @app.workflow(on=topic)
                async def handle(order: Order) -> None:
                    await step(order)


async def ended(bench: Bench, count: int) -> None:
    """Wait until so many records are written down."""
    async with asyncio.timeout(60):
        while await bench.fetch_all("SELECT count(*) FROM booked") != [(count,)]:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("statement", [BREAKS, SHORT], ids=["breaks", "short"])
@pytest.mark.parametrize("kind", ["fused", "batch", "step"])
async def test_only_its_own_key_waits_for_it(database: str, kind: str, statement: LiteralString) -> None:
    """Records before, beside and behind it, and of another partition on the same committer, go on; then it does, too."""
    books = Books(kind, statement)
    async with Bench(books.app, database, settings=settings()) as bench:
        await bench.execute("CREATE TABLE booked (n integer PRIMARY KEY)")
        for n in range(MANY):
            await bench.deliver(books.topic, Order(key=str(n), n=n), partition=n % 2)
        await ended(bench, MANY - 1)
        for n in range(MANY, MANY + 10):
            await bench.deliver(books.topic, Order(key=str(BAD if n == MANY else n), n=n), partition=BAD % 2)
        await ended(bench, MANY - 1 + 9)
        await until_row(bench, f"kafka_offset = {BAD // 2} AND status = 'PENDING' AND kafka_source LIKE '%-1'")
        assert {n for (n,) in await bench.fetch_all("SELECT n FROM booked")} == {*range(MANY + 10)} - {BAD, MANY}
        async with asyncio.timeout(60):
            while not any(f"of workflow orders-1-{BAD // 2}: " in each.error for each in retried(bench)):
                await asyncio.sleep(0.02)

        books.statement = None
        await ended(bench, MANY + 10)
        await bench.settle()
        assert await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter") == [(0,)]


async def test_a_group_whose_connection_breaks_once_runs_again_as_a_whole(database: str) -> None:
    """P23: what the network did is no reason for smaller groups."""
    books = Books("batch", BREAKS)
    async with Bench(books.app, database, settings=settings()) as bench:
        await bench.execute("CREATE TABLE booked (n integer PRIMARY KEY, xid text DEFAULT pg_current_xact_id()::text)")
        for n in range(BAD - 4, BAD + 5):
            await bench.deliver(books.topic, Order(key=str(n), n=n))
        async with asyncio.timeout(60):
            while not retried(bench):
                await asyncio.sleep(0)
        books.statement = None
        await ended(bench, 9)

        groups = await bench.fetch_all("SELECT count(*) FROM booked GROUP BY xid ORDER BY max(n)")
        assert sum(count for (count,) in groups) == 9
        assert len(groups) <= 2, groups  # the first record may have gone before the others came


def settings() -> EngineSettings:
    """One committer for all partitions."""
    return replace(FAST, committers=1, lease=timedelta(seconds=10))


def retried(bench: Bench) -> list[FlushRetried]:
    return [event for event in bench.events if isinstance(event, FlushRetried)]
