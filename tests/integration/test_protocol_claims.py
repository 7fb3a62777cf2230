"""Claims and rows where no other file asks: a namesake, a transaction's row, another topic of the same name (P3, P20, P30)."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from engine.ids import ExecutorId
from engine.partitions import Place
from engine.seeks import Anew, seek
from engine.store import executor
from engine.telemetry import ExecutorBuried, ExecutorStarted
from processor import App, Topic, Transaction
from processor.testing import Bench
from tests.integration.protocol import FAST, PATIENCE_S, Order, Shop, statuses, until, until_row

SLOW = replace(FAST, lease=timedelta(minutes=5), heartbeat=timedelta(seconds=5))
"""A lease nobody waits for in a test."""


async def test_a_process_of_the_same_name_takes_over_from_its_predecessor_at_once(database: str) -> None:
    """P3: no lease passes; whoever has the name now says that the other is dead."""
    shop = Shop()
    async with Bench(shop.app, database, executor="pod-0", settings=SLOW) as first:
        shop.shut = {"first 0"}
        await first.deliver(shop.topic, Order(key="a", n=0))
        await until_row(first, "kafka_offset = 0")
        await first.engine.abort()
        shop.shut.clear()
        async with Bench(shop.app, database, executor="pod-0", settings=SLOW, beside=first) as second:
            async with asyncio.timeout(PATIENCE_S):
                await second.claim(second.ref(shop.topic))
                await second.settle()

            assert await statuses(second) == [(0, "SUCCESS")]
            assert not [event for event in second.events if isinstance(event, ExecutorBuried)]


@contextmanager
def stopped_in_a_flush(database: str, executor_id: ExecutorId) -> Generator[None]:
    """A session of an executor whose process stands still between its fence and the Sync of its pipeline."""
    with psycopg.connect(database, autocommit=True, application_name=executor.session_name(executor_id)) as connection:
        session = connection.pgconn
        session.enter_pipeline_mode()
        for statement in (b"BEGIN", b"SELECT * FROM dbos.event_dispatch_kv FOR UPDATE"):
            session.send_query_params(statement, None)
        session.send_flush_request()
        session.flush()
        locked = 0
        while locked < 2:
            locked += session.get_result() is not None
        try:
            yield
        finally:
            session.finish()


@pytest.mark.parametrize("death", ["buried (P2)", "condemned (P9)", "succeeded (P3)"])
async def test_the_locks_of_a_process_stopped_inside_a_flush_end_with_its_executor(database: str, death: str) -> None:
    """I8: however it died, nothing of a dead executor whose lease is over keeps others from its partitions and rows."""
    shop = Shop()
    async with Bench(shop.app, database, executor="one", settings=FAST) as one:
        await one.deliver(shop.topic, Order(key="a", n=0))
        await one.settle()
        stopped = one.engine.executor_id
        with stopped_in_a_flush(database, stopped):
            await one.engine.abort()
            if death == "condemned (P9)":
                await one.execute("UPDATE dbos.executor SET died_at = dbos.now_ms() WHERE executor_id = %s", (stopped,))
            heir = "one" if death == "succeeded (P3)" else "two"
            async with (
                asyncio.timeout(15),
                Bench(shop.app, database, executor=heir, settings=FAST, beside=one) as other,
            ):
                await other.deliver(shop.topic, Order(key="a", n=1))
                await other.settle()

                assert await statuses(other) == [(0, "SUCCESS"), (1, "SUCCESS")]


@pytest.mark.parametrize("row", ["stands", "is gone"])
async def test_an_executor_that_registers_anew_has_its_sessions_under_its_new_id(database: str, row: str) -> None:
    """P2, P4: those of the old ID are a dead executor's, whether its row stands or a restore took it away."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        old = bench.engine.executor_id
        if row == "is gone":
            await bench.execute("DELETE FROM dbos.executor")
        bench.engine.died("as if marked dead")
        await until(lambda: [event for event in bench.events if isinstance(event, ExecutorStarted)][1:])
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await bench.settle()

        names = await bench.fetch_all(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        )
        assert names.count((executor.session_name(bench.engine.executor_id),)) >= 2  # the committer's and the pool's
        assert (executor.session_name(old),) not in names


