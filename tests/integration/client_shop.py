"""What tests of the client share: an app that runs elsewhere, and its settings."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from engine.settings import EngineSettings
from processor import (
    App,
    Cron,
    Queue,
    TerminalError,
    Tick,
    Topic,
    close_stream,
    current_workflow,
    recv,
    set_event,
    write_stream,
)
from processor.testing import Bench

SETTLED = EngineSettings(conninfo="", scan=timedelta(milliseconds=100))
KEY = bytes(range(32))


@dataclass
class Receipt:
    order: str
    cents: int


class Shop:
    """What the other side runs: a workflow of each kind that a client may ask for."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.calls: list[str] = []
        self.orders = Topic("orders", str)
        app.register_queue(Queue("mails", concurrency=1))
        app.register_queue(Queue("imports", priority=True, partitioned=True))

        @app.step()
        async def charge(order: str, cents: int) -> Receipt:
            self.calls.append(order)
            if cents < 0:
                raise TerminalError(f"order {order}: nothing to charge")
            return Receipt(order, cents)

        @app.workflow()
        async def buy(order: str, *, cents: int = 1) -> Receipt:
            return await charge(order, cents)

        @app.workflow()
        async def who() -> str | None:
            identity = current_workflow().identity
            return None if identity is None else identity.user

        @app.workflow()
        async def talk() -> str:
            await set_event("state", "waiting")
            await write_stream("log", 1)
            said = await recv(model=str)
            await write_stream("log", 2)
            await close_stream("log")
            return said

        @app.workflow(on=self.orders)
        async def fulfil(order: str) -> str:
            if order == "bad":
                raise TerminalError("bad")
            return f"{order} fulfilled"

        @app.workflow(on=Cron("0 3 * * *"))
        async def close_day(tick: Tick) -> str:
            return tick.scheduled_at.isoformat()


async def announced(bench: Bench) -> None:
    while not await bench.fetch_all("SELECT FROM dbos.executor_workflow") or not await bench.fetch_all(
        "SELECT FROM dbos.queue"
    ):
        await asyncio.sleep(0.005)
