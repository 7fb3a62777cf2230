"""Acts on workflows without a source: resume, fork, restart, delete, lists (I4, P29)."""

import asyncio
import json
from collections import Counter
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
    WorkflowConflictError,
    WorkflowFilter,
    WorkflowHandle,
    WorkflowNotFoundError,
    WorkflowStatus,
    sleep,
)
from processor.testing import Bench
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, until
from tests.integration.test_rest import until_status

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


@pytest.fixture
def shipping() -> Shipping:
    return Shipping()


async def failed(shipping: Shipping, step: str = "reserve", id: str = "w") -> WorkflowHandle[list[str]]:
    """A workflow that has failed at a step."""
    shipping.fails = {step}
    handle = await shipping.ship.start("o-1", id=id)
    with pytest.raises(ConnectionError):
        await handle.result()
    shipping.fails = set()
    shipping.calls.clear()
    return handle


# -- resume


async def test_a_failed_workflow_is_resumed_at_the_step_it_failed_by(database: str, shipping: Shipping) -> None:
    """I4: what succeeded stands, the failed step runs again, and its ID stays."""
    async with Bench(shipping.app, database) as bench:
        handle = await failed(shipping)
        assert await handle.resume()

        assert await handle.result() == ["charge of o-1", "reserve of o-1", "post of o-1"]
        assert shipping.calls == ["reserve o-1", "post o-1"]
        assert await bench.fetch_all("SELECT error, recovery_attempts FROM dbos.workflow_status") == [(None, 0)]


async def test_a_resumed_workflow_survives_the_death_of_its_process(database: str, shipping: Shipping) -> None:
    """I4, I8: what was resumed is as any other workflow: a crash repeats the step that it interrupts, and no other."""
    async with Bench(shipping.app, database) as bench:
        handle = await failed(shipping)
        bench.crash(after=shipping.reserve)
        await handle.resume()
        await until(lambda: bench.crashes)
        await bench.settle()

        assert await handle.result() == ["charge of o-1", "reserve of o-1", "post of o-1"]
        assert shipping.calls == ["reserve o-1", "reserve o-1", "post o-1"]


async def test_a_failure_that_was_dealt_with_stays_in_the_history(database: str) -> None:
    """I4: the code behind it is that of a failure; only the step that nothing followed is forgotten."""
    app = App("refunds")
    calls: Counter[str] = Counter()
    fails = {"charge", "refund"}

    async def call(step: str) -> None:
        calls[step] += 1
        if step in fails:
            raise ConnectionError(step)

    @app.step()
    async def charge() -> None:
        await call("charge")

    @app.step()
    async def refund() -> None:
        await call("refund")

    @app.workflow()
    async def buy() -> str:
        try:
            await charge()
        except ConnectionError:
            await sleep(timedelta(milliseconds=20))
            await refund()
            return "refunded"
        return "bought"

    async with Bench(app, database):
        handle = await buy.start(id="w")
        with pytest.raises(ConnectionError):
            await handle.result()
        fails.clear()
        await handle.resume()

        assert await handle.result() == "refunded"
        assert calls == {"charge": 1, "refund": 2}


async def test_a_cancelled_workflow_is_resumed_elsewhere_with_a_new_time_out(database: str) -> None:
    """P29: by whoever has room; expired or cancelled, it has its whole time again."""
    one, two = Shipping(), Shipping()
    one.shut = {"reserve"}
    async with Bench(two.app, database, executor="two", settings=FAST) as other:
        async with Bench(one.app, database, executor="one", settings=FAST) as bench:
            handle = await one.ship.start("o-1", id="w", timeout=DAY)
            await until(lambda: "reserve o-1" in one.calls)
            await bench.advance(DAY)
            with pytest.raises(WorkflowCancelledError):
                await handle.result()
            one.shut = set()
            await until(lambda: not bench.engine.commons.runs)
        assert await two.ship.retrieve("w").resume()

        assert await two.ship.retrieve("w").result() == ["charge of o-1", "reserve of o-1", "post of o-1"]
        assert two.calls == ["reserve o-1", "post o-1"]
        left = await other.fetch_all(
            "SELECT workflow_deadline_epoch_ms - updated_at BETWEEN 86000000 AND 86400000 FROM dbos.workflow_status"
        )
        assert left == [(True,)]


