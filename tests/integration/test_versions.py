"""Code that changes while workflows are under way: versions, what goes on with what, patches (P29, I4, I8)."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.inspection import list_stranded, list_versions
from engine.pool import connect
from engine.transactional import NotInWorkflowError
from processor import (
    App,
    ConfigurationError,
    NondeterminismError,
    Settings,
    Topic,
    WorkflowStatus,
    deprecate_patch,
    patch,
    sleep,
    sync,
)
from processor.testing import Bench
from tests.integration.protocol import FAST, until
from tests.integration.shipping import until_announced
from tests.integration.test_rest import until_status

DAY = timedelta(days=1)


class Shop:
    """An app with one workflow, whose code is given; `calls` says which steps ran."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.calls: list[str] = []

        @app.step()
        async def charge(order: str) -> str:
            self.calls.append(f"charge {order}")
            return order

        @app.step()
        async def check(order: str) -> str:
            self.calls.append(f"check {order}")
            return order

        @app.step()
        async def ship(order: str) -> str:
            self.calls.append(f"ship {order}")
            return order

        self.charge, self.check, self.ship = charge, check, ship


def before() -> Shop:
    """The code there was."""
    shop = Shop()

    @shop.app.workflow(version="1")
    async def fulfil(order: str) -> str:
        await shop.charge(order)
        await sleep(DAY)
        return await shop.ship(order)

    return shop


def patched(*, continues: tuple[str, ...] = ("1",)) -> Shop:
    """It checks before it charges, and again before it ships."""
    shop = Shop()

    @shop.app.workflow(version="2", continues=continues)
    async def fulfil(order: str) -> str:
        if patch("check-first"):
            await shop.check(order)
        await shop.charge(order)
        await sleep(DAY)
        if patch("check-again"):
            await shop.check(order)
        return await shop.ship(order)

    return shop


def later() -> Shop:
    """The code before the patches is gone."""
    shop = Shop()

    @shop.app.workflow(version="3", continues=["2"])
    async def fulfil(order: str) -> str:
        deprecate_patch("check-first")
        await shop.check(order)
        await shop.charge(order)
        await sleep(DAY)
        deprecate_patch("check-again")
        await shop.check(order)
        return await shop.ship(order)

    return shop


async def begin(shop: Shop, database: str, id: str) -> None:
    """Start a workflow, and stop while it sleeps."""
    async with Bench(shop.app, database, executor=id, settings=FAST) as bench:
        await start(bench, id)
        await bench.settle()
        await until(lambda: not bench.engine.commons.runs)


async def start(bench: Bench, id: str) -> None:
    """Start `fulfil`, by what a start writes, and wait until it sleeps."""
    await bench.execute(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_version, inputs)"
        " VALUES (%s, 'PENDING', 'fulfil', %s, %s)",
        (id, bench.engine.commons.handlers["fulfil"].version, f'{{"args": ["{id}"], "kwargs": {{}}}}'),
    )
    bench.engine.scan.hint()
    async with asyncio.timeout(60):
        while not await bench.fetch_all(
            "SELECT 1 FROM dbos.workflow_status WHERE workflow_uuid = %s AND kafka_asleep", (id,)
        ):
            await asyncio.sleep(0.02)


async def test_a_patch_leaves_what_was_under_way_with_the_code_it_began_with(database: str) -> None:
    """I4: by the history alone: False where another step stands, True from the first place that it has not come to."""
    await begin(before(), database, "old")
    new = patched()
    async with Bench(new.app, database, executor="new", settings=FAST) as bench:
        await start(bench, "young")
        await bench.advance(DAY)
        assert await new.app.retrieve("old").result() == "old"
        assert await new.app.retrieve("young").result() == "young"

        def of(id: str) -> list[str]:
            return [call.split()[0] for call in new.calls if call.endswith(id)]

        assert of("old") == ["check", "ship"]
        assert of("young") == ["check", "charge", "check", "ship"]
        steps = [step.name for step in await new.app.retrieve("old").steps()]
        assert steps == ["charge", "DBOS.sleep", "DBOS.patch-check-again", "check", "ship"]


async def test_a_patch_is_decided_alike_in_every_replay(database: str) -> None:
    """I4, I8: a crash behind the patch, before and after its step is durable."""
    await begin(before(), database, "old")
    new = patched()
    async with Bench(new.app, database, executor="new", settings=FAST) as bench:
        await start(bench, "young")
        bench.crash(after=new.check, times=3)
        await bench.advance(DAY)
        await until(lambda: bench.crashes)
        await bench.settle()
        assert await new.app.retrieve("old").result() == "old"

        assert bench.crashes == 3
        assert new.calls.count("charge old") == 0
        assert new.calls.count("charge young") == 1
        assert [new.calls.count(f"ship {id}") for id in ("old", "young")] == [1, 1]


async def test_a_patch_that_is_deprecated_is_passed_by(database: str) -> None:
    """Workflows that have its step, and those that have not."""
    await begin(patched(), database, "patched")
    new = later()
    async with Bench(new.app, database, executor="later", settings=FAST) as bench:
        await start(bench, "young")
        await bench.advance(DAY)

        assert await new.app.retrieve("patched").result() == "patched"
        assert await new.app.retrieve("young").result() == "young"
        assert [call for call in new.calls if call.endswith("young")] == [
            "check young",
            "charge young",
            "check young",
            "ship young",
        ]
        names = [step.name for step in await new.app.retrieve("young").steps()]
        assert names == ["check", "charge", "DBOS.sleep", "check", "ship"]


