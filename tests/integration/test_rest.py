"""Rest: workflows that wait long leave memory and come back over their history, with a source and without."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.settings import EngineSettings
from processor import App, Topic, WorkflowStatus, current_workflow, sleep, sync
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import FLUSHES, STEPS
from tests.integration.protocol import PATIENCE_S

DAY = timedelta(days=1)


class Order(BaseModel):
    order_id: str
    days: int = 30


orders = Topic("orders", Order, key=lambda order: order.order_id)
loose = Topic("loose", Order)


class Reminders:
    """Workflows of two steps with a long sleep between; `began` and `ended` say which ran."""

    def __init__(self) -> None:
        self.app = app = App("reminders")
        self.calls: list[str] = []

        @app.step()
        async def note(what: str) -> str:
            self.calls.append(what)
            return what

        async def remind(order: Order) -> str:
            first = await note(f"first {order.order_id}")
            await sleep(DAY * order.days)
            return first + await note(f"second {order.order_id}")

        self.note = note
        self.by_key = app.workflow(on=orders, name="by_key")(remind)
        self.loose = app.workflow(on=loose, name="loose")(remind)

        @app.workflow()
        async def direct(order_id: str, days: int) -> str:
            return await remind(Order(order_id=order_id, days=days))

        self.direct = direct


@pytest.fixture
def reminders() -> Reminders:
    return Reminders()


async def open_rows(bench: Bench) -> list[tuple[object, ...]]:
    return await bench.fetch_all(
        "SELECT status, owner_xid IS NULL, kafka_asleep, kafka_wake_at > dbos.now_ms() FROM dbos.workflow_status"
    )


@pytest.mark.parametrize("kind", ["direct", "by key", "without a key"])
async def test_a_workflow_that_sleeps_leaves_memory_and_goes_on_when_its_time_has_come(
    database: str, reminders: Reminders, kind: str
) -> None:
    """I4: the wake-up time is a checkpoint; what was done before is not done again; the in-flight count is free."""
    async with Bench(reminders.app, database) as bench:
        match kind:
            case "direct":
                await reminders.direct.start("o-1", 30)
            case "by key":
                await bench.deliver(orders, Order(order_id="o-1"))
            case _:
                await bench.deliver(loose, Order(order_id="o-1"), key=None)
        await bench.settle()
        while bench.engine.in_flight:
            await asyncio.sleep(0.01)

        assert await open_rows(bench) == [("PENDING", True, True, True)]
        assert not bench.engine.commons.runs
        if kind != "direct":
            assert not bench.source(orders if kind == "by key" else loose).inbox.runs
        await bench.advance(DAY * 29)
        await bench.settle()
        assert reminders.calls == ["first o-1"]
        await bench.advance(DAY)
        await until_status(bench, "SUCCESS")

        assert reminders.calls == ["first o-1", "second o-1"]
        assert await bench.fetch_all("SELECT output FROM dbos.workflow_status") == [('"first o-1second o-1"',)]
        assert await bench.fetch_all("SELECT function_id, function_name FROM dbos.operation_outputs ORDER BY 1") == [
            (1, "note"),
            (2, "DBOS.sleep"),
            (3, "note"),
        ]


async def until_status(bench: Bench, status: str, count: int = 1) -> None:
    """Wait until so many workflows have a status."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            rows = await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE status = %s", (status,))
            if rows == [(count,)]:
                return
            await asyncio.sleep(0.02)


async def test_a_sleeper_keeps_its_key_across_a_release_and_a_crash(database: str, reminders: Reminders) -> None:
    """I7, P15: later records of its key wait behind it, whoever has the partition; those of other keys do not."""
    async with Bench(reminders.app, database) as bench:
        await bench.deliver(orders, Order(order_id="a"))
        await bench.settle()
        await bench.release(bench.ref(orders))
        await bench.claim(bench.ref(orders))
        assert len(bench.source(orders).inbox.keys.asleep) == 1

        await bench.deliver(orders, Order(order_id="a", days=0))
        await bench.deliver(orders, Order(order_id="b", days=0))
        await until_status(bench, "SUCCESS")
        await bench.crash_now()
        await bench.settle()
        assert reminders.calls == ["first a", "first b", "second b"]
        await bench.advance(DAY * 31)
        await until_status(bench, "SUCCESS", 3)

        assert reminders.calls[3:] == ["second a", "first a", "second a"]
        ended = await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY updated_at")
        assert ended == [("orders-0-2",), ("orders-0-0",), ("orders-0-1",)]


async def test_sleepers_without_a_key_are_read_by_no_claim(database: str, reminders: Reminders) -> None:
    """100,000 of them cost nothing at a rebalance: the look finds those that are due."""
    async with Bench(reminders.app, database) as bench:
        for n in range(5):
            await bench.deliver(loose, Order(order_id=f"o-{n}", days=n + 1), key=None)
        await bench.settle()
        await bench.release(bench.ref(loose))
        await bench.claim(bench.ref(loose))

        assert not bench.source(loose).inbox.runs
        assert not bench.source(loose).inbox.keys.asleep
        await bench.advance(DAY * 2)
        await until_status(bench, "SUCCESS", 2)
        await bench.advance(DAY * 3)
        await until_status(bench, "SUCCESS", 5)
        assert Counter(reminders.calls) == Counter(f"{word} o-{n}" for n in range(5) for word in ("first", "second"))


