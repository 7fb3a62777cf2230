"""Rows written before anybody looked into their records, under `order_by=`: after a death (P21, I7, I8)."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from engine.ids import ordering_key
from engine.raw_rows import RawRows
from processor import BlockKey, FailurePolicy, Retry, Topic
from processor.testing import Bench
from tests.integration.protocol import LAZY, Order, Shop, statuses, until, until_row

HOUR = timedelta(hours=1)

FEW = replace(LAZY, in_flight_max=4, persist_after=timedelta(seconds=2))
"""As many records are raw after a death; what waits has a row in a while."""


def shop_of(*, retry: Retry | None = None, policy: FailurePolicy | None = None) -> Shop:
    """Its key lies in the event."""
    return Shop(Topic("orders", Order, order_by=lambda order: order.key), retry=retry, policy=policy)


async def blocked_before_a_death(bench: Bench, shop: Shop) -> None:
    """Key a is blocked by record 0; record 1 is another key's, and all that has a row of those behind it."""
    shop.fails["first 0"] = 1
    await bench.deliver(shop.topic, Order(key="a", n=0))
    await bench.settle()
    shop.shut = {"second 1"}
    for n, key in ((1, "b"), (2, "a"), (3, "c"), (4, "a")):
        await bench.deliver(shop.topic, Order(key=key, n=n))
    await until(lambda: "second 1" in shop.began)
    await bench.crash_now()
    shop.shut.clear()


async def test_a_raw_row_of_a_blocked_key_waits_and_the_partition_goes_on(database: str) -> None:
    """I8: its key is written once it is known; nobody else's records wait for the operator."""
    shop = shop_of(policy=BlockKey())
    async with Bench(shop.app, database, settings=FEW) as bench:
        await blocked_before_a_death(bench, shop)
        await until(lambda: "second 3" in shop.ended)
        for n, key in ((5, "d"), (6, "a"), (7, "d"), (8, "d")):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until(lambda: "second 8" in shop.ended)
        await until_row(bench, f"kafka_offset = 2 AND kafka_key = {ordering_key(b'a')} AND owner_xid IS NULL")
        assert not {2, 4, 6} & set(shop.begun("first"))

        await bench.execute("DELETE FROM dbos.hold")
        await until(lambda: "second 6" in shop.ended)
        await bench.settle()

        assert [n for n in shop.begun("first") if n in (2, 4, 6)] == [2, 4, 6]


@pytest.mark.parametrize("end", ["a crash", "a release"])
async def test_a_key_that_was_written_later_keeps_its_order_at_the_next_claim(database: str, end: str) -> None:
    """I7: what came behind the raw row has a row with its key by now, and does not begin before it."""
    shop = shop_of(policy=BlockKey())
    async with Bench(shop.app, database, settings=FEW) as bench:
        await blocked_before_a_death(bench, shop)
        for n, key in ((5, "a"), (6, "d"), (7, "a"), (8, "d")):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until(lambda: "second 8" in shop.ended)
        await until_row(bench, "kafka_offset = 7")
        if end == "a crash":
            await bench.crash_now()
        else:
            await bench.release(bench.ref(shop.topic))
            await bench.claim(bench.ref(shop.topic))
        await bench.settle()

        await bench.execute("DELETE FROM dbos.hold")
        await until(lambda: "second 7" in shop.ended)
        await bench.settle()

        assert [n for n in shop.begun("first") if n in (2, 4, 5, 7)] == [2, 4, 5, 7]
        assert {status for n, status in await statuses(bench) if n} == {"SUCCESS"}


