"""Standbys of a real Postgres are promoted under load: a synchronous one, then one that lacks the last commits (P4, P23).

Handlers publish, and the workers relay: what reaches Kafka belongs to what the databases have, or the relay halts (I9).
"""

import asyncio
import json
from collections import Counter

import pytest
from psycopg import AsyncConnection

from engine.outbox import LIST_MAX, discard, resume, waiting
from tests.fixtures.kafka import Kafka, unique
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.processes import free_ports
from tests.fixtures.standby import address_of_all, standby
from tests.integration.relaying import PATIENCE_S, Outbox, read
from tests.system.field import Field
from tests.system.test_killed_while_publishing import by_customer

LOST_MIN = 200
"""Records that are done, and of which the second standby knows nothing."""

PUBLISHED_MIN = 100
"""Events that are published, and of which it knows nothing either."""


@pytest.mark.kafka
@pytest.mark.private_postgres
async def test_a_standby_is_promoted_under_load_and_then_one_that_lags(
    kafka: Kafka, private_postgres: PostgresServer
) -> None:
    """I1, I2, I5, I7: the synchronous one has every commit that was ever seen, and none is made again; what the lagging one lacks is
    gone together with its progress, and comes again from Kafka. Processes find the primary themselves, of the addresses they were told.

    I9: behind the first promotion the relay goes on by itself, with every event once. Behind the second it halts, before it publishes
    anything, since Kafka has events of commits that are gone; an operator discards those that would come twice, and it goes on.
    """
    booked, dead = unique("booked"), unique("dead")
    for topic in (booked, dead):
        kafka.create_topic(topic, 3)
    first, second = free_ports(2)
    everywhere = address_of_all((private_postgres.port, first, second))
    settings = {"BOOKED": booked, "DEAD": dead, "PROCESSOR_OUTBOX_BATCH_MAX": "50"}
    outbox = Outbox(everywhere)

    def published(topic: str) -> list[bytes]:
        return [message.value() for message in read(kafka.bootstrap_servers, topic)]

    async def what_is_published_is_what_stands() -> None:
        await outbox.emptied()
        events = await asyncio.to_thread(published, booked)
        assert by_customer([json.loads(event) for event in events]) == by_customer(await effects(field))
        letters = await field.books.query("SELECT record_value FROM dbos.dead_letter")
        assert Counter(await asyncio.to_thread(published, dead)) == Counter(bytes(value) for (value,) in letters)

    with standby(private_postgres, first) as synchronous:
        await asyncio.to_thread(synchronous.follows, synchronously=True)
        async with Field(
            kafka.bootstrap_servers,
            everywhere,
            "transactional+fused",
            app="tests.system.publishing:app",
            settings=settings,
        ) as field:
            workers = [field.worker("one"), field.worker("two")]
            await field.feed_until(asyncio.ensure_future(field.until_done(500)))
            await asyncio.to_thread(synchronous.detach)
            await field.feed_until(asyncio.ensure_future(commit_waits(field)))
            before = await commits(field)
            await asyncio.to_thread(private_postgres.kill)
            await asyncio.to_thread(synchronous.promote)
            assert before <= await commits(field), "what anybody has seen stands"
            await field.finish()
            await what_is_published_is_what_stands()

            with standby(synchronous, second) as lagging:
                await asyncio.to_thread(lagging.follows, synchronously=False)
                await asyncio.to_thread(lagging.detach)
                done, batch = (await field.books.standing()).done, (await outbox.state()).number
                await field.feed_until(asyncio.ensure_future(field.until_done(done + LOST_MIN)))
                await field.feed_until(asyncio.ensure_future(relayed(outbox, batch + PUBLISHED_MIN // 50)))
                await field.feed_until(asyncio.ensure_future(field.at_work(workers[0])))
                before = await commits(field)
                await asyncio.to_thread(synchronous.kill)
                await asyncio.to_thread(lagging.promote)
                lost = before - await commits(field)
                await field.finish()

                assert len(lost) >= LOST_MIN, "it lagged"
                assert "the database went back" in field.logs()
                assert all(worker.is_running for worker in workers), field.logs()

                await halted(outbox)
                seen = {topic: await asyncio.to_thread(published, topic) for topic in (booked, dead)}
                await decide(outbox, seen)
                await what_is_published_is_what_stands()


async def commit_waits(field: Field) -> None:
    """Wait for a commit that is durable where it was made, and not on the standby: nobody is told of it, and it will be gone."""
    while not await field.books.query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
        await asyncio.sleep(0.02)


async def commits(field: Field) -> set[tuple[int, int]]:
    """Orders with the number of the row that is their effect: one that is made again has another."""
    return {(row[0], row[1]) for row in await field.books.query(f"SELECT sequence, id FROM {field.books.table}")}


async def effects(field: Field) -> list[dict[str, object]]:
    """What every effect has published in its commit; of a customer in the order of its commits."""
    rows = await field.books.query(f"SELECT customer, sequence FROM {field.books.table} ORDER BY id")
    return [{"customer": customer, "sequence": sequence} for customer, sequence in rows]


async def relayed(outbox: Outbox, batch: int) -> None:
    """Wait until a batch of that number is published."""
    while (await outbox.state()).number < batch:
        await asyncio.sleep(0.05)


async def halted(outbox: Outbox) -> None:
    """Wait until the relay has found that Kafka has what the database does not know of."""
    async with asyncio.timeout(PATIENCE_S):
        while (reason := (await outbox.state()).halted) is None:
            await asyncio.sleep(0.05)
    assert "Kafka" in reason


async def decide(outbox: Outbox, published: dict[str, list[bytes]]) -> None:
    """What an operator does: discard what readers have already, and let the relay go on."""
    seen = {(topic, value) for topic, values in published.items() for value in values}
    async with await AsyncConnection.connect(outbox.dsn, autocommit=True) as connection:
        twice: list[int] = []
        after = 0
        while rows := await waiting(connection, "dbos", after=after, limit=LIST_MAX):
            after = rows[-1].outbox_id
            twice += [row.outbox_id for row in rows if (row.topic, row.value) in seen]
        assert len(twice) >= PUBLISHED_MIN, "events of commits that were lost, made again"
        await discard(connection, "dbos", twice, note="readers have them", actor="test")
        await resume(connection, "dbos", note="a standby that lagged", actor="test")
