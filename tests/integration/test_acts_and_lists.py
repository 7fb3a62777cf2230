"""Deleting workflows, listing them, and acts of programs that run none (docs/guides/mending-workflows.md)."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine import acts
from engine.acts import Refusal
from engine.pool import connect
from engine.settings import EngineSettings
from processor import (
    App,
    ConfigurationError,
    WorkflowActError,
    WorkflowCancelledError,
    WorkflowFilter,
    WorkflowStatus,
)
from processor.testing import Bench
from tests.integration.protocol import until
from tests.integration.shipping import DAY, Family, Shipping, failed
from tests.integration.test_rest import until_status


@pytest.fixture
def shipping() -> Shipping:
    return Shipping()


# -- delete


async def test_a_deleted_workflow_is_gone_with_all_that_hangs_on_it(database: str, shipping: Shipping) -> None:
    """Rows, history, inputs, recoveries; its ID is free for another workflow."""
    settings = EngineSettings(conninfo="", scan=timedelta(milliseconds=50), inputs_inline_max=10)
    async with Bench(shipping.app, database, settings=settings) as bench:
        bench.crash(after=shipping.reserve)
        handle = await shipping.ship.start("o-1", id="w")
        await until(lambda: bench.crashes)
        await bench.settle()
        await handle.result()
        assert await handle.delete()

        assert not await handle.delete()
        for table in ("workflow_status", "operation_outputs", "workflow_inputs", "recovery"):
            rows: Any = await bench.fetch_all("SELECT count(*) FROM dbos." + table)  # pyright: ignore[reportArgumentType]  # of ours
            assert rows == [(0,)], table
        assert await (await shipping.ship.start("o-2", id="w")).result() == [
            f"{step} of o-2" for step in ("charge", "reserve", "post")
        ]


async def test_only_what_has_ended_is_deleted(database: str, shipping: Shipping) -> None:
    """Cancel it first: nothing that runs loses its history."""
    shipping.shut = {"reserve"}
    async with Bench(shipping.app, database) as bench:
        handle = await shipping.ship.start("o-1", id="w")
        with pytest.raises(WorkflowActError, match=r"workflow w: it has not ended"):
            await handle.delete()
        assert (await bench.app.delete_workflows(["w", "x"])).refused == {"w": Refusal.OPEN, "x": Refusal.UNKNOWN}
        await handle.cancel()
        assert await handle.delete()
        shipping.shut = set()
        await until(lambda: not bench.engine.commons.runs)

        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs") == [(0,)]


async def test_a_family_is_deleted_whole_or_not_at_all(database: str) -> None:
    """Children of children too; one that other workflows started is theirs."""
    family = Family()
    async with Bench(family.app, database) as bench:
        await (await family.leaf.start(7, id="shared")).result()
        await (await family.root.start(2, id="r")).result()
        await bench.settle()
        sleeping = await family.root.start(-1, id="s")
        await until_status(bench, "PENDING", 3)

        assert await family.root.retrieve("r").delete(children=True)
        with pytest.raises(WorkflowActError, match=r"workflow s: its child s-2-1: it has not ended|workflow s: it has"):
            await sleeping.delete(children=True)
        left = {info.id for info in await bench.app.list_workflows()}
        assert left == {"shared", "s", "s-1", "s-1-1", "s-2", "s-2-1"}

        cancelled = await bench.app.cancel_workflows(["s"], children=True)
        assert sorted(cancelled) == ["s", "s-2", "s-2-1"]
        assert await sleeping.delete(children=True)
        assert [info.id for info in await bench.app.list_workflows()] == ["shared"]


# -- lists


async def test_lists_are_narrowed_by_everything_that_is_given(database: str, shipping: Shipping) -> None:
    """Each filter alone, and together; paged, either way round, with and without payloads."""
    app = shipping.app

    @app.workflow(version="x")
    async def other() -> int:
        return 1

    async with Bench(app, database) as bench:
        started = datetime.now(UTC)
        ids = [f"w-{n}" for n in range(5)]
        for n, id in enumerate(ids):
            await (await shipping.ship.start(f"o-{n}", id=id)).result()
        await failed(shipping, id="failed")
        await (await other.start(id="other")).result()
        fork = await shipping.ship.retrieve("w-0").fork(from_step=4, id="fork")
        await fork.result()
        await bench.execute(
            "UPDATE dbos.workflow_status SET queue_name = 'q', authenticated_user = 'ada' WHERE workflow_uuid = 'w-1'"
        )

        async def listed(**filters: Any) -> list[str]:
            return sorted(info.id for info in await app.list_workflows(WorkflowFilter(**filters)))

        everything = sorted([*ids, "failed", "other", "fork"])
        assert await listed() == everything
        assert await listed(ids=["w-1", "failed", "nobody"]) == ["failed", "w-1"]
        assert await listed(status="ERROR") == ["failed"]
        assert await listed(status=[WorkflowStatus.ERROR, WorkflowStatus.PENDING]) == ["failed"]
        assert await listed(name="other") == await listed(version=["x"]) == ["other"]
        assert await listed(prefix="w-") == ids
        assert await listed(forked_from="w-0") == ["fork"]
        assert await listed(queue="q") == await listed(is_queued=True) == await listed(user="ada") == ["w-1"]
        assert await listed(is_of_record=True) == []
        assert await listed(executor=bench.engine.executor_id) == everything
        assert await listed(created_from=started - DAY, created_before=started) == []
        assert await listed(created_from=started, prefix="w-", status="SUCCESS") == ids

        newest = [info.id for info in await app.list_workflows(newest_first=True, limit=2, offset=1)]
        assert newest == ["other", "failed"]
        info = (await app.list_workflows(WorkflowFilter(ids=["w-3"])))[0]
        assert json.loads(info.inputs or "")["args"] == ["o-3"]
        assert json.loads(info.output or "")[0] == "charge of o-3"
        bare = (await app.list_workflows(WorkflowFilter(ids=["w-3"]), payloads=False))[0]
        assert bare == replace(info, inputs=None, output=None)


async def test_lists_of_children_name_what_a_workflow_started(database: str) -> None:
    """Not what it only awaited."""
    family = Family()
    async with Bench(family.app, database) as bench:
        await (await family.root.start(2, id="r")).result()
        await bench.settle()
        children = await bench.app.list_workflows(WorkflowFilter(parent="r"))
        assert [info.id for info in children] == ["r-1", "r-2"]


async def test_a_filter_that_cannot_be_is_refused(database: str, shipping: Shipping) -> None:
    """By name, before anything is asked."""
    with pytest.raises(ConfigurationError, match=r"status 'DONE': one of ENQUEUED, PENDING"):
        WorkflowFilter(status="DONE")
    with pytest.raises(ConfigurationError, match=r"created_from=.* say of which time zone"):
        WorkflowFilter(created_from=datetime(2026, 1, 1))  # noqa: DTZ001  # that is the mistake
    async with Bench(shipping.app, database) as bench:
        with pytest.raises(ConfigurationError, match=r"limit=0: 1 to 10,000"):
            await bench.app.list_workflows(limit=0)
        with pytest.raises(ConfigurationError, match=r"offset=-1"):
            await bench.app.list_workflows(offset=-1)


# -- from elsewhere


async def test_another_program_acts_by_a_connection_alone(database: str, shipping: Shipping) -> None:
    """Whoever runs the workflow hears of it; every act is recorded with who and why."""
    shipping.shut = {"reserve"}
    async with Bench(shipping.app, database) as bench, await connect(bench.settings, "operator") as connection:
        handle = await shipping.ship.start("o-1", id="w w")
        await until(lambda: "reserve o-1" in shipping.calls)
        done = await acts.cancel(connection, "dbos", ["w w", "nobody"], actor="ada", note="stuck")
        assert (done.done, done.refused) == (["w w"], {"nobody": Refusal.UNKNOWN})
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        shipping.shut = set()
        await until(lambda: not bench.engine.commons.runs)
        await acts.resume(connection, "dbos", ["w w"], actor="ada", note="mended")

        assert len(await handle.result()) == 3
        await acts.delete(connection, "dbos", ["w w"], actor="ada")
        audit = await bench.fetch_all("SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit ORDER BY 1")
        assert audit == [
            ("ada", "cancel workflow", "w w", "stuck"),
            ("ada", "resume workflow", "w w", "mended"),
            ("ada", "delete workflow", "w w", ""),
        ]


async def test_the_same_from_a_thread(database: str) -> None:
    """`app.sync`, in a sync workflow and in any thread."""
    app = App("threads")
    fails = {"once"}

    @app.step()
    def fragile() -> str:
        if fails:
            raise ConnectionError(fails.pop())
        return "done"

    @app.workflow()
    def work() -> str:
        return fragile()

    @app.workflow()
    def repair(id: str) -> str:
        handle = app.sync.retrieve(id)
        handle.resume()
        result = handle.result()
        fork = handle.fork(from_step=1)
        return f"{result} {fork.result()} {fork.id}"

    async with Bench(app, database):
        handle = await work.start(id="w")
        with pytest.raises(ConnectionError):
            await handle.result()
        assert await (await repair.start("w", id="r")).result() == "done done r-3"

        def outside() -> list[str]:
            restarted = app.sync.retrieve("w").restart(id="again")
            restarted.result()
            assert app.sync.cancel_workflows(["w"]) == []
            assert app.sync.resume_workflows(["w"]).refused == {"w": Refusal.SUCCEEDED}
            assert restarted.delete()
            return [info.id for info in app.sync.list_workflows(WorkflowFilter(status="SUCCESS"))]

        assert await asyncio.to_thread(outside) == ["w", "r", "r-3"]
