"""Rows that other programs change, as DBOS's clients do it: by their status, knowing nothing of ours (P18, P29, decision 0019)."""

import asyncio
from datetime import timedelta

import pytest

from processor import App, BlockKey, sleep
from processor.testing import Bench
from processor.triggers import Topic
from tests.integration.protocol import FAST, Order, Shop, until_row

CANCEL = (
    "UPDATE dbos.workflow_status SET status = 'CANCELLED', queue_name = NULL, deduplication_id = NULL,"
    " started_at_epoch_ms = NULL WHERE workflow_uuid = %s"
)
RESUME = (
    "UPDATE dbos.workflow_status SET status = 'ENQUEUED', queue_name = '_dbos_internal_queue', recovery_attempts = 0,"
    " workflow_deadline_epoch_ms = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL WHERE workflow_uuid = %s"
)


async def test_what_was_given_up_and_blocks_its_key_is_resumed_in_its_place(database: str) -> None:
    """P18, P22, decision 0003: its deaths are forgotten, the block is lifted, its dead letter counts as retried."""
    shop = Shop(policy=BlockKey())
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.fails["second 0"] = 1
        for n in range(3):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await bench.settle()
        await until_row(bench, "kafka_offset = 2")
        await bench.execute(
            "UPDATE dbos.workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED', kafka_alone = 3"
            " WHERE kafka_offset = 0"
        )
        await bench.execute("DELETE FROM dbos.operation_outputs WHERE error IS NOT NULL")
        await bench.execute(RESUME, ["orders-0-0"])
        await until_row(bench, "kafka_offset = 2 AND status = 'SUCCESS'")

        assert shop.ended == [f"{step} {n}" for n in range(3) for step in ("first", "second")]
        assert await bench.fetch_all("SELECT state FROM dbos.dead_letter") == [("RETRIED",)]
        assert await bench.fetch_all("SELECT 1 FROM dbos.hold") == []
        assert await bench.fetch_all(
            "SELECT kafka_place, queue_name, error FROM dbos.workflow_status WHERE kafka_offset = 0"
        ) == [(None, None, None)]


async def test_a_record_of_another_group_and_of_a_later_topic_goes_behind_what_is_open(database: str) -> None:
    """P18: its place is the `high` of its own partition, whatever its group and the number of its topic."""
    async with Bench(App("a"), database) as bench:
        await bench.execute(
            "INSERT INTO dbos.event_dispatch_kv (service_name, workflow_fn_name, key, value)"
            """ VALUES ('kafka:g|h', 'f', 'a-b~c-2', '{"high": 7}'), ('kafka:g', 'f', 'a-b-2', '{"high": 8}')"""
        )
        places = {"g|h|a-b~c-2": 7, "g|a-b~3-2": 8, "g|a-b-2": 8, "nobody|a-b-2": None}
        for source in places:
            await bench.execute(
                "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, kafka_source)"
                " VALUES (%s, 'CANCELLED', 'f', %s)",
                [source, source],
            )
            await bench.execute(RESUME, [source])

        found = dict(await bench.fetch_all("SELECT kafka_source, kafka_place FROM dbos.workflow_status"))
        assert found == places


@pytest.mark.parametrize("resumes", [False, True])
async def test_a_record_that_sleeps_lets_its_key_go_when_it_is_cancelled(database: str, *, resumes: bool) -> None:
    """P18, I8: nobody here has a run of it; resumed it is due at once, whatever it slept for."""
    app = App("sleepers")
    orders = Topic("orders", Order, key=lambda order: order.key)

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await sleep(timedelta(days=1) if order.n == 0 else timedelta(0))

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0 AND kafka_asleep AND owner_xid IS NULL")
        await bench.execute(CANCEL, ["orders-0-0"])
        await bench.deliver(orders, Order(key="a", n=1))
        await until_row(bench, "kafka_offset = 1 AND status = 'SUCCESS'")
        if resumes:
            await bench.execute(RESUME, ["orders-0-0"])
            await until_row(bench, "kafka_offset = 0 AND status = 'PENDING'")
            await bench.advance(timedelta(days=1))
            await until_row(bench, "kafka_offset = 0 AND status = 'SUCCESS'")


async def test_a_family_that_is_cancelled_by_one_statement_is(database: str) -> None:
    """An operator's UPDATE over parents and children at rest: each row is changed once."""
    app = App("family")

    @app.workflow()
    async def child() -> None:
        await sleep(timedelta(days=1))

    @app.workflow()
    async def parent() -> None:
        await child()

    async with Bench(app, database, settings=FAST) as bench:
        handles = await asyncio.gather(*(parent.start() for _ in range(3)))
        for handle in handles:
            await until_row(bench, f"workflow_uuid = '{handle.id}' AND owner_xid IS NULL AND kafka_wake_at > 0")
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED'")
        await bench.settle()

        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("CANCELLED", 6)
        ]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.waiting") == [(0,)]
