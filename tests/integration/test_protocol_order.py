"""Order within a key where it is hardest to keep: takeovers, look-ups, raw rows, operators' retries (I7; P8, P15, P16, P18, P21)."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from engine.dead_letters import retry
from engine.ids import ordering_key
from engine.pool import connect
from engine.settings import EngineSettings
from engine.source import Source, SourceListener
from processor import App, BlockKey, Ordering, TerminalError, Topic
from processor.testing import Bench
from tests.integration.protocol import FAST, LAZY, Order, Shop, statuses, until, until_row


async def test_an_open_row_met_on_the_way_lets_no_later_record_of_a_key_overtake(database: str) -> None:
    """P15, P16, I7: record 2 has no row; while row 1 is woken in the middle of a look-up, record 4 must not go first."""
    shop = Shop()
    async with Bench(shop.app, database, settings=LAZY) as bench:
        shop.shut = {"first 0", "second 1", "first 2", "second 3", "first 4"}
        for n, key in enumerate(["z", "x", "k", "y", "k"]):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until_row(bench, "kafka_offset = 1")
        await until_row(bench, "kafka_offset = 3")
        shop.began.clear()

        await bench.crash_now()
        await until(lambda: {2, 4} & set(shop.begun("first")))
        await asyncio.sleep(0.1)

        assert 4 not in shop.begun("first"), "record 4 began beside or before record 2 of its key"
        shop.shut.clear()
        await bench.settle()
        assert [n for n in shop.begun("first") if n in (2, 4)] == [2, 4]


@pytest.mark.parametrize("ordering", [Ordering.KEY, Ordering.PARTITION])
async def test_workflows_put_back_to_work_together_run_in_their_order(database: str, ordering: Ordering) -> None:
    """P18: place, then offset. Offsets 9 and 10: as text, 10 stands first."""
    app = App("shop")
    done: list[int] = []
    broken = True

    @app.step()
    async def work(order: Order) -> None:
        if broken and order.n in (9, 10):
            raise TerminalError("broken")
        done.append(order.n)

    topic = Topic("orders", Order, key=lambda order: order.key, ordering=ordering)

    @app.workflow(on=topic)
    async def fulfil(order: Order) -> None:
        await work(order)

    async with Bench(app, database, settings=FAST) as bench:
        for n in range(12):
            await bench.deliver(topic, Order(key="a", n=n))
        await bench.settle()
        broken = False
        await bench.execute(
            """WITH forgotten AS (DELETE FROM dbos.operation_outputs WHERE error IS NOT NULL)
               UPDATE dbos.workflow_status SET status = 'PENDING', error = NULL, kafka_place = 12 WHERE status = 'ERROR'"""
        )
        await until(lambda: len(done) == 12)
        await bench.settle()

        assert done[-2:] == [9, 10]


async def test_a_raw_row_whose_key_nobody_knows_yet_waits_for_the_open_row_of_its_key(database: str) -> None:
    """P21, I7: after a death the key of a record under `order_by=` is known only once it is decoded."""
    shop = Shop(Topic("orders", Order, order_by=lambda order: order.key))
    async with Bench(shop.app, database, settings=LAZY) as bench:
        shop.shut = {"second 0", "first 3", "first 4"}
        for n, key in enumerate(["k", "k", "k", "z", "z"]):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await until_row(bench, "kafka_offset = 0")
        await until(lambda: "second 0" in shop.began)  # the row stands a moment before

        await bench.crash_now()
        await until(lambda: shop.began.count("second 0") == 2)
        await until(lambda: shop.began.count("first 3") == 2)
        await asyncio.sleep(0.2)

        assert not {1, 2} & set(shop.begun("first")), "a record began beside the open row of its key"
        assert 4 not in shop.begun("first")
        shop.shut.clear()
        await bench.settle()
        assert [n for n in shop.begun("first") if n in (1, 2)] == [1, 2]
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(5)]


async def test_a_follower_whose_row_is_on_its_way_runs_once(database: str) -> None:
    """P15, P27: its flush is halved around a record that cannot be written, and its holder ends in the first half."""
    shop = Shop()
    async with (
        Bench(shop.app, database, settings=FAST) as bench,
        await psycopg.AsyncConnection.connect(database) as lock,
    ):
        await bench.execute("ALTER TABLE dbos.workflow_status ADD CHECK (inputs NOT LIKE '%poison%')")
        await bench.deliver(shop.topic, Order(key="z", n=0))
        await bench.settle()
        shop.shut = {"first 2"}
        await lock.execute("SELECT 1 FROM dbos.event_dispatch_kv FOR UPDATE")
        await bench.deliver(shop.topic, Order(key="y", n=1))
        await until(lambda: "first 1" in shop.ended)
        await asyncio.sleep(0.1)  # its flush waits for the lock; what follows gathers for the next one
        await bench.deliver(shop.topic, Order(key="a", n=2))
        await asyncio.sleep(0.06)
        await bench.deliver(shop.topic, Order(key="a", n=3))
        await asyncio.sleep(0.06)
        await bench.deliver(shop.topic, b'{"key": "poison", "n": 4}')
        await asyncio.sleep(0.06)
        shop.error = TerminalError
        shop.fails["first 2"] = 1
        shop.shut.clear()
        await until(lambda: not shop.fails["first 2"])
        await asyncio.sleep(0.1)
        await lock.rollback()
        await bench.settle()

        assert shop.began.count("first 3") == 1
        assert shop.began.count("second 3") == 1
        assert dict(await statuses(bench)) == {0: "SUCCESS", 1: "SUCCESS", 2: "ERROR", 3: "SUCCESS", 4: "ERROR"}  # type: ignore[arg-type]


async def test_a_workflow_that_cannot_be_stored_keeps_its_key_until_its_steps_have_ended(database: str) -> None:
    """P18, P27, P17: it fails alone; nothing of it begins any more, and what still runs keeps its key."""
    app = App("shop")
    ran: list[str] = []
    gate = asyncio.Event()
    topic = Topic("orders", Order, key=lambda order: order.key)

    @app.step()
    async def poisoned(order: Order) -> str:
        return "poison" if order.n == 0 else "good"

    @app.step()
    async def slow(order: Order) -> None:
        ran.append(f"slow {order.n}")
        if order.n == 0:
            await gate.wait()

    @app.step()
    async def after(order: Order) -> None:
        ran.append(f"after {order.n}")

    @app.workflow(on=topic)
    async def fulfil(order: Order) -> None:
        async def both() -> None:
            await poisoned(order)
            await after(order)

        await asyncio.gather(slow(order), both())

    async with Bench(app, database, settings=FAST) as bench:
        await bench.execute("ALTER TABLE dbos.operation_outputs ADD CHECK (output NOT LIKE '%poison%')")
        for n in range(2):
            await bench.deliver(topic, Order(key="a", n=n))
        await until(lambda: ran)
        await asyncio.sleep(0.3)
        assert ran == ["slow 0"]
        gate.set()
        await bench.settle()

        assert await statuses(bench) == [(0, "ERROR"), (1, "SUCCESS")]
        assert sorted(ran) == ["after 1", "slow 0", "slow 1"]
        assert await bench.fetch_all("SELECT kafka_offset, reason FROM dbos.dead_letter") == [(0, "unstorable")]


async def test_an_open_row_of_a_dead_owner_does_not_pass_records_that_wait_for_room(database: str) -> None:
    """P15: Kafka's position says that no more comes; what was delivered and waits for room is before the row."""
    settings = EngineSettings(conninfo="", in_flight_max=1, scan=timedelta(milliseconds=50))
    shop = Shop()
    async with Bench(shop.app, database, settings=settings) as bench:
        ref = bench.ref(shop.topic)
        await bench.deliver(shop.topic, Order(key="z", n=0))
        await bench.settle()
        await bench.release(ref)
        await bench.execute(
            """INSERT INTO dbos.workflow_status (workflow_uuid, status, name, request, inputs, kafka_source, kafka_offset, kafka_key)
               VALUES ('orders-0-5', 'PENDING', 'fulfil',
                       '{"topic": "orders", "partition": 0, "offset": 5, "timestamp": 0, "key": "a"}',
                       '{"args": [{"key":"a","n":5}], "kwargs": {}}', 'shop|orders-0', 5, %s)""",
            [ordering_key(b"a")],
        )
        shop.shut = {"first 1"}
        await bench.claim(ref)
        await bench.deliver(shop.topic, Order(key="z", n=1))
        await until(lambda: "first 1" in shop.began)
        await bench.deliver(shop.topic, Order(key="a", n=2))
        bench.source(shop.topic).reached(7)
        await asyncio.sleep(0.2)
        shop.shut.clear()
        await until(lambda: {2, 5} <= set(shop.begun("first")))
        await bench.settle()

        assert [n for n in shop.begun("first") if n in (2, 5)] == [2, 5]


