"""Acts on debounced workflows: what has never begun has neither a history nor a version of code (decisions 0013, 0018)."""

from datetime import timedelta

import pytest

from processor import App, Client, ConfigurationError, Queue, workflow_id
from processor.testing import Bench
from tests.integration.protocol import FAST, until_row

HOUR, PATIENCE = timedelta(hours=1), timedelta(seconds=20)


class Shop:
    """A workflow of two steps, the second of which fails as long as it `is_bad`; a queue of one."""

    def __init__(self, version: str = "1") -> None:
        self.app = app = App("shop")
        self.queue = Queue("q", concurrency=1)
        app.register_queue(self.queue)
        self.calls: list[str] = []
        self.is_bad = False

        @app.step()
        async def one(x: int) -> int:
            self.calls.append(f"one {x}")
            return x

        @app.step()
        async def two(x: int) -> int:
            self.calls.append(f"two {x}")
            if self.is_bad:
                raise ValueError("down")
            return x

        @app.workflow(version=version)
        async def work(x: int) -> list[int]:
            return [await one(x), await two(x)]

        self.work = work


async def test_a_call_leaves_the_arguments_of_what_has_a_history(database: str) -> None:
    """Resumed and back in its queue it is ENQUEUED, and goes on with its own; the call begins a new one (I4)."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench, Client(database) as client:
        mail = shop.work.debounce("k", wait=HOUR, queue=shop.queue)
        shop.is_bad = True
        first = await mail.start(1)
        await bench.advance(2 * HOUR)
        with pytest.raises(ValueError, match="down"):
            await first.result(timeout=PATIENCE)
        shop.is_bad = False
        await client.queues.pause("q", note="so that it waits")
        await first.resume()
        second = await mail.start(2)
        await client.queues.resume("q", note="it has waited")
        assert second.id != first.id
        assert await first.result(timeout=PATIENCE) == [1, 1]
        await bench.advance(2 * HOUR)
        assert await second.result(timeout=PATIENCE) == [2, 2]
    assert shop.calls == ["one 1", "two 1", "two 1", "one 2", "two 2"]


@pytest.mark.parametrize("is_later_in_a_workflow", [False, True])
async def test_the_first_call_says_queue_time_out_and_latest_time_and_each_one_its_wait(
    database: str, is_later_in_a_workflow: bool
) -> None:
    """As DBOS has it: whoever begins to wait decides for all who meet it; what begins anew, decides anew."""
    shop = Shop()
    first = shop.work.debounce("k", wait=HOUR, max_wait=5 * HOUR, queue=shop.queue, timeout=HOUR)
    later = shop.work.debounce("k", wait=3 * HOUR, max_wait=90 * HOUR, timeout=9 * HOUR)

    @shop.app.workflow(version="1")
    async def caller(x: int) -> str:
        return (await later.start(x)).id

    columns = """
        SELECT w.queue_name, w.workflow_timeout_ms, (w.kafka_wake_at - dbos.now_ms() + 1800000) / 3600000
          FROM dbos.workflow_status AS w
         WHERE w.workflow_uuid = %s
    """
    async with Bench(shop.app, database, settings=FAST) as bench:
        waiting = await first.start(1)
        assert await bench.fetch_all(columns, [waiting.id]) == [("q", 3_600_000, 1)]
        met = await caller(2) if is_later_in_a_workflow else (await later.start(2)).id
        assert met == waiting.id
        assert await bench.fetch_all(columns, [waiting.id]) == [("q", 3_600_000, 3)]
        await bench.advance(2.5 * HOUR)
        await later.start(3)
        assert await bench.fetch_all(columns, [waiting.id]) == [
            ("q", 3_600_000, 2)
        ]  # the latest time of the first call
        await bench.advance(3 * HOUR)
        assert await waiting.result(timeout=PATIENCE) == [3, 3]

        anew = await later.start(4)
        assert anew.id != waiting.id
        assert await bench.fetch_all(columns, [anew.id]) == [("_dbos_internal_queue", 32_400_000, 3)]


async def test_a_call_is_given_no_id(database: str) -> None:
    """Nor is one ignored; behind the block, and once the ID is taken, it is as before."""
    shop = Shop()
    mail = shop.work.debounce("k", wait=HOUR)
    async with Bench(shop.app, database, settings=FAST) as bench:
        with workflow_id("mine"):
            with pytest.raises(ConfigurationError, match=r"'work': workflow_id\('mine'\) around debounce"):
                await mail.start(1)
            with pytest.raises(ConfigurationError, match="around debounce"):
                mail.start_sync(1)
            taken = await shop.work.start(2)
            waiting = await mail.start(1)
        assert taken.id == "mine"
        assert waiting.id != "mine"
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status") == [(2,)]


@pytest.mark.parametrize("act", ["resume", "fork", "restart"])
async def test_what_waited_and_never_began_runs_when_it_is_put_to_work(database: str, act: str) -> None:
    """It has no version, so whoever has the workflow takes it: it waits on in the queue that asks for none."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST):
        waiting = await shop.work.debounce("k", wait=HOUR).start(1)
        if act == "resume":
            await waiting.cancel()
            await waiting.resume()
            put = waiting
        else:
            put = await (waiting.fork(from_step=1) if act == "fork" else waiting.restart())
        assert await put.result(timeout=PATIENCE) == [1, 1]


async def test_what_never_began_is_resumed_where_nobody_has_its_code(database: str) -> None:
    """It waits for the first process that has, of whatever version; one that was asked for is waited for."""
    old, new = Shop(), Shop("2")
    async with Bench(old.app, database, settings=FAST):
        waiting = [await old.work.debounce(key, wait=HOUR).start(n) for n, key in enumerate("ab")]
    async with Client(database) as client:
        await client.cancel_workflows([handle.id for handle in waiting])
        await client.resume_workflows([waiting[0].id])
        await client.resume_workflows([waiting[1].id], version="1")
        async with Bench(new.app, database, settings=FAST) as bench:
            await until_row(bench, f"workflow_uuid = '{waiting[0].id}' AND status = 'SUCCESS'")
            await bench.settle()
            await until_row(bench, f"workflow_uuid = '{waiting[1].id}' AND status = 'PENDING'")
    assert new.calls == ["one 0", "two 0"]
