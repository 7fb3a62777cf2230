"""What tests of messages share: workflows that talk, and looks at what they left."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from engine.errors import EngineError
from processor import (
    App,
    Topic,
    recv,
    send,
)
from processor.testing import Bench
from processor.testing.bench import Crashed
from tests.integration.protocol import PATIENCE_S

DAY = timedelta(days=1)


class Order(BaseModel):
    order_id: str
    count: int = 3


class Approval(BaseModel):
    by: str
    level: int = 1


orders = Topic("orders", Order, key=lambda order: order.order_id)


class Office:
    """Clerks who wait for messages, and workflows that send them."""

    def __init__(self) -> None:
        self.app = app = App("office")
        self.calls: Counter[str] = Counter()

        @app.step()
        async def file(what: str) -> str:
            self.calls[what] += 1
            return what

        @app.workflow(version="1")
        async def clerk(count: int) -> list[str]:
            return [await file(str(await recv("in"))) for _ in range(count)]

        @app.workflow(version="1")
        async def sender(to: str, count: int) -> None:
            for n in range(count):
                await send(to, f"{n}", "in")

        @app.workflow(on=orders, version="1")
        async def by_order(order: Order) -> list[str]:
            return [await recv("in", model=str) for _ in range(order.count)]

        self.clerk, self.sender, self.by_order, self.file = clerk, sender, by_order, file


async def started(bench: Bench, starting: Any) -> Any:
    """What a call returns; again, as a caller whose process died would, with the same ID."""
    while True:
        try:
            return await starting()
        except (Crashed, EngineError):
            await bench.settle()


async def at_rest(bench: Bench, count: int = 1) -> None:
    """Wait until so many workflows are at rest and have left memory."""
    async with asyncio.timeout(PATIENCE_S):
        while (await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep")) != [(count,)]:
            await asyncio.sleep(0.02)


async def left(bench: Bench) -> list[tuple[Any, ...]]:
    """Messages that nobody has received."""
    return await bench.fetch_all("SELECT destination_uuid, topic, message FROM dbos.notifications ORDER BY kafka_place")


async def history(bench: Bench, workflow_id: str) -> list[tuple[Any, ...]]:
    return await bench.fetch_all(
        "SELECT function_id, function_name, output FROM dbos.operation_outputs WHERE workflow_uuid = %s ORDER BY 1",
        (workflow_id,),
    )


def deaf(bench: Bench) -> None:
    """As behind a pooler, or where NOTIFY was switched off: no hint arrives."""
    bench.engine.hinted_from_thread = lambda channel, payload: None  # type: ignore[method-assign]
