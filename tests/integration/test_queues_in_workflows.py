"""Enqueueing and debouncing as effects of workflows: remembered, there if and only if their checkpoints are (P31)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from processor import App, DeduplicatedError, EngineError, Queue, Topic
from processor.testing import Bench, CrashPoint
from processor.testing.bench import Crashed
from tests.fixtures.crash_points import QUEUES, RECORDS, STEPS
from tests.integration.protocol import FAST, PATIENCE_S, until

HOUR = timedelta(hours=1)


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)


class Works:
    """Records and calls that enqueue parts of work; one that asks for a deduplication ID; debounced mails."""

    def __init__(self) -> None:
        self.app = app = App("works")
        self.queue = queue = app.register_queue(Queue("parts", concurrency=2))
        self.built: list[str] = []
        self.mails: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

        @app.step()
        async def build(name: str) -> str:
            self.built.append(name)
            await self.gate.wait()
            return name.upper()

        @app.workflow(version="1")
        async def part(name: str) -> str:
            return await build(name)

        @app.workflow(on=orders)
        async def fulfil(order: Order) -> list[str]:
            handles = [await queue.enqueue(part, f"{order.order_id}-{n}") for n in range(3)]
            return [await handle.result() for handle in handles]

        @app.workflow()
        async def once(name: str) -> str:
            try:
                handle = await queue.having(deduplication_id="d").enqueue(part, name)
            except DeduplicatedError as error:
                return f"{name}: {error.workflow_id}"
            return f"{name} is {await handle.result()}"

        @app.step()
        async def mail(text: str) -> None:
            self.mails.append(text)

        @app.workflow(version="1")
        async def send(text: str) -> str:
            await mail(text)
            return text

        @app.workflow(on=Topic("changes", Order, key=lambda order: order.order_id))
        async def change(order: Order) -> str:
            handle = await send.debounce("all", wait=HOUR).start(order.order_id)
            return handle.id

        @app.workflow()
        def part_sync(name: str) -> str:
            handle = part.enqueue_sync(name, queue=queue)
            later = send.debounce("sync", wait=HOUR).start_sync(name)
            return f"{handle.result()} {later.id}"

        self.part, self.fulfil, self.once, self.send, self.change, self.part_sync = (
            part,
            fulfil,
            once,
            send,
            change,
            part_sync,
        )


@pytest.fixture
def works() -> Works:
    return Works()


async def until_statuses(bench: Bench, expected: list[tuple[Any, ...]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (
            await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1 ORDER BY 1") != expected
        ):
            await asyncio.sleep(0.02)


@pytest.mark.crash_points(*RECORDS, *STEPS, *QUEUES, CrashPoint.STARTED)
async def test_a_record_enqueues_its_parts_once_wherever_it_crashes(
    database: str, works: Works, crash_point: CrashPoint | None
) -> None:
    """I4, P31: each part is there if and only if its checkpoint is, as a child in the queue."""
    async with Bench(works.app, database) as bench:
        bench.crash(at=crash_point)
        for n in range(3):
            await bench.deliver(orders, Order(order_id=f"o{n}"))
        await bench.settle()
        await until_statuses(bench, [("SUCCESS", 12)])

        outputs = await bench.fetch_all("SELECT output FROM dbos.workflow_status WHERE kafka_source IS NOT NULL")
        assert sorted(outputs) == [(f'["O{n}-0","O{n}-1","O{n}-2"]',) for n in range(3)]
        parts = await bench.fetch_all(
            "SELECT count(*) FROM dbos.workflow_status AS w JOIN dbos.operation_outputs AS o"
            " ON o.child_workflow_id = w.workflow_uuid AND o.function_name = 'part' WHERE w.queue_name = 'parts'"
        )
        assert parts == [(9,)]
        assert await bench.fetch_all("SELECT count(*), count(completed_at_epoch_ms) FROM dbos.workflow_queue") == [
            (9, 9)
        ]


async def test_whether_a_deduplication_id_was_taken_is_remembered(database: str, works: Works) -> None:
    """The second call is refused with the first's ID, in every replay, though the first has ended since."""
    works.gate.clear()
    async with Bench(works.app, database, settings=FAST) as bench:
        first = await works.once.start("a", id="first")
        await until(lambda: works.built == ["a"])
        second = await works.once.start("b", id="second")
        assert await second.result() == "b: first-1"
        works.gate.set()
        assert await first.result() == "a is A"
        third = await works.once.start("c", id="third")
        assert await third.result() == "c is C"

        names = [(step.function_id, step.name, step.child) for step in await second.steps()]
        assert names == [(1, "part", "second-1"), (2, "DBOS.deduplicate", None)]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = 'second-1'") == [
            (0,)
        ]


@pytest.mark.crash_points(
    CrashPoint.CHECKPOINTED, CrashPoint.FLUSH_BUILT, CrashPoint.FLUSH_SENT, CrashPoint.FLUSH_DURABLE, CrashPoint.STARTED
)
async def test_a_deduplicated_call_is_decided_once_wherever_it_crashes(
    database: str, works: Works, crash_point: CrashPoint | None
) -> None:
    """One of the two has the ID; whoever was told so is told so again."""
    async with Bench(works.app, database, settings=FAST) as bench:
        bench.crash(at=crash_point)
        for name in ("a", "b"):
            while True:
                try:
                    await works.once.start(name, id=name)
                    break
                except (Crashed, EngineError):
                    await bench.settle()
        await bench.settle()

        results = {name: await works.once.retrieve(name).result() for name in ("a", "b")}
        refused = [name for name, result in results.items() if " is " not in result]
        assert len(refused) <= 1
        rows = await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'parts'")
        assert rows == [(2 - len(refused),)]