async def test_an_executor_that_is_dead_before_its_engine_has_started_registers_anew(database: str) -> None:
    """P2, P3: a namesake that starts at the same moment may be between its registration and its first heartbeat."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE SEQUENCE births")
        await connection.execute(
            """
            CREATE FUNCTION stillborn() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('births') = 1 THEN
                    NEW.died_at := NEW.started_at;
                END IF;
                RETURN NEW;
            END $$
            """
        )
        await connection.execute(
            "CREATE TRIGGER stillborn BEFORE INSERT ON dbos.executor FOR EACH ROW EXECUTE FUNCTION stillborn()"
        )
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS")]


async def test_a_transactional_steps_row_stands_before_its_statements_and_its_writes_not_without_its_checkpoint(
    database: str,
) -> None:
    """P20, I5: the row comes through the committer first; a crash before COMMIT leaves the row and nothing else."""
    app = App("shop")
    topic = Topic("orders", Order, key=lambda order: order.key)
    gate = asyncio.Event()
    began: list[int] = []

    @app.transaction()
    async def book(tx: Transaction, order: Order) -> None:
        await tx.execute("INSERT INTO entry VALUES (%s)", (order.n,))
        began.append(order.n)
        await gate.wait()

    @app.workflow(on=topic)
    async def fulfil(order: Order) -> None:
        await book(order)

    async with Bench(app, database, settings=replace(FAST, persist_after=timedelta(seconds=60))) as bench:
        await bench.execute("CREATE TABLE entry (n int)")
        await bench.deliver(topic, Order(key="a", n=0))
        await until(lambda: began)
        assert await statuses(bench) == [(0, "PENDING")]
        await bench.crash_now()
        assert await bench.fetch_all(
            "SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM dbos.operation_outputs)"
        ) == [(0, 0)]
        gate.set()
        await bench.settle()

        assert began == [0, 0]
        assert await bench.fetch_all(
            "SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM dbos.operation_outputs)"
        ) == [(1, 1)]


async def test_another_topic_of_the_same_name_is_a_claim_with_ids_of_its_own(database: str) -> None:
    """P30, I2: epoch + 1, `next` and `high` set anew; offset 0 of the second topic is not offset 0 of the first."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        before = bench.source(shop.topic)
        await bench.release(ref)
        assert await bench.engine.sources.new_incarnation(before, topic_id="another", start=0, by="policy")
        await bench.claim(ref)
        await bench.settle()

        source = bench.source(shop.topic)
        assert source.epoch > before.epoch
        assert (source.progress.incarnation, source.progress.topic_id, source.progress.next) == (2, "another", 1)
        ids = await bench.fetch_all("SELECT workflow_uuid, status FROM dbos.workflow_status ORDER BY 1")
        assert ids == [("orders-0-0", "SUCCESS"), ("orders~2-0-0", "SUCCESS")]


@pytest.mark.parametrize("meanwhile", ["begun", "claimed", "moved", "dead"])
async def test_a_new_incarnation_is_begun_under_the_claim_that_judged_it_or_not_at_all(
    database: str, meanwhile: str
) -> None:
    """I2, I6, P30: between judgement and commit another began the same topic and ran it; claimed it; an operator moved
    it; or who judged was declared dead. What was judged then counts no more: written, it would run every record again.
    """
    shop = Shop()
    async with Bench(shop.app, database, settings=SLOW) as bench:
        sources, ref = bench.engine.sources, bench.ref(shop.topic)
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        judged = bench.source(shop.topic)
        await bench.release(ref)
        if meanwhile == "dead":
            await bench.execute("UPDATE dbos.executor SET died_at = 1, lease_until = 0")
        elif meanwhile == "moved":
            async with bench.engine.pool.connection() as connection:
                place = Place(bench.group, ref.key)
                await seek(connection, "dbos", place, to=0, note="x", actor="x", anew=Anew("new", 0))
        else:
            await bench.claim(ref)
            if meanwhile == "begun":
                quick = bench.source(shop.topic)
                await bench.release(ref)
                assert await sources.new_incarnation(quick, topic_id="new", start=0, by="policy")
                await bench.claim(ref)
                await bench.settle()
            await bench.release(ref)
        stands = await bench.fetch_all("SELECT update_seq, value FROM dbos.event_dispatch_kv")

        assert not await sources.new_incarnation(judged, topic_id="new", start=0, by="policy")

        assert await bench.fetch_all("SELECT update_seq, value FROM dbos.event_dispatch_kv") == stands


async def test_a_topic_id_is_filled_in_once_and_never_replaced(database: str) -> None:
    """Case 19: progress that was stored without one; a release and a new claim keep it."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        source = bench.source(shop.topic)

        for topic_id in ("", "first", "second"):
            source.has_topic_id(topic_id)
            await bench.settle()
        await bench.release(bench.ref(shop.topic))
        await bench.claim(bench.ref(shop.topic))

        assert bench.source(shop.topic).progress.topic_id == "first"
        assert await bench.fetch_all("SELECT value::json ->> 'topic_id' FROM dbos.event_dispatch_kv") == [("first",)]
