"""Journaled workflows on a real Postgres: what is recorded, replayed, ordered, and what a crash may repeat."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.telemetry import HoldPlaced
from processor import (
    App,
    BlockKey,
    HaltPartition,
    NondeterminismError,
    Ordering,
    Retry,
    StepFailedError,
    TerminalError,
    Topic,
    Transaction,
    current_step,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import RECORDS, STEPS, TRANSACTIONS


class Order(BaseModel):
    order_id: str
    amount: int = 1


NOT_PASSED = {
    CrashPoint.FUSED_CALLED,
    CrashPoint.RELEASED,
    CrashPoint.STARTING,
    CrashPoint.STARTED,
    CrashPoint.TAKEN,
}
"""Crash points that a journaled record does not meet."""

calls: Counter[str] = Counter()
keys_seen: list[str] = []
gate = asyncio.Event


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls.clear()
    keys_seen.clear()


def shop() -> App:
    """An app with a step, a transaction, and a fused handler."""
    app = App("shop")

    @app.step()
    async def charge(order: Order) -> str:
        calls[order.order_id] += 1
        step = current_step()
        assert step is not None
        keys_seen.append(step.idempotency_key)
        return f"receipt-{order.order_id}"

    @app.transaction()
    async def record(tx: Transaction, order: Order, receipt: str) -> None:
        await tx.execute("INSERT INTO sale (order_id, receipt) VALUES (%s, %s)", (order.order_id, receipt))

    @app.workflow(on=Topic("orders", Order, key=lambda order: order.order_id))
    async def fulfil(order: Order) -> str:
        if order.amount < 0:
            raise TerminalError(f"order {order.order_id}: nothing to charge")
        receipt = await charge(order)
        await record(order, receipt)
        return receipt

    return app


def topic_of(app: App, name: str) -> Topic[Order]:
    topic = app.workflows[name].topic
    assert topic is not None
    return topic


async def sales(bench: Bench) -> None:
    await bench.execute(
        "CREATE TABLE IF NOT EXISTS sale (id bigint GENERATED ALWAYS AS IDENTITY, order_id text, receipt text)"
    )


async def test_a_redelivered_order_is_recorded_once(database: str) -> None:
    """I2, I5: the second delivery meets what is known."""
    app = shop()
    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        await sales(bench)

        await bench.deliver(orders, Order(order_id="o-1"), offset=7)
        await bench.deliver(orders, Order(order_id="o-1"), offset=7)
        await bench.settle()

        assert await bench.fetch_all("SELECT order_id, receipt FROM sale") == [("o-1", "receipt-o-1")]
        rows = await bench.fetch_all("SELECT workflow_uuid, status, output, inputs FROM dbos.workflow_status")
        assert rows == [
            ("orders-0-7", "SUCCESS", '"receipt-o-1"', '{"args": [{"order_id":"o-1","amount":1}], "kwargs": {}}')
        ]
        assert await bench.fetch_all(
            "SELECT function_id, function_name, output FROM dbos.operation_outputs ORDER BY 1"
        ) == [(1, "charge", '"receipt-o-1"'), (2, "record", "null")]
        assert calls == {"o-1": 1}


@pytest.mark.crash_points(*RECORDS, *STEPS, *TRANSACTIONS)
async def test_a_crash_anywhere_repeats_at_most_the_step_it_interrupted(
    database: str, crash_point: CrashPoint | None
) -> None:
    """I1, I2, I4, I5: whatever the gap between two durable writes, every sale stands once, in order of its key."""
    app = shop()
    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        await sales(bench)
        await bench.deliver(orders, Order(order_id="before"))
        await bench.settle()
        bench.crash(at=crash_point)

        if crash_point is CrashPoint.CLAIMED:
            await bench.release(bench.ref(orders))
        for n in range(20):
            await bench.deliver(orders, Order(order_id=f"o-{n}"))
        await bench.settle()

        # A process looks into its queues as it starts: perhaps before, perhaps after.
        if crash_point not in (CrashPoint.DEQUEUING, CrashPoint.DEQUEUED):
            assert bench.crashes == (crash_point is not None and crash_point not in NOT_PASSED)
        sold = [row[0] for row in await bench.fetch_all("SELECT order_id FROM sale ORDER BY id")]
        assert sorted(sold) == sorted(["before", *(f"o-{n}" for n in range(20))])
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("SUCCESS",)]
        recorded = await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs")
        assert recorded == [(42,)]
        # A step whose checkpoint was not durable runs again, with the same idempotency key.
        assert len(set(keys_seen)) == 21


async def test_the_crash_of_a_step_repeats_it_under_the_same_idempotency_key(database: str) -> None:
    """I4: at least once until recorded; the key tells the repetition."""
    app = shop()
    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        await sales(bench)
        charge = app.steps["charge"]
        bench.crash(after=charge)

        await bench.deliver(orders, Order(order_id="o-1"))
        await bench.settle()

        assert calls == {"o-1": 2}
        assert set(keys_seen) == {"orders-0-0:1"}
        assert await bench.fetch_all("SELECT count(*) FROM sale") == [(1,)]


async def test_a_failed_record_is_a_dead_letter_and_its_key_goes_on(database: str) -> None:
    """The default policy: ERROR row and dead letter in one commit."""
    app = shop()
    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        await sales(bench)

        await bench.deliver(orders, Order(order_id="o-1", amount=-1))
        await bench.deliver(orders, Order(order_id="o-1", amount=5))
        await bench.deliver(orders, b"{not json", key=b"o-1")
        await bench.settle()

        assert await bench.fetch_all(
            "SELECT workflow_uuid, status FROM dbos.workflow_status ORDER BY kafka_offset"
        ) == [("orders-0-0", "ERROR"), ("orders-0-1", "SUCCESS"), ("orders-0-2", "ERROR")]
        letters = await bench.fetch_all(
            "SELECT workflow_uuid, reason, record_value, record_key FROM dbos.dead_letter ORDER BY kafka_offset"
        )
        assert letters == [
            ("orders-0-0", "failed", b'{"order_id":"o-1","amount":-1}', b"o-1"),
            ("orders-0-2", "undecodable", b"{not json", b"o-1"),
        ]


async def test_records_of_a_key_never_overlap_and_never_overtake(database: str) -> None:
    """I7: over a crash, with steps of very different length."""
    app = App("shop")
    running: set[str] = set()
    done: list[tuple[str, int]] = []

    @app.step()
    async def work(order: Order) -> int:
        assert order.order_id not in running, "two records of a key at once"
        running.add(order.order_id)
        await asyncio.sleep(0.001 * (7 - order.amount % 7))
        running.discard(order.order_id)
        done.append((order.order_id, order.amount))
        return order.amount

    @app.workflow(on=Topic("orders", Order, key=lambda order: order.order_id))
    async def fulfil(order: Order) -> None:
        await work(order)

    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        for n in range(120):
            await bench.deliver(orders, Order(order_id=f"k{n % 5}", amount=n))
        await bench.settle()

        for key in {key for key, _ in done}:
            amounts = [amount for k, amount in done if k == key]
            assert amounts == sorted(amounts)
        assert len(done) == 120


async def test_a_partition_in_order_runs_one_record_at_a_time(database: str) -> None:
    """Ordering.PARTITION: whatever the keys."""
    app = App("shop")
    seen: list[int] = []

    @app.step()
    async def work(order: Order) -> None:
        await asyncio.sleep(0.002 if order.amount % 2 else 0)
        seen.append(order.amount)

    @app.workflow(on=Topic("orders", Order, key=lambda order: order.order_id, ordering=Ordering.PARTITION))
    async def fulfil(order: Order) -> None:
        await work(order)

    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        for n in range(30):
            await bench.deliver(orders, Order(order_id=f"k{n}", amount=n))
        await bench.settle()

        assert seen == list(range(30))


async def test_a_step_is_tried_again_inside_one_checkpoint(database: str) -> None:
    """What is recorded is the final value, or that the tries are used up, with its cause."""
    app = App("shop")

    @app.step(retry=Retry(attempts=3, first_delay=timedelta(milliseconds=1)))
    async def flaky(order: Order) -> int:
        calls[order.order_id] += 1
        if calls[order.order_id] < order.amount:
            raise TimeoutError("slow gateway")
        return calls[order.order_id]

    caught: list[str] = []

    @app.workflow(on=Topic("orders", Order))
    async def fulfil(order: Order) -> int:
        try:
            return await flaky(order)
        except StepFailedError as error:
            caught.append(f"{error.attempts} {type(error.__cause__).__name__}")
            return -1

    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(order_id="ok", amount=3))
        await bench.deliver(orders, Order(order_id="no", amount=9))
        await bench.settle()

        assert await bench.fetch_all("SELECT output FROM dbos.workflow_status ORDER BY kafka_offset") == [
            ("3",),
            ("-1",),
        ]
        assert caught == ["3 TimeoutError"]


async def test_a_workflow_retry_runs_the_failed_step_again_and_keeps_the_others(database: str) -> None:
    """P28: at rest between attempts, also over a crash; recorded successes stand."""
    app = App("shop")

    @app.step()
    async def first(order: Order) -> None:
        calls["first"] += 1

    @app.step()
    async def second(order: Order) -> None:
        calls["second"] += 1
        if calls["second"] < 3:
            raise ConnectionError("away")

    @app.workflow(
        on=Topic("orders", Order, key=lambda order: order.order_id),
        retry=Retry(attempts=5, first_delay=timedelta(hours=1)),
    )
    async def fulfil(order: Order) -> None:
        await first(order)
        await second(order)

    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(order_id="a"))
        await bench.deliver(orders, Order(order_id="a"))
        await bench.settle()
        assert calls == {"first": 1, "second": 1}
        await bench.advance(timedelta(hours=2))
        await bench.settle()
        assert calls == {"first": 1, "second": 2}
        await bench.crash_now()
        await bench.advance(timedelta(hours=3))
        await bench.settle()

        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",), ("SUCCESS",)]
        assert calls == {"first": 2, "second": 4}
        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs WHERE error IS NOT NULL") == [(0,)]


async def test_code_that_no_longer_matches_its_history_fails_by_name(database: str) -> None:
    """A checkpoint is matched by function ID and name."""
    names = ["charge"]
    app = App("shop")

    @app.workflow(on=Topic("orders", Order), retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    async def fulfil(order: Order) -> None:
        await app.run_step(lambda: 1, name=names[0])
        await app.run_step(_fail, name="fail")

    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(order_id="a"))
        await bench.settle()
        names[0] = "reserve"
        await bench.advance(timedelta(hours=2))
        await bench.settle()

        (error,) = await bench.fetch_all("SELECT error::json ->> 'type', error FROM dbos.workflow_status")
        assert error[0] == f"{NondeterminismError.__module__}:NondeterminismError"
        assert "charge" in error[1]
        assert "reserve" in error[1]


async def _fail() -> None:
    raise ConnectionError("always")


async def test_a_blocked_key_parks_its_later_records_until_an_operator_lifts_the_hold(database: str) -> None:
    """BlockKey: in order, over a crash; other keys go on."""
    app = App("shop")
    done: list[str] = []

    @app.step()
    async def work(order: Order) -> None:
        if order.amount < 0:
            raise TerminalError("broken")
        done.append(f"{order.order_id}{order.amount}")

    @app.workflow(on=Topic("orders", Order, key=lambda order: order.order_id), on_failure=BlockKey())
    async def fulfil(order: Order) -> None:
        await work(order)

    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        for amount in (1, -1, 2, 3):
            await bench.deliver(orders, Order(order_id="a", amount=amount))
        await bench.deliver(orders, Order(order_id="b", amount=4))
        await bench.settle()
        assert done == ["a1", "b4"]
        await bench.crash_now()
        await bench.settle()
        assert done == ["a1", "b4"]

        await bench.execute("DELETE FROM dbos.hold")
        await _until(lambda: len(done) == 4)
        await bench.settle()

        assert done == ["a1", "b4", "a2", "a3"]


async def test_a_halted_partition_stops_and_goes_on_when_the_hold_is_lifted(database: str) -> None:
    """HaltPartition: the record that failed is a dead letter, nothing after it runs."""
    app = App("shop")
    done: list[int] = []

    @app.step()
    async def work(order: Order) -> None:
        if order.amount < 0:
            raise TerminalError("broken")
        done.append(order.amount)

    @app.workflow(
        on=Topic("orders", Order, key=lambda order: order.order_id, ordering=Ordering.PARTITION),
        on_failure=HaltPartition(),
    )
    async def fulfil(order: Order) -> None:
        await work(order)

    orders = topic_of(app, "fulfil")
    async with Bench(app, database) as bench:
        for amount in (1, -1, 2, 3):
            await bench.deliver(orders, Order(order_id="a", amount=amount))
        await _until(lambda: bench.ref(orders) in bench.engine.sources.halted)
        assert done == [1]
        assert await bench.fetch_all("SELECT kind FROM dbos.hold") == [("halt",)]
        told = [(event.kind, event.workflow_id) for event in bench.events if isinstance(event, HoldPlaced)]
        assert told == [("halt", "orders-0-1")], "one hold is one line, and counts once"

        await bench.execute("DELETE FROM dbos.hold")
        await _until(lambda: len(done) == 3)

        assert done == [1, 2, 3]


async def _until(condition: object, within: float = 60.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)
