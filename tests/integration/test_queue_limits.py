"""Limits of queues over two executors, and when one of them dies, stops or is cut off (P22, P29, decision 0013)."""

import asyncio
import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from engine.store.queues import QueueRow, prune_starts
from engine.store.statement import send
from processor import App, EngineError, Queue, WorkflowStatus, sleep
from processor.testing import Bench, CrashPoint
from processor.testing.bench import Crashed
from tests.fixtures.crash_points import QUEUES, STARTS, STEPS
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, PATIENCE_S, until

DAY = timedelta(days=1)


class Floor:
    """Who works at this moment, in all processes of a test together. A crash ends the work of its process.

    Attributes:
        at_work: Names of tasks whose step runs, by process.
        most, most_of_one: The highest number ever seen, by group: in all, in one process.
        calls: How often each task's step began.
        shut: Tasks whose steps wait.
    """

    def __init__(self) -> None:
        self.at_work: dict[str, list[str]] = {}
        self.most: Counter[str] = Counter()
        self.most_of_one: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []
        self.shut: set[str] = set()

    @contextmanager
    def working(self, process: str, name: str) -> Generator[None]:
        group = name.partition("-")[0]
        mine = self.at_work.setdefault(process, [])
        mine.append(name)
        self.calls[name] += 1
        self.order.append(name)
        counts = [sum(each.startswith(f"{group}-") for each in names) for names in self.at_work.values()]
        self.most[group] = max(self.most[group], sum(counts))
        self.most_of_one[group] = max(self.most_of_one[group], *counts)
        try:
            yield
        finally:
            mine.remove(name)

    def running(self, process: str | None = None) -> list[str]:
        return [name for at, names in self.at_work.items() for name in names if process in (None, at)]


class Hall:
    """One process's app: the same code in each, on one floor."""

    def __init__(self, floor: Floor, process: str, *queues: Queue) -> None:
        self.app = app = App("hall")
        for queue in queues:
            app.register_queue(queue)

        @app.step()
        async def work(name: str, turns: int) -> str:
            with floor.working(process, name):
                for _ in range(turns):
                    await asyncio.sleep(0.001)
                while name in floor.shut or "all" in floor.shut:
                    await asyncio.sleep(0.005)
            return name

        @app.workflow(version="1")
        async def task(name: str, turns: int = 0) -> str:
            return await work(name, turns)

        @app.workflow(version="1")
        async def nap(name: str) -> str:
            await sleep(DAY)
            return await work(name, 5)

        self.task, self.nap = task, nap


async def until_all(bench: Bench, status: WorkflowStatus, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE status = %s", [status.value]) != [
            (count,)
        ]:
            await asyncio.sleep(0.02)


async def two_looks(bench: Bench) -> None:
    """Long enough for a look to find what there is, and for a turn of every queue behind it."""
    for _ in range(2):
        await bench.engine.scan._look()  # pyright: ignore[reportPrivateUsage]
    await bench.settle()


