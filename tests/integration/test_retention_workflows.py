"""Retention of workflows that no record started: children, sleepers, IDs that are used again (P30, P31)."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from engine.keeping import RetentionSettings
from engine.settings import EngineSettings
from processor import App, sleep
from processor.testing import Bench
from tests.integration.sweeping import DAY, WEEK

SETTINGS = EngineSettings(
    conninfo="",
    scan=timedelta(milliseconds=100),
    retention=RetentionSettings(keep={"build": WEEK, "assemble": WEEK}, every=timedelta(milliseconds=50)),
)
PATIENCE_S = 60


class Factory:
    """A parent that asks for its child's result a month after the child has ended."""

    def __init__(self) -> None:
        self.app = App("factory")
        self.made: Counter[str] = Counter()

        @self.app.workflow(name="build")
        async def build(part: str) -> str:
            self.made[part] += 1
            return part.upper()

        @self.app.workflow(name="assemble")
        async def assemble(part: str) -> str:
            handle = await build.start(part)
            await sleep(30 * DAY)
            return await handle.result()

        self.build, self.assemble = build, assemble


@pytest.fixture
def factory() -> Factory:
    return Factory()


async def swept_since(bench: Bench) -> None:
    """A sweep that began after this was called has come to its end."""
    retention = bench.engine.retention
    wanted = retention.sweeps + 2
    async with asyncio.timeout(PATIENCE_S):
        while retention.sweeps < wanted:
            retention.hint()
            await asyncio.sleep(0.01)


async def statuses(bench: Bench) -> list[tuple[object, ...]]:
    return await bench.fetch_all("SELECT name, status FROM dbos.workflow_status ORDER BY 1")


async def test_a_parent_that_slept_longer_than_its_childs_row_is_kept_still_gets_the_result(
    database: str, factory: Factory
) -> None:
    """P30, P31: the child stands for as long as its parent is open; then both go, and nothing of them is left."""
    async with Bench(factory.app, database, settings=SETTINGS) as bench:
        parent = await factory.assemble.start("wheel")
        await bench.settle()
        await bench.advance(8 * DAY)
        await swept_since(bench)
        while_it_slept = await statuses(bench)
        await bench.advance(22 * DAY)
        result = await parent.result(timeout=timedelta(seconds=PATIENCE_S))
        await bench.settle()
        await bench.advance(8 * DAY)
        await swept_since(bench)
        await swept_since(bench)
        hanging = await bench.fetch_all("SELECT workflow_uuid FROM dbos.operation_outputs")
        left = await statuses(bench)

    assert while_it_slept == [("assemble", "PENDING"), ("build", "SUCCESS")]
    assert (result, factory.made) == ("WHEEL", {"wheel": 1})
    assert (left, hanging) == ([], [])


async def test_an_id_is_the_first_run_until_its_row_has_gone_and_a_new_one_then(
    database: str, factory: Factory
) -> None:
    """P30: the row is the idempotency key; the policy says for how long."""
    async with Bench(factory.app, database, settings=SETTINGS) as bench:
        await factory.build.start("wheel", id="w-1")
        await bench.settle()
        await bench.advance(6 * DAY)
        await swept_since(bench)
        again = await factory.build.start("wheel", id="w-1")
        ran_while_kept = factory.made["wheel"]
        await bench.advance(2 * DAY)
        await swept_since(bench)
        gone = await statuses(bench)
        anew = await factory.build.start("wheel", id="w-1")
        results = [await handle.result(timeout=timedelta(seconds=PATIENCE_S)) for handle in (again, anew)]

    assert (ran_while_kept, gone) == (1, [])
    assert (factory.made["wheel"], results) == (2, ["WHEEL", "WHEEL"])
