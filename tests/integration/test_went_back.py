"""A database that lost commits, noticed first by what writes to it (P4): everything in memory is dropped, and goes on from its rows."""

from datetime import timedelta

import pytest

from engine.telemetry import ExecutorLost
from processor.testing import Bench
from tests.integration.protocol import Order, Shop, until
from tests.integration.test_commons import Steps

AHEAD = "FFFFFFFF/0"
"""A position of the log that Postgres does not reach: whoever has seen it finds the database behind."""


def assert_was_lost(bench: Bench) -> None:
    """Once, or once more where an answer that was under way tells of it again."""
    lost = [event for event in bench.events if isinstance(event, ExecutorLost)]
    assert lost
    assert all("the database went back" in event.reason for event in lost)
    assert bench.engine.executor_id not in {event.executor_id for event in lost}
    assert bench.engine.database.lsn != AHEAD


async def test_a_partitions_flush_over_a_database_that_went_back_writes_nothing(database: str) -> None:
    shop = Shop()
    shop.shut = {"second 0"}
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until(lambda: "second 0" in shop.began)
        await bench.execute("UPDATE dbos.event_dispatch_kv SET value = replace(value, '\"flush\":', '\"flush\":-')")
        shop.shut.clear()
        await bench.settle()

        assert_was_lost(bench)
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",)]
        assert shop.ended.count("first 0") == 1, "its checkpoint stood"


async def test_a_group_of_the_commons_over_a_database_that_went_back_writes_nothing(database: str) -> None:
    steps = Steps()
    async with Bench(steps.app, database) as bench:
        handle = await steps.both.start(1)
        await until(lambda: steps.calls["second 1"])
        bench.engine.database.saw(AHEAD)
        steps.gate.set()

        assert await handle.result() == 10
        assert_was_lost(bench)
        assert steps.calls["first 1"] == 1, "its checkpoint stood"


@pytest.mark.parametrize("call", ["start", "debounce"])
async def test_a_call_over_a_database_that_went_back_is_made_when_this_process_is_registered_anew(
    database: str, call: str
) -> None:
    steps = Steps()
    steps.gate.set()
    async with Bench(steps.app, database) as bench:
        bench.engine.database.saw(AHEAD)
        starting = steps.both.debounce("key", wait=timedelta(milliseconds=1)) if call == "debounce" else steps.both
        handle = await starting.start(1)

        assert await handle.result() == 10
        assert_was_lost(bench)
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status") == [(1,)]
