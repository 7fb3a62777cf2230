"""A workflow's time begins when it does: what it has waited at rest, or in a queue, does not count (decision 0033)."""

import asyncio
from datetime import timedelta

import pytest

from engine.settings import EngineSettings
from processor import App, Client, Queue, SyncClient, WorkflowCancelledError, recv, sleep
from processor.testing import Bench
from tests.integration.protocol import until, until_row
from tests.integration.talking import at_rest

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SETTINGS = EngineSettings(conninfo="", scan=timedelta(milliseconds=50))


class Office:
    """Workflows of one version. `gate` holds their first step."""

    def __init__(self, version: str = "1") -> None:
        self.app = app = App("office")
        self.gate = asyncio.Event()
        self.gate.set()
        self.began: list[str] = []
        self.queue = Queue("q", concurrency=2)
        app.register_queue(self.queue)

        @app.step()
        async def look(name: str) -> str:
            self.began.append(name)
            await self.gate.wait()
            return name

        @app.workflow(version=version)
        async def task(name: str) -> str:
            return await look(name)

        @app.workflow(version=version)
        async def patient(name: str) -> str:
            await look(name)
            await sleep(30 * DAY)
            return name

        @app.workflow(version=version)
        async def parent(hours: int | None) -> None:
            await task.start("child", id="child", timeout=None if hours is None else timedelta(hours=hours))
            await look("parent")

        self.task, self.patient, self.parent = task, patient, parent


async def deadline(bench: Bench, workflow_id: str) -> tuple[int | None, int | None, int | None]:
    """Its limit in ms; how long after its start it ends, in seconds; how long from now, in hours."""
    rows = await bench.fetch_all(
        "SELECT workflow_timeout_ms, (workflow_deadline_epoch_ms - started_at_epoch_ms + 500) / 1000,"
        " (workflow_deadline_epoch_ms - dbos.now_ms() + 1800000) / 3600000"
        " FROM dbos.workflow_status WHERE workflow_uuid = %s",
        [workflow_id],
    )
    ((timeout_ms, after_start_s, from_now_h),) = rows
    return timeout_ms, after_start_s, from_now_h


@pytest.mark.parametrize("is_sync", [False, True])
async def test_what_a_client_starts_has_its_whole_time_once_somebody_runs_it(database: str, is_sync: bool) -> None:
    """No deadline while nobody has its code, for however long; one from then on, that a crash does not move."""
    old, new = Office("1"), Office("2")
    async with Bench(old.app, database, settings=SETTINGS) as bench:
        if is_sync:
            await asyncio.to_thread(start_with_sync_client, database)
        else:
            async with Client(database) as client:
                await client.start("patient", "a", id="w", timeout=HOUR, version="2")
        await bench.advance(DAY)
        await bench.settle()
        assert await deadline(bench, "w") == (3_600_000, None, None)

        async with Bench(new.app, database, executor="two", settings=SETTINGS) as other:
            await at_rest(bench)
            assert await deadline(bench, "w") == (3_600_000, 3_600, 1)
            await other.crash_now()
            await bench.advance(HOUR)
            await until_row(bench, "status = 'CANCELLED'")
            assert await deadline(bench, "w") == (3_600_000, 3_600, 0)
    assert new.began == ["a"]


def start_with_sync_client(database: str) -> None:
    with SyncClient(database) as client:
        client.start("patient", "a", id="w", timeout=HOUR, version="2")


async def test_a_workflow_for_which_there_is_no_room_has_no_deadline_yet(database: str) -> None:
    """I10: its row is durable, and rests until others have ended."""
    office = Office()
    office.gate.clear()
    settings = EngineSettings(conninfo="", in_flight_max=1, scan=timedelta(milliseconds=50))
    async with Bench(office.app, database, settings=settings) as bench:
        first = await office.task.start("first", id="first", timeout=2 * DAY)
        await until(lambda: office.began == ["first"])
        second = await office.task.start("second", id="second", timeout=HOUR)
        assert await deadline(bench, "first") == (172_800_000, 172_800, 48)
        assert await deadline(bench, "second") == (3_600_000, None, None)
        await bench.advance(DAY)
        office.gate.set()

        assert [await first.result(), await second.result()] == ["first", "second"]
        assert await deadline(bench, "second") == (3_600_000, 3_600, 1)


@pytest.mark.parametrize(
    "hours, left_h",
    [
        pytest.param(None, 24, id="none of its own"),
        pytest.param(1, 1, id="a shorter one"),
        pytest.param(100, 24, id="a longer one"),
    ],
)
async def test_a_child_has_its_parents_deadline_and_its_own_time_once_it_runs(
    database: str, hours: int | None, left_h: int
) -> None:
    """No child outlives its parent's time-out; its own time begins when it does, a day after its parent started it."""
    office = Office()
    office.gate.clear()
    settings = EngineSettings(conninfo="", in_flight_max=1, scan=timedelta(milliseconds=50))
    async with Bench(office.app, database, settings=settings) as bench:
        await office.parent.start(hours, id="parent", timeout=2 * DAY)
        await until(lambda: office.began == ["parent"])
        timeout_ms, _, left = await deadline(bench, "child")
        assert (timeout_ms, left) == (None if hours is None else hours * 3_600_000, 48)
        await bench.advance(DAY)
        office.gate.set()
        await until_row(bench, "workflow_uuid = 'child' AND status = 'SUCCESS'")

        assert (await deadline(bench, "child"))[2] == left_h


