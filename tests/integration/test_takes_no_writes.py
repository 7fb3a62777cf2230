"""A server that takes no writes for a while, as around a failover, wherever that is met (P25): waited for, and nothing is given up."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from engine import hints, sources, transaction_groups
from engine.telemetry import ServiceFailed
from processor import App, HaltPartition, Topic, Transaction
from processor.testing import Bench
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, PATIENCE_S, Order, until, until_row
from tests.integration.test_put_off_in_order import entries, with_a_suspect

KILL: LiteralString = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'"
)


@asynccontextmanager
async def read_only(database: str) -> AsyncGenerator[None]:
    """The database takes no writes within the block."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        named = sql.Identifier(connection.info.dbname)
        await connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(named))
        await connection.execute(KILL)
        yield
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(named))
        await connection.execute(KILL)


def refuses_once(patch: pytest.MonkeyPatch, module: ModuleType, is_meant: Callable[[str], bool]) -> list[str]:
    """The first such statement of a module meets a server that takes no writes. Returns whom it has met."""
    real, met = vars(module)["send"], list[str]()

    async def send(connection: Any, schema: str, statement: Any) -> Any:
        if not met and is_meant(statement.text):
            met.append(statement.text)
            raise psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")
        return await real(connection, schema, statement)

    patch.setattr(module, "send", send)
    return met


async def test_a_suspect_is_not_forgotten(database: str) -> None:
    """P22, I8: it cannot be written that it is alone; it runs when that can be."""
    async with with_a_suspect(database, lease=timedelta(minutes=2)) as (shop, bench):
        shop.held = {100}
        await bench.deliver(entries, Order(key="x", n=100))
        await until(lambda: shop.booked == [100])
        await bench.claim(bench.ref(shop.topic))
        await until(lambda: bench.engine.suspects.is_closed)
        async with read_only(database):
            shop.held.clear()
            await asyncio.sleep(0.5)
        await until(lambda: shop.began.count("first 0") == 2)
        await bench.settle()
        assert await bench.fetch_all("SELECT n FROM entry") == [(100,)]


async def test_a_halt_is_stored(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("shop")
    topic = Topic("orders", Order, key=lambda order: order.key)

    @app.workflow(on=topic, on_failure=HaltPartition())
    async def fulfil(order: Order) -> None:
        raise ValueError(order.n)

    met = refuses_once(monkeypatch, sources, lambda text: "INSERT" in text and ".hold" in text)
    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(topic, Order(key="a", n=0))
        async with asyncio.timeout(PATIENCE_S):
            while not await bench.fetch_all("SELECT FROM dbos.hold WHERE kind = 'halt'"):
                await asyncio.sleep(0.02)
        await until(lambda: bench.engine.sources.halted)
        assert met


async def test_a_lost_commit_of_a_group_is_settled(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P24: each is told what stands, and nothing is sent a second time."""
    app = App("till")
    sales = Topic("sales", Order, key=lambda sale: sale.key)

    @app.transaction()
    async def book(tx: Transaction, n: int) -> None:
        await tx.execute("UPDATE tally SET total = total + 1")

    @app.workflow(on=sales)
    async def sell(sale: Order) -> None:
        await book(sale.n)

    met = refuses_once(
        monkeypatch, transaction_groups, lambda text: "FOR NO KEY UPDATE" in text or "FOR UPDATE" in text
    )
    async with AsyncExitStack() as stack:
        proxy, through = await stack.enter_async_context(losing_proxy(database))
        proxy.marker = b"fence_rows"
        bench = await stack.enter_async_context(
            Bench(app, through, settings=replace(FAST, lease=timedelta(seconds=20)))
        )
        await bench.execute("CREATE TABLE tally AS SELECT 0 AS total")
        await bench.claim(bench.ref(sales))
        proxy.lose_commits = 1
        for n in range(5):
            await bench.deliver(sales, Order(key=str(n), n=n))
        await bench.settle()

        assert met
        assert await bench.fetch_all("SELECT total FROM tally") == [(5,)]
        assert not [event for event in bench.events if isinstance(event, ServiceFailed)]


async def test_hints_are_only_hints(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    met = refuses_once(monkeypatch, hints, lambda text: "notify" in text)
    app = App("shop")

    @app.workflow()
    async def pack() -> None: ...

    async with Bench(app, database, settings=FAST) as bench:
        await bench.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name) VALUES ('given', 'ENQUEUED', 'pack')"
        )
        await bench.engine.hints.flush()
        bench.engine.hints.rows()
        await bench.engine.hints.flush()
        await until(lambda: met)
        assert not bench.engine.failure.done()
        await until_row(bench, "workflow_uuid = 'given'")
