"""Two executors on one database: who may run, who may write, what is handed over (I4, I6, I7; P2 to P16)."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.settings import EngineSettings
from engine.telemetry import (
    ExecutorBuried,
    ExecutorLost,
    ExecutorStarted,
    FlushRetried,
    HandedOver,
    LateResultRefused,
    SourceDropped,
    SourceReleased,
)
from processor import App, Topic
from processor.testing import Bench

PATIENCE_S = 60
"""Longest a test waits for what must come."""


class Order(BaseModel):
    key: str
    n: int


class Shop:
    """An app whose first step can be held open, and that writes down what ran where."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.topic = Topic("orders", Order, key=lambda order: order.key)
        self.gate = asyncio.Event()
        self.gate.set()
        self.began: list[str] = []
        self.ended: list[str] = []
        self.calls: Counter[str] = Counter()

        @self.app.step()
        async def first(order: Order) -> int:
            name = f"{order.key}{order.n}"
            self.began.append(name)
            self.calls[f"first {name}"] += 1
            await self.gate.wait()
            self.ended.append(name)
            return order.n

        @self.app.step()
        async def second(order: Order) -> None:
            self.calls[f"second {order.key}{order.n}"] += 1

        @self.app.workflow(on=self.topic)
        async def fulfil(order: Order) -> None:
            await first(order)
            await second(order)


FAST = EngineSettings(
    conninfo="", lease=timedelta(seconds=3), heartbeat=timedelta(seconds=0.5), scan=timedelta(milliseconds=50)
)


@asynccontextmanager
async def two(database: str, shop: Shop) -> AsyncGenerator[tuple[Bench, Bench]]:
    async with (
        Bench(shop.app, database, executor="one", settings=FAST) as one,
        Bench(shop.app, database, executor="two", settings=FAST, beside=one) as other,
    ):
        yield one, other
        shop.gate.set()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def seen(bench: Bench, kind: type) -> list[object]:
    return [event for event in bench.events if isinstance(event, kind)]


async def statuses(bench: Bench) -> list[tuple[object, ...]]:
    return await bench.fetch_all("SELECT kafka_offset, status FROM dbos.workflow_status ORDER BY 1")


async def test_a_released_partition_goes_on_at_the_next_owner(database: str) -> None:
    """P11: released in one flush, claimed without waiting for a lease."""
    shop = Shop()
    async with two(database, shop) as (one, other):
        for n in range(50):
            await one.deliver(shop.topic, Order(key=f"k{n % 7}", n=n))
        await one.release(one.ref(shop.topic))
        await other.claim(other.ref(shop.topic))
        await other.settle()

        assert await statuses(other) == [(n, "SUCCESS") for n in range(50)]
        assert all(count == 1 for count in shop.calls.values())
        assert seen(one, SourceReleased)


async def test_a_step_that_ends_after_its_partition_moved_is_recorded_and_handed_over(database: str) -> None:
    """P12, I4, I7: the running step ends at the old owner, the next step runs at the new one, the key waits."""
    shop = Shop()
    async with two(database, shop) as (one, other):
        shop.gate.clear()
        await one.deliver(shop.topic, Order(key="a", n=0))
        await one.deliver(shop.topic, Order(key="a", n=1))
        await until(lambda: shop.began == ["a0"])
        await one.release(one.ref(shop.topic))
        await other.claim(other.ref(shop.topic))
        await other.deliver(shop.topic, Order(key="b", n=2))
        shop_b = asyncio.create_task(until(lambda: "b2" in shop.began))
        await shop_b
        assert "a1" not in shop.began, "the key is held while the late run has not ended"
        shop.gate.set()
        await one.engine.late.all_ended(PATIENCE_S)
        await other.settle()

        assert shop.calls["first a0"] == 1
        assert shop.calls["second a0"] == 1
        assert [name for name in shop.began if name.startswith("a")] == ["a0", "a1"]
        assert await statuses(other) == [(0, "SUCCESS"), (1, "SUCCESS"), (2, "SUCCESS")]
        assert seen(one, HandedOver)


