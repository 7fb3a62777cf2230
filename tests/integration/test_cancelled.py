"""Cancelled, and its step still runs: the key waits for the step, wherever that is (P7, P12, P13, P18, I7)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from engine import recovery
from processor import Retry
from processor.testing import Bench
from tests.integration.protocol import FAST, Order, Shop, statuses, two, until, until_row

CANCEL = "UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE kafka_offset = 0"
SEVERAL_LOOKS_S = 0.4


async def cancel(bench: Bench, how: str) -> None:
    """Cancel the workflow of record 0: in its row, as any client of the database may, or by the engine."""
    if how == "in its row":
        await bench.execute(CANCEL)
    else:
        assert await bench.engine.cancels.cancel(["orders-0-0"]) == ["orders-0-0"]


@pytest.mark.parametrize("how", ["in its row", "by the engine"])
@pytest.mark.parametrize("when", ["before it moves", "while it moves", "after it moved"])
async def test_a_step_that_runs_at_the_old_owner_holds_the_key_of_its_cancelled_workflow(
    database: str, when: str, how: str
) -> None:
    """P12, P18, I7: the next record of the key begins at the new owner when that step has ended, not before."""
    shop = Shop()
    async with two(database, shop.app) as (one, other):
        shop.shut = {"first 0"}
        for n in (0, 1):
            await one.deliver(shop.topic, Order(key="a", n=n))
        await until_row(one, "kafka_offset = 0")
        if when == "before it moves":
            await cancel(one, how)
        await one.release(one.ref(shop.topic))
        if when == "while it moves":
            await cancel(one, how)
        await other.claim(other.ref(shop.topic))
        await other.deliver(shop.topic, Order(key="b", n=2))
        await until(lambda: "second 2" in shop.ended)
        if when == "after it moved":
            await cancel(one, how)
        await asyncio.sleep(SEVERAL_LOOKS_S)
        assert "first 1" not in shop.began
        shop.shut.clear()
        await other.settle()

        assert shop.began.index("first 1") > shop.ended.index("first 0")
        assert "second 0" not in shop.began
        assert await statuses(other) == [(0, "CANCELLED"), (1, "SUCCESS"), (2, "SUCCESS")]


async def test_the_key_of_a_cancelled_workflow_goes_on_when_its_executor_dies(database: str) -> None:
    """I8, P2: a step that nobody runs any more holds nothing."""
    shop = Shop()
    async with two(database, shop.app) as (one, other):
        shop.shut = {"first 0"}
        for n in (0, 1):
            await one.deliver(shop.topic, Order(key="a", n=n))
        await until_row(one, "kafka_offset = 0")
        await one.execute(CANCEL)
        await one.release(one.ref(shop.topic))
        await other.claim(other.ref(shop.topic))
        await one.engine.abort()
        await until(lambda: "second 1" in shop.ended)
        await other.settle()
        shop.shut.clear()

        assert await statuses(other) == [(0, "CANCELLED"), (1, "SUCCESS")]


async def test_a_claim_that_was_fenced_out_still_holds_the_key_of_what_it_runs(database: str) -> None:
    """P12: its result counts no more, cancelled or not; its step does."""
    shop = Shop()
    async with two(database, shop.app) as (one, other):
        shop.shut = {"first 0"}
        for n in (0, 1):
            await one.deliver(shop.topic, Order(key="a", n=n))
        await until_row(one, "kafka_offset = 0")
        await one.execute(CANCEL)
        source = one.source(shop.topic)
        await one.execute(
            "UPDATE dbos.event_dispatch_kv SET value = replace(value, '\"released\":false', '\"released\":true')"
        )
        await other.claim(other.ref(shop.topic))
        await until(lambda: source.is_gone)
        await asyncio.sleep(SEVERAL_LOOKS_S)
        assert "first 1" not in shop.began
        shop.shut.clear()
        await until(lambda: "second 1" in shop.ended)

        assert shop.began.index("first 1") > shop.ended.index("first 0")


async def test_a_cancelled_workflow_whose_step_has_ended_holds_up_no_later_owner(database: str) -> None:
    """I8: its row names nobody any more, though its executor lives, long before a lease is over."""
    shop = Shop()
    slow = replace(FAST, lease=timedelta(minutes=5), heartbeat=timedelta(seconds=5))
    async with two(database, shop.app, slow) as (one, other):
        shop.shut = {"first 0"}
        await one.deliver(shop.topic, Order(key="a", n=0))
        await until_row(one, "kafka_offset = 0")
        await one.execute(CANCEL)
        shop.shut.clear()
        await one.settle()
        await until_row(one, "owner_xid IS NULL")
        await one.release(one.ref(shop.topic))
        await other.claim(other.ref(shop.topic))
        await other.deliver(shop.topic, Order(key="a", n=1))
        await other.settle()

        assert await statuses(other) == [(0, "CANCELLED"), (1, "SUCCESS")]


async def test_a_late_run_that_was_cancelled_names_nobody_once_it_has_ended(database: str) -> None:
    """P12, I8: nobody waits for a sweep."""
    shop = Shop()
    slow = replace(FAST, lease=timedelta(minutes=5), heartbeat=timedelta(seconds=5))
    async with Bench(shop.app, database, settings=slow) as bench:
        shop.shut = {"first 0"}
        for n in (0, 1):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await until_row(bench, "kafka_offset = 0")
        await bench.release(bench.ref(shop.topic))
        await bench.execute(CANCEL)
        await bench.claim(bench.ref(shop.topic))
        await asyncio.sleep(SEVERAL_LOOKS_S)
        assert "first 1" not in shop.began
        shop.shut.clear()
        await bench.settle()

        assert shop.began.index("first 1") > shop.ended.index("first 0")
        assert await bench.fetch_all("SELECT owner_xid FROM dbos.workflow_status WHERE kafka_offset = 0") == [(None,)]


async def test_every_row_at_rest_that_others_wait_behind_has_its_turn_to_be_looked_at(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8, I10: a look asks about so many; one that was cancelled is found however many others there are."""
    monkeypatch.setattr(recovery, "ASKED_MAX", 1)
    shop = Shop(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    shop.fails["first 0"] = shop.fails["first 1"] = 1
    async with Bench(shop.app, database, settings=FAST) as bench:
        for key, numbers in (("a", (0, 10)), ("b", (1, 11))):
            for n in numbers:
                await bench.deliver(shop.topic, Order(key=key, n=n))
        await bench.settle()
        await bench.execute(CANCEL.replace("kafka_offset = 0", "kafka_offset = 2"))
        await until(lambda: "second 11" in shop.ended)

        assert "first 10" not in shop.began
