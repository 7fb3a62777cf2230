"""Workflows that start and await workflows: rows that come with the parent's checkpoint, whatever crashes."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.settings import EngineSettings
from processor import (
    App,
    TerminalError,
    Topic,
    Transaction,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowStatus,
    current_workflow,
    sleep,
    sync,
    workflow_id,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import RECORDS, STEPS
from tests.integration.protocol import PATIENCE_S
from tests.integration.test_rest import until_status

DAY = timedelta(days=1)


class Order(BaseModel):
    order_id: str
    parts: int = 3


orders = Topic("orders", Order, key=lambda order: order.order_id)


class Factory:
    """Orders of parts: a parent with a child for each part; children may sleep, fail, or wait for a gate."""

    def __init__(self) -> None:
        self.app = app = App("factory")
        self.calls: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.days = 0

        @app.step()
        async def make(part: str) -> str:
            self.calls[part] += 1
            await self.gate.wait()
            if part.endswith("broken"):
                raise TerminalError(f"{part} cannot be made")
            return part.upper()

        @app.workflow()
        async def build(part: str) -> str:
            if self.days:
                await sleep(DAY * self.days)
            return await make(part)

        @app.workflow(on=orders)
        async def assemble(order: Order) -> list[str]:
            self.calls[f"begun {order.order_id}"] += 1
            handles = [await build.start(f"{order.order_id}-{n}") for n in range(order.parts)]
            return [await handle.result() for handle in handles]

        @app.workflow()
        async def gather(parts: list[str]) -> list[str]:
            return list(await asyncio.gather(*(build(part) for part in parts)))

        self.make, self.build, self.assemble, self.gather = make, build, assemble, gather


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.mark.parametrize("kind", ["record", "call"])
async def test_a_parent_starts_children_and_gets_their_results(database: str, factory: Factory, kind: str) -> None:
    """P31: the child's row comes with the checkpoint that says so; IDs are the parent's and the place of the call."""
    async with Bench(factory.app, database) as bench:
        if kind == "record":
            await bench.deliver(orders, Order(order_id="o"))
            parent = "orders-0-0"
        else:
            await factory.assemble.start(Order(order_id="o"), id="p")
            parent = "p"
        await bench.settle()

        rows = await bench.fetch_all(
            "SELECT workflow_uuid, status, output, request FROM dbos.workflow_status ORDER BY workflow_uuid"
        )
        assert rows[0][:3] == (parent, "SUCCESS", '["O-0","O-1","O-2"]')
        assert [row[:3] for row in rows[1:]] == [(f"{parent}-{n + 1}", "SUCCESS", f'"O-{n}"') for n in range(3)]
        assert rows[1][3] == f'{{"parent": "{parent}", "function_id": 1}}'
        history = await bench.fetch_all(
            "SELECT function_id, function_name, output, child_workflow_id FROM dbos.operation_outputs "
            "WHERE workflow_uuid = %s ORDER BY 1",
            (parent,),
        )
        assert history == [
            *((n + 1, "build", f'"{parent}-{n + 1}"', f"{parent}-{n + 1}") for n in range(3)),
            *((n + 4, "DBOS.getResult", f'"O-{n}"', f"{parent}-{n + 1}") for n in range(3)),
        ]


@pytest.mark.crash_points(*RECORDS, *STEPS, CrashPoint.STARTED)
async def test_a_crash_anywhere_starts_every_child_once(
    database: str, factory: Factory, crash_point: CrashPoint | None
) -> None:
    """I4, P31: a child is there if and only if its parent's checkpoint is; each is made once per recorded step."""
    async with Bench(factory.app, database) as bench:
        bench.crash(at=crash_point)

        for n in range(4):
            await bench.deliver(orders, Order(order_id=f"o-{n}"))
        await bench.settle()
        await until_status(bench, "SUCCESS", 16)

        outputs = await bench.fetch_all(
            "SELECT output FROM dbos.workflow_status WHERE kafka_source IS NOT NULL ORDER BY 1"
        )
        assert outputs == [(f'["O-{n}-0","O-{n}-1","O-{n}-2"]',) for n in range(4)]
        orphans = await bench.fetch_all(
            "SELECT count(*) FROM dbos.workflow_status AS w WHERE w.kafka_source IS NULL AND NOT EXISTS ("
            "SELECT FROM dbos.operation_outputs AS o WHERE o.child_workflow_id = w.workflow_uuid)"
        )
        assert orphans == [(0,)]