async def test_a_keys_open_workflows_are_never_split_over_two_executors(database: str) -> None:
    """I7, P12, P15: while it moves to and fro, with a step under way at each move, one owner at most has rows of a key.

    Both may have rows at the same time: of different keys.
    """
    shop = Shop()
    owners = """SELECT kafka_key, array_agg(DISTINCT executor_id)
                  FROM dbos.workflow_status WHERE status = 'PENDING' AND owner_xid IS NOT NULL GROUP BY 1"""
    split: list[object] = []
    both = False
    ended = asyncio.Event()
    async with two(database, shop) as (one, other):

        async def watch() -> None:
            nonlocal both
            while not ended.is_set():
                rows = await one.fetch_all(owners)
                split.extend(row for row in rows if len(row[1]) > 1)
                both = both or len({executor for _, executors in rows for executor in executors}) > 1
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        for turn in range(4):
            here, there = (one, other) if turn % 2 == 0 else (other, one)
            shop.gate.clear()
            before = len(shop.began)
            for n in range(6):
                # A key of this turn, whose step is under way at the move, and one of all turns, which follows.
                await here.deliver(shop.topic, Order(key=f"turn{turn}-" if n < 2 else "all-", n=10 * turn + n))
            await until(lambda before=before: len(shop.began) > before)
            await asyncio.sleep(0.1)  # rows are persisted at persist_after
            await here.release(here.ref(shop.topic))
            await there.claim(there.ref(shop.topic))
            await there.deliver(shop.topic, Order(key=f"new{turn}-", n=10 * turn + 9))
            await until(lambda turn=turn: f"new{turn}-{10 * turn + 9}" in shop.began)
            await asyncio.sleep(0.1)
            shop.gate.set()
            await here.engine.late.all_ended(5)
            await there.settle()
        ended.set()
        await watching

        assert both, "rows of both at one moment: else this shows nothing"
        assert split == []
        assert [name for name in shop.began if name.startswith("all-")] == [
            f"all-{10 * turn + n}" for turn in range(4) for n in range(2, 6)
        ]
        assert {status for _, status in await statuses(other)} == {"SUCCESS"}


async def test_a_partition_that_comes_back_waits_for_its_own_late_run(database: str) -> None:
    """P13: there is no second run of the key beside the late one."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.gate.clear()
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await until(lambda: shop.began == ["a0"])
        ref = bench.ref(shop.topic)
        await bench.release(ref)
        await bench.claim(ref)
        await asyncio.sleep(0.3)
        assert shop.began == ["a0"]
        shop.gate.set()
        await bench.settle()

        assert shop.began == ["a0", "a1"]
        assert shop.calls["first a0"] == 1
        assert await statuses(bench) == [(0, "SUCCESS"), (1, "SUCCESS")]


async def test_a_dead_executors_partition_is_taken_over_after_its_lease(database: str) -> None:
    """P2, I8: its counter stands still for a lease of the observer's clock; its open rows are run on."""
    shop = Shop()
    async with two(database, shop) as (one, other):
        for n in range(10):
            await one.deliver(shop.topic, Order(key="a", n=n))
        await one.settle()
        shop.gate.clear()
        await one.deliver(shop.topic, Order(key="a", n=10))
        await one.deliver(shop.topic, Order(key="b", n=11))
        await until(lambda: "b11" in shop.began)
        await asyncio.sleep(0.1)  # both rows are persisted at persist_after
        await one.engine.abort()
        shop.gate.set()
        await other.claim(other.ref(shop.topic))
        await other.settle()

        assert await statuses(other) == [(n, "SUCCESS") for n in range(12)]
        assert shop.calls["second a10"] == 1
        assert seen(other, ExecutorBuried)


async def test_a_zombie_changes_nothing_when_it_wakes(database: str) -> None:
    """I6, P1, P2: its heartbeats stopped, its partition moved; what it still has in flight is refused, then it registers anew."""
    shop = Shop()
    async with two(database, shop) as (one, other):
        shop.gate.clear()
        await one.deliver(shop.topic, Order(key="a", n=0))
        await until(lambda: shop.began == ["a0"])
        one.engine.lease.is_held_back = True
        await until(lambda: not one.engine.lease.is_valid())
        await until(lambda: seen(other, ExecutorBuried))
        await other.claim(other.ref(shop.topic))
        await until(lambda: shop.began == ["a0", "a0"])
        shop.gate.set()
        await other.settle()
        assert await statuses(other) == [(0, "SUCCESS")]
        first = one.engine.executor_id
        one.engine.lease.is_held_back = False
        await until(lambda: len(seen(one, ExecutorStarted)) == 2)

        assert seen(one, ExecutorLost)
        assert one.engine.executor_id != first
        # The step that ran at both is the zombie's own, begun before its lease ended; nothing later ran there.
        assert shop.calls["first a0"] == 2
        assert shop.calls["second a0"] == 1


async def test_a_process_that_ends_while_it_registers_anew_leaves_no_executor_alive(database: str) -> None:
    """P2, P11: nobody would wait a lease for it, or claim in its name, and its heartbeats end with it."""
    shop = Shop()
    for _ in range(5):
        async with Bench(shop.app, database, settings=FAST) as bench:
            engine, first = bench.engine, bench.engine.executor_id
            engine.died("as if marked dead")
            while engine.executor_id == first:
                await asyncio.sleep(0)

            await engine.stop(timedelta(seconds=5))

            assert await bench.fetch_all("SELECT executor_id FROM dbos.executor WHERE died_at IS NULL") == []
            assert [thread for thread in threading.enumerate() if thread.name == "lease"] == []


async def test_a_live_owner_answers_a_request_by_releasing(database: str) -> None:
    """P9: a claimer with a newer generation asks, the owner gives way; no lease passes."""
    shop = Shop()
    async with two(database, shop) as (one, other):
        await one.deliver(shop.topic, Order(key="a", n=0))
        await one.settle()
        ref = one.ref(shop.topic)

        claimed = await _claim_as(other, ref, generation=2)

        assert claimed
        assert not seen(other, ExecutorBuried)
        assert seen(one, SourceReleased)