@pytest.mark.crash_points(*FLUSHES, *STEPS, CrashPoint.TAKEN)
async def test_a_crash_anywhere_wakes_every_sleeper_once(
    database: str, reminders: Reminders, crash_point: CrashPoint | None
) -> None:
    """I4, I7, I8, P29: whatever the gap, with a source and without, each goes on behind its sleep and ends once."""
    async with Bench(reminders.app, database) as bench:
        for n in range(4):
            await bench.deliver(orders, Order(order_id=f"k-{n % 2}"))
            await reminders.direct.start(f"d-{n}", 30, id=f"d-{n}")
        await bench.settle()
        bench.crash(at=crash_point)

        # Two records a key: the second begins when the first has ended, and sleeps in its turn.
        for _ in range(3):
            await bench.advance(DAY * 31)
            await bench.settle()

        await until_status(bench, "SUCCESS", 8)
        if crash_point in (None, CrashPoint.TAKEN):
            assert bench.crashes == (crash_point is not None)
        ends = [call for call in reminders.calls if call.startswith("second")]
        again = {CrashPoint.STEP_CALLED, CrashPoint.CHECKPOINTED, CrashPoint.FLUSH_BUILT, CrashPoint.FLUSH_SENT}
        if crash_point in again:
            assert set(ends) == {f"second {kind}-{n}" for kind, count in (("k", 2), ("d", 4)) for n in range(count)}
        else:
            assert Counter(ends) == {"second k-0": 2, "second k-1": 2, **{f"second d-{n}": 1 for n in range(4)}}
        recorded = await bench.fetch_all(
            "SELECT count(*) FROM dbos.operation_outputs WHERE function_name = 'note' AND function_id = 3"
        )
        assert recorded == [(8,)]


async def test_a_short_sleep_stays_in_memory(database: str) -> None:
    """What goes on within a second does not rest: no replay, the time as asked for."""
    app = App("naps")
    begun: list[str] = []

    @app.workflow()
    async def nap() -> str:
        begun.append(current_workflow().id)
        await sleep(timedelta(milliseconds=300))
        return "rested"

    async with Bench(app, database):
        assert await nap() == "rested"

        assert len(begun) == 1


async def test_a_sync_workflow_gives_its_thread_back_while_it_sleeps(database: str) -> None:
    """A sleeper has no thread: as many sleep as there are rows."""
    app = App("naps")

    @app.workflow()
    def nap(n: int) -> int:
        sync.sleep(DAY)
        return n

    settings = EngineSettings(conninfo="", threads=2, scan=timedelta(milliseconds=100))
    async with Bench(app, database, settings=settings) as bench:
        handles = [await nap.start(n) for n in range(8)]
        async with asyncio.timeout(PATIENCE_S):
            while bench.engine.commons.runs:
                await asyncio.sleep(0.01)
        await bench.advance(DAY)

        assert [await handle.result() for handle in handles] == list(range(8))


async def test_a_workflow_rests_when_all_it_has_gathered_waits(database: str) -> None:
    """A running step keeps it in memory; the earliest wake-up wakes it, and the others go on sleeping."""
    app = App("naps")
    gate = asyncio.Event()
    calls: Counter[str] = Counter()

    @app.step()
    async def work() -> str:
        calls["work"] += 1
        await gate.wait()
        return "worked"

    async def slept(days: int) -> int:
        await sleep(DAY * days)
        return days

    @app.workflow()
    async def both() -> list[str]:
        calls["begun"] += 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(slept(2)), group.create_task(slept(1))]
            worked = await work()
        return [worked, *(str(task.result()) for task in tasks)]

    async with Bench(app, database) as bench:
        handle = await both.start()
        await asyncio.sleep(0.5)
        assert bench.engine.commons.runs
        gate.set()
        async with asyncio.timeout(PATIENCE_S):
            while bench.engine.commons.runs:
                await asyncio.sleep(0.01)
        await bench.advance(DAY)
        await bench.settle()
        assert (await handle.status()).status is WorkflowStatus.PENDING
        await bench.advance(DAY)

        assert await handle.result() == ["worked", "2", "1"]
        assert calls["work"] == 1
        assert calls["begun"] == 3


async def test_an_error_given_before_a_sleep_is_given_again_after_it(database: str) -> None:
    """P28: a rest within an attempt forgets nothing; the handled error stands in the history."""
    app = App("naps")
    calls: Counter[str] = Counter()

    @app.step()
    async def fails() -> None:
        calls["fails"] += 1
        raise ConnectionError("away")

    @app.workflow()
    async def patient() -> str:
        try:
            await fails()
        except ConnectionError as error:
            await sleep(DAY)
            return f"went on after {error}"
        return "?"

    async with Bench(app, database) as bench:
        handle = await patient.start()
        await bench.settle()
        await bench.advance(DAY)

        assert await handle.result() == "went on after away"
        assert calls["fails"] == 1


async def test_a_thousand_that_wake_in_the_same_second_all_run(database: str, reminders: Reminders) -> None:
    """Waking is bounded by the room there is, and none is left behind."""
    settings = EngineSettings(conninfo="", in_flight_max=100, scan=timedelta(milliseconds=100))
    async with Bench(reminders.app, database, settings=settings) as bench:
        await asyncio.gather(*(reminders.direct.start(f"{n}", 30) for n in range(1_000)))
        async with asyncio.timeout(PATIENCE_S):
            while (await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep")) != [(1_000,)]:
                await asyncio.sleep(0.1)

        await bench.advance(DAY * 31)
        await until_status(bench, "SUCCESS", 1_000)

        assert Counter(reminders.calls) == Counter(f"{word} {n}" for n in range(1_000) for word in ("first", "second"))