async def test_gathered_children_keep_their_places_in_every_replay(database: str, factory: Factory) -> None:
    """A call takes both its places at once: results are never another call's, also when a crash reorders the rest."""
    async with Bench(factory.app, database) as bench:
        factory.gate.clear()
        handle = await factory.gather.start(["a", "b", "c"])
        await until_status(bench, "PENDING", 4)
        async with asyncio.timeout(PATIENCE_S):
            while len(factory.calls) < 3:
                await asyncio.sleep(0.01)
        bench.cut()
        factory.gate.set()
        await bench.settle()

        assert await factory.gather.retrieve(handle.id).result() == ["A", "B", "C"]


async def test_a_parent_that_waits_long_rests_and_is_woken_by_its_child(database: str, factory: Factory) -> None:
    """Parents at rest cost their rows; the child's outcome wakes them in its own commit."""
    async with Bench(factory.app, database) as bench:
        factory.days = 3
        await bench.deliver(orders, Order(order_id="o", parts=1))
        await factory.assemble.start(Order(order_id="d", parts=1), id="d")
        async with asyncio.timeout(PATIENCE_S):
            while await bench.fetch_all("SELECT count(*) FROM dbos.waiting") != [(2,)]:
                await asyncio.sleep(0.05)
        await bench.settle()
        assert bench.engine.in_flight == 0

        await bench.advance(DAY * 3)
        await until_status(bench, "SUCCESS", 4)

        assert await bench.fetch_all("SELECT count(*) FROM dbos.waiting") == [(0,)]
        assert factory.calls["begun o"] == 2
        assert factory.calls["begun d"] == 2


async def test_a_parent_never_waits_for_the_room_it_occupies(database: str, factory: Factory) -> None:
    """I10: with room for two, twenty parents of three children each come to an end."""
    settings = EngineSettings(conninfo="", in_flight_max=2, scan=timedelta(milliseconds=50))
    async with Bench(factory.app, database, settings=settings) as bench:
        for n in range(20):
            await factory.assemble.start(Order(order_id=f"o-{n}"))

        await until_status(bench, "SUCCESS", 80)


async def test_a_childs_error_is_its_parents_to_handle_and_is_remembered(database: str, factory: Factory) -> None:
    """What the child raised is raised where its result is asked for, the first time and in every replay."""
    app = factory.app
    caught: list[str] = []

    @app.workflow()
    async def careful() -> str:
        try:
            await factory.build("broken")
        except TerminalError as error:
            caught.append(str(error))
            await sleep(DAY)
            return f"without: {error}"
        return "?"

    async with Bench(app, database) as bench:
        handle = await careful.start()
        await bench.settle()
        await bench.advance(DAY)

        assert await handle.result() == "without: broken cannot be made"
        assert caught == ["broken cannot be made"] * 2


async def test_a_child_with_an_id_of_its_own_is_shared_by_its_parents(database: str, factory: Factory) -> None:
    """A key of the user's makes one run of several starts; another workflow under it is a remembered error."""
    app = factory.app

    @app.workflow()
    async def shares(n: int) -> str:
        with workflow_id("shared"):
            return await factory.build("part") + str(n)

    @app.workflow()
    async def clashes() -> str:
        try:
            await factory.build.start("other", id="shared")
        except WorkflowConflictError as error:
            await sleep(DAY)
            return str(error.reason)
        return "?"

    async with Bench(app, database) as bench:
        results = await asyncio.gather(shares(1), shares(2))
        handle = await clashes.start()
        await bench.settle()
        await bench.advance(DAY)

        assert results == ["PART1", "PART2"]
        assert factory.calls["part"] == 1
        assert (await handle.result()).startswith("it has other inputs")


async def test_a_sync_parent_starts_and_awaits_children(database: str, factory: Factory) -> None:
    """The same from a thread: sync children by a call, any by `start_sync`."""
    app = factory.app

    @app.step()
    def double(n: int) -> int:
        return n * 2

    @app.workflow()
    def child(n: int) -> int:
        return double(n)

    @app.workflow()
    def parent() -> list[int | str]:
        handle = factory.build.start_sync("part")
        sync.sleep(timedelta(milliseconds=1))
        return [child(4), child.start_sync(5).result(), handle.result()]

    async with Bench(app, database) as bench:
        handle = await parent.start(id="p")

        assert await handle.result() == [8, 10, "PART"]
        rows = await bench.fetch_all("SELECT workflow_uuid, name FROM dbos.workflow_status ORDER BY 1")
        assert rows == [("p", "parent"), ("p-1", "build"), ("p-3", "child"), ("p-5", "child")]


