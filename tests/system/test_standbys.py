"""Standbys of a real Postgres are promoted under load: a synchronous one, then one that lacks the last commits (P4, P23)."""

import asyncio

import pytest

from tests.fixtures.kafka import Kafka
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.processes import free_ports
from tests.fixtures.standby import address_of_all, standby
from tests.system.field import Field

LOST_MIN = 200
"""Records that are done, and of which the second standby knows nothing."""


@pytest.mark.kafka
@pytest.mark.private_postgres
async def test_a_standby_is_promoted_under_load_and_then_one_that_lags(
    kafka: Kafka, private_postgres: PostgresServer
) -> None:
    """I1, I2, I5, I7: the synchronous one has every commit that was ever seen, and none is made again; what the lagging one lacks is
    gone together with its progress, and comes again from Kafka. Processes find the primary themselves, of the addresses they were told.
    """
    first, second = free_ports(2)
    everywhere = address_of_all((private_postgres.port, first, second))
    with standby(private_postgres, first) as synchronous:
        await asyncio.to_thread(synchronous.follows, synchronously=True)
        async with Field(kafka.bootstrap_servers, everywhere, "transactional+fused") as field:
            workers = [field.worker("one"), field.worker("two")]
            await field.feed_until(asyncio.ensure_future(field.until_done(500)))
            await asyncio.to_thread(synchronous.detach)
            await field.feed_until(asyncio.ensure_future(commit_waits(field)))
            before = await commits(field)
            await asyncio.to_thread(private_postgres.kill)
            await asyncio.to_thread(synchronous.promote)
            assert before <= await commits(field), "what anybody has seen stands"
            await field.finish()

            with standby(synchronous, second) as lagging:
                await asyncio.to_thread(lagging.follows, synchronously=False)
                await asyncio.to_thread(lagging.detach)
                done = (await field.books.standing()).done
                await field.feed_until(asyncio.ensure_future(field.until_done(done + LOST_MIN)))
                await field.feed_until(asyncio.ensure_future(field.at_work(workers[0])))
                before = await commits(field)
                await asyncio.to_thread(synchronous.kill)
                await asyncio.to_thread(lagging.promote)
                lost = before - await commits(field)
                await field.finish()

                assert len(lost) >= LOST_MIN, "it lagged"
                assert "the database went back" in field.logs()
                assert all(worker.is_running for worker in workers), field.logs()


async def commit_waits(field: Field) -> None:
    """Wait for a commit that is durable where it was made, and not on the standby: nobody is told of it, and it will be gone."""
    while not await field.books.query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
        await asyncio.sleep(0.02)


async def commits(field: Field) -> set[tuple[int, int]]:
    """Orders with the number of the row that is their effect: one that is made again has another."""
    return {(row[0], row[1]) for row in await field.books.query(f"SELECT sequence, id FROM {field.books.table}")}