async def test_only_code_that_goes_on_with_a_version_takes_its_workflows_and_for_good(database: str) -> None:
    """P29: unless it says so, another version waits; once taken, the old code has nothing to do with it any more."""
    await begin(before(), database, "old")
    async with Bench(patched(continues=()).app, database, executor="strict", settings=FAST) as bench:
        await until_announced(bench)
        async with await connect(bench.settings, "test") as connection:
            assert [row.workflow_id for row in await list_stranded(connection, "dbos")] == ["old"]
    new = patched()
    async with Bench(new.app, database, executor="new", settings=FAST) as bench:
        await until_announced(bench)
        async with await connect(bench.settings, "test") as connection:
            assert await list_stranded(connection, "dbos") == []
        bench.crash(after=new.check)
        await bench.advance(DAY)
        await until(lambda: bench.crashes)
        await bench.settle()
        assert (await new.app.retrieve("old").status()).version == "2"


async def test_versions_are_listed_with_who_has_them_and_who_is_under_way(database: str) -> None:
    """Which code runs, which ran; the newest first, and one that nobody of ours ever had."""
    await begin(before(), database, "old")
    new = patched(continues=())
    async with Bench(new.app, database, executor="new", settings=FAST) as bench:
        await until_announced(bench)
        await start(bench, "young")
        async with await connect(bench.settings, "test") as connection:
            rows = await list_versions(connection, "dbos", name="fulfil")
        found = {row.version: (row.executors, row.open, row.first_at_ms is None) for row in rows}
        assert found == {"2": (1, 1, False), "1": (0, 1, False)}
        await bench.execute("UPDATE dbos.workflow_status SET application_version = 'x' WHERE workflow_uuid = 'old'")
        async with await connect(bench.settings, "test") as connection:
            rows = await list_versions(connection, "dbos")
        assert [(row.version, row.open) for row in rows] == [("2", 1), ("1", 0), ("x", 1)]


async def test_without_a_patch_changed_code_fails_before_it_runs_anything(database: str) -> None:
    """The remedy is in the message; nothing was guessed."""
    await begin(before(), database, "old")
    shop = Shop()

    @shop.app.workflow(version="2", continues=["1"])
    async def fulfil(order: str) -> str:
        await shop.check(order)
        return await shop.ship(order)

    async with Bench(shop.app, database, executor="new", settings=FAST) as bench:
        await bench.advance(DAY)
        with pytest.raises(NondeterminismError, match="has step 'charge' here, the code called 'check'"):
            await fulfil.retrieve("old").result()
        assert shop.calls == []


class Order(BaseModel):
    order_id: str


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_a_record_and_a_sync_workflow_take_a_patch_as_well(database: str, colour: str) -> None:
    """A record's workflow goes on in whatever code its partition's owner has: no `continues=` is asked for."""
    orders = Topic("orders", Order, key=lambda order: order.order_id)

    def app_of(*, is_patched: bool) -> tuple[App, list[str]]:
        app, calls = App("records"), list[str]()

        @app.step()
        async def note(what: str) -> None:
            calls.append(what)

        @app.step()
        def note_sync(what: str) -> None:
            calls.append(what)

        async def fulfil(order: Order) -> None:
            if is_patched and patch("new"):
                await note("new")
            await note("first")
            await sleep(DAY)
            await note("last")

        def fulfil_sync(order: Order) -> None:
            if is_patched and patch("new"):
                note_sync("new")
            note_sync("first")
            sync.sleep(DAY)
            note_sync("last")

        handler: Callable[..., object] = fulfil if colour == "async" else fulfil_sync
        app.workflow(on=orders, name="fulfil")(handler)
        return app, calls

    old, _ = app_of(is_patched=False)
    async with Bench(old, database, executor="old", settings=FAST) as bench:
        await bench.deliver(orders, Order(order_id="a"))
        await bench.settle()
    new, calls = app_of(is_patched=True)
    async with Bench(new, database, executor="new", settings=FAST) as bench:
        await bench.claim(bench.ref(orders))
        await bench.deliver(orders, Order(order_id="b"), offset=1)
        await bench.settle()
        await bench.advance(DAY)
        await until_status(bench, "SUCCESS", 2)
        assert sorted(calls) == ["first", "last", "last", "new"]


async def test_a_patch_is_no_business_of_a_step(database: str) -> None:
    """Nothing would remember it; in a unit test of the function it is the new code."""
    app = App("steps")

    @app.step()
    async def decides() -> bool:
        return patch("x")

    @app.workflow()
    async def asks() -> bool:
        return await decides()

    @app.workflow()
    async def both() -> bool:
        return patch("x")

    assert await both.fn()
    with pytest.raises(ConfigurationError, match=r"patch\(''\): a name of 1 to 200 characters"):
        patch("")
    async with Bench(app, database):
        with pytest.raises(NotInWorkflowError, match=r"patch\('x'\) was called in a step"):
            await asks()
        assert await both()


async def test_a_version_may_be_given_to_all_by_a_setting(database: str) -> None:
    """`executor.version`; a decorator's goes before, and nothing else is run."""
    app = App("settings")

    @app.workflow()
    async def plain() -> int:
        return 1

    @app.workflow(version="own")
    async def own() -> int:
        return 2

    settings = Settings.model_validate({"postgres": {"dsn": database}, "executor": {"version": "2026.1"}})
    async with app.running(settings, kafka=False):
        first, second = await plain.start(id="p"), await own.start(id="o")
        assert (await first.result(), await second.result()) == (1, 2)
        versions = {info.id: info.version for info in await app.list_workflows()}
        assert versions == {"p": "2026.1", "o": "own"}
        assert (await first.status()).status is WorkflowStatus.SUCCESS
