"""Queues on a real Postgres, one executor: order, limits, deduplication, delay, partition keys (P29, decision 0013)."""

import asyncio
from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest

from engine.clock import now_ms
from processor import App, ConfigurationError, DeduplicatedError, Queue, WorkflowCancelledError, WorkflowStatus, sleep
from processor.testing import Bench
from tests.integration.protocol import until


class Office:
    """An app of a step with a gate; notes in which order its workflows ran, and how many at a time."""

    def __init__(self, *queues: Queue) -> None:
        self.app = app = App("office")
        self.began: list[str] = []
        self.ended: list[str] = []
        self.shut: set[str] = set()
        self.most: Counter[str] = Counter()
        for queue in queues:
            app.register_queue(queue)

        @app.step()
        async def work(name: str) -> str:
            self.began.append(name)
            group = name.partition("-")[0]
            self.most[group] = max(self.most[group], sum(each.startswith(group) for each in self.running()))
            while name in self.shut or "all" in self.shut:
                await asyncio.sleep(0.005)
            self.ended.append(name)
            return name

        @app.workflow(version="1")
        async def task(name: str) -> str:
            return await work(name)

        @app.workflow(version="1")
        async def nap(name: str) -> str:
            await sleep(timedelta(days=1))
            return await work(name)

        self.work, self.task, self.nap = work, task, nap

    def running(self) -> list[str]:
        left = Counter(self.began) - Counter(self.ended)
        return list(left.elements())


async def test_an_enqueued_workflow_waits_in_its_row_and_runs(database: str) -> None:
    """Its row is durable before `enqueue` returns: ENQUEUED, nobody's, of no version; then it is like any other."""
    queue = Queue("q", concurrency=1)
    office = Office(queue)
    office.shut.add("a")
    async with Bench(office.app, database) as bench:
        await queue.enqueue(office.task, "a")
        await until(lambda: office.began == ["a"])
        handle = await queue.having(id="w", timeout=timedelta(hours=1)).enqueue(office.task, "b")
        waiting = await bench.fetch_all(
            "SELECT status, queue_name, owner_xid, executor_id, application_version, started_at_epoch_ms,"
            " workflow_timeout_ms, workflow_deadline_epoch_ms FROM dbos.workflow_status WHERE workflow_uuid = 'w'"
        )
        office.shut.clear()

        assert waiting == [("ENQUEUED", "q", None, None, None, None, 3_600_000, None)]
        assert await handle.result() == "b"
        info = await handle.status()
        assert (info.status, info.queue, info.version) == (WorkflowStatus.SUCCESS, "q", "1")
        assert info.started_at
        assert info.deadline
        assert info.started_at >= info.created_at


async def test_a_queue_of_one_is_in_the_order_of_the_calls(database: str) -> None:
    """Lower priority numbers first, then older ones, also of calls that shared a commit."""
    queue = Queue("q", concurrency=1, priority=True)
    office = Office(queue)
    office.shut.add("first")
    async with Bench(office.app, database) as bench:
        await queue.enqueue(office.task, "first")
        await until(lambda: office.began)
        await asyncio.gather(*(queue.having(priority=5).enqueue(office.task, f"late-{n}") for n in range(20)))
        await asyncio.gather(*(queue.having(priority=-1).enqueue(office.task, f"soon-{n}") for n in range(20)))
        office.shut.clear()
        await bench.settle()

        assert office.began == ["first", *(f"soon-{n}" for n in range(20)), *(f"late-{n}" for n in range(20))]
        assert office.began == office.ended


async def test_concurrency_holds_and_is_used(database: str) -> None:
    """Never more, and as many as there may be."""
    queue = Queue("q", concurrency=4)
    office = Office(queue)
    office.shut.add("all")
    async with Bench(office.app, database) as bench:
        await asyncio.gather(*(queue.enqueue(office.task, f"a-{n}") for n in range(40)))
        await until(lambda: len(office.running()) == 4)
        office.shut.clear()
        await bench.settle()

        assert office.most["a"] == 4
        assert len(office.ended) == 40


async def test_a_sleeper_keeps_its_place_and_nothing_else(database: str) -> None:
    """A queue of one is in order also where its workflows sleep: the next one waits for the sleeper's end."""
    queue = Queue("q", concurrency=1)
    office = Office(queue)
    async with Bench(office.app, database) as bench:
        await queue.enqueue(office.nap, "a")
        await queue.enqueue(office.task, "b")
        await until(lambda: not bench.engine.commons.runs and bench.engine.dispatcher.names)
        await until_rested(bench)
        assert office.began == []
        await bench.advance(timedelta(days=1))
        await until(lambda: office.ended == ["a", "b"])


async def until_rested(bench: Bench) -> None:
    async with asyncio.timeout(60):
        while not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE kafka_asleep"):
            await asyncio.sleep(0.02)


