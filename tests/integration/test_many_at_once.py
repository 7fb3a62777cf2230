"""Many workflows without a source that are due, or orphaned, in the same moment: taken in batches, each once (I8, I10, P29).

How many a process can have asleep, and how long these take, is measured: `python -m benchmarks --only sleepers recovery`.
"""

import asyncio
import gc
from collections import Counter
from datetime import timedelta

import pytest

from engine.telemetry import WorkflowsTaken
from engine.waits import UNWIND_S
from processor import App, recv, sleep
from processor.sync import sleep as sleep_sync
from processor.testing import Bench
from tests.integration.protocol import FAST, PATIENCE_S, until
from tests.integration.test_rest import until_status

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BATCH_MAX = 500

# As a process leaves them: what has gone to sleep, and what one was running that is no more.
SLEEPERS = """
    WITH slept AS (
        INSERT INTO dbos.workflow_status
               (workflow_uuid, status, name, application_version, inputs, created_at, updated_at, kafka_wake_at, kafka_asleep)
        SELECT prefix || n, 'PENDING', 'remind', '1', '{"args": [' || n || ']}', now, now, now + ms, true
          FROM (SELECT dbos.now_ms() AS now) AS c,
               (VALUES ('today-', 3600000, 1000), ('tomorrow-', 86400000, 20000)) AS v (prefix, ms, count),
               generate_series(1, count) AS n
        RETURNING workflow_uuid, kafka_wake_at
    )
    INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output)
    SELECT workflow_uuid, 1, 'DBOS.sleep', kafka_wake_at::text FROM slept
"""
ORPHANS = """
    INSERT INTO dbos.workflow_status
           (workflow_uuid, status, name, application_version, inputs, created_at, updated_at, owner_xid, executor_id)
    SELECT 'left-' || n, 'PENDING', 'send', '1', '{"args": [' || n || ']}', n, n, gen_random_uuid()::text, 'gone'
      FROM generate_series(1, 1200) AS n
"""


class Reminders:
    """`remind` after an hour, or `send` at once."""

    def __init__(self) -> None:
        self.app = app = App("reminders")
        self.sent: Counter[int] = Counter()

        @app.step()
        async def tell(n: int) -> None:
            self.sent[n] += 1

        @app.workflow(version="1")
        async def remind(n: int) -> None:
            await sleep(HOUR)
            await tell(n)

        @app.workflow(version="1")
        async def send(n: int) -> None:
            await tell(n)

        @app.workflow(version="1")
        async def ask(n: int) -> None:
            await recv("answer", timeout=HOUR)
            await tell(n)

        @app.workflow(version="1")
        def remind_sync(n: int) -> None:
            sleep_sync(HOUR)

        self.goes_to_rest = {"remind": remind, "ask": ask, "remind_sync": remind_sync}


async def until_asleep(bench: Bench, count: int) -> None:
    asleep = "SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep AND owner_xid IS NULL"
    async with asyncio.timeout(PATIENCE_S):
        while await bench.fetch_all(asleep) != [(count,)]:
            await asyncio.sleep(0.02)


def taken(bench: Bench, reason: str) -> list[int]:
    return [each.count for each in bench.events if isinstance(each, WorkflowsTaken) and each.reason == reason]


async def test_a_thousand_that_are_due_in_the_same_second_run_once_and_who_sleeps_on_is_not_read(database: str) -> None:
    """P29: 20,000 others rest for a day in the same index; nothing of them comes into memory, before or after."""
    reminders = Reminders()
    async with Bench(reminders.app, database, settings=FAST) as bench:
        await bench.execute(SLEEPERS)
        bench.engine.scan.hint()
        await bench.settle()
        assert (reminders.sent, taken(bench, "due"), len(bench.engine.waits)) == (Counter(), [], 0)

        await bench.advance(HOUR)
        await until_status(bench, "SUCCESS", 1_000)
        await until(lambda: not bench.engine.commons.runs)

        assert reminders.sent == Counter(dict.fromkeys(range(1, 1001), 1))
        assert sum(taken(bench, "due")) == 1_000
        assert max(taken(bench, "due")) <= BATCH_MAX
        still = await bench.fetch_all(
            "SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep AND owner_xid IS NULL AND status = 'PENDING'"
        )
        assert still == [(20_000,)]


@pytest.mark.parametrize("name", ["remind", "ask", "remind_sync"])
async def test_a_workflow_that_goes_to_rest_is_gone_from_memory_without_the_garbage_collector(
    database: str, name: str
) -> None:
    """I10: `processor run` looks for cycles rarely; a cycle in each of 100,000 that go to sleep was 200 MiB of them."""
    reminders = Reminders()
    async with Bench(reminders.app, database, settings=FAST) as bench:

        async def put_to_rest(ids: range) -> None:
            await asyncio.gather(*(reminders.goes_to_rest[name].start(n, id=f"{name}-{n}") for n in ids))
            await until_asleep(bench, ids[-1] + 1)
            await until(lambda: not bench.engine.commons.runs)

        await put_to_rest(range(5))  # what is made once is made
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            await put_to_rest(range(5, 30))
            await asyncio.sleep(2 * UNWIND_S)  # its timer knows the task
            gc.collect()
            left = Counter(type(each).__name__ for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert not left.keys() & {"Run", "Task", "Future", "Suspended", "coroutine", "Context"}


async def test_thousands_that_a_dead_executor_ran_are_taken_over_in_batches_each_once(database: str) -> None:
    """I8, P22: also where more are left than there is room for; each is blamed once and has a row of history."""
    reminders = Reminders()
    async with Bench(reminders.app, database, settings=FAST) as bench:
        await bench.execute(ORPHANS)
        bench.engine.scan.hint()
        await until_status(bench, "SUCCESS", 1_200)

        assert reminders.sent == Counter(dict.fromkeys(range(1, 1201), 1))
        assert (sum(taken(bench, "dead")), max(taken(bench, "dead")) <= BATCH_MAX) == (1_200, True)
        history = await bench.fetch_all(
            "SELECT count(*), count(DISTINCT workflow_uuid), min(reason), max(previous_worker_id) FROM dbos.recovery"
        )
        assert history == [(1_200, 1_200, "executor dead", "gone")]
