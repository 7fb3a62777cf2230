"""What tests of acts share: a workflow that fails where it is told to, and a family of parents and children."""

import asyncio
from datetime import timedelta

import pytest

from processor import (
    App,
    WorkflowHandle,
    sleep,
)
from processor.testing import Bench

DAY = timedelta(days=1)


class Shipping:
    """A workflow of three steps; a step of which `fails` names raises, one that `shut` names waits."""

    def __init__(self, *, version: str = "1", name: str = "ship") -> None:
        self.app = app = App("shipping")
        self.calls: list[str] = []
        self.fails: set[str] = set()
        self.shut: set[str] = set()

        async def call(step: str, order: str) -> str:
            self.calls.append(f"{step} {order}")
            while step in self.shut:
                await asyncio.sleep(0.005)
            if step in self.fails:
                raise ConnectionError(f"{step} is away")
            return f"{step} of {order}"

        @app.step()
        async def charge(order: str) -> str:
            return await call("charge", order)

        @app.step()
        async def reserve(order: str) -> str:
            return await call("reserve", order)

        @app.step()
        async def post(order: str) -> str:
            return await call("post", order)

        @app.workflow(version=version, name=name)
        async def ship(order: str) -> list[str]:
            return [await charge(order), await reserve(order), await post(order)]

        self.charge, self.reserve, self.post, self.ship = charge, reserve, post, ship


async def failed(shipping: Shipping, step: str = "reserve", id: str = "w") -> WorkflowHandle[list[str]]:
    """A workflow that has failed at a step."""
    shipping.fails = {step}
    handle = await shipping.ship.start("o-1", id=id)
    with pytest.raises(ConnectionError):
        await handle.result()
    shipping.fails = set()
    shipping.calls.clear()
    return handle


async def until_announced(bench: Bench) -> None:
    """Wait until an executor has said what it can run."""
    async with asyncio.timeout(30):
        while not await bench.fetch_all(
            "SELECT 1 FROM dbos.executor_workflow WHERE executor_id = %s", (bench.engine.executor_id,)
        ):
            await asyncio.sleep(0.01)


class Family:
    """A workflow with children and grandchildren, and one that two share."""

    def __init__(self) -> None:
        self.app = app = App("family")

        @app.workflow()
        async def leaf(n: int) -> int:
            if n < 0:
                await sleep(DAY)
            return n

        @app.workflow()
        async def branch(n: int) -> int:
            own = await leaf(n)
            shared = await leaf.start(7, id="shared")
            return own + await shared.result()

        @app.workflow()
        async def root(n: int) -> int:
            await branch.start(1)
            branch_of = await branch.start(n)
            return await branch_of.result()

        self.leaf, self.branch, self.root = leaf, branch, root
