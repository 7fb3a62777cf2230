"""Acts on workflows without a source: resume, fork, restart, delete, lists (I4, P29)."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from engine.acts import Refusal
from engine.settings import EngineSettings
from processor import (
    App,
    WorkflowActError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowFilter,
    WorkflowNotFoundError,
    WorkflowStatus,
    sleep,
)
from processor.testing import Bench
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, until
from tests.integration.shipping import DAY, Shipping, failed, until_announced
from tests.integration.test_rest import until_status


@pytest.fixture
def shipping() -> Shipping:
    return Shipping()


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
