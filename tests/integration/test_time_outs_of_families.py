"""A workflow's time is that of all it started: what a resume renews, what is shown of it, what a kill or another session leaves.

grandparent ─▶ parent ─▶ child      each has the deadline of the one above it, in its row
"""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from engine.crashpoints import CrashPoint
from engine.settings import EngineSettings
from engine.store import cancels
from engine.store.statement import send
from processor import App, WorkflowCancelledError, WorkflowFilter, recv
from processor.testing import Bench
from tests.integration.protocol import PATIENCE_S, until, until_row
from tests.integration.talking import at_rest

HOUR = timedelta(hours=1)
ODD = 'töp "1"'
"""An ID that JSON escapes."""
SETTINGS = EngineSettings(conninfo="", scan=timedelta(milliseconds=50))


class Family:
    """Three generations: `top` starts `middle`, which starts `bottom` behind its gate; all wait for a message that never comes."""

    def __init__(self) -> None:
        self.app = app = App("family")
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_in_step = False

        @app.step()
        async def look() -> None:
            self.is_in_step = True
            await self.gate.wait()

        @app.workflow(version="1")
        async def bottom() -> None:
            await recv("go")

        @app.workflow(version="1")
        async def middle() -> None:
            await look()
            await bottom.start(id="bottom")
            await recv("go")

        @app.workflow(version="1")
        async def top() -> None:
            await middle.start(id="middle")
            await recv("go")

        self.top = top


async def deadlines(bench: Bench) -> dict[str, int | None]:
    """Of all rows, in minutes from now."""
    rows = await bench.fetch_all(
        "SELECT workflow_uuid, (workflow_deadline_epoch_ms - dbos.now_ms() + 30000) / 60000 FROM dbos.workflow_status"
    )
    return dict(rows)


async def statuses(bench: Bench) -> dict[str, str]:
    return dict(await bench.fetch_all("SELECT workflow_uuid, status FROM dbos.workflow_status"))


async def test_what_a_child_starts_that_ran_on_has_no_deadline_of_the_time_before(database: str) -> None:
    """The child runs a step while its parent is cancelled and resumed: its row says what its own children have, not its run."""
    family = Family()
    family.gate.clear()
    async with Bench(family.app, database, settings=SETTINGS) as bench:
        handle = await family.top.start(id="top", timeout=HOUR)
        await until(lambda: family.is_in_step)
        await bench.advance(HOUR * 5 / 6)
        await handle.cancel()
        await handle.resume()
        await until_row(
            bench, "workflow_uuid = 'top' AND status = 'PENDING' AND workflow_deadline_epoch_ms IS NOT NULL"
        )
        family.gate.set()
        await at_rest(bench, 3)

        assert await deadlines(bench) == {"top": 60, "middle": None, "bottom": None}
        await bench.advance(HOUR / 2)
        await bench.settle()
        assert set((await statuses(bench)).values()) == {"PENDING"}
        await bench.advance(HOUR / 2)
        for each in ("top", "middle", "bottom"):
            await until_row(bench, f"workflow_uuid = '{each}' AND status = 'CANCELLED'")


async def test_a_generation_that_commits_while_a_resume_waits_for_its_parent_is_renewed_too(database: str) -> None:
    """Two sessions: the resume waits for the row of `middle`, whose flush brings `bottom` with the old deadline."""
    family = Family()
    family.gate.clear()
    async with (
        Bench(family.app, database, settings=SETTINGS) as bench,
        await psycopg.AsyncConnection.connect(database) as flush,
    ):
        handle = await family.top.start(id="top", timeout=HOUR)
        await until(lambda: family.is_in_step)
        await handle.cancel()
        await flush.execute("SELECT FROM dbos.workflow_status WHERE workflow_uuid = 'middle' FOR NO KEY UPDATE")
        await flush.execute(
            "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, child_workflow_id)"
            " VALUES ('middle', 90, 'bottom', '\"late\"', 'late')"
        )
        await flush.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_version, inputs, request,"
            " workflow_deadline_epoch_ms, created_at, updated_at, kafka_wake_at)"
            " SELECT 'late', 'PENDING', 'bottom', '1', inputs, '{\"parent\": \"middle\", \"function_id\": 90}',"
            " workflow_deadline_epoch_ms, 1, 1, dbos.now_ms() + 1000000000"
            " FROM dbos.workflow_status WHERE workflow_uuid = 'middle'"
        )
        resuming = asyncio.create_task(handle.resume())
        await until_blocked(bench)
        await flush.commit()
        await resuming

        after = await deadlines(bench)
        family.gate.set()
    assert (after["middle"], after["late"]) == (None, None)


