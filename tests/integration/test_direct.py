"""Workflows without a source on a real Postgres: started by calls, durable from the start, one for each ID."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from processor import (
    App,
    ConfigurationError,
    EngineStoppedError,
    Retry,
    TerminalError,
    Topic,
    Transaction,
    WorkflowConflictError,
    WorkflowNotFoundError,
    WorkflowStatus,
    current_step,
    workflow_id,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import STARTS, STEPS, TRANSACTIONS


class Order(BaseModel):
    order_id: str
    amount: int = 1


orders = Topic("orders", Order, key=lambda order: order.order_id)


class Shop:
    """An app with a step, a transaction and three workflows."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.calls: Counter[str] = Counter()
        self.keys: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

        @app.step()
        async def charge(order: Order) -> str:
            self.calls[order.order_id] += 1
            self.keys.append(current_step().idempotency_key)
            if (gate := self.gates.get(order.order_id)) is not None:
                await gate.wait()
            return f"receipt-{order.order_id}"

        @app.transaction()
        async def record(tx: Transaction, order: Order, receipt: str) -> None:
            await tx.execute("INSERT INTO sale (order_id, receipt) VALUES (%s, %s)", (order.order_id, receipt))

        @app.workflow(on=orders)
        async def fulfil(order: Order) -> str:
            if order.amount < 0:
                raise TerminalError(f"order {order.order_id}: nothing to charge")
            receipt = await charge(order)
            await record(order, receipt)
            return receipt

        @app.workflow()
        async def add(a: int, b: int = 2, *, note: str = "") -> str:
            return f"{a + b}{note}"

        @app.step()
        def double(n: int) -> int:
            self.calls["double"] += 1
            return n * 2

        @app.workflow()
        def quadruple(n: int) -> int:
            return double(double(n))

        self.charge, self.record, self.fulfil, self.add, self.quadruple = charge, record, fulfil, add, quadruple


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def sales(bench: Bench) -> None:
    await bench.execute(
        "CREATE TABLE IF NOT EXISTS sale (id bigint GENERATED ALWAYS AS IDENTITY, order_id text, receipt text)"
    )


async def test_a_started_workflow_has_its_row_before_start_returns_and_then_its_result(
    database: str, shop: Shop
) -> None:
    """P29: the row is durable, ours, and says what was asked for."""
    async with Bench(shop.app, database) as bench:
        await sales(bench)
        shop.gates["o-1"] = asyncio.Event()

        handle = await shop.fulfil.start(Order(order_id="o-1"), id="first")
        rows = await bench.fetch_all(
            "SELECT workflow_uuid, status, name, inputs, executor_id, owner_xid IS NOT NULL FROM dbos.workflow_status"
        )
        shop.gates["o-1"].set()
        result = await handle.result()

        inputs = '{"args": [{"order_id":"o-1","amount":1}], "kwargs": {}}'
        assert rows == [("first", "PENDING", "fulfil", inputs, bench.engine.executor_id, True)]
        assert result == "receipt-o-1"
        assert await bench.fetch_all("SELECT order_id, receipt FROM sale") == [("o-1", "receipt-o-1")]
        info = await handle.status()
        assert (info.status, info.output, info.source) == (WorkflowStatus.SUCCESS, '"receipt-o-1"', None)
        assert [(step.function_id, step.name, step.output) for step in await handle.steps()] == [
            (1, "charge", '"receipt-o-1"'),
            (2, "record", "null"),
        ]


async def test_the_same_id_is_the_first_run(database: str, shop: Shop) -> None:
    """The ID is the idempotency key: one run, its handle and result for everybody."""
    async with Bench(shop.app, database) as bench:
        await sales(bench)

        handles = await asyncio.gather(*(shop.fulfil.start(Order(order_id="o-1"), id="once") for _ in range(20)))
        results = await asyncio.gather(*(handle.result() for handle in handles))
        again = await (await shop.fulfil.start(Order(order_id="o-1"), id="once")).result()

        assert {*results, again} == {"receipt-o-1"}
        assert shop.calls == {"o-1": 1}
        assert await bench.fetch_all("SELECT count(*) FROM sale") == [(1,)]


