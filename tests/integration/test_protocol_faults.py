"""Errors, blame and decisions: bad weather, strange exceptions, deaths that were none, counts (P5, P16, P22, P25 to P27; I3, I8)."""

import asyncio
import gc
import time
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from engine.pool import connect
from engine.settings import EngineSettings
from engine.store import event_dispatch_kv
from engine.store.statement import send
from engine.telemetry import FlushRetried, SourceDropped
from processor import App, RawRecord, Retry, Topic, Transaction
from processor.testing import Bench
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, LAZY, PATIENCE_S, Order, Shop, statuses, until, until_row

orders = Topic("orders", Order, key=lambda order: order.key)


async def test_a_fused_handler_that_raises_cancelled_fails_alone_and_its_committer_goes_on(database: str) -> None:
    """P26, I8: `CancelledError` out of a handler's own task is the handler's error, not the end of the committer."""
    app = App("shop")

    @app.transaction(on=orders)
    async def book(tx: Transaction, order: Order) -> None:
        if order.n == 3:
            task = asyncio.create_task(asyncio.sleep(10))
            task.cancel()
            await task
        await tx.execute("INSERT INTO entry VALUES (%s)", (order.n,))

    async with Bench(app, database, settings=FAST) as bench:
        await bench.execute("CREATE TABLE entry (n int)")
        for n in range(6):
            await bench.deliver(orders, Order(key="a", n=n))
        await bench.settle()

        assert await bench.fetch_all("SELECT n FROM entry ORDER BY n") == [(0,), (1,), (2,), (4,), (5,)]
        assert dict(await statuses(bench))[3] == "ERROR"  # type: ignore[arg-type]


async def test_bad_weather_in_a_fused_handler_is_waited_out(database: str) -> None:
    """P25: back off with jitter; never as fast as the server refuses."""
    app = App("shop")
    tries = 0
    until_s: float | None = None

    @app.transaction(on=orders)
    async def book(tx: Transaction, order: Order) -> None:
        nonlocal tries, until_s
        tries += 1
        until_s = until_s or time.monotonic() + 1.5
        if time.monotonic() < until_s:
            await tx.execute("DO $$ BEGIN RAISE 'short' USING ERRCODE = '53200'; END $$")

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(key="a", n=0))
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS")]
        assert tries < 30


