"""The reply of a COMMIT is lost: it was committed, and the worker cannot know (P23, P24, I5)."""

import asyncio

import pytest

from tests.fixtures.kafka import Kafka
from tests.fixtures.proxy import LosingProxy, losing_proxy
from tests.system.field import Field

LOSSES = 4


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["journaled", "transactional", "batch"])
async def test_a_lost_reply_of_a_commit_is_settled_by_reading(kafka: Kafka, database: str, kind: str) -> None:
    async with (
        losing_proxy(database) as (proxy, through),
        Field(kafka.bootstrap_servers, database, kind, through=through) as field,
    ):
        await lose_replies(field, proxy)
        await field.finish()


@pytest.mark.kafka
async def test_a_lost_reply_under_a_fused_handler_that_counts_counts_once(kafka: Kafka, database: str) -> None:
    """Its SQL is UPDATE … SET n = n + 1: repeated blindly, it would count twice."""
    async with (
        losing_proxy(database) as (proxy, through),
        Field(kafka.bootstrap_servers, database, "fused", through=through, app="tests.system.counting:app") as field,
    ):
        await field.books.query("CREATE TABLE tally (customer text PRIMARY KEY, n bigint NOT NULL)")
        await field.books.query("INSERT INTO tally SELECT 'customer-' || c, 0 FROM generate_series(0, 999) AS c")
        await lose_replies(field, proxy)
        await field.finish()

        wrong = await field.books.query(
            f"""
            SELECT t.customer, t.n, e.n
              FROM tally AS t
              LEFT JOIN (SELECT customer, count(*) AS n FROM {field.books.table} GROUP BY 1) AS e USING (customer)
             WHERE t.n <> coalesce(e.n, 0)
            """
        )
        assert wrong == []


async def lose_replies(field: Field, proxy: LosingProxy) -> None:
    """Lose some replies, each with work in flight: of flushes, and of what comes after one is lost."""
    worker = field.worker("one")
    for loss in range(LOSSES):
        # The COMMIT behind a loss is that of the epoch that is raised; every other loss waits until that is over.
        if loss % 2 == 0:
            done = (await field.books.standing()).done
            await field.feed_until(asyncio.ensure_future(field.until_done(done + 100)))
        await field.feed_until(asyncio.ensure_future(field.at_work(worker)))
        proxy.lose_commits = 1
        await field.feed_until(asyncio.ensure_future(_until_lost(proxy, loss + 1)))
    assert worker.is_running, field.logs()


async def _until_lost(proxy: LosingProxy, count: int) -> None:
    while proxy.lost < count:
        await asyncio.sleep(0.02)