async def until_blocked(bench: Bench) -> None:
    """Until a session waits for a row that another has locked."""
    async with asyncio.timeout(PATIENCE_S):
        while not await bench.fetch_all("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("point", [CrashPoint.TAKEN, CrashPoint.FLUSH_SENT])
async def test_a_renewed_family_survives_the_death_of_its_process(database: str, point: CrashPoint) -> None:
    """P22: behind the resume's commit, and in the flush that brings the child's child; all end with the parent's new time."""
    family = Family()
    family.gate.clear()
    async with Bench(family.app, database, settings=SETTINGS) as bench:
        handle = await family.top.start(id="top", timeout=HOUR)
        await until(lambda: family.is_in_step)
        await bench.advance(HOUR * 5 / 6)
        await handle.cancel()
        if point is CrashPoint.TAKEN:
            bench.crash(at=point)
        await handle.resume()
        if point is not CrashPoint.TAKEN:
            await until_row(bench, "workflow_uuid = 'top' AND kafka_asleep")
            bench.crash(at=point)
        family.gate.set()
        while bench.crashes == 0 or len(await deadlines(bench)) < 3:
            await bench.settle()

        assert await deadlines(bench) == {"top": 60, "middle": None, "bottom": None}
        await bench.advance(HOUR)
        for each in ("top", "middle", "bottom"):
            await until_row(bench, f"workflow_uuid = '{each}' AND status = 'CANCELLED'")


async def test_a_family_ends_though_the_process_that_cancelled_it_died_before_it_told_anybody(database: str) -> None:
    """Behind the commit of an expiry: who runs one of them hears nothing, looks, and begins no further step."""
    family = Family()
    family.gate.clear()
    async with Bench(family.app, database, settings=SETTINGS) as bench:
        handle = await family.top.start(id="top", timeout=HOUR)
        await until(lambda: family.is_in_step)
        async with await psycopg.AsyncConnection.connect(database) as dying:
            await dying.execute(
                "UPDATE dbos.workflow_status SET workflow_deadline_epoch_ms = 1 WHERE workflow_uuid = 'top'"
            )
            await send(dying, "dbos", cancels.expire(limit=100))

        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        family.gate.set()
        await bench.settle()
        assert await statuses(bench) == {"top": "CANCELLED", "middle": "CANCELLED"}


async def test_what_is_resumed_alone_shows_the_deadline_that_it_will_be_cancelled_at(database: str) -> None:
    """The end of what started it, or of what started that, as long as that is open: by handle, in lists, by ID from elsewhere."""
    family = Family()
    async with Bench(family.app, database, settings=SETTINGS) as bench:
        handle = await family.top.start(id=ODD, timeout=HOUR)
        await at_rest(bench, 3)
        for each in ("middle", "bottom"):
            await family.app.retrieve(each).cancel()
            await family.app.retrieve(each).resume()
        await at_rest(bench, 3)

        end = (await handle.status()).deadline
        assert end is not None
        assert (await deadlines(bench))["bottom"] is None
        assert [(await family.app.retrieve(each).status()).deadline for each in ("middle", "bottom")] == [end, end]
        listed = await family.app.list_workflows(WorkflowFilter(ids=[ODD, "middle", "bottom"]))
        assert [each.deadline for each in listed] == [end, end, end]
        await handle.cancel()
        assert (await family.app.retrieve("bottom").status()).deadline is None
        await handle.resume()
        await until_row(bench, f"workflow_uuid = '{ODD}' AND workflow_deadline_epoch_ms IS NOT NULL")
        again = (await handle.status()).deadline
        assert (await family.app.retrieve("bottom").status()).deadline == again
        await bench.advance(HOUR)
        for each in (ODD, "middle", "bottom"):
            await until_row(bench, f"workflow_uuid = '{each}' AND status = 'CANCELLED'")
        assert (await family.app.retrieve("bottom").status()).deadline is None


async def test_a_workflow_of_another_program_whose_request_says_anything_has_the_deadline_of_its_row(
    database: str,
) -> None:
    """A parent that did not start it, itself, or text that only begins as ours does."""
    family = Family()
    async with Bench(family.app, database, settings=SETTINGS) as bench:
        await family.top.start(id="top", timeout=HOUR)
        await at_rest(bench, 3)
        await bench.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, inputs, request, queue_name, created_at, updated_at)"
            " SELECT id, 'ENQUEUED', 'x', '{}', request, 'elsewhere', 1, 1 FROM (VALUES"
            """ ('a', '{"parent": "top"}'), ('b', '{"parent": "b"}'), ('c', 'parent'),"""
            r""" ('d', '{"parent": "\ud800", "function_id": 1}'), ('e', '{"parent": "top", "function_id": 0}')) AS t (id, request)"""
        )

        assert [(await family.app.retrieve(each).status()).deadline for each in "abcde"] == [None] * 5