async def test_a_server_that_takes_no_writes_for_a_while_ends_no_process(database: str) -> None:
    """P25: 25006 is weather for every statement of ours, the scan's as well."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        name = (await bench.fetch_all("SELECT current_database()"))[0][0]
        await bench.execute("UPDATE dbos.workflow_status SET status = 'ENQUEUED'")
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            await connection.execute(
                sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sql.Identifier(name))
            )
        await bench.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(1)
        assert not bench.engine.failure.done()
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(
                sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(sql.Identifier(name))
            )
        await bench.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until_row(bench, "status = 'SUCCESS'")


async def test_a_connection_that_cannot_be_set_up_is_not_left_open(database: str) -> None:
    """I10: an executor that ends while it connects, or whose settings the server refuses, leaves no session behind."""
    refused = replace(FAST, conninfo=database, statement_timeout=timedelta(seconds=-1))
    with pytest.raises(psycopg.Error) as raised:
        await connect(refused, "refused")
    async with asyncio.timeout(15), await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        query = "SELECT FROM pg_stat_activity WHERE application_name = 'refused' AND datname = current_database()"
        while await (await connection.execute(query)).fetchall():
            await asyncio.sleep(0.02)

    assert raised.value.sqlstate == "22023"


async def test_attempts_that_end_in_errors_are_not_deaths(database: str) -> None:
    """P22, P28: a suspect that fails alone and rests has not killed its process; it has all its attempts."""
    app = App("shop")
    tries: list[int] = []

    @app.workflow(on=orders, retry=Retry(attempts=6, first_delay=timedelta(milliseconds=1)))
    async def fulfil(order: Order) -> None:
        tries.append(order.n)
        if len(tries) < 6:
            raise ConnectionError("away")

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, None)
        await bench.settle()
        await bench.execute(
            """INSERT INTO dbos.workflow_status (workflow_uuid, status, name, request, inputs, kafka_source, kafka_offset, recovery_attempts)
               VALUES ('orders-0-0', 'PENDING', 'fulfil',
                       '{"topic": "orders", "partition": 0, "offset": 0, "timestamp": 0, "key": "a"}',
                       '{"args": [{"key":"a","n":5}], "kwargs": {}}', 'shop|orders-0', 0, 2)"""
        )
        await until_row(bench, "status NOT IN ('PENDING', 'ENQUEUED')")

        assert await statuses(bench) == [(0, "SUCCESS")]
        assert len(tries) == 6


async def test_a_transactional_steps_checkpoint_forgives_earlier_deaths(database: str) -> None:
    """P22: a checkpoint sets the count to 0, whichever transaction it was written in."""
    app = App("shop")
    gate = asyncio.Event()

    @app.transaction()
    async def book(tx: Transaction, order: Order) -> None:
        await tx.execute("SELECT 1")

    @app.step()
    async def wait(order: Order) -> None:
        await gate.wait()

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await book(order)
        await wait(order)

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, None)
        await bench.settle()
        await bench.execute(
            """INSERT INTO dbos.workflow_status (workflow_uuid, status, name, request, inputs, kafka_source, kafka_offset, recovery_attempts)
               VALUES ('orders-0-0', 'PENDING', 'fulfil',
                       '{"topic": "orders", "partition": 0, "offset": 0, "timestamp": 0, "key": "a"}',
                       '{"args": [{"key":"a","n":5}], "kwargs": {}}', 'shop|orders-0', 0, 1)"""
        )
        await until_row(bench, "EXISTS (SELECT FROM dbos.operation_outputs)")
        assert await bench.fetch_all("SELECT recovery_attempts FROM dbos.workflow_status") == [(0,)]
        gate.set()
        await bench.settle()


async def test_a_record_over_which_its_condition_fails_is_a_dead_letter_and_the_others_go_on(database: str) -> None:
    """I1: it is neither wanted nor unwanted, so it is given up, with what the condition raised."""

    def is_wanted(record: RawRecord) -> bool:
        return record.key != b"odd" or not 1 / 0

    shop = Shop(Topic("orders", Order, key=lambda order: order.key, where=is_wanted))
    async with Bench(shop.app, database) as bench:
        for n, key in enumerate(["a", "odd", "b"]):
            await bench.deliver(shop.topic, Order(key=key, n=n))
        await bench.settle()

        assert sorted(shop.ended) == ["first 0", "first 2", "second 0", "second 2"]
        ((offset, error),) = await bench.fetch_all("SELECT kafka_offset, error FROM dbos.dead_letter")
        assert (offset, "ZeroDivisionError" in error) == (1, True)


async def test_filtered_records_are_counted_once_over_claims_and_deaths(database: str) -> None:
    """I1, I3: the counts belong to what lies below `next`; a record decided again after a death is not counted again."""
    shop = Shop(Topic("orders", Order, key=lambda order: order.key, where=lambda record: record.key != b"no"))
    async with Bench(shop.app, database, settings=LAZY) as bench:
        ref = bench.ref(shop.topic)
        for n in range(5):
            await bench.deliver(shop.topic, Order(key="no", n=n))
        await bench.settle()
        await bench.release(ref)
        await bench.claim(ref)
        shop.shut = {"first 5"}
        await bench.deliver(shop.topic, Order(key="a", n=5))
        await until(lambda: "first 5" in shop.began)
        for n in range(6, 9):
            await bench.deliver(shop.topic, Order(key="no", n=n))
        await asyncio.sleep(0.1)
        await bench.crash_now()
        shop.shut.clear()
        await bench.settle()

        progress = bench.source(shop.topic).progress
        assert (progress.next, progress.filtered) == (9, 8)


async def test_a_renamed_handler_finds_the_rows_it_wrote_under_its_former_name(database: str) -> None:
    """P16, I2: records below `high` are looked up; their rows are this group's, whatever the handler was called."""
    ran: list[str] = []
    gate = asyncio.Event()

    def app_of(name: str, former: str | None) -> App:
        app = App("shop")

        @app.step()
        async def work(order: Order) -> None:
            ran.append(f"{name} {order.n}")

        @app.workflow(on=orders, name=name, renamed_from=former)
        async def fulfil(order: Order) -> None:
            if order.n == 0 and not gate.is_set():
                await gate.wait()
            await work(order)

        return app

    async with Bench(app_of("old", None), database, settings=LAZY) as bench:
        await bench.deliver(orders, Order(key="a", n=0))
        await bench.deliver(orders, Order(key="b", n=1))
        await until_row(bench, "kafka_offset = 1 AND status = 'SUCCESS'")
        await bench.engine.abort()
        log = bench.log
    gate.set()
    async with Bench(app_of("new", "old"), database, settings=LAZY) as bench:
        bench.log[bench.ref(orders)] = next(iter(log.values()))
        await bench.claim(bench.ref(orders))
        await bench.settle()

        assert bench.source(orders).held is None
        assert await statuses(bench) == [(0, "SUCCESS"), (1, "SUCCESS")]
        assert ran == ["old 1", "new 0"]