async def test_starts_in_any_period_are_no_more_than_the_limit(database: str) -> None:
    """By Postgres's clock; a start counts as long as its period lasts, also when its workflow has long ended."""
    queue = Queue("q", limit=(3, timedelta(hours=1)))
    office = Office(queue)
    async with Bench(office.app, database) as bench:
        for n in range(7):
            await queue.enqueue(office.task, f"a-{n}")
        await bench.settle()
        assert office.ended == ["a-0", "a-1", "a-2"]
        await bench.advance(timedelta(minutes=59))
        await bench.settle()
        assert len(office.ended) == 3
        await bench.advance(timedelta(minutes=1))
        await bench.settle()
        assert office.ended == [f"a-{n}" for n in range(6)]
        await bench.advance(timedelta(hours=1))
        await bench.settle()

        assert office.ended == [f"a-{n}" for n in range(7)]
        assert await bench.fetch_all("SELECT sum(starts) FROM dbos.queue_start") == [(1,)]


async def test_a_period_that_has_passed_is_noticed_without_a_look(database: str) -> None:
    """The next start is waited for by a timer, as exactly as Postgres's clock."""
    queue = Queue("q", limit=(1, timedelta(milliseconds=200)))
    office = Office(queue)
    slow_look = Bench(office.app, database)
    slow_look.engine.settings = slow_look.settings
    async with slow_look as bench:
        for n in range(4):
            await queue.enqueue(office.task, f"a-{n}")
        await until(lambda: len(office.ended) == 4)

        starts = await bench.fetch_all("SELECT started_at_epoch_ms FROM dbos.workflow_status ORDER BY 1")
        gaps = [after[0] - before[0] for before, after in pairwise(starts)]
        assert min(gaps) >= 200


async def test_with_partition_keys_limits_and_order_are_each_keys(database: str) -> None:
    """One at a time for each key, in order; keys beside each other."""
    queue = Queue("q", concurrency=1, partitioned=True)
    office = Office(queue)
    office.shut |= {"a-0", "b-0"}
    async with Bench(office.app, database) as bench:
        for n in range(5):
            for key in ("a", "b", "c"):
                await queue.having(partition_key=key).enqueue(office.task, f"{key}-{n}")
        await until(lambda: len(office.ended) == 5)
        assert sorted(office.running()) == ["a-0", "b-0"]
        office.shut.clear()
        await bench.settle()

        assert office.most == {"a": 1, "b": 1, "c": 1}
        for key in ("a", "b", "c"):
            assert [name for name in office.began if name.startswith(key)] == [f"{key}-{n}" for n in range(5)]


async def test_more_partition_keys_than_one_turn_looks_at_all_have_their_turn(database: str) -> None:
    """Turns go on behind the last key of the one before."""
    queue = Queue("q", concurrency=1, partitioned=True)
    office = Office(queue)
    async with Bench(office.app, database) as bench:
        placed = [queue.having(partition_key=f"k{n % 450:03}") for n in range(900)]
        await asyncio.gather(*(each.enqueue(office.task, f"n-{n}") for n, each in enumerate(placed)))
        await bench.settle()

        assert len(office.ended) == 900


async def test_a_deduplication_id_is_free_again_when_its_workflow_has_ended(database: str) -> None:
    """The second is refused with the first's ID, whatever its own; after the end there may be another."""
    queue, other = Queue("q"), Queue("other")
    office = Office(queue, other)
    office.shut.add("a")
    mine = queue.having(deduplication_id="d")
    async with Bench(office.app, database) as bench:
        first = await mine.enqueue(office.task, "a")
        with pytest.raises(DeduplicatedError, match=r"has the deduplication ID 'd'; nothing was enqueued") as refused:
            await mine.enqueue(office.task, "b")
        elsewhere = await other.having(deduplication_id="d").enqueue(office.task, "c")
        again = await mine.having(id=first.id).enqueue(office.task, "a")
        office.shut.clear()
        await first.result()
        second = await mine.enqueue(office.task, "d")
        await bench.settle()

        assert refused.value.workflow_id == first.id == again.id
        assert sorted(office.ended) == ["a", "c", "d"]
        assert await second.result() == "d"
        assert (await elsewhere.status()).queue == "other"
        assert (await first.status()).deduplication_id is None


async def test_cancelling_what_waits_frees_its_place_and_its_deduplication_id(database: str) -> None:
    """It has ended with that, and never begins; one that runs gives its place to the next."""
    queue = Queue("q", concurrency=1)
    office = Office(queue)
    office.shut.add("a")
    async with Bench(office.app, database) as bench:
        running = await queue.enqueue(office.task, "a")
        await until(lambda: office.began == ["a"])
        waiting = await queue.having(deduplication_id="d").enqueue(office.task, "b")
        assert await waiting.cancel()
        last = await queue.having(deduplication_id="d").enqueue(office.task, "c")
        assert await running.cancel()
        assert await last.result() == "c"
        office.shut.clear()
        await bench.settle()

        with pytest.raises(WorkflowCancelledError):
            await waiting.result()
        assert office.began == ["a", "c"]
        ledger = await bench.fetch_all(
            "SELECT q.workflow_uuid, q.completed_at_epoch_ms IS NOT NULL, q.started_at_epoch_ms IS NOT NULL,"
            " q.executor_id, q.deduplication_id FROM dbos.workflow_queue AS q ORDER BY q.created_at_epoch_ms"
        )
        ours = bench.engine.executor_id
        assert {row[0]: row[1:] for row in ledger} == {
            running.id: (True, True, ours, None),
            waiting.id: (True, False, None, None),
            last.id: (True, True, ours, None),
        }