async def places(bench: Bench) -> int:
    return (await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING'"))[0][0]


async def test_limits_hold_over_two_executors_and_all_of_them_is_used(database: str) -> None:
    """Five at a time in all, three in each process: never more, and never less while something waits."""
    queue, floor = Queue("q", concurrency=5, worker_concurrency=3), Floor()
    one, two = Hall(floor, "one", queue), Hall(floor, "two", queue)
    floor.shut.add("all")
    async with (
        Bench(one.app, database, executor="one", settings=FAST) as first,
        Bench(two.app, database, executor="two", settings=FAST),
    ):
        await asyncio.gather(*(queue.enqueue(one.task, f"a-{n}") for n in range(60)))
        await until(lambda: len(floor.running()) == 5)
        assert await places(first) == 5
        floor.shut.clear()
        await until_all(first, WorkflowStatus.SUCCESS, 60)

        assert floor.most["a"] == 5
        assert floor.most_of_one["a"] == 3
        assert set(floor.calls.values()) == {1}


async def test_without_a_limit_two_executors_share_and_nothing_runs_twice(database: str) -> None:
    """Rows that one takes are skipped by the other; no lock is waited for."""
    queue, floor = Queue("q"), Floor()
    one, two = Hall(floor, "one", queue), Hall(floor, "two", queue)
    settings = replace(FAST, in_flight_max=20)
    async with (
        Bench(one.app, database, executor="one", settings=settings) as first,
        Bench(two.app, database, executor="two", settings=settings),
    ):
        await asyncio.gather(*(queue.enqueue(one.task, f"a-{n}", 3) for n in range(400)))
        await until_all(first, WorkflowStatus.SUCCESS, 400)

        assert set(floor.calls.values()) == {1}
        assert len(floor.calls) == 400
        executors = await first.fetch_all("SELECT count(DISTINCT executor_id) FROM dbos.workflow_status")
        assert executors == [(2,)]


async def test_a_dead_executors_workflows_keep_their_places_and_come_back_under_the_limits(database: str) -> None:
    """P22, P29: not one of the queue overtakes them, and the survivor takes no more than it has room for."""
    queue, floor = Queue("q", concurrency=4, worker_concurrency=2), Floor()
    one, two = Hall(floor, "one", queue), Hall(floor, "two", queue)
    floor.shut.add("all")
    async with Bench(two.app, database, executor="two", settings=FAST) as living:
        async with Bench(one.app, database, executor="one", settings=FAST) as dying:
            for n in range(8):
                await queue.enqueue(one.task, f"a-{n}")
            await until(lambda: len(floor.running("one")) == len(floor.running("two")) == 2)
            lost, kept = floor.running("one"), floor.running("two")
            dead = dying.engine.executor_id
            dying.cut()
            await dying.engine.abort()
            await until(lambda: not floor.running("one"))

        await until_gone(living, dead)
        await living.engine.scan._look()  # pyright: ignore[reportPrivateUsage]  # who is gone is known here, too
        assert await places(living) == 4
        assert floor.running() == kept
        floor.shut = {*floor.shut - {"all"}, *(f"a-{n}" for n in range(8))} - {kept[0]}
        await until(lambda: len(floor.order) == 5)
        assert floor.order[4] == lost[0]
        floor.shut.clear()
        await until_all(living, WorkflowStatus.SUCCESS, 8)

        assert {name: floor.calls[name] for name in lost} == dict.fromkeys(lost, 2)
        assert floor.most_of_one["a"] == 2
        assert sorted(floor.order[4:6]) == sorted(lost)
        assert floor.order[6:] == sorted(floor.order[6:])
        history = await living.fetch_all("SELECT reason, previous_worker_id FROM dbos.recovery")
        assert history == [("executor dead", dead)] * 2


async def until_gone(bench: Bench, executor_id: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await bench.fetch_all("SELECT 1 WHERE NOT dbos.executor_is_gone(%s)", [executor_id]):
            await asyncio.sleep(0.02)


async def test_starts_count_after_the_death_of_who_made_them(database: str) -> None:
    """A crash does not double the rate: what is taken over is a start once more, and waits for the period's end."""
    queue, floor = Queue("q", limit=(2, timedelta(hours=1))), Floor()
    one, two = Hall(floor, "one", queue), Hall(floor, "two", queue)
    floor.shut.add("all")
    async with Bench(one.app, database, executor="one", settings=FAST) as dying:
        for n in range(4):
            await queue.enqueue(one.task, f"a-{n}")
        await until(lambda: len(floor.running()) == 2)
        dead = dying.engine.executor_id
        dying.cut()
        await dying.engine.abort()
    floor.shut.clear()
    async with Bench(two.app, database, executor="one", settings=FAST) as living:
        await until_gone(living, dead)
        await two_looks(living)
        assert floor.order == ["a-0", "a-1"]
        await living.advance(timedelta(hours=1))
        await until(lambda: len(floor.order) == 4)
        assert floor.order[2:] == ["a-0", "a-1"]
        await living.advance(timedelta(hours=1))
        await until_all(living, WorkflowStatus.SUCCESS, 4)


async def test_a_stop_hands_its_workflows_on_with_their_places(database: str) -> None:
    """P11, P12: at once, blamed for nothing, and as starts of nobody."""
    queue, floor = Queue("q", concurrency=2, limit=(2, timedelta(hours=1))), Floor()
    one, two = Hall(floor, "one", queue), Hall(floor, "two", queue)
    slow = replace(FAST, lease=timedelta(seconds=60), heartbeat=timedelta(seconds=1))
    async with Bench(one.app, database, executor="one", settings=slow) as first:
        for n in range(2):
            await queue.enqueue(one.nap, f"a-{n}")
        await queue.enqueue(one.task, "b-0")
        async with asyncio.timeout(PATIENCE_S):
            while await first.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep") != [(2,)]:
                await asyncio.sleep(0.02)
    async with Bench(two.app, database, executor="two", settings=slow) as second:
        await second.advance(DAY)
        await until_all(second, WorkflowStatus.SUCCESS, 3)

        assert sorted(floor.order[:2]) == ["a-0", "a-1"]
        assert await second.fetch_all("SELECT DISTINCT recovery_attempts FROM dbos.workflow_status") == [(0,)]


async def test_sleepers_wake_under_the_limit_of_a_process(database: str) -> None:
    """Thirty are due at once: two run at a time, and all of them do, without a look."""
    queue, floor = Queue("q", worker_concurrency=2), Floor()
    hall = Hall(floor, "one", queue)
    async with Bench(hall.app, database, settings=replace(FAST, scan=timedelta(seconds=5))) as bench:
        await asyncio.gather(*(queue.enqueue(hall.nap, f"a-{n}") for n in range(30)))
        async with asyncio.timeout(PATIENCE_S):
            while await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep") != [(30,)]:
                await asyncio.sleep(0.02)
        await bench.advance(DAY)
        await until_all(bench, WorkflowStatus.SUCCESS, 30)

        assert floor.most["a"] == 2
        assert set(floor.calls.values()) == {1}


async def test_who_takes_from_a_queue_is_woken_by_who_enqueues(database: str) -> None:
    """By a hint from another process, which does not take from it: nobody looks for an hour."""
    queue, floor = Queue("q"), Floor()
    listening, other = Hall(floor, "one", queue), Hall(floor, "two")
    idle = replace(FAST, scan=timedelta(hours=1))
    async with (
        Bench(listening.app, database, executor="one", settings=idle) as first,
        Bench(other.app, database, executor="two", settings=idle) as second,
    ):
        await two_looks(first)
        await two_looks(second)
        handle = await queue.enqueue(other.task, "a-0")

        assert await handle.result() == "a-0"
        assert floor.calls == {"a-0": 1}
        assert (await handle.status()).executor_id == first.engine.executor_id


async def test_only_who_listens_wakes_a_queues_sleeper(database: str) -> None:
    """Another process has the code, and does not take from the queue: neither what is ready, nor what sleeps, nor what is left."""
    queue, floor = Queue("gpu"), Floor()
    listening, other = Hall(floor, "one", queue), Hall(floor, "two")
    async with Bench(other.app, database, executor="two", settings=FAST) as second:
        async with Bench(listening.app, database, executor="one", settings=FAST) as first:
            await queue.enqueue(listening.nap, "a-0")
            async with asyncio.timeout(PATIENCE_S):
                while not await first.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE kafka_asleep"):
                    await asyncio.sleep(0.02)
        await queue.enqueue(other.task, "a-1")
        await second.advance(DAY)
        await two_looks(second)
        assert not floor.order
    third = Hall(floor, "three", queue)
    async with Bench(third.app, database, executor="three", settings=FAST) as bench:
        await bench.advance(DAY)
        await until_all(bench, WorkflowStatus.SUCCESS, 2)
    assert sorted(floor.order) == ["a-0", "a-1"]


@pytest.mark.parametrize("limited", [False, True], ids=["free", "limited"])
@pytest.mark.crash_points(*STARTS, *STEPS, *QUEUES)
async def test_a_crash_anywhere_starts_everything_once_more_at_most(
    database: str, crash_point: CrashPoint | None, *, limited: bool
) -> None:
    """I4, I8: whatever point it crashes at, all of them end, and a recorded step is never run again."""
    queue, floor = Queue("q", concurrency=3 if limited else None), Floor()
    hall = Hall(floor, "one", queue)
    async with Bench(hall.app, database) as bench:
        bench.crash(at=crash_point)
        names = [f"a-{n}" for n in range(12)]
        for name in names:
            while True:
                try:
                    await queue.having(id=name).enqueue(hall.task, name)
                    break
                except (Crashed, EngineError):
                    await bench.settle()
        await bench.settle()

        assert [await hall.task.retrieve(name).result() for name in names] == names
        recorded = await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs")
        assert recorded == [(12,)]
        assert max(floor.calls.values()) <= 2
        if limited:
            assert floor.most["a"] <= 3


@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_of_a_turn_loses_nothing_and_breaks_no_limit(database: str, side: str) -> None:
    """P12: rows that were taken and have no run here are handed over; their places are taken meanwhile."""
    queue, floor = Queue("q", concurrency=2), Floor()
    async with losing_proxy(database) as (proxy, dsn):
        hall = Hall(floor, "one", queue)
        async with Bench(hall.app, dsn, settings=FAST) as bench:
            proxy.marker = b"operation_outputs AS o WHERE o.workflow_uuid = w.workflow_uuid"
            for n in range(10):
                if n == 5:
                    proxy.lose_commits += side == "reply"
                    proxy.lose_requests += side == "request"
                await queue.enqueue(hall.task, f"a-{n}")
            await until_all(bench, WorkflowStatus.SUCCESS, 10)

            assert proxy.lost == 1
            assert floor.most["a"] <= 2
            assert set(floor.calls.values()) == {1}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_limits_hold_whatever_happens(database: str, seed: int) -> None:
    """Two queues, three generations of processes that die or stop at random, cancels: no limit is ever passed, all end."""
    chance = random.Random(seed)
    small = Queue("small", concurrency=3, worker_concurrency=2, priority=True)
    keyed = Queue("keyed", concurrency=2, partitioned=True)
    floor = Floor()
    generation = 0

    def bench(name: str) -> tuple[Hall, Bench]:
        nonlocal generation
        generation += 1
        hall = Hall(floor, f"{name}.{generation}", small, keyed)
        settings = replace(FAST, in_flight_max=chance.choice([4, 40]))
        return hall, Bench(hall.app, database, executor=f"{name}.{generation}", settings=settings)

    _, keeping = bench("keeper")
    cancelled: set[str] = set()
    async with keeping:
        for round_ in range(3):
            hall, coming = bench("other")
            await coming.__aenter__()
            for n in range(25):
                name = f"{round_}.{n}"
                turns = chance.randrange(4)
                if chance.random() < 0.5:
                    handle = await small.having(priority=chance.randrange(3), id=f"s-{name}").enqueue(
                        hall.task, f"s-{name}", turns
                    )
                else:
                    key = chance.choice("xyz")
                    handle = await keyed.having(partition_key=key, id=f"{key}-{name}").enqueue(
                        hall.task, f"{key}-{name}", turns
                    )
                if chance.random() < 0.1 and await handle.cancel():
                    cancelled.add(handle.id)
            if chance.random() < 0.7:
                coming.cut()
                await coming.engine.abort()
            else:
                await coming.__aexit__(None, None, None)
        await until_all(keeping, WorkflowStatus.SUCCESS, 75 - len(cancelled))

    # A cancelled one's step may run for a moment after its place is free.
    slack = len(cancelled & set(floor.calls))
    assert floor.most["s"] <= 3 + slack
    assert floor.most_of_one["s"] <= 2
    for key in "xyz":
        assert floor.most[key] <= 2 + slack


async def test_a_start_is_forgotten_no_earlier_than_the_turn_is_judged(database: str) -> None:
    """A turn that takes its time must not forget, on its way, what counts at its own moment."""
    queue = Queue("q", limit=(1, timedelta(hours=1)))
    async with Bench(Hall(Floor(), "one", queue).app, database) as bench, asyncio.timeout(PATIENCE_S):
        limits = QueueRow(None, None, 1, 3_600_000, is_paused=False, now=3_600_099)
        # Of a queue from which nobody takes: a turn of `q` would find a start of 1970 long over.
        await bench.execute("INSERT INTO dbos.queue_start VALUES ('other', '', 100, 't', 1)")
        async with bench.engine.pool.connection() as connection:
            await send(connection, "dbos", prune_starts(queue="other", limits=limits, limit=10))
            kept = await bench.fetch_all("SELECT count(*) FROM dbos.queue_start")
            await send(connection, "dbos", prune_starts(queue="other", limits=limits._replace(now=3_600_100), limit=10))

        assert (kept, await bench.fetch_all("SELECT count(*) FROM dbos.queue_start")) == ([(1,)], [(0,)])