async def test_a_sync_workflow_enqueues_and_debounces(database: str, works: Works) -> None:
    """Everything exists sync as well."""
    async with Bench(works.app, database) as bench:
        result = await works.part_sync.start("a")
        built, _, later = (await result.result()).partition(" ")
        assert built == "A"
        assert works.mails == []
        await bench.advance(HOUR)
        assert await works.send.retrieve(later).result() == "a"


async def test_the_last_call_of_several_callers_is_what_runs(database: str, works: Works) -> None:
    """One workflow for all calls, put off by each; one that comes when it has started begins anew."""
    mail = works.send.debounce("k", wait=HOUR)
    other = works.send.debounce("other", wait=HOUR)
    two = Works()
    async with (
        Bench(works.app, database, executor="one", settings=FAST) as first,
        Bench(two.app, database, executor="two", settings=FAST),
    ):
        handles = [await mail.start("a"), await two.send.debounce("k", wait=HOUR).start("b")]
        await first.advance(timedelta(minutes=40))
        handles.append(await mail.start("c"))
        await other.start("elsewhere")
        await first.advance(timedelta(minutes=40))
        assert works.mails + two.mails == []
        await first.advance(timedelta(minutes=20))
        results = [await handle.result() for handle in handles]
        again = await mail.start("d")

        assert results == ["c", "c", "c"]
        assert again.id != handles[0].id
        assert len({handle.id for handle in handles}) == 1
        await first.advance(HOUR)
        assert await again.result() == "d"
        await until(lambda: sorted(works.mails + two.mails) == ["c", "d", "elsewhere"])


async def test_calls_put_a_workflow_off_up_to_a_latest_time(database: str, works: Works) -> None:
    """`max_wait` counts from the first call of those that wait."""
    mail = works.send.debounce("k", wait=HOUR, max_wait=timedelta(minutes=90))
    async with Bench(works.app, database, settings=FAST) as bench:
        handle = await mail.start("a")
        await bench.advance(timedelta(minutes=50))
        await mail.start("b")
        await bench.advance(timedelta(minutes=39))
        await mail.start("c")
        assert works.mails == []
        await bench.advance(timedelta(minutes=1))

        assert await handle.result() == "c"


async def test_gathered_calls_make_one_workflow(database: str, works: Works) -> None:
    """Calls of one key wait for each other; none is lost, none makes a second workflow."""
    mail = works.send.debounce("k", wait=HOUR)
    async with Bench(works.app, database, settings=FAST) as bench:
        handles = await asyncio.gather(*(mail.start(f"m-{n}") for n in range(30)))
        assert len({handle.id for handle in handles}) == 1
        rows = await bench.fetch_all("SELECT inputs FROM dbos.workflow_status")
        await bench.advance(HOUR)

        assert rows == [(f'{{"args": ["{await handles[0].result()}"], "kwargs": {{}}}}',)]


async def test_until_it_starts_calls_change_what_waits_in_a_queue(database: str, works: Works) -> None:
    """The quiet time is over, the queue is full: the last call is still what runs."""
    works.gate.clear()
    async with Bench(works.app, database, settings=FAST) as bench:
        blockers = [await works.queue.enqueue(works.part, f"p-{n}") for n in range(2)]
        await until(lambda: len(works.built) == 2)
        mail = works.send.debounce("k", wait=HOUR, queue=works.queue)
        handle = await mail.start("a")
        await bench.advance(HOUR)
        async with asyncio.timeout(PATIENCE_S):
            while await bench.fetch_all(
                "SELECT 1 FROM dbos.workflow_status WHERE status = 'ENQUEUED' AND kafka_wake_at IS NOT NULL"
            ):
                await asyncio.sleep(0.02)
        again = await mail.start("b")
        works.gate.set()

        assert again.id == handle.id
        assert await handle.result() == "b"
        assert [await blocker.result() for blocker in blockers] == ["P-0", "P-1"]


@pytest.mark.crash_points(
    CrashPoint.STEP_CALLED,
    CrashPoint.CHECKPOINTED,
    CrashPoint.FLUSH_BUILT,
    CrashPoint.FLUSH_SENT,
    CrashPoint.FLUSH_DURABLE,
)
async def test_records_debounce_once_each_wherever_it_crashes(
    database: str, works: Works, crash_point: CrashPoint | None
) -> None:
    """P31: a call is made if and only if its checkpoint is; each remembers the workflow that waited."""
    changes = works.app.workflows["change"].topic
    assert changes
    async with Bench(works.app, database, settings=FAST) as bench:
        bench.crash(at=crash_point)
        for n in range(4):
            await bench.deliver(changes, Order(order_id=f"o{n}"))
        await bench.settle()
        waiting = await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'ENQUEUED'")
        outputs = await bench.fetch_all(
            "SELECT DISTINCT output FROM dbos.workflow_status WHERE kafka_source IS NOT NULL"
        )
        await bench.advance(HOUR)
        await bench.settle()

        assert len(waiting) == 1
        assert outputs == [(f'"{waiting[0][0]}"',)]
        assert len(set(works.mails)) == 1  # the step itself is at least once
