"""Operators decide on dead letters: retry, discard, and what that does to a blocked key."""

import asyncio

import pytest
from pydantic import BaseModel

from engine.dead_letters import DeadLetterError, discard, list_dead_letters, retry, show
from engine.inspection import connected, list_partitions
from engine.settings import EngineSettings
from processor import App, BlockKey, DeadLetter, FailurePolicy, TerminalError, Topic
from processor.testing import Bench


class Order(BaseModel):
    key: str
    n: int


orders = Topic("orders", Order, key=lambda order: order.key)


class Shop:
    """Fails what it is told to fail."""

    def __init__(self, policy: FailurePolicy) -> None:
        self.app = App("shop")
        self.failing = {1}
        self.ran: list[int] = []

        @self.app.step()
        async def before(order: Order) -> None: ...

        @self.app.step()
        async def work(order: Order) -> None:
            if order.n in self.failing:
                raise TerminalError(f"{order.n} is broken")
            self.ran.append(order.n)

        @self.app.workflow(on=orders, on_failure=policy)
        async def fulfil(order: Order) -> None:
            await before(order)
            await work(order)


async def until(bench: Bench, ran: list[int], count: int) -> None:
    async with asyncio.timeout(60):
        while len(ran) < count:
            await asyncio.sleep(0.01)
    await bench.settle()


async def test_a_retried_dead_letter_runs_the_failed_step_again(database: str) -> None:
    """P18, I4: recorded successes stand; the letter is RETRIED, and the act is in the audit."""
    shop = Shop(DeadLetter())
    settings = EngineSettings(conninfo=database)
    async with Bench(shop.app, database) as bench, connected(settings) as connection:
        for n in range(4):
            await bench.deliver(orders, Order(key="a", n=n))
        await bench.settle()
        (letter,) = await list_dead_letters(connection, "dbos")
        assert (letter.workflow_uuid, letter.reason) == ("orders-0-1", "failed")
        shop.failing.clear()

        assert await retry(connection, "dbos", [letter.dead_letter_id]) == 1
        await until(bench, shop.ran, 4)

        assert shop.ran == [0, 2, 3, 1]
        assert (await show(connection, "dbos", letter.dead_letter_id)).state == "RETRIED"
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("SUCCESS",)]
        assert await bench.fetch_all("SELECT action FROM dbos.audit") == [("retry dead letter",)]
        with pytest.raises(DeadLetterError, match="RETRIED already"):
            await retry(connection, "dbos", [letter.dead_letter_id])
        (partition,) = await list_partitions(connection, "dbos")
        assert (partition.group, partition.topic_partition, partition.progress.next) == ("shop", "orders-0", 4)


@pytest.mark.parametrize("crash", [False, True], ids=["live", "crashed"])
async def test_the_retry_of_what_blocks_a_key_runs_before_what_waits_behind_it(database: str, crash: bool) -> None:
    """I7: nothing of the key ran since, so it keeps its place; the hold is lifted in the same commit."""
    shop = Shop(BlockKey())
    async with Bench(shop.app, database) as bench, connected(EngineSettings(conninfo=database)) as connection:
        for n in range(4):
            await bench.deliver(orders, Order(key="a", n=n))
        await bench.settle()
        assert shop.ran == [0]
        shop.failing.clear()
        (letter,) = await list_dead_letters(connection, "dbos")
        await asyncio.sleep(0.1)

        await retry(connection, "dbos", [letter.dead_letter_id])
        if crash:
            await bench.crash_now()
        await until(bench, shop.ran, 4)

        assert shop.ran == [0, 1, 2, 3]


async def test_discarding_what_blocks_a_key_lets_the_key_go_on(database: str) -> None:
    """The letter stays, with the reason; all or none of several."""
    shop = Shop(BlockKey())
    async with Bench(shop.app, database) as bench, connected(EngineSettings(conninfo=database)) as connection:
        for n in range(4):
            await bench.deliver(orders, Order(key="a", n=n))
        await bench.settle()
        (letter,) = await list_dead_letters(connection, "dbos")

        with pytest.raises(DeadLetterError, match="does not exist"):
            await discard(connection, "dbos", [letter.dead_letter_id, 999], note="no")
        await discard(connection, "dbos", [letter.dead_letter_id], note="test data")
        await until(bench, shop.ran, 3)

        assert shop.ran == [0, 2, 3]
        kept = await show(connection, "dbos", letter.dead_letter_id)
        assert (kept.state, kept.note) == ("DISCARDED", "test data")