async def test_a_workflow_that_was_given_up_is_resumed_with_a_clean_slate(database: str, shipping: Shipping) -> None:
    """P22: its deaths are forgotten; they would give it up again at once."""
    settings = EngineSettings(conninfo="", deaths_max=1, scan=timedelta(milliseconds=50))
    async with Bench(shipping.app, database, settings=settings) as bench:
        shipping.shut = {"reserve"}
        await shipping.ship.start("o-1", id="w")
        await until(lambda: "reserve o-1" in shipping.calls)
        await bench.crash_now()
        await until_status(bench, "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
        shipping.shut = set()
        await shipping.ship.retrieve("w").resume()

        assert len(await shipping.ship.retrieve("w").result()) == 3
        assert await bench.fetch_all("SELECT recovery_attempts FROM dbos.workflow_status") == [(0,)]


async def test_what_is_not_to_be_resumed_says_so(database: str, shipping: Shipping) -> None:
    """Open: nothing to do. Succeeded: an error with the remedy. Unknown: an error. In bulk: a reason for each."""
    shipping.shut = {"post"}
    async with Bench(shipping.app, database) as bench:
        handle = await shipping.ship.start("o-1", id="w")
        assert not await handle.resume()
        shipping.shut = set()
        await handle.result()
        with pytest.raises(WorkflowActError, match=r"workflow w: it has succeeded: fork or restart it"):
            await handle.resume()
        with pytest.raises(WorkflowNotFoundError):
            await shipping.app.retrieve("nobody").resume()
        await failed(shipping, id="x")

        acted = await bench.app.resume_workflows(["w", "x", "nobody"])
        assert acted.done == ["x"]
        assert acted.refused == {"w": Refusal.SUCCEEDED, "nobody": Refusal.UNKNOWN}


async def test_a_workflow_is_resumed_by_other_code_if_somebody_says_so(database: str) -> None:
    """P29: whoever has the version that is named; where nobody has, it waits."""
    old, new = Shipping(version="1"), Shipping(version="2")
    async with Bench(old.app, database):
        await failed(old)
    async with Bench(new.app, database) as bench:
        handle = new.ship.retrieve("w")
        await handle.resume(version="2")

        assert await handle.result() == ["charge of o-1", "reserve of o-1", "post of o-1"]
        assert new.calls == ["reserve o-1", "post o-1"]
        assert await bench.fetch_all("SELECT application_version FROM dbos.workflow_status") == [("2",)]


# -- fork and restart


async def test_a_fork_begins_behind_what_it_takes_over(database: str, shipping: Shipping) -> None:
    """The steps below are not called again, those from there on are; the first is left as it was."""
    async with Bench(shipping.app, database) as bench:
        handle = await shipping.ship.start("o-1", id="w")
        first = await handle.result()
        before = await bench.fetch_all("SELECT * FROM dbos.workflow_status")
        shipping.calls.clear()
        forks = [await handle.fork(from_step=n, id=f"f-{n}") for n in (1, 2, 3, 4)]

        for n, fork in enumerate(forks, 1):
            assert await fork.result() == first
            assert (await fork.status()).forked_from == "w"
            assert [step.function_id for step in await fork.steps()] == [1, 2, 3], n
        assert Counter(shipping.calls) == {"charge o-1": 1, "reserve o-1": 2, "post o-1": 3}
        assert await bench.fetch_all("SELECT * FROM dbos.workflow_status WHERE workflow_uuid = 'w'") == before


async def test_a_fork_survives_the_death_of_its_process(database: str, shipping: Shipping) -> None:
    """I4, I8: its history is its own; a crash repeats only what it interrupts."""
    async with Bench(shipping.app, database) as bench:
        handle = await failed(shipping, "post")
        bench.crash(after=shipping.reserve)
        fork = await handle.fork(from_step=2)
        await until(lambda: bench.crashes)
        await bench.settle()

        assert await fork.result() == ["charge of o-1", "reserve of o-1", "post of o-1"]
        assert shipping.calls == ["reserve o-1", "reserve o-1", "post o-1"]
        assert (await handle.status()).status is WorkflowStatus.ERROR


async def test_the_same_fork_twice_is_one(database: str, shipping: Shipping) -> None:
    """The ID is its idempotency key, as of a start; one that is somebody else's is refused, as is a step there is not."""
    async with Bench(shipping.app, database) as bench:
        handle = await shipping.ship.start("o-1", id="w")
        await handle.result()
        await asyncio.gather(*(handle.fork(from_step=3, id="f") for _ in range(5)))
        await bench.settle()
        assert Counter(shipping.calls)["post o-1"] == 2

        with pytest.raises(WorkflowConflictError, match=r"it is no fork of f"):
            await shipping.ship.retrieve("f").fork(from_step=1, id="w")
        for n in (0, 5):
            with pytest.raises(WorkflowActError, match=rf"from_step={n}: it has 3 steps, so 1 to one more than that"):
                await handle.fork(from_step=n)
        with pytest.raises(WorkflowNotFoundError):
            await bench.app.retrieve("nobody").fork(from_step=1)


async def test_a_fork_whose_reply_was_lost_stands_once(database: str, shipping: Shipping) -> None:
    """P25: the commit came, its reply did not; the act is done again under the same ID, and finds itself."""
    async with losing_proxy(database) as (proxy, dsn), Bench(shipping.app, dsn) as bench:
        handle = await shipping.ship.start("o-1", id="w")
        await handle.result()
        proxy.marker = b"forked_from, created_at"
        proxy.lose_commits = 1
        fork = await handle.fork(from_step=3)
        await bench.settle()

        assert proxy.lost == 1
        assert await fork.result() == ["charge of o-1", "reserve of o-1", "post of o-1"]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status") == [(2,)]


async def test_a_fork_takes_large_inputs_events_and_streams_with_it(database: str) -> None:
    """As they were before the step: later events and entries are the fork's own to write; offsets stay contiguous."""
    app = App("large")
    text = "ä" * 200_000

    @app.step()
    async def half(n: int) -> int:
        return n // 2

    @app.workflow()
    async def length(text: str) -> int:
        return await half(await half(len(text)))

    async with Bench(app, database) as bench:
        handle = await length.start(text, id="w")
        await handle.result()
        for function_id, key, value in [(1, "a", "1"), (2, "a", "2"), (1, "b", "1"), (2, "c", "2")]:
            await bench.execute(
                "INSERT INTO dbos.workflow_events_history VALUES ('w', %s, %s, %s)", (function_id, key, value)
            )
        for offset, function_id in enumerate((1, 2, 1, 2)):
            await bench.execute(
                "INSERT INTO dbos.streams VALUES ('w', 's', %s, %s, %s)", (f"{offset}", offset, function_id)
            )
        fork = await handle.fork(from_step=2, id="f")

        assert await fork.result() == 50_000
        assert await bench.fetch_all(
            "SELECT key, value FROM dbos.workflow_events WHERE workflow_uuid = 'f' ORDER BY 1"
        ) == [("a", "1"), ("b", "1")]
        assert await bench.fetch_all(
            'SELECT "offset", value FROM dbos.streams WHERE workflow_uuid = %s ORDER BY 1', ("f",)
        ) == [(0, "0"), (1, "2")]


async def test_a_fork_awaits_the_children_that_it_took_over_and_starts_the_others(database: str) -> None:
    """P31: a child is started once for those who share the checkpoint; from there on they are the fork's."""
    app = App("family")
    calls: list[str] = []

    @app.step()
    async def note(what: str) -> str:
        calls.append(what)
        return what

    @app.workflow()
    async def child(n: int) -> str:
        return await note(f"child {n}")

    @app.workflow()
    async def parent() -> list[str]:
        handles = [await child.start(n) for n in range(2)]
        return [await handle.result() for handle in handles]

    async with Bench(app, database) as bench:
        handle = await parent.start(id="p")
        await handle.result()
        fork = await handle.fork(from_step=2, id="f")

        assert await fork.result() == ["child 0", "child 1"]
        assert sorted(calls) == ["child 0", "child 1", "child 1"]
        ids = await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY 1")
        assert [row[0] for row in ids] == ["f", "f-2", "p", "p-1", "p-2"]


async def test_a_restart_is_run_by_the_newest_code_and_a_fork_by_the_code_it_had(database: str) -> None:
    """P29: without a history nothing asks for old code; with one, somebody has to say so."""
    old, new = Shipping(version="1"), Shipping(version="2")
    async with Bench(old.app, database):
        await failed(old)
    async with Bench(new.app, database) as bench:
        handle = new.ship.retrieve("w")
        await until_announced(bench)
        restarted = await handle.restart(id="r")
        forked = await handle.fork(from_step=2, id="f")
        moved = await handle.fork(from_step=2, id="m", version="2")

        assert await restarted.result() == await moved.result() == ["charge of o-1", "reserve of o-1", "post of o-1"]
        assert Counter(new.calls) == {"charge o-1": 1, "reserve o-1": 2, "post o-1": 2}
        assert (await forked.status()).status is WorkflowStatus.PENDING
        versions = {info.id: info.version for info in await bench.app.list_workflows()}
        assert versions == {"w": "1", "r": "2", "f": "1", "m": "2"}


async def until_announced(bench: Bench) -> None:
    """Wait until an executor has said what it can run."""
    async with asyncio.timeout(30):
        while not await bench.fetch_all(
            "SELECT 1 FROM dbos.executor_workflow WHERE executor_id = %s", (bench.engine.executor_id,)
        ):
            await asyncio.sleep(0.01)


async def test_acts_in_a_workflow_are_remembered_and_done_once(database: str, shipping: Shipping) -> None:
    """I4: after a crash behind the act its record answers; the fork has one ID in every try."""
    app = shipping.app

    @app.step()
    async def pause() -> None:
        shipping.calls.append("pause")

    @app.workflow()
    async def repair(id: str) -> str:
        fork = await app.retrieve(id).fork(from_step=2)
        again = await app.retrieve(id).fork(from_step=3)
        resumed = await app.retrieve(id).resume()
        listed = await app.list_workflows(WorkflowFilter(forked_from=id))
        await pause()
        assert not await app.retrieve("nobody").delete()
        return f"{fork.id} {again.id} {resumed} {len(listed)} {len(await fork.result())}"

    async with Bench(app, database) as bench:
        await failed(shipping, "post")
        bench.crash(after=pause)
        handle = await repair.start("w", id="r")
        await until(lambda: bench.crashes)
        await bench.settle()

        assert await handle.result() == "r-1 r-2 True 2 3"
        assert Counter(shipping.calls) == {"reserve o-1": 1, "post o-1": 3, "pause": 2}
        names = [step.name for step in await handle.steps()]
        assert names[:4] == ["DBOS.forkWorkflow", "DBOS.forkWorkflow", "DBOS.resumeWorkflow", "DBOS.listWorkflows"]


async def test_forks_made_in_one_step_are_two(database: str, shipping: Shipping) -> None:
    """A step's calls are not remembered one by one, so nothing makes them one."""
    app = shipping.app

    @app.step()
    async def twice(id: str) -> list[str]:
        return [(await app.retrieve(id).fork(from_step=3)).id for _ in range(2)]

    @app.workflow()
    async def repair(id: str) -> list[str]:
        return await twice(id)

    async with Bench(app, database):
        await failed(shipping, "post")
        assert len(set(await repair("w"))) == 2


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
