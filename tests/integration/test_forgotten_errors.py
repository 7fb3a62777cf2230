"""What a resume, a retry of a dead letter and another attempt forget, and what stands (I4, P28; decision 0030)."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import LiteralString

import pytest

from processor import (
    App,
    Client,
    DeduplicatedError,
    Queue,
    Retry,
    Topic,
    WorkflowHandle,
    WorkflowStatus,
    publish,
    recv,
    set_event,
    sync,
)
from processor.testing import Bench
from tests.integration.protocol import FAST, PATIENCE_S

HISTORY = "SELECT function_id, function_name, error IS NULL, kafka_called FROM dbos.operation_outputs ORDER BY 1"


class Paying:
    """`charge` fails until it may not; so does whatever else is called through `call`."""

    def __init__(self) -> None:
        self.app = App("paying")
        self.calls: Counter[str] = Counter()
        self.fails = {"charge"}

        @self.app.step()
        async def charge() -> str:
            return self.call("charge")

        self.charge = charge

    def call(self, step: str) -> str:
        self.calls[step] += 1
        if step in self.fails:
            raise ConnectionError(step)
        return step


@pytest.fixture
def paying() -> Paying:
    return Paying()


async def _failed(handle: WorkflowHandle[str]) -> None:
    with pytest.raises(ConnectionError):
        await handle.result()


async def _until(bench: Bench, query: LiteralString) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await bench.fetch_all(query) != [(True,)]:
            await asyncio.sleep(0.02)


async def test_a_failure_that_an_event_was_set_about_stands_though_both_were_in_one_millisecond(
    database: str, paying: Paying
) -> None:
    """I4: the event says 'failed', so the charge must not succeed behind it. Calls like this wait for nothing."""

    @paying.app.workflow()
    async def buy() -> str:
        try:
            await paying.charge()
        except ConnectionError:
            await set_event("state", "failed")
            raise
        await set_event("state", "paid")
        return "paid"

    async with Bench(paying.app, database) as bench:
        handle = await buy.start()
        await _failed(handle)
        # As where the clock is coarse: all of it in one millisecond.
        await bench.execute("UPDATE dbos.operation_outputs SET started_at_epoch_ms = 1, completed_at_epoch_ms = 1")
        paying.fails.clear()
        await handle.resume()
        await _failed(handle)

        assert await paying.app.get_event(handle.id, "state") == "failed"
        assert paying.calls == {"charge": 1}
        assert await bench.fetch_all(HISTORY) == [(1, "charge", False, 1), (2, "DBOS.setEvent", True, None)]


async def test_a_dead_letter_of_a_failure_that_was_published_is_retried_over_the_same_history(database: str) -> None:
    """I4: forgotten, the step would succeed where the history says that its failure was published."""
    paying = Paying()
    orders = Topic("orders", dict[str, int], key=lambda event: str(event["n"]))
    failures = Topic("failures", dict[str, int], key=lambda event: str(event["n"]))

    @paying.app.step()
    async def ship() -> str:
        return paying.call("ship")

    @paying.app.workflow(on=orders)
    async def buy(order: dict[str, int]) -> str:
        try:
            await paying.charge()
        except ConnectionError:
            await publish(failures, order)
            raise
        return await ship()

    async with Bench(paying.app, database) as bench, Client(database) as client:
        await bench.deliver(orders, {"n": 1})
        await bench.settle()
        paying.fails.clear()
        (letter,) = await client.dead_letters.list()
        await client.dead_letters.retry(letter.dead_letter_id)
        await _until(bench, "SELECT status <> 'PENDING' FROM dbos.workflow_status")

        (row,) = await bench.fetch_all("SELECT error::json ->> 'type' FROM dbos.workflow_status")
        assert row == ("builtins:ConnectionError",)
        assert paying.calls == {"charge": 1}


async def test_what_was_called_beside_the_step_that_failed_is_no_answer_to_its_failure(database: str) -> None:
    """I4: both were called before the failure was known; the one that succeeded stands, the other runs again."""
    paying = Paying()
    done = asyncio.Event()

    @paying.app.step()
    async def reserve() -> str:
        paying.call("reserve")
        await done.wait()
        return "reserved"

    @paying.app.workflow()
    async def buy() -> str:
        charged, reserved = await asyncio.gather(paying.charge(), reserve(), return_exceptions=True)
        if isinstance(charged, BaseException):
            raise charged
        return f"{charged} {reserved}"

    async with Bench(paying.app, database) as bench:
        handle = await buy.start()
        done.set()
        await _failed(handle)
        assert await bench.fetch_all(HISTORY) == [(1, "charge", False, 2), (2, "reserve", True, None)]
        paying.fails.clear()
        await handle.resume()

        assert await handle.result() == "charge reserved"
        assert paying.calls == {"charge": 2, "reserve": 1}


async def test_of_two_failures_the_one_that_nothing_followed_is_forgotten(database: str) -> None:
    """I4: in a sync workflow as on the loop: the refund is tried again, over the charge that failed."""
    paying = Paying()
    paying.fails.add("refund")

    @paying.app.workflow()
    def buy() -> str:
        try:
            return sync.run_step(paying.call, "charge", name="charge")
        except ConnectionError:
            return sync.run_step(paying.call, "refund", name="refund")

    async with Bench(paying.app, database) as bench:
        handle = await buy.start()
        await _failed(handle)
        assert await bench.fetch_all(HISTORY) == [(1, "charge", False, 1), (2, "refund", False, 2)]
        paying.fails.clear()
        await handle.resume()

        assert await handle.result() == "refund"
        assert paying.calls == {"charge": 1, "refund": 2}


@pytest.mark.parametrize("again", ["resume", "retry"])
async def test_what_failed_by_a_deduplication_id_is_enqueued_once_it_is_free(database: str, again: str) -> None:
    """I4: the start goes with the verdict that it brought no row; alone it would be a start of nothing, for ever."""
    app = App("jobs")
    queue = app.register_queue(Queue("q", concurrency=5))
    retry = Retry(attempts=2 if again == "retry" else 1, first_delay=timedelta(hours=1))

    @app.workflow()
    async def job(number: int) -> int:
        return number or await recv("go")

    @app.workflow(retry=retry)
    async def parent() -> int:
        return await (await queue.having(deduplication_id="d").enqueue(job, 1)).result()

    async with Bench(app, database, settings=FAST) as bench:
        holder = await queue.having(deduplication_id="d").enqueue(job, 0)
        handle = await parent.start()
        if again == "resume":
            with pytest.raises(DeduplicatedError):
                await handle.result()
        else:
            await _until(bench, "SELECT kafka_wake_at IS NOT NULL FROM dbos.workflow_status WHERE kafka_attempt = 1")
        await app.send(holder.id, 1, "go")
        await holder.result()
        if again == "resume":
            await handle.resume()
        else:
            await bench.advance(timedelta(hours=2))

        assert await handle.result() == 1


async def test_a_result_that_did_not_come_in_time_is_awaited_as_long_again(database: str) -> None:
    """I4: the end of its time is forgotten with the error: the old one is over."""
    app = App("family")

    @app.workflow()
    async def child() -> str:
        return str(await recv("go"))

    @app.workflow()
    async def parent() -> str:
        return await (await child.start(id="child")).result(timeout=timedelta(hours=1))

    async with Bench(app, database, settings=FAST) as bench:
        handle = await parent.start(id="parent")
        await _until(bench, "SELECT count(*) = 2 FROM dbos.workflow_status WHERE kafka_asleep")
        await bench.advance(timedelta(minutes=61))
        with pytest.raises(TimeoutError):
            await handle.result()
        await handle.resume()
        await bench.advance(timedelta(minutes=50))
        assert (await handle.status()).status is WorkflowStatus.PENDING
        await app.send("child", "came", "go")

        assert await handle.result() == "came"
