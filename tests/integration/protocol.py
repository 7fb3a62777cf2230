"""What the tests of the protocol's rules share: a workflow of two steps with a gate before each, and short leases."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import BaseModel

from engine.settings import EngineSettings
from processor import App, DeadLetter, FailurePolicy, Retry, Topic
from processor.testing import Bench

FAST = EngineSettings(
    conninfo="", lease=timedelta(seconds=1.5), heartbeat=timedelta(seconds=0.3), scan=timedelta(milliseconds=50)
)
LAZY = EngineSettings(conninfo="", persist_after=timedelta(seconds=60), scan=timedelta(milliseconds=50))
"""Rows come with the first checkpoint only: what a process that dies within 20 ms leaves behind."""

PATIENCE_S = 60
"""Longest a test waits for what must come."""


class Order(BaseModel):
    key: str
    n: int


class Shop:
    """An app of two steps; `shut` says which records wait at which step.

    Attributes:
        shut: 'step n' of the calls that wait until they are taken out; `None` in it: all wait.
        began, ended: Calls as 'step n', in order.
    """

    def __init__(
        self,
        topic: Topic[Order] | None = None,
        *,
        retry: Retry | None = None,
        policy: FailurePolicy | None = None,
        persist_first: bool = False,
    ) -> None:
        self.app = App("shop")
        self.topic = topic or Topic("orders", Order, key=lambda order: order.key)
        self.shut: set[str] = set()
        self.fails: Counter[str] = Counter()
        self.error: type[Exception] = ConnectionError
        self.began: list[str] = []
        self.ended: list[str] = []

        async def pass_through(step: str, order: Order) -> None:
            name = f"{step} {order.n}"
            self.began.append(name)
            while name in self.shut:
                await asyncio.sleep(0.005)
            if self.fails[name]:
                self.fails[name] -= 1
                raise self.error(name)
            self.ended.append(name)

        @self.app.step()
        async def first(order: Order) -> None:
            await pass_through("first", order)

        @self.app.step()
        async def second(order: Order) -> None:
            await pass_through("second", order)

        @self.app.workflow(
            on=self.topic,
            retry=retry or Retry(attempts=1),
            on_failure=policy or DeadLetter(),
            persist_first=persist_first,
        )
        async def fulfil(order: Order) -> None:
            await first(order)
            await second(order)

    def begun(self, step: str) -> list[int]:
        """Records whose step has begun, in order."""
        return [int(name.split()[1]) for name in self.began if name.startswith(step)]


@asynccontextmanager
async def two(database: str, app: App, settings: EngineSettings = FAST) -> AsyncGenerator[tuple[Bench, Bench]]:
    """Two executors that read one log."""
    async with (
        Bench(app, database, executor="one", settings=settings) as one,
        Bench(app, database, executor="two", settings=settings, beside=one) as other,
    ):
        yield one, other


async def until(condition: Callable[[], object]) -> None:
    """Wait for what must come."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def until_row(bench: Bench, where: str) -> None:
    """Wait until a row of `workflow_status` is as said."""
    async with asyncio.timeout(PATIENCE_S):
        while not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE " + where):  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def statuses(bench: Bench) -> list[tuple[object, ...]]:
    """Offset and status of every row."""
    return await bench.fetch_all("SELECT kafka_offset, status FROM dbos.workflow_status ORDER BY 1")