async def test_an_id_of_another_workflow_or_with_other_inputs_is_refused(database: str, shop: Shop) -> None:
    """Never somebody else's result: the error names the workflow that stands, and nothing is started."""
    async with Bench(shop.app, database) as bench:
        await (await shop.add.start(1, id="taken")).result()

        with pytest.raises(WorkflowConflictError, match=r"taken stands already, and it has other inputs"):
            await shop.add.start(2, id="taken")
        with pytest.raises(WorkflowConflictError, match=r"it is a 'add', this is a 'quadruple'"):
            await shop.quadruple.start(1, id="taken")

        assert await bench.fetch_all("SELECT workflow_uuid, output FROM dbos.workflow_status") == [("taken", '"3"')]


async def test_a_call_starts_and_waits_under_the_id_it_is_given(database: str, shop: Shop) -> None:
    """Calling a workflow from outside is a durable start; `workflow_id` names the next one only."""
    async with Bench(shop.app, database) as bench:
        with workflow_id("named"):
            first = await shop.add(1, b=5, note="!")
            second = await shop.add(1)
        with workflow_id("named"):
            again = await shop.add(1, b=5, note="!")

        assert (first, second, again) == ("6!", "3", "6!")
        rows = await bench.fetch_all("SELECT workflow_uuid, inputs FROM dbos.workflow_status ORDER BY created_at")
        assert rows[0] == ("named", '{"args": [1], "kwargs": {"b": 5, "note": "!"}}')
        assert len(rows) == 2


async def test_sync_workflows_are_started_from_threads_and_from_the_loop(database: str, shop: Shop) -> None:
    """Everything exists async and sync: the same row, the same history."""
    async with Bench(shop.app, database) as bench:
        from_loop = await (await shop.quadruple.start(3)).result()
        from_thread = await asyncio.to_thread(lambda: shop.quadruple.start_sync(4, id="t").result())
        called = await asyncio.to_thread(shop.quadruple, 5)

        assert (from_loop, from_thread, called) == (12, 16, 20)
        assert await bench.fetch_all(
            "SELECT function_id, function_name, output FROM dbos.operation_outputs WHERE workflow_uuid = 't'"
        ) == [(1, "double", "8"), (2, "double", "16")]
        with pytest.raises(ConfigurationError, match=r"event loop, which it would block"):
            shop.quadruple(1)


async def test_arguments_that_are_none_of_the_workflow_are_refused_at_the_call(database: str, shop: Shop) -> None:
    """Bad input names the workflow and the argument, and starts nothing."""
    untyped: Any = shop.add
    async with Bench(shop.app, database) as bench:
        with pytest.raises(TypeError, match=r"workflow 'add': missing a required argument: 'a'"):
            await untyped.start()
        with pytest.raises(TypeError, match=r"workflow 'add': argument a is no int"):
            await untyped.start("1")
        with pytest.raises(ConfigurationError, match=r"1 to 512 characters"):
            await untyped.start(1, id="")
        with pytest.raises(ConfigurationError, match=r"longer than nothing"):
            await untyped.start(1, timeout=timedelta(0))

        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status") == [(0,)]


async def test_a_failed_workflow_gives_its_error_to_whoever_asks(database: str, shop: Shop) -> None:
    """An uncaught error ends it in ERROR; there is no record to bury."""
    async with Bench(shop.app, database) as bench:
        handle = await shop.fulfil.start(Order(order_id="o-1", amount=-1))

        with pytest.raises(TerminalError, match=r"order o-1: nothing to charge"):
            await handle.result()

        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("ERROR",)]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter") == [(0,)]
        with pytest.raises(WorkflowNotFoundError, match=r"there is no workflow 'nobody'"):
            await shop.app.retrieve("nobody").result()