@pytest.mark.parametrize("is_queued", [False, True])
async def test_what_is_resumed_or_forked_has_its_time_from_when_it_is_taken(database: str, is_queued: bool) -> None:
    """As DBOS has it: both clear the deadline, and who takes it sets a new one. A version that nobody has waits for a day."""
    old, new = Office("1"), Office("2")
    async with Bench(old.app, database, settings=SETTINGS) as bench:
        if is_queued:
            handle = await old.queue.having(id="w", timeout=HOUR).enqueue(old.patient, "a")
        else:
            handle = await old.patient.start("a", id="w", timeout=HOUR)
        await at_rest(bench)
        await bench.advance(HOUR)
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        await handle.fork(from_step=2, id="fork", version="2")
        assert await deadline(bench, "fork") == (3_600_000, None, None)
        await handle.resume(version="2")
        await bench.advance(DAY)
        assert (await deadline(bench, "w"))[2] is None

        async with Bench(new.app, database, executor="two", settings=SETTINGS):
            for resumed in ("w", "fork"):
                where = f"workflow_uuid = '{resumed}' AND status = 'PENDING' AND workflow_deadline_epoch_ms IS NOT NULL"
                await until_row(bench, where)
                assert (await deadline(bench, resumed))[2] == 1


async def test_what_dbos_enqueued_has_its_time_from_when_it_is_taken(database: str) -> None:
    """Its client writes the limit, and no deadline; one that a DBOS application had set stands."""
    office = Office()
    async with Bench(office.app, database, settings=SETTINGS) as bench:
        await bench.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, inputs, queue_name, workflow_timeout_ms,"
            " workflow_deadline_epoch_ms, created_at, updated_at)"
            """ SELECT id, 'ENQUEUED', 'task', '{"args": ["x"], "kwargs": {}}', 'q', 3600000, deadline, 1, 1"""
            " FROM (VALUES ('new', NULL), ('begun', dbos.now_ms() + 7200000)) AS t (id, deadline)"
        )
        await until_row(bench, "workflow_uuid = 'begun' AND status = 'SUCCESS'")
        await until_row(bench, "workflow_uuid = 'new' AND status = 'SUCCESS'")

        assert await deadline(bench, "new") == (3_600_000, 3_600, 1)
        assert (await deadline(bench, "begun"))[2] == 1  # whichever is earlier


async def test_a_parent_that_is_resumed_before_its_child_fails_with_the_childs_name(database: str) -> None:
    """Its time-out ended both; the child stays CANCELLED, and says so, until it is resumed itself: first."""
    office = Office()
    app = office.app

    @app.workflow(version="1")
    async def waiting() -> str:
        return await (await office.patient.start("child", id="child")).result()

    async with Bench(app, database, settings=SETTINGS) as bench:
        handle = await waiting.start(id="parent", timeout=HOUR)
        await at_rest(bench, 2)
        await bench.advance(HOUR)
        with pytest.raises(WorkflowCancelledError, match="workflow parent was cancelled"):
            await handle.result()
        await until_row(bench, "workflow_uuid = 'child' AND status = 'CANCELLED'")

        await handle.resume()
        with pytest.raises(WorkflowCancelledError, match="workflow child was cancelled"):
            await handle.result()
        await until_row(bench, "workflow_uuid = 'parent' AND status = 'ERROR'")
        await app.retrieve("child").resume()
        await handle.resume()
        await at_rest(bench, 2)
        await bench.execute("UPDATE dbos.workflow_status SET workflow_deadline_epoch_ms = NULL")
        await bench.advance(30 * DAY)

        assert await handle.result() == "child"


class Family:
    """A parent that waits for its child, which waits for a message, or fails first as long as it `is_bad`."""

    def __init__(self) -> None:
        self.app = app = App("family")
        self.is_bad = False

        @app.step()
        async def look() -> None:
            if self.is_bad:
                raise ValueError("down")

        @app.workflow(version="1")
        async def child() -> str:
            await look()
            return str(await recv("go"))

        @app.workflow(version="1")
        async def parent() -> str:
            return await (await child.start()).result()

        self.parent = parent


async def test_a_parents_time_is_also_that_of_a_child_that_was_resumed(database: str) -> None:
    """Children first, as the guide says: then no deadline is known yet. What the parent began ends with it."""
    family = Family()
    family.is_bad = True
    async with Bench(family.app, database, settings=SETTINGS) as bench:
        handle = await family.parent.start(id="p", timeout=HOUR)
        with pytest.raises(ValueError, match="down"):
            await handle.result()
        family.is_bad = False
        await family.app.resume_workflows(["p-1"])
        await family.app.resume_workflows(["p"])
        await at_rest(bench, 2)
        await bench.advance(HOUR)
        for ended in ("p", "p-1"):
            await until_row(bench, f"workflow_uuid = '{ended}' AND status = 'CANCELLED'")


async def test_a_resumed_parents_new_time_is_also_that_of_a_child_that_ran_on(database: str) -> None:
    """Not the deadline that the child had from the time before."""
    family = Family()
    async with Bench(family.app, database, settings=SETTINGS) as bench:
        handle = await family.parent.start(id="p", timeout=HOUR)
        await at_rest(bench, 2)
        await bench.advance(HOUR * 5 / 6)
        await handle.cancel()
        await handle.resume()
        await at_rest(bench, 2)
        await bench.advance(HOUR / 3)
        await bench.settle()
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("PENDING",)]
        await bench.advance(HOUR)
        for ended in ("p", "p-1"):
            await until_row(bench, f"workflow_uuid = '{ended}' AND status = 'CANCELLED'")
