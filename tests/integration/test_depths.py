"""Dead letters that wait for an operator, as one process shows them for all."""

import asyncio
import json
from dataclasses import replace

import psycopg
from pydantic import BaseModel

from engine.dead_letters import discard
from engine.depths import COUNT_MAX, Depth
from engine.inspection import connected
from engine.store import holds
from engine.store.statement import rendered
from processor import App, TerminalError, Topic
from processor.testing import Bench


class Order(BaseModel):
    order_id: str


orders, parcels = Topic("orders", Order), Topic("parcels", Order)


def shop() -> App:
    app = App("shop")

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        raise TerminalError("no")

    @app.workflow(on=parcels)
    async def send(order: Order) -> None: ...

    return app


def counts(bench: Bench) -> dict[str, int]:
    return {depth.topic: depth.count for depth in bench.engine.snapshot().dead_letters}


async def test_open_dead_letters_are_counted_by_topic_with_the_age_of_the_oldest(database: str) -> None:
    async with Bench(shop(), database) as bench, connected(bench.settings) as connection:
        for number in range(3):
            await bench.deliver(orders, Order(order_id=f"o-{number}"))
        await bench.deliver(parcels, Order(order_id="p"))
        await bench.settle()

        await bench.engine.depths.look()
        before = bench.engine.snapshot().dead_letters
        ((oldest,),) = await bench.fetch_all("SELECT min(created_at) FROM dbos.dead_letter")
        await discard(connection, "dbos", [1, 2, 3], note="as a test")
        await bench.engine.depths.look()
        after = bench.engine.snapshot().dead_letters

    assert before == (Depth("shop", "orders", 3, oldest), Depth("shop", "parcels", 0, None))
    assert after == (Depth("shop", "orders", 0, None), Depth("shop", "parcels", 0, None))


async def test_one_process_of_all_looks_and_another_follows_it(database: str) -> None:
    async with Bench(shop(), database, executor="one") as one:
        await one.deliver(orders, Order(order_id="o"))
        await one.settle()
        async with Bench(shop(), database, executor="two", beside=one) as two:
            both = {bench.engine.executor_id: bench for bench in (one, two)}
            first, other = both[min(both)], both[max(both)]
            async with asyncio.timeout(30):
                while not (first.engine.lease.is_first and not other.engine.lease.is_first):
                    await asyncio.sleep(0.01)
                first.engine.depths.look_again()
                while not (counts(first) and not counts(other)):
                    await asyncio.sleep(0.01)
                await first.engine.stop()
                while not counts(other):
                    await asyncio.sleep(0.01)

            assert counts(other)["orders"] == 1


async def test_a_look_is_bounded_and_reads_the_index_of_open_ones_only(database: str) -> None:
    """I10: with a hundred thousand dead letters, in two topics, all but a few decided."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO dbos.dead_letter (workflow_uuid, handler, service_name, topic, partition, kafka_offset, reason,
                                          error, state, created_at)
            SELECT 'w', 'h', 'kafka:shop', 'topic-' || n % 2, 0, n, 'failed', '{}',
                   CASE WHEN n % 4 = 0 THEN 'OPEN' ELSE 'DISCARDED' END, 1000 + n
              FROM generate_series(1, 100000) AS n
            """
        )
        connection.execute("VACUUM ANALYZE dbos.dead_letter")
        look = holds.depths(count_max=COUNT_MAX, places_max=10)
        found = connection.execute(rendered(look, "dbos"), look.parameters).fetchall()
        explained = replace(look, text="EXPLAIN (FORMAT JSON, ANALYZE) " + look.text)
        ((plan,),) = connection.execute(rendered(explained, "dbos"), look.parameters).fetchall()

    assert found == [("kafka:shop", "topic-0", COUNT_MAX, 1004)]
    assert "Seq Scan" not in json.dumps(plan)
    assert "dead_letter_open_index" in json.dumps(plan)