async def test_an_app_that_does_not_run_says_so(shop: Shop) -> None:
    """Nothing is silently not durable."""
    with pytest.raises(ConfigurationError, match=r"app 'shop' does not run in this process"):
        await shop.add.start(1)
    with pytest.raises(ConfigurationError, match=r"app 'shop' does not run in this process"):
        await shop.add(1)
    assert await shop.add.fn(1) == "3"


async def test_whoever_waits_when_the_app_stops_is_told_so(database: str, shop: Shop) -> None:
    """Not a cancellation of the caller's own: the workflow goes on when its code runs again, under the same ID."""
    async with Bench(shop.app, database) as bench:
        await sales(bench)
        shop.gates["o-1"] = asyncio.Event()
        handle = await shop.fulfil.start(Order(order_id="o-1"), id="w")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.2, shop.gates["o-1"].set)

    with pytest.raises(EngineStoppedError, match=r"does not run in this process"):
        await waiting
    async with Bench(shop.app, database):
        assert await shop.fulfil.retrieve("w").result() == "receipt-o-1"


@pytest.mark.crash_points(*STARTS, *STEPS, *TRANSACTIONS)
async def test_a_crash_anywhere_repeats_at_most_the_step_it_interrupted(
    database: str, shop: Shop, crash_point: CrashPoint | None
) -> None:
    """I2, I4, I5, P29: whatever the gap between two durable writes, what was started ends once, under its ID."""
    async with Bench(shop.app, database) as bench:
        await sales(bench)
        bench.crash(at=crash_point)
        ids = [f"w-{n}" for n in range(20)]

        async def started(n: int) -> None:
            # As a caller whose process died would: again, with the same ID.
            while True:
                try:
                    await shop.fulfil.start(Order(order_id=f"o-{n}"), id=ids[n])
                except BaseException:  # noqa: BLE001  # the crash, or nobody running
                    await bench.settle()
                else:
                    return

        for n in range(20):
            await started(n)
        await bench.settle()

        sold = sorted(row[0] for row in await bench.fetch_all("SELECT order_id FROM sale"))
        assert sold == sorted(f"o-{n}" for n in range(20))
        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", 20)
        ]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs") == [(40,)]
        assert set(shop.keys) == {f"w-{n}:1" for n in range(20)}
        never = (
            CrashPoint.CLAIMED,
            CrashPoint.DELIVERED,
            CrashPoint.FUSED_CALLED,
            CrashPoint.RELEASED,
            CrashPoint.TAKEN,
        )
        # A process looks into its queues as it starts: perhaps before, perhaps after.
        if crash_point not in (CrashPoint.DEQUEUING, CrashPoint.DEQUEUED):
            assert bench.crashes == (crash_point is not None and crash_point not in never)


async def test_a_workflows_own_retry_rests_and_goes_on_with_the_failed_step(database: str) -> None:
    """P28, without a source: failed steps are forgotten in the commit that takes the row for its next attempt."""
    app = App("shop")
    calls: Counter[str] = Counter()

    @app.step()
    async def first() -> str:
        calls["first"] += 1
        return "one"

    @app.step()
    async def second() -> str:
        calls["second"] += 1
        if calls["second"] < 3:
            raise ConnectionError("away")
        return "two"

    @app.workflow(retry=Retry(attempts=5, first_delay=timedelta(hours=1)))
    async def both() -> str:
        return await first() + await second()

    async with Bench(app, database) as bench:
        handle = await both.start()
        for _ in range(2):
            await bench.settle()
            assert (await handle.status()).status is WorkflowStatus.PENDING
            await bench.advance(timedelta(hours=3))
        await bench.settle()

        assert await handle.result() == "onetwo"
        assert calls == {"first": 1, "second": 3}