async def test_raw_rows_that_rest_until_another_attempt_hold_up_nobody_and_keep_their_order(database: str) -> None:
    """I7, I8, P28: the first of a key fails and rests for an hour; the next of the key waits, all others go on."""
    shop = shop_of(retry=Retry(attempts=2, first_delay=HOUR))
    async with Bench(shop.app, database, settings=FEW) as bench:
        shop.shut = {"second 0", "first 1"}
        for n, key in enumerate("zaab"):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until(lambda: {"second 0", "first 1"} <= set(shop.began))
        await bench.crash_now()
        shop.fails["first 1"] = 1
        shop.began.clear()
        shop.shut.clear()
        await until(lambda: "second 3" in shop.ended)
        for n, key in ((4, "b"), (5, "b"), (6, "b"), (7, "a")):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until(lambda: "second 6" in shop.ended)
        await bench.settle()
        before = [n for n in shop.begun("first") if n in (1, 2, 7)]
        await bench.advance(2 * HOUR)
        await until(lambda: "second 7" in shop.ended)
        await bench.settle()

        assert before == [1]
        assert [n for n in shop.begun("first") if n in (1, 2, 7)] == [1, 1, 2, 7]


async def test_a_raw_row_whose_step_takes_long_holds_up_its_key_alone(database: str) -> None:
    """I8: its key is known and written as soon as it is decoded."""
    shop = shop_of()
    async with Bench(shop.app, database, settings=FEW) as bench:
        shop.shut = {"second 0", "first 1"}
        for n, key in enumerate("zazz"):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until(lambda: "second 0" in shop.began)
        await bench.crash_now()
        await until(lambda: shop.began.count("first 1") == 2)
        shop.shut.discard("second 0")
        for n, key in ((4, "b"), (5, "b"), (6, "a")):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until(lambda: "second 5" in shop.ended)
        await asyncio.sleep(0.2)
        assert "first 6" not in shop.began
        shop.shut.clear()
        await bench.settle()

        assert {status for _, status in await statuses(bench)} == {"SUCCESS"}


async def test_a_raw_row_that_is_cancelled_while_it_waits_lets_its_key_go_on(database: str) -> None:
    """P7, P18: whatever became of it is read under the fence."""
    shop = shop_of(policy=BlockKey())
    async with Bench(shop.app, database, settings=FEW) as bench:
        await blocked_before_a_death(bench, shop)
        await until(lambda: "second 3" in shop.ended)
        await until_row(bench, "kafka_offset = 2 AND owner_xid IS NULL")
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE kafka_offset = 2")
        await bench.execute("DELETE FROM dbos.hold")
        await until(lambda: "second 4" in shop.ended)
        await bench.settle()

        assert "first 2" not in shop.began


async def test_a_suspect_that_fails_before_its_key_is_written_keeps_its_place(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7, P22: it ran at once, alone, and rests; what came behind it has a row with the key they share."""
    may_store = asyncio.Event()
    store = RawRows._store  # pyright: ignore[reportPrivateUsage]  # the moment between two commits

    async def later(self: RawRows, decoded: Any) -> set[str]:
        await may_store.wait()
        return await store(self, decoded)

    monkeypatch.setattr(RawRows, "_store", later)
    shop = shop_of(retry=Retry(attempts=2, first_delay=HOUR))
    async with Bench(shop.app, database, settings=FEW) as bench:
        shop.shut = {"first 0"}
        for n in range(2):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await until(lambda: "first 0" in shop.began)
        await bench.crash_now()
        for deaths in range(2):
            await until_row(
                bench, f"kafka_offset = 0 AND owner_xid IS NOT NULL AND COALESCE(recovery_attempts, 0) = {deaths}"
            )
            if deaths:
                shop.shut.clear()
                shop.fails["first 0"] = 1
            await bench.crash_now()
        await until_row(bench, "kafka_offset = 0 AND kafka_wake_at IS NOT NULL")
        may_store.set()
        await until_row(bench, f"kafka_offset = 1 AND kafka_key = {ordering_key(b'a')} AND owner_xid IS NULL")
        await bench.release(bench.ref(shop.topic))
        await bench.claim(bench.ref(shop.topic))
        await bench.settle()
        assert "first 1" not in shop.began

        await bench.advance(2 * HOUR)
        await bench.settle()
        assert list(shop.begun("first"))[-2:] == [0, 1]
        assert {status for _, status in await statuses(bench)} == {"SUCCESS"}
