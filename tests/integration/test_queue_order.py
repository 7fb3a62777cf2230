"""Who is first in a queue with a limit starts first, whoever has its row at the moment of its turn (P29)."""

import asyncio

import pytest
from psycopg import AsyncConnection

from processor import App, Client, Queue
from processor.testing import Bench
from tests.integration.protocol import FAST, until


@pytest.mark.parametrize("lock", ["FOR UPDATE", "FOR SHARE"])
async def test_nobody_is_overtaken_whose_row_something_else_has(database: str, lock: str) -> None:
    """A message to it, an act of an operator, a fork: each has the row for a moment."""
    app, order = App("orders"), list[int]()
    queue = app.register_queue(Queue("q", concurrency=1))

    @app.workflow()
    async def job(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)

    async with Bench(app, database, settings=FAST) as bench, Client(database) as client:
        await bench.settle()
        dispatcher = bench.engine.dispatcher
        await client.queues.pause("q", note="a test")
        for number in range(5):
            await queue.having(id=f"job-{number}").enqueue(job, number)
        async with await AsyncConnection.connect(database) as other:
            await other.execute(f"SELECT FROM dbos.workflow_status WHERE workflow_uuid = 'job-0' {lock}".encode())
            await client.queues.resume("q", note="a test")
            await until(lambda: dispatcher.refused("q") >= 3)
            assert order == []
        await bench.settle()

    assert order == list(range(5))