async def test_a_delayed_one_does_not_start_before(database: str) -> None:
    """Then it is as old as its call: before those that came while it waited."""
    queue = Queue("q", concurrency=1)
    office = Office(queue)
    async with Bench(office.app, database) as bench:
        await queue.having(delay=timedelta(hours=2)).enqueue(office.task, "delayed")
        await queue.enqueue(office.task, "now")
        await bench.settle()
        assert office.ended == ["now"]
        office.shut.add("holds")
        await queue.enqueue(office.task, "holds")
        await until(office.running)
        await queue.enqueue(office.task, "later")
        await bench.advance(timedelta(hours=2))
        await until_joined(bench)
        office.shut.clear()
        await bench.settle()

        assert office.ended == ["now", "holds", "delayed", "later"]


async def until_joined(bench: Bench) -> None:
    async with asyncio.timeout(60):
        while await bench.fetch_all(
            "SELECT 1 FROM dbos.workflow_status WHERE status = 'ENQUEUED' AND kafka_wake_at IS NOT NULL"
        ):
            await asyncio.sleep(0.02)


async def test_a_time_out_counts_from_the_start(database: str) -> None:
    """Waiting costs nothing of it."""
    queue = Queue("q", concurrency=1)
    office = Office(queue)
    office.shut |= {"a", "b"}
    async with Bench(office.app, database) as bench:
        await queue.enqueue(office.task, "a")
        handle = await queue.having(timeout=timedelta(hours=1)).enqueue(office.task, "b")
        await bench.advance(timedelta(hours=3))
        office.shut.discard("a")
        await until(lambda: office.running() == ["b"])
        await bench.advance(timedelta(minutes=59))
        assert (await handle.status()).status is WorkflowStatus.PENDING
        await bench.advance(timedelta(minutes=2))

        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        office.shut.clear()


async def test_places_that_a_queue_does_not_have_are_refused_at_the_call(database: str) -> None:
    """Bad input names the queue and the option, and enqueues nothing."""
    plain, keyed = Queue("plain"), Queue("keyed", partitioned=True)
    office = Office(plain, keyed)
    async with Bench(office.app, database) as bench:
        for queue, match in (
            (plain.having(priority=1), r"queue 'plain': priority=1, and it has no priorities"),
            (plain.having(partition_key="a"), r"queue 'plain': partition_key='a', and it is not partitioned"),
            (keyed, r"queue 'keyed' is partitioned"),
            (keyed.having(partition_key=""), r"queue 'keyed': partition_key=''; it takes text"),
            (keyed.having(partition_key="x" * 513), r"queue 'keyed': partition_key='x+': 1 to 512 characters"),
            (plain.having(deduplication_id="a\x00"), r"queue 'plain': deduplication_id=.*: 1 to 512 characters"),
            (plain.having(delay=timedelta(seconds=-1)), r"queue 'plain': delay=.*: not before now"),
            (plain.having(delay=5), r"queue 'plain': delay=5; it takes a timedelta"),  # type: ignore[typeddict-item]
        ):
            with pytest.raises(ConfigurationError, match=match):
                await queue.enqueue(office.task, "a")

        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status") == [(0,)]


async def test_what_the_official_client_enqueues_runs(database: str) -> None:
    """A row of another program's, without a place, version or hint; and what it resumes."""
    queue = Queue("q")
    office = Office(queue)
    async with Bench(office.app, database) as bench:
        insert = (
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, inputs, created_at, updated_at)"
            " VALUES (%s, 'ENQUEUED', 'task', %s, %s, %s, %s)"
        )
        await bench.execute(insert, ["w-1", "q", '{"args": ["a"], "kwargs": {}}', now_ms(), now_ms()])
        await bench.execute(insert, ["w-2", "_dbos_internal_queue", '{"args": ["b"]}', now_ms(), now_ms()])
        assert await office.task.retrieve("w-1").result() == "a"
        assert await office.task.retrieve("w-2").result() == "b"
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'w-1'")
        await bench.execute(
            "UPDATE dbos.workflow_status SET status = 'ENQUEUED', queue_name = '_dbos_internal_queue',"
            " recovery_attempts = 0, started_at_epoch_ms = NULL WHERE workflow_uuid = 'w-1'"
        )
        await bench.settle()

        assert await office.task.retrieve("w-1").result() == "a"
        assert sorted(office.ended) == ["a", "b"]