async def _claim_as(bench: Bench, ref: object, generation: int) -> bool:
    from engine.ids import SourceRef
    from engine.sources import Busy

    assert isinstance(ref, SourceRef)
    async with asyncio.timeout(PATIENCE_S):
        while isinstance(claimed := await bench.engine.sources.claim(ref, generation=generation), Busy):
            await asyncio.sleep(0.05)
    await claimed.open(bench)
    return True


async def test_a_fenced_partition_in_a_flush_of_several_is_dropped_alone(database: str) -> None:
    """P6: the others' work is sent again at once and commits."""
    shop = Shop()
    # Neither a row that is persisted meanwhile nor a heartbeat meets the fence first: the four checkpoints do, in one flush.
    settings = EngineSettings(
        conninfo="",
        committers=1,
        persist_after=timedelta(hours=1),
        lease=timedelta(minutes=30),
        heartbeat=timedelta(minutes=10),
        scan=timedelta(milliseconds=50),
    )
    async with Bench(shop.app, database, settings=settings) as bench:
        for partition in range(4):
            await bench.deliver(shop.topic, Order(key="a", n=partition), partition=partition)
        await bench.settle()
        shop.gate.clear()
        for partition in range(4):
            await bench.deliver(shop.topic, Order(key="a", n=10 + partition), partition=partition)
        await until(lambda: len(shop.began) == 8)
        await bench.execute("UPDATE dbos.event_dispatch_kv SET update_seq = update_seq + 1 WHERE key = 'orders-2'")

        shop.gate.set()
        await bench.settle()

        fenced = [event.error for event in bench.events if isinstance(event, FlushRetried) and event.reason == "fenced"]
        assert len(fenced) == 1
        assert "1 of 4 partitions are no longer ours" in fenced[0]
        dropped = [event for event in bench.events if isinstance(event, SourceDropped)]
        assert [event.source.partition for event in dropped] == [2]
        counts = await bench.fetch_all(
            "SELECT count(*), count(*) FILTER (WHERE status = 'SUCCESS') FROM dbos.workflow_status"
        )
        assert counts == [(8, 8)]


async def test_a_workflow_cancelled_while_a_step_runs_begins_nothing_more(database: str) -> None:
    """P7: the cancel is noticed at the next checkpoint; nothing of it is written, and its key goes on."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.gate.clear()
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await until(lambda: shop.began == ["a0"])
        async with asyncio.timeout(PATIENCE_S):
            while not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE workflow_uuid = 'orders-0-0'"):
                await asyncio.sleep(0.01)
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'orders-0-0'")
        shop.gate.set()
        await bench.settle()

        assert await statuses(bench) == [(0, "CANCELLED"), (1, "SUCCESS")]
        assert "second a0" not in shop.calls
        assert await bench.fetch_all(
            "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'orders-0-0'"
        ) == [(0,)]
        assert seen(bench, LateResultRefused)


async def test_an_operators_retry_is_found_and_run_behind_what_was_open(database: str) -> None:
    """P18: a dead letter put back to work, at its new place, by the owner of its partition."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, b"{}", key=b"a")
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await bench.settle()
        assert await statuses(bench) == [(0, "ERROR"), (1, "SUCCESS")]
        await bench.execute(
            """UPDATE dbos.workflow_status
                  SET status = 'PENDING', error = NULL, kafka_place = 2, request = replace(request, ', "encoding": "base64"', ''),
                      inputs = '{"args": [{"key":"a","n":0}], "kwargs": {}}'
                WHERE workflow_uuid = 'orders-0-0'"""
        )
        await until(lambda: "a0" in shop.ended)
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS"), (1, "SUCCESS")]


@pytest.mark.parametrize("unit", [1, 3])
async def test_open_rows_of_many_keys_keep_their_order_over_a_takeover(database: str, unit: int) -> None:
    """I7, P8, P15: parked and running rows below and above progress, taken over from a dead owner."""
    shop = Shop()
    async with two(database, shop) as (one, other):
        shop.gate.clear()
        for n in range(40):
            await one.deliver(shop.topic, Order(key=f"k{n % unit}", n=n))
        await until(lambda: len(shop.began) == unit)
        await asyncio.sleep(0.1)
        for n in range(40, 60):
            await one.deliver(shop.topic, Order(key=f"k{n % unit}", n=n))
        await one.engine.abort()
        shop.gate.set()
        shop.began.clear()
        shop.ended.clear()
        await other.claim(other.ref(shop.topic))
        await other.settle()

        for k in range(unit):
            mine = [name for name in shop.began if name.startswith(f"k{k}")]
            assert mine == [f"k{k}{n}" for n in range(60) if n % unit == k]
        assert await statuses(other) == [(n, "SUCCESS") for n in range(60)]
