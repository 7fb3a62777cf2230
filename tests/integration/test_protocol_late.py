"""What outlives its claim: late runs, acquisitions and starts under way at a release, cancelled runs (P7, P11 to P14, P18)."""

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from engine.crashpoints import CrashPoint, armed
from engine.telemetry import ExecutorLost
from processor import App, BlockKey, HaltPartition, Retry, TerminalError, Topic
from processor.testing import Bench
from tests.integration.protocol import FAST, PATIENCE_S, Order, Shop, statuses, two, until, until_row


async def test_a_late_runs_failed_attempt_rests_and_its_step_runs_again_at_the_new_owner(database: str) -> None:
    """P12, P28: the delay holds there, too, and the failed step is called, not answered from its error's record."""
    shop = Shop(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    async with two(database, shop.app) as (one, other):
        shop.shut = {"first 0"}
        shop.fails["first 0"] = 1
        await one.deliver(shop.topic, Order(key="a", n=0))
        await until(lambda: shop.began)
        await one.release(one.ref(shop.topic))
        await other.claim(other.ref(shop.topic))
        shop.shut.clear()
        await until(lambda: not shop.fails["first 0"])
        await other.settle()
        assert shop.began.count("first 0") == 1
        await other.advance(timedelta(hours=2))
        await until(lambda: shop.began.count("first 0") == 2)
        await other.settle()

        assert await statuses(other) == [(0, "SUCCESS")]


async def test_a_late_run_that_blocks_its_key_blocks_it_at_the_new_owner(database: str) -> None:
    """P12, design 7: the hold is written with the late outcome; the new owner reads it before the key goes on."""
    shop = Shop(policy=BlockKey())
    shop.error = TerminalError
    async with two(database, shop.app) as (one, other):
        shop.shut = {"first 0"}
        shop.fails["first 0"] = 1
        await one.deliver(shop.topic, Order(key="a", n=0))
        await one.deliver(shop.topic, Order(key="a", n=1))
        await until(lambda: shop.began)
        await one.release(one.ref(shop.topic))
        await other.claim(other.ref(shop.topic))
        shop.shut.clear()
        await until_row(other, "status = 'ERROR'")
        await asyncio.sleep(0.4)
        assert shop.begun("first") == [0]
        await other.execute("DELETE FROM dbos.hold")
        await until(lambda: "second 1" in shop.ended)
        await other.settle()

        assert await statuses(other) == [(0, "ERROR"), (1, "SUCCESS")]


async def test_an_operators_block_is_noticed_without_a_new_claim(database: str) -> None:
    """P5, design 5: holds are rows; one placed by hand parks what comes after, in order, until it is lifted."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        await bench.execute(
            """INSERT INTO dbos.hold (service_name, key, ordering_key, kind, reason, created_at)
               SELECT 'kafka:shop', 'orders-0', kafka_key, 'block', 'by hand', 0 FROM dbos.workflow_status"""
        )
        await until(lambda: bench.source(shop.topic).inbox.keys.blocked)
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await asyncio.sleep(0.2)
        assert shop.begun("first") == [0]
        await bench.execute("DELETE FROM dbos.hold")
        await until(lambda: "second 1" in shop.ended)
        await bench.settle()


async def test_a_row_being_woken_when_its_partition_leaves_is_released_at_rest(database: str) -> None:
    """P11, P15, P22: an acquisition in flight is undone by the release; nobody is blamed and nobody waits for a lease."""
    shop = Shop(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    async with (
        Bench(shop.app, database, settings=FAST) as bench,
        await psycopg.AsyncConnection.connect(database) as lock,
    ):
        shop.fails["first 0"] = 1
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        await lock.execute("SELECT 1 FROM dbos.event_dispatch_kv FOR UPDATE")
        await bench.advance(timedelta(hours=2))
        await asyncio.sleep(0.1)
        release = asyncio.create_task(bench.release(bench.ref(shop.topic)))
        await asyncio.sleep(0.05)
        await lock.rollback()
        await release

        assert await bench.fetch_all("SELECT status, owner_xid FROM dbos.workflow_status") == [("PENDING", None)]
        assert shop.begun("first") == [0]
        await bench.claim(bench.ref(shop.topic))
        await bench.settle()
        assert await bench.fetch_all("SELECT status, recovery_attempts FROM dbos.workflow_status") == [("SUCCESS", 0)]


async def test_a_record_whose_row_is_being_written_does_not_start_once_its_partition_leaves(database: str) -> None:
    """P8, P11: from the detach on nothing of the partition begins here; its row goes to rest."""
    shop = Shop(persist_first=True)
    async with (
        Bench(shop.app, database, settings=FAST) as bench,
        await psycopg.AsyncConnection.connect(database) as lock,
    ):
        await bench.claim(bench.ref(shop.topic))
        await lock.execute("SELECT 1 FROM dbos.event_dispatch_kv FOR UPDATE")
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await asyncio.sleep(0.1)
        release = asyncio.create_task(bench.release(bench.ref(shop.topic)))
        await asyncio.sleep(0.05)
        await lock.rollback()
        await release
        await asyncio.sleep(0.05)

        assert shop.began == []
        assert await bench.fetch_all("SELECT status, owner_xid FROM dbos.workflow_status") == [("PENDING", None)]
        await bench.claim(bench.ref(shop.topic))
        await bench.settle()
        assert shop.ended == ["first 0", "second 0"]


async def test_a_workflow_cancelled_and_resumed_while_its_step_runs_goes_on(database: str) -> None:
    """P7, P18, I8: as a dbos client does it, which leaves the owner; the row must not stay ENQUEUED for ever."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.shut = {"first 0"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await until_row(bench, "kafka_offset = 0")
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE kafka_offset = 0")
        await bench.execute("UPDATE dbos.workflow_status SET status = 'ENQUEUED' WHERE kafka_offset = 0")
        shop.shut.clear()
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS"), (1, "SUCCESS")]
        assert shop.began.count("first 0") == 2


async def test_a_cancelled_workflow_that_was_refused_goes_on_when_it_is_resumed(database: str) -> None:
    """P18, I8: its row still names the claim it ran under; ENQUEUED is nobody's."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.shut = {"first 0"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED'")
        shop.shut.clear()
        await bench.settle()
        await bench.execute("UPDATE dbos.workflow_status SET status = 'ENQUEUED'")
        await until_row(bench, "status = 'SUCCESS'")


async def test_a_late_run_cancelled_and_resumed_goes_on_at_the_new_owner(database: str) -> None:
    """P12, I8: the old owner's write is refused; what names its superseded claim is handed over within a lease."""
    shop = Shop()
    async with two(database, shop.app) as (one, other):
        shop.shut = {"first 0"}
        await one.deliver(shop.topic, Order(key="a", n=0))
        await until_row(one, "kafka_offset = 0")
        await one.release(one.ref(shop.topic))
        await other.claim(other.ref(shop.topic))
        await one.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED'")
        await one.execute("UPDATE dbos.workflow_status SET status = 'ENQUEUED'")
        shop.shut.clear()
        await until_row(other, "status = 'SUCCESS'")
        await other.settle()


async def test_a_cancelled_run_whose_step_still_runs_keeps_its_key_over_a_release(database: str) -> None:
    """P13, P14, P18: refused, released and claimed again: the next record of the key waits for the step."""
    app = App("shop")
    topic = Topic("orders", Order, key=lambda order: order.key)
    gate = asyncio.Event()
    running: set[int] = set()
    overlaps: list[int] = []

    @app.step()
    async def quick(order: Order) -> None:
        await asyncio.sleep(0.3)

    @app.step()
    async def slow(order: Order) -> None:
        if running:
            overlaps.append(order.n)
        running.add(order.n)
        if order.n == 0:
            await gate.wait()
        running.discard(order.n)

    @app.workflow(on=topic)
    async def fulfil(order: Order) -> None:
        await asyncio.gather(slow(order), quick(order))

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(topic, Order(key="a", n=0))
        await bench.deliver(topic, Order(key="a", n=1))
        await until_row(bench, "kafka_offset = 0")
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE kafka_offset = 0")
        await asyncio.sleep(0.5)  # the checkpoint of `quick` was refused
        await bench.release(bench.ref(topic))
        await bench.claim(bench.ref(topic))
        await asyncio.sleep(0.3)
        gate.set()
        await bench.settle()

        assert not overlaps
        assert await statuses(bench) == [(0, "CANCELLED"), (1, "SUCCESS")]


async def test_a_claim_taken_while_its_executor_died_is_not_used(database: str) -> None:
    """P2, P9: it names an executor that is no more; under the next one's lease nobody may act on it."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        armed[CrashPoint.CLAIMED] = lambda _: (armed.clear(), bench.engine.died("as if marked dead"))[0]
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until(lambda: any(isinstance(event, ExecutorLost) for event in bench.events))
        await bench.settle()

        assert bench.source(shop.topic).progress.owner == bench.engine.executor_id
        assert await statuses(bench) == [(0, "SUCCESS")]


async def test_a_halt_that_cannot_be_stored_at_once_still_releases_the_partition(database: str) -> None:
    """P25, I8: a connection lost at that moment must not leave the partition claimed and silent."""
    shop = Shop(policy=HaltPartition())
    shop.error = TerminalError
    shop.fails["first 0"] = 1
    async with Bench(shop.app, database, settings=replace(FAST, scan=timedelta(hours=1))) as bench:
        await bench.claim(bench.ref(shop.topic))
        await bench.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'onceflow %' AND datname = current_database()"
        )
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until(lambda: bench.ref(shop.topic) in bench.engine.sources.halted)
        await until(lambda: not bench.engine.sources.attached())

        assert await bench.fetch_all("SELECT kind FROM dbos.hold") == [("halt",)]


@pytest.mark.parametrize("translates", [False, True], ids=["cancelled", "translated"])
async def test_a_step_that_outlasts_the_drain_is_no_failure_of_its_workflow(database: str, translates: bool) -> None:
    """P11, P12, I4: a stop cuts it off; the next process goes on behind what is recorded, and nothing is buried.

    Neither where the step makes an error of its own out of the cancellation, as clients of other systems do.
    """
    app, topic = App("shop"), Topic("orders", Order)
    began: list[str] = []
    gate = asyncio.Event()

    @app.step()
    async def first(order: Order) -> None:
        began.append("first")

    @app.step()
    async def second(order: Order) -> None:
        began.append("second")
        try:
            await gate.wait()
        except asyncio.CancelledError:
            if translates:
                raise ConnectionError("the call was broken off") from None
            raise

    @app.workflow(on=topic)
    async def handle(order: Order) -> None:
        await first(order)
        await second(order)

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")
        await until(lambda: "second" in began)

        await bench.engine.stop(timedelta(seconds=0.1))
        gate.set()
        await bench.restart()
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS")]
        assert began == ["first", "second", "second"]
        assert not await bench.fetch_all("SELECT 1 FROM dbos.dead_letter")


async def test_a_thread_whose_step_timed_out_keeps_its_key_until_it_returns(database: str) -> None:
    """P14, P13: its workflow has failed, its partition was released and claimed again; the next of the key still waits."""
    app, topic = App("shop"), Topic("orders", Order, key=lambda order: order.key)
    gate = threading.Event()
    told: list[str] = []

    @app.step(timeout=timedelta(milliseconds=100))
    def slow(order: Order) -> None:
        told.append(f"began {order.n}")
        if order.n == 0:
            assert gate.wait(PATIENCE_S)
        told.append(f"ended {order.n}")

    @app.workflow(on=topic)
    def handle(order: Order) -> None:
        try:
            slow(order)
        finally:
            told.append(f"answered {order.n}")

    async with Bench(app, database, settings=FAST) as bench:
        try:
            await bench.deliver(topic, Order(key="a", n=0))
            await bench.deliver(topic, Order(key="a", n=1))
            await bench.deliver(topic, Order(key="b", n=2))
            await until(lambda: {"answered 0", "answered 2"} <= {*told})
            await bench.release(bench.ref(topic))
            await bench.claim(bench.ref(topic))
            await bench.deliver(topic, Order(key="b", n=3))
            await until(lambda: "answered 3" in told)

            assert not {"ended 0", "began 1"} & {*told}
        finally:
            gate.set()
        await bench.settle()

        assert told.index("ended 0") < told.index("began 1")
        assert told.count("began 0") == told.count("began 1") == 1
        assert await statuses(bench) == [(0, "ERROR"), (1, "SUCCESS"), (2, "SUCCESS"), (3, "SUCCESS")]