async def test_a_workflow_awaits_one_that_a_record_started(database: str, factory: Factory) -> None:
    """P8: the row of a known topic's record is waited for; a resting workflow finds out when it has ended."""
    app = factory.app

    @app.workflow()
    async def follows(id: str) -> str:
        return str(await app.retrieve(id).result())

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(order_id="first", parts=0))
        await bench.settle()
        factory.gate.clear()
        handle = await follows.start("orders-0-1")
        outside = asyncio.create_task(app.retrieve("orders-0-1").result())
        await bench.deliver(orders, Order(order_id="second", parts=1))
        async with asyncio.timeout(PATIENCE_S):
            while await bench.fetch_all("SELECT count(*) FROM dbos.waiting WHERE polled") != [(1,)]:
                await asyncio.sleep(0.05)
        factory.gate.set()

        assert await handle.result() == "['SECOND-0']"
        assert await outside == ["SECOND-0"]


async def test_a_time_out_cancels_a_workflow_and_its_children(database: str, factory: Factory) -> None:
    """Durable: from its start to its completion, asleep or not; the children have the same deadline."""
    async with Bench(factory.app, database) as bench:
        factory.days = 30
        handle = await factory.assemble.start(Order(order_id="o"), id="p", timeout=DAY)
        await bench.settle()
        rows = await bench.fetch_all(
            "SELECT workflow_timeout_ms, workflow_deadline_epoch_ms IS NOT NULL FROM dbos.workflow_status ORDER BY 1"
        )
        assert rows == [(86_400_000, True), (None, True), (None, True), (None, True)]
        await bench.advance(DAY)

        with pytest.raises(WorkflowCancelledError, match=r"workflow p was cancelled"):
            await handle.result()
        await until_status(bench, "CANCELLED", 4)
        assert not factory.calls["o-0"]


async def test_a_result_that_does_not_come_in_time_is_a_remembered_time_out(database: str, factory: Factory) -> None:
    """The end of the wait is a checkpoint: the child goes on, and the parent has waited once."""
    app = factory.app

    @app.workflow()
    async def impatient() -> str:
        child = await factory.build.start("slow")
        try:
            return await child.result(timeout=DAY)
        except TimeoutError:
            await sleep(DAY)
            return f"did not wait for {child.id}"

    async with Bench(app, database) as bench:
        factory.days = 30
        handle = await impatient.start(id="p")
        for _ in range(2):
            await bench.settle()
            await bench.advance(DAY)

        assert await handle.result() == "did not wait for p-1"
        assert (await factory.build.retrieve("p-1").status()).status is WorkflowStatus.PENDING


async def test_a_partition_that_leaves_takes_along_what_its_workflows_have_started(database: str) -> None:
    """P11, P12, P31: released right behind a start, the child is there with its checkpoint; the late step ends, once."""
    app = App("late")
    gate, started = asyncio.Event(), asyncio.Event()
    calls: Counter[str] = Counter()

    @app.workflow()
    async def child() -> str:
        calls["child"] += 1
        return current_workflow().id

    @app.step()
    async def slow() -> None:
        calls["slow"] += 1
        await gate.wait()

    @app.workflow(on=orders)
    async def parent(order: Order) -> str:
        del order
        handle = await child.start()
        started.set()
        await slow()
        return await handle.result()

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(order_id="o"))
        await started.wait()
        await bench.release(bench.ref(orders))
        gate.set()
        await bench.claim(bench.ref(orders))
        await bench.settle()

        assert calls["child"] == 1
        assert await bench.fetch_all("SELECT output FROM dbos.workflow_status ORDER BY 1") == [('"orders-0-0-1"',)] * 2


async def test_transactions_and_children_share_a_history(database: str) -> None:
    """A transactional step commits by itself; the child after it has its place behind it."""
    app = App("mixed")

    @app.transaction()
    async def write(tx: Transaction, n: int) -> int:
        cursor = await tx.execute("INSERT INTO written VALUES (%s) RETURNING n", (n,))
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    @app.workflow()
    async def child(n: int) -> int:
        return await write(n)

    @app.workflow()
    async def parent() -> list[int]:
        return [await write(1), await child(2), await write(3)]

    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE written (n integer)")

        assert await parent() == [1, 2, 3]
        assert await bench.fetch_all("SELECT n FROM written ORDER BY 1") == [(1,), (2,), (3,)]
