"""Fewer records are taken in while the database cannot follow, and what has begun goes on (I10, decision 0036)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from psycopg import AsyncConnection
from pydantic import BaseModel

from engine.brakes import LEAST
from engine.migrations import migrate
from engine.settings import BrakeSettings, EngineSettings
from engine.telemetry import IntakeRestored, IntakeSlowed
from processor import App, Topic
from processor.testing import Bench
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.processes import free_ports
from tests.fixtures.standby import standby
from tests.integration.protocol import PATIENCE_S

LIMIT = 64
SETTINGS = EngineSettings(conninfo="", in_flight_max=LIMIT, scan=timedelta(milliseconds=50))
NEVER = BrakeSettings(commit_max=None)


class Order(BaseModel):
    n: int


orders = Topic("orders", Order, key=lambda order: str(order.n))


class Shop:
    """A handler that waits for a child, and that for a gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self.app = app = App("shop")

        @app.workflow()
        async def pack(n: int) -> int:
            self.begun += 1
            await self.gate.wait()
            return n

        @app.workflow(on=orders)
        async def fulfil(order: Order) -> int:
            return await pack(order.n)


def told(bench: Bench) -> list[tuple[type, str]]:
    return [(type(event), event.reason) for event in bench.events if isinstance(event, IntakeSlowed | IntakeRestored)]


async def looked(bench: Bench, first_s: float, times: int, *, every_s: float = 100.0) -> None:
    """So many looks of the brakes, as if so much time had passed between them."""
    for n in range(times):
        await bench.engine.brakes.look(first_s + n * every_s)


async def test_slow_commits_let_few_records_begin_and_no_workflow_that_one_waits_for(database: str) -> None:
    """Children are of no record: they begin, or a brake would hold up what has begun for good."""
    shop = Shop()
    tight = BrakeSettings(commit_max=timedelta(microseconds=1))
    async with Bench(shop.app, database, settings=replace(SETTINGS, brakes=tight)) as bench:
        await bench.engine.brakes.stop()  # looks come from here
        for n in range(2):
            shop.gate.set()
            await bench.deliver(orders, Order(n=n))
            await bench.settle()
            await looked(bench, n * 100.0, 1)
        assert bench.engine.intake_max == LEAST
        assert told(bench) == [(IntakeSlowed, "commits")]
        assert dict(bench.engine.snapshot().intake) == {"commits": 0.25}

        shop.gate.clear()
        shop.begun = 0
        for n in range(2, 102):
            await bench.deliver(orders, Order(n=n))
        async with asyncio.timeout(PATIENCE_S):
            while shop.begun < LEAST // 2:
                await asyncio.sleep(0.01)
        assert bench.engine.in_flight <= 2 * LEAST
        shop.gate.set()
        await bench.settle()

        await looked(bench, 1000.0, 1)
        await looked(bench, 2000.0, 20)
        assert bench.engine.intake_max == LIMIT
        assert told(bench)[-1] == (IntakeRestored, "commits")
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("SUCCESS",)]


async def test_an_old_snapshot_lets_few_records_begin_until_it_is_gone(database: str) -> None:
    app = App("shop")
    settings = replace(SETTINGS, brakes=replace(NEVER, vacuum_held_max=timedelta(seconds=30)))
    async with Bench(app, database, settings=settings) as bench, await AsyncConnection.connect(database) as other:
        await other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await other.execute("SELECT count(*) FROM dbos.workflow_status")
        await bench.execute("DELETE FROM dbos.workflow_status")
        await looked(bench, 0.0, 3)
        assert told(bench) == [(IntakeSlowed, "vacuum")]
        assert bench.engine.intake_max == LIMIT // 4

        await other.rollback()
        now_s = 1000.0
        async with asyncio.timeout(PATIENCE_S):
            while told(bench)[-1] != (IntakeRestored, "vacuum"):  # a session of its own may be met twice in a row, too
                await looked(bench, now_s, 1)
                now_s += 100.0
        assert bench.engine.intake_max == LIMIT


@pytest.mark.private_postgres
async def test_a_standby_that_lags_lets_few_records_begin_until_it_has_caught_up(
    private_postgres: PostgresServer,
) -> None:
    (port,) = free_ports(1)
    settings = replace(SETTINGS, brakes=replace(NEVER, replica_lag_max=timedelta(milliseconds=200)))
    with standby(private_postgres, port) as behind:
        await asyncio.to_thread(behind.follows, synchronously=False)
        await migrate(private_postgres.dsn())
        async with Bench(App("shop"), private_postgres.dsn(), settings=settings) as bench:
            await bench.engine.brakes.stop()  # looks come from here
            await looked(bench, 0.0, 1)
            assert told(bench) == []
            await asyncio.to_thread(behind.configure, "recovery_min_apply_delay", "1s")
            now_s = await until_told(bench, 100.0, IntakeSlowed)
            assert bench.engine.intake_max < LIMIT

            await asyncio.to_thread(behind.configure, "recovery_min_apply_delay", "0")
            await until_told(bench, now_s, IntakeRestored)
            assert bench.engine.intake_max == LIMIT


async def until_told(bench: Bench, now_s: float, kind: type) -> float:
    """Write WAL, and look, until that is told last of replicas. Returns a time behind those looks."""
    async with asyncio.timeout(PATIENCE_S):
        while told(bench)[-1:] != [(kind, "replicas")]:
            await bench.execute("CREATE TABLE IF NOT EXISTS wal ()")
            await bench.execute("DROP TABLE wal")
            await looked(bench, now_s, 1)
            now_s += 100.0
            await asyncio.sleep(0.05)
    return now_s
