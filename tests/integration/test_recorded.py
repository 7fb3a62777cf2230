"""The time, random numbers and identifiers of a workflow are the same in every replay (I4)."""

import asyncio
import uuid
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from processor import App, SyncTransaction, Topic, Transaction, now, random, recv, sleep, sync, uuid4
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import FLUSHES
from tests.integration.talking import at_rest, history
from tests.integration.test_rest import until_status

DAY = timedelta(days=1)


class Order(BaseModel):
    n: int


orders = Topic("orders", Order, key=lambda order: f"{order.n}")
fused = Topic("fused", Order)


async def test_every_replay_gets_the_values_of_the_first_run(database: str) -> None:
    """Gathered ones by the order of their calls, not of their awaits; a day later, and in another process."""
    app = App("values")
    seen: list[tuple[datetime, float, uuid.UUID]] = []

    @app.workflow()
    async def take() -> None:
        calls: tuple[Awaitable[datetime], Awaitable[float], Awaitable[uuid.UUID]] = (now(), random(), uuid4())
        identifier, number, time = await calls[2], await calls[1], await calls[0]
        seen.append((time, number, identifier))
        await sleep(DAY)

    async with Bench(app, database) as bench:
        began = datetime.now(UTC)
        handle = await take.start(id="w")
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)
        await handle.result()

        assert len(seen) == 2
        assert seen[0] == seen[1]
        time, number, identifier = seen[0]
        assert began - timedelta(milliseconds=1) <= time < datetime.now(UTC)
        assert 0 <= number < 1
        assert identifier.version == 4
        assert [row[:2] for row in await history(bench, "w")] == [
            (1, "DBOS.now"),
            (2, "DBOS.random"),
            (3, "DBOS.randomUUID"),
            (4, "DBOS.sleep"),
        ]


@pytest.mark.crash_points(*FLUSHES)
async def test_a_crash_anywhere_gives_no_second_value(database: str, crash_point: CrashPoint | None) -> None:
    """I4, with a source and without: what the workflow returned is what its history has."""
    app = App("values")

    async def values() -> str:
        first = await uuid4()
        await recv()
        return f"{first}"

    @app.workflow()
    async def direct() -> str:
        return await values()

    @app.workflow(on=orders)
    async def by_order(order: Order) -> str:
        del order
        return await values()

    async with Bench(app, database) as bench:
        await direct.start(id="w")
        await bench.deliver(orders, Order(n=1))
        await until_status(bench, "PENDING", 2)
        bench.crash(at=crash_point)
        for workflow_id in ("w", "orders-0-0"):
            await bench.execute(
                "INSERT INTO dbos.notifications (destination_uuid, topic, message) VALUES (%s, '__null__topic__', '1')",
                (workflow_id,),
            )
        await bench.settle()
        await until_status(bench, "SUCCESS", 2)

        agree = await bench.fetch_all(
            "SELECT w.output = o.output FROM dbos.workflow_status AS w JOIN dbos.operation_outputs AS o"
            " ON o.workflow_uuid = w.workflow_uuid AND o.function_id = 1"
        )
        assert agree == [(True,), (True,)]


async def test_sync_workflows_have_the_same(database: str) -> None:
    app = App("values")
    seen: list[tuple[datetime, float, uuid.UUID]] = []

    @app.workflow()
    def take() -> None:
        seen.append((sync.now(), sync.random(), sync.uuid4()))
        sync.sleep(DAY)

    async with Bench(app, database) as bench:
        handle = await take.start(id="w")
        await at_rest(bench)
        await bench.advance(DAY)
        await handle.result()

        assert len(seen) == 2
        assert seen[0] == seen[1]


async def test_elsewhere_they_are_plain(database: str) -> None:
    """Outside, in steps and in handlers that are one transaction: nothing is remembered but the step's result."""
    app = App("values")
    booked: list[float] = []

    @app.step()
    async def step() -> float:
        return await random()

    @app.transaction()
    async def transaction(tx: Transaction) -> float:
        del tx
        return await random()

    @app.workflow()
    async def take() -> list[float]:
        return [await step(), await transaction()]

    @app.transaction(on=fused)
    def book(tx: SyncTransaction, order: Order) -> None:
        del tx, order
        booked.append(sync.random())

    async with Bench(app, database) as bench:
        assert len({await random(), await random()}) == 2
        assert await asyncio.to_thread(sync.uuid4) != await uuid4()
        assert await now() <= await asyncio.to_thread(sync.now)
        handle = await take.start(id="w")
        await handle.result()
        await bench.deliver(fused, Order(n=1))
        await bench.settle()

        assert [row[1] for row in await history(bench, "w")] == ["step", "transaction"]
        assert len(booked) == 1
