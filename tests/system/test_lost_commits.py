"""The reply of a COMMIT is lost: it was committed, and the worker cannot know (P23, P24, I5)."""

import asyncio

import pytest

from processor.demo.workers import Worker
from tests.fixtures.kafka import Kafka
from tests.fixtures.proxy import LosingProxy, losing_proxy
from tests.system.field import Field

LOSSES = 4

RUN_IN = {"journaled": b"fence_partitions", "transactional": b"INSERT INTO {table}", "batch": b"INSERT INTO {table}"}
"""What only the transactions under test run: a flush; a step's transaction (or a group of them); a fused group."""


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["journaled", "transactional", "batch"])
async def test_a_lost_reply_of_a_commit_is_settled_by_reading(kafka: Kafka, database: str, kind: str) -> None:
    """P23, P24: of a flush, of a transaction of steps, of a fused group; a blind repetition would double effects."""
    async with (
        losing_proxy(database) as (proxy, through),
        Field(kafka.bootstrap_servers, database, kind, through=through) as field,
    ):
        await lose_replies(field, proxy, RUN_IN[kind].replace(b"{table}", field.books.table.encode()))
        await field.finish()


@pytest.mark.kafka
async def test_a_lost_reply_under_a_fused_handler_that_counts_counts_once(kafka: Kafka, database: str) -> None:
    """P23, I5: its SQL is UPDATE … SET n = n + 1, and what is lost is that transaction's; repeated blindly, it counts twice."""
    async with (
        losing_proxy(database) as (proxy, through),
        Field(kafka.bootstrap_servers, database, "fused", through=through, app="tests.system.counting:app") as field,
    ):
        await field.books.query("CREATE TABLE tally (customer text PRIMARY KEY, n bigint NOT NULL)")
        await field.books.query("INSERT INTO tally SELECT 'customer-' || c, 0 FROM generate_series(0, 999) AS c")
        await lose_replies(field, proxy, b"SET n = n + 1")
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


async def lose_replies(field: Field, proxy: LosingProxy, marker: bytes) -> None:
    """Lose some replies, each with work in flight: of the transactions under test, and of what comes after one is lost.

    Args:
        field: With its topic empty.
        proxy: Between its workers and the database.
        marker: In the SQL of the transactions under test.
    """
    worker = field.worker("one")
    for loss in range(LOSSES):
        # The COMMIT behind a loss is, as a rule, that by which it is settled: its transaction is any.
        is_under_test = loss % 2 == 0
        if is_under_test:
            done = (await field.books.standing()).done
            await field.feed_until(asyncio.ensure_future(field.until_done(done + 100)))
        await field.feed_until(asyncio.ensure_future(field.at_work(worker)))
        settled = await worker.unknown_commits()
        proxy.marker = marker if is_under_test else b""
        proxy.lose_commits = 1
        await field.feed_until(asyncio.ensure_future(_until_lost(proxy, loss + 1)))
        if is_under_test:
            await field.feed_until(asyncio.ensure_future(_until_settled(worker, settled + 1)))
    assert worker.is_running, field.logs()


async def _until_settled(worker: Worker, count: float) -> None:
    """Wait until the worker has met so many commits of which it did not know whether they were, and asked."""
    while await worker.unknown_commits() < count:
        await asyncio.sleep(0.02)


async def _until_lost(proxy: LosingProxy, count: int) -> None:
    while proxy.lost < count:
        await asyncio.sleep(0.02)