async def test_a_stored_leader_epoch_other_than_the_records_halts_the_partition(database: str) -> None:
    """P16: the log was cut and grew again; the timestamp may be the same."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        await bench.claim(ref)
        await bench.deliver(shop.topic, Order(key="a", n=0), timestamp_ms=1)
        await bench.settle()
        await bench.release(ref)
        await bench.execute(
            'UPDATE dbos.workflow_status SET request = replace(request, \', "key"\', \', "leader_epoch": 3, "key"\')'
        )
        await bench.execute("UPDATE dbos.event_dispatch_kv SET value = replace(value, '\"next\":1', '\"next\":0')")
        bench.log[ref] = [replace(bench.log[ref][0], leader_epoch=4)]
        await bench.claim(ref)
        await until(lambda: ref in bench.engine.sources.halted)

        ((reason,),) = await bench.fetch_all("SELECT reason FROM dbos.hold")
        assert "rewritten" in reason


async def test_no_partition_starves_behind_one_that_fills_every_flush(database: str) -> None:
    """I10, P5: a flush has room for so many rows; whoever got none is first in the next."""
    settings = EngineSettings(conninfo="", committers=1, flush_rows_max=1, scan=timedelta(seconds=5))
    shop = Shop()
    async with Bench(shop.app, database, settings=settings) as bench:
        await bench.claim(bench.ref(shop.topic, 0))
        await bench.claim(bench.ref(shop.topic, 1))
        for n in range(60):
            await bench.deliver(shop.topic, Order(key=f"k{n}", n=n), partition=0)
        await bench.deliver(shop.topic, Order(key="z", n=1_000), partition=1)
        await bench.settle()

        behind = shop.ended[shop.ended.index("second 1000") :]
        assert len(behind) > 20, "partition 1 was served only when partition 0 had nothing left"


async def test_a_connection_that_could_not_be_prepared_is_closed(database: str) -> None:
    """Whoever asked for it failed, or was cancelled, and nobody else knows it."""
    async with await connect(EngineSettings(conninfo=database), "observer") as observer:
        with pytest.raises(psycopg.Error, match="statement_timeout"):
            await connect(EngineSettings(conninfo=database, statement_timeout=timedelta(seconds=-1)), "unprepared")
        gc.collect()  # would warn

        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'unprepared'"
        async with asyncio.timeout(PATIENCE_S):
            while await (await observer.execute(sessions)).fetchone() != (0,):
                await asyncio.sleep(0.01)


async def test_a_process_that_stops_over_a_database_that_went_back_ends_at_once(database: str) -> None:
    """P4, P11: its release is refused; it is dropped, not sent again until the drain budget is used up."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        bench.engine.lease.is_held_back = True  # it learns of it by the release itself
        await asyncio.sleep(0.1)
        await bench.execute("UPDATE dbos.event_dispatch_kv SET value = replace(value, '\"flush\":', '\"flush\":-')")
        async with asyncio.timeout(30):
            await bench.engine.stop(timedelta(seconds=60))

        assert len([event for event in bench.events if isinstance(event, FlushRetried)]) < 5


async def test_a_lost_reply_of_raising_the_epoch_costs_nobody_the_partition(database: str) -> None:
    """P23: that commit is settled by reading as well; what runs goes on, its source is not dropped."""
    shop = Shop()
    async with losing_proxy(database) as (proxy, dsn), Bench(shop.app, dsn, settings=FAST) as bench:
        shop.shut = {"first 0"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")
        epoch = bench.source(shop.topic).epoch
        proxy.lose_commits = 2  # of the flush, and of the epoch that is raised to settle it
        await bench.deliver(shop.topic, Order(key="b", n=1))
        await until(lambda: "second 1" in shop.ended)
        shop.shut.clear()
        await bench.settle()

        assert proxy.lost == 2
        assert not [event for event in bench.events if isinstance(event, SourceDropped)]
        assert shop.began.count("first 0") == 1
        assert bench.source(shop.topic).epoch == epoch + 1
        assert await statuses(bench) == [(0, "SUCCESS"), (1, "SUCCESS")]


async def test_an_epoch_that_another_claim_raised_meanwhile_is_not_taken_for_our_own(database: str) -> None:
    """P6, P23: one epoch higher, but under another token, is a successor's claim."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        source = bench.source(shop.topic)
        raise_epochs = event_dispatch_kv.raise_epochs(
            services=[source.ref.service_name], keys=[source.ref.key], epochs=[source.epoch], tokens=["another"]
        )
        async with await connect(bench.settings, "test") as connection:
            await connection.execute("UPDATE dbos.event_dispatch_kv SET update_seq = update_seq + 1")
            raised = await (await send(connection, "dbos", raise_epochs)).fetchall()

        assert raised == []
