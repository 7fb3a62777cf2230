"""What tests of publishing workflows share: a shop that tells what becomes of its orders."""

import asyncio
from collections import Counter
from datetime import timedelta

from pydantic import BaseModel

from processor import (
    App,
    EngineError,
    Raw,
    Topic,
    publish,
)
from processor.testing import Bench
from processor.testing.bench import Crashed
from tests.integration.protocol import PATIENCE_S

DAY = timedelta(days=1)


class Order(BaseModel):
    n: int
    key: str = "k"


class Told(BaseModel):
    """What the world is told of an order."""

    order: int
    what: str


orders = Topic("orders", Order, key=lambda order: order.key)
told = Topic("told", Told, key=lambda event: str(event.order))
blobs = Topic("blobs", bytes, format=Raw())


class Shop:
    """A workflow that publishes before, between and behind its steps; records start it, or calls do."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.calls: Counter[int] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

        @app.step()
        async def pack(n: int) -> None:
            self.calls[n] += 1
            await self.gate.wait()

        @app.workflow(on=orders, breaker=None)
        async def fulfil(order: Order) -> str:
            await publish(told, Told(order=order.n, what="accepted"), headers={"trace": "t"})
            await publish(told, Told(order=order.n, what="packing"))
            await pack(order.n)
            await publish(told, Told(order=order.n, what="packed"), key=f"of {order.n}")
            return "done"

        self.pack, self.fulfil = pack, fulfil

    async def begin(self, bench: Bench, kind: str, count: int) -> None:
        """Start that many workflows."""
        for n in range(count):
            if kind == "record":
                await bench.deliver(orders, Order(n=n, key=f"k{n % 3}"))
            else:
                await self._started(bench, n)

    async def _started(self, bench: Bench, n: int) -> None:
        # As a caller whose process died would: again, with the same ID.
        while True:
            try:
                await self.fulfil.start(Order(n=n), id=f"w-{n}")
            except (Crashed, EngineError):
                await bench.settle()
            else:
                return


def by_order(events: list[Told]) -> dict[int, list[str]]:
    """What is told of each order, in order."""
    found: dict[int, list[str]] = {}
    for event in events:
        found.setdefault(event.order, []).append(event.what)
    return found


async def asleep(bench: Bench) -> None:
    """Wait until the workflow has left memory."""
    await bench.settle()
    async with asyncio.timeout(PATIENCE_S):
        while bench.engine.in_flight:
            await asyncio.sleep(0.01)


async def until_packing(shop: Shop) -> None:
    """Wait until the first two events are there and the step waits for its gate."""
    async with asyncio.timeout(PATIENCE_S):
        while not shop.calls:
            await asyncio.sleep(0.01)


ALL = ["accepted", "packing", "packed"]