async def test_a_look_at_rows_at_rest_during_a_claim_does_not_pass_the_open_row_of_a_dead_owner(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P10, P15, I7: row 0 was running, row 1 waits behind it, at rest; the scan sees row 1 before the claim has read both."""
    shop = Shop()
    open_source = Source.open

    async def look_and_open(self: Source, listener: SourceListener) -> None:
        await self.engine.scan._look()  # pyright: ignore[reportPrivateUsage]  # at this very moment
        await open_source(self, listener)

    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.shut = {"first 0", "first 1"}
        for n in range(2):
            await bench.deliver(shop.topic, Order(key="k", n=n))
        await until_row(bench, "kafka_offset = 0 AND owner_xid IS NOT NULL")
        await until_row(bench, "kafka_offset = 1 AND owner_xid IS NULL")
        shop.began.clear()

        monkeypatch.setattr(Source, "open", look_and_open)
        await bench.crash_now()
        await until(lambda: shop.begun("first"))
        shop.shut.clear()
        await bench.settle()

        assert shop.begun("first") == [0, 1]


async def test_a_retry_taken_over_by_a_claim_runs_behind_what_was_open_when_the_operator_asked(database: str) -> None:
    """P15, P18: its place is 2, so record 1 of its key goes first, though the claim begins above its offset."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        await bench.release(ref)
        await bench.execute(
            "UPDATE dbos.workflow_status SET status = 'ENQUEUED', owner_xid = NULL, kafka_place = 2, output = NULL"
        )
        await bench.execute("DELETE FROM dbos.operation_outputs")
        shop.began.clear()

        await bench.claim(ref)
        await asyncio.sleep(0.2)
        assert shop.begun("first") == []
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await bench.settle()

        assert shop.begun("first") == [1, 0]


async def test_what_blocked_a_key_runs_first_when_it_is_retried_after_its_partition_moved(database: str) -> None:
    """I7, P18, design 7: nothing of the key ran since; the new owner knows what waits, and not what it waits for."""
    shop = Shop(policy=BlockKey())
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.fails["first 0"] = 1
        for n in range(3):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await bench.settle()
        await bench.release(bench.ref(shop.topic))
        await bench.claim(bench.ref(shop.topic))
        await bench.settle()

        async with await connect(bench.settings, "operator") as connection:
            assert await retry(connection, "dbos", [1]) == 1
        await until(lambda: "second 2" in shop.ended)
        await bench.settle()

        assert shop.begun("first") == [0, 0, 1, 2]
