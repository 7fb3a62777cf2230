"""Lost replies, a database that is away, one that went back, and records that kill their process."""

import asyncio
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.migrations import migrate
from engine.rows import record_of
from engine.settings import EngineSettings
from engine.telemetry import (
    ExecutorBuried,
    ExecutorLost,
    FlushRetried,
    StoreAvailable,
    StoreUnavailable,
    SuspectStarted,
)
from processor import App, ConfigurationError, Record, Topic, Transaction
from processor.testing import Bench, CrashPoint
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.proxy import losing_proxy

FAST = EngineSettings(
    conninfo="", lease=timedelta(seconds=2.4), heartbeat=timedelta(seconds=0.4), scan=timedelta(milliseconds=50)
)

PATIENCE_S = 60
"""Longest a test waits for what must come."""


class Order(BaseModel):
    key: str
    n: int


orders = Topic("orders", Order, key=lambda order: order.key)


class Shop:
    """One step, one transaction; counts what ran."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.calls: Counter[int] = Counter()
        self.counted: Counter[int] = Counter()
        self.shut: set[int] = set()
        """Orders whose step waits."""

        @self.app.step()
        async def charge(order: Order) -> int:
            self.calls[order.n] += 1
            while order.n in self.shut:
                await asyncio.sleep(0.01)
            return order.n

        @self.app.transaction()
        async def count(tx: Transaction, order: Order) -> None:
            self.counted[order.n] += 1
            await tx.execute("UPDATE tally SET n = n + 1 WHERE key = %s", (order.key,))

        @self.app.workflow(on=orders)
        async def fulfil(order: Order) -> None:
            await charge(order)
            await count(order)


async def prepare(bench: Bench) -> None:
    await bench.execute("CREATE TABLE tally (key text PRIMARY KEY, n int)")
    await bench.execute("INSERT INTO tally SELECT 'k' || g, 0 FROM generate_series(0, 4) AS g")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def audit(bench: Bench, count: int) -> None:
    assert await bench.fetch_all("SELECT sum(n)::int FROM tally") == [(count,)]
    assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [("SUCCESS", count)]


@pytest.mark.parametrize("side", ["reply", "request"])
@pytest.mark.parametrize("where", [b"fence_partitions", b"fence_row"])
async def test_a_lost_commit_is_settled_by_reading(database: str, side: str, where: bytes) -> None:
    """P23, P24: of a flush by its flush number, of a step's transaction by its checkpoint."""
    shop = Shop()
    async with losing_proxy(database) as (proxy, dsn), Bench(shop.app, dsn) as bench:
        await prepare(bench)
        proxy.marker = where
        for n in range(60):
            if n in (20, 40):
                proxy.lose_commits += side == "reply"
                proxy.lose_requests += side == "request"
            await bench.deliver(orders, Order(key=f"k{n % 5}", n=n))
        await bench.settle()

        assert proxy.lost == 2
        await audit(bench, 60)
        assert all(count == 1 for count in shop.calls.values())


async def test_postgres_away_for_longer_than_the_lease_kills_nobody(private_postgres: PostgresServer) -> None:
    """P2, P25: everything waits, nothing is an attempt, and it goes on by itself."""
    dsn = private_postgres.dsn()
    await migrate(dsn)
    shop = Shop()
    async with Bench(shop.app, dsn, settings=FAST) as bench:
        await prepare(bench)
        for n in range(30):
            await bench.deliver(orders, Order(key=f"k{n % 5}", n=n))
        await asyncio.to_thread(private_postgres.stop, "immediate")
        await until(lambda: not bench.engine.lease.is_valid())
        for n in range(30, 60):
            await bench.deliver(orders, Order(key=f"k{n % 5}", n=n))
        await asyncio.sleep(FAST.lease.total_seconds())
        await asyncio.to_thread(private_postgres.start)
        await bench.settle()

        await audit(bench, 60)
        assert not [event for event in bench.events if isinstance(event, ExecutorBuried)]


async def test_a_process_with_nothing_to_do_says_that_postgres_went_and_came_back(
    private_postgres: PostgresServer,
) -> None:
    """P25: nothing is committed that could say so; the lease does."""
    dsn = private_postgres.dsn()
    await migrate(dsn)
    async with Bench(Shop().app, dsn, settings=FAST) as bench:
        await asyncio.to_thread(private_postgres.stop, "immediate")
        await until(lambda: [event for event in bench.events if isinstance(event, StoreUnavailable)])
        assert not [event for event in bench.events if isinstance(event, StoreAvailable)]

        await asyncio.to_thread(private_postgres.start)

        await until(lambda: [event for event in bench.events if isinstance(event, StoreAvailable)])


async def test_a_base_backup_restored_under_a_worker_at_work_is_noticed(private_postgres: PostgresServer) -> None:
    """P4, P13: commits were taken away while one step is open and one flush is pending; the log brings all back.

    The worker abandons its memory and registers anew. The abandoned run is a late one until its step has ended: its key
    runs nowhere, it begins no effect, its result is dropped, and its record is done again, once, behind it.
    """
    dsn = private_postgres.dsn()
    await migrate(dsn)
    shop = Shop()
    async with Bench(shop.app, dsn, settings=FAST) as bench:
        await prepare(bench)
        for n in range(20):
            await bench.deliver(orders, Order(key=f"k{n % 4}", n=n))
        await bench.settle()
        backup = await asyncio.to_thread(private_postgres.base_backup)
        for n in range(20, 50):
            await bench.deliver(orders, Order(key=f"k{n % 4}", n=n))
        await bench.settle()
        await audit(bench, 50)
        shop.shut = {50}
        await bench.deliver(orders, Order(key="k4", n=50))
        await until(lambda: shop.calls[50])
        async with asyncio.timeout(PATIENCE_S):
            while not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE kafka_offset = 50"):
                await asyncio.sleep(0.01)
        await asyncio.to_thread(private_postgres.stop, "immediate")
        await bench.deliver(orders, Order(key="k0", n=51))
        await bench.deliver(orders, Order(key="k4", n=52))
        await until(lambda: [event for event in bench.events if isinstance(event, FlushRetried)])
        assert shop.calls[51] == 1
        assert not [event for event in bench.events if isinstance(event, ExecutorLost)]

        await asyncio.to_thread(private_postgres.restore, backup)
        await until(lambda: [event for event in bench.events if isinstance(event, ExecutorLost)])
        # All but the records of the key that the abandoned run holds.
        async with asyncio.timeout(PATIENCE_S):
            while await bench.fetch_all("SELECT sum(n)::int FROM tally") != [(51,)]:
                await asyncio.sleep(0.05)
        assert len(bench.engine.late) == 1
        assert (shop.calls[50], shop.counted[50], shop.calls[52]) == (1, 0, 0)
        shop.shut = set()
        await bench.settle()

        assert len(bench.engine.late) == 0
        assert (shop.calls[50], shop.counted[50], shop.calls[52], shop.counted[52]) == (2, 1, 1, 1)
        assert shop.counted[51] == 1
        await audit(bench, 53)


async def test_the_record_that_kills_its_process_is_found_and_buried_and_its_neighbours_are_not(database: str) -> None:
    """P21, P22: raw rows after a death, blame for what was started, alone from two deaths on, three alone bury it."""
    shop = App("shop")

    @shop.step()
    async def explode(order: Order) -> int:
        return order.n

    @shop.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await explode(order)

    async with Bench(shop, database) as bench:
        killer = 7

        def arm() -> None:
            from engine.crashpoints import armed
            from engine.current import current_run

            def act(point: CrashPoint) -> None:
                run = current_run.get()
                if run is not None and run.offset == killer:
                    bench.cut()
                    from processor.testing.bench import Crashed

                    raise Crashed(point)

            armed[CrashPoint.STEP_CALLED] = act

        arm()
        for n in range(20):
            await bench.deliver(orders, Order(key=f"k{n}", n=n))
        await bench.settle()

        rows = await bench.fetch_all(
            "SELECT kafka_offset, status FROM dbos.workflow_status WHERE status <> 'SUCCESS' ORDER BY 1"
        )
        assert rows == [(killer, "MAX_RECOVERY_ATTEMPTS_EXCEEDED")]
        assert await bench.fetch_all("SELECT kafka_offset, reason FROM dbos.dead_letter") == [
            (killer, "killed its process")
        ]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'") == [(19,)]
        assert [event for event in bench.events if isinstance(event, SuspectStarted) and event.alone]


@pytest.mark.parametrize(
    "key,value,headers,reason",
    [
        (b"\xff\xfe", b'{"key": "a", "n": 1}', [("h", b"\x00\xff")], None),
        (b"k" * 10_240, b'{"key": "a", "n": 1}', [], None),
        (b"a\x00b", b'{"key": "a", "n": 1}', [], None),
        (b"a", b'{"key": "a\\u0000b", "n": 1}', [], None),
        (b"a", b'{"key": "a\x00b", "n": 1}', [], "undecodable"),
        (b"a", b'{"key": "a\xff", "n": 1}', [], "undecodable"),
        (b"a", b'{"key": "' + b"x" * (10 * 1024 * 1024) + b'", "n": 1}', [], None),
        (None, b"", [], "undecodable"),
        (b"", b'{"key": "", "n": 1}', [], None),
        (b"\xff\x00", b"\x00\xff" * 100, [("h", b"\x00\xff"), ("other", None)], "undecodable"),
        (b"k" * 10_240, b"x" * (10 * 1024 * 1024), [], "undecodable"),
    ],
    ids=[
        "binary key",
        "10 KB key",
        "NUL key",
        "NUL escape",
        "raw NUL",
        "not UTF-8",
        "10 MiB",
        "empty",
        "empty key",
        "nothing but binary",
        "10 MiB undecodable",
    ],
)
async def test_strange_bytes_lose_nothing_and_stop_nobody(
    database: str, key: bytes | None, value: bytes, headers: list[tuple[str, bytes | None]], reason: str | None
) -> None:
    """I1, case 40: stored or a dead letter with the raw bytes; the next record goes on; recovery reads the same bytes."""
    app = App("shop")
    seen: list[Record[Order]] = []
    topic = Topic("orders", Order, headers=("h",))

    @app.workflow(on=topic)
    async def fulfil(order: Record[Order]) -> None:
        seen.append(order)

    async with Bench(app, database) as bench:
        await bench.deliver(topic, value, key=key, headers=headers)
        await bench.deliver(topic, Order(key="b", n=2), key=b"b")
        await bench.settle()

        statuses = await bench.fetch_all("SELECT status FROM dbos.workflow_status ORDER BY kafka_offset")
        assert statuses == [("ERROR" if reason else "SUCCESS",), ("SUCCESS",)]
        if reason:
            ((buried, raw_key, raw_value, raw_headers),) = await bench.fetch_all(
                "SELECT reason, record_key, record_value, record_headers FROM dbos.dead_letter"
            )
            assert (buried, raw_key, raw_value) == (reason, key, value)
            kept: list[tuple[str, str]] = raw_headers or []
            # What is not on the allow-list is stored nowhere: headers can hold secrets.
            assert [(name, b64decode(text)) for name, text in kept] == [each for each in headers if each[0] == "h"]
        ((request, inputs),) = await bench.fetch_all(
            """
            SELECT w.request, COALESCE(i.inputs, w.inputs)
              FROM dbos.workflow_status AS w LEFT JOIN dbos.workflow_inputs AS i USING (workflow_uuid)
             WHERE w.kafka_offset = 0
            """
        )
        stored = record_of(request, inputs)
        assert (stored.key, stored.value) == (key, value)
        assert list(stored.headers) == [header for header in headers if header[0] == "h"]


async def test_two_groups_on_one_topic_have_ids_of_their_own(database: str) -> None:
    """I2: the first group's IDs are plain, for ever; any other group's have its name before."""
    one, other = App("one"), App("other")
    ran: list[str] = []
    for app in (one, other):

        @app.workflow(on=orders, name="fulfil")
        async def fulfil(order: Order, name: str = app.name) -> None:
            ran.append(name)

    async with Bench(one, database) as first, Bench(other, database, executor="second") as second:
        await first.deliver(orders, Order(key="a", n=0))
        await second.deliver(orders, Order(key="a", n=0))
        await first.settle()
        await second.settle()

        ids = await first.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY 1")
        assert ids == [("orders-0-0",), ("other|orders-0-0",)]
        assert sorted(ran) == ["one", "other"]


async def test_a_renamed_handler_finds_the_old_row_and_halts_until_told(database: str) -> None:
    """Design 5: progress belongs to the partition, not to a name; nothing is consumed a second time by accident."""
    app = App("shop")

    @app.workflow(on=orders, name="old")
    async def old(order: Order) -> None: ...

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(key="a", n=0))
        await bench.settle()
    renamed = App("shop")

    @renamed.workflow(on=orders, name="new")
    async def new(order: Order) -> None: ...

    async with Bench(renamed, database) as bench:
        with pytest.raises(ConfigurationError, match="renamed_from='old'"):
            await bench.deliver(orders, Order(key="a", n=1), offset=1)
    told = App("shop")

    @told.workflow(on=orders, name="new", renamed_from="old")
    async def newer(order: Order) -> None: ...

    async with Bench(told, database) as bench:
        await bench.deliver(orders, Order(key="a", n=1), offset=1)
        await bench.settle()

        rows = await bench.fetch_all("SELECT name, workflow_uuid FROM dbos.workflow_status ORDER BY 2")
        assert rows == [("old", "orders-0-0"), ("new", "orders-0-1")]


async def test_anothers_row_under_our_id_halts_the_partition_and_is_never_a_dedup(database: str) -> None:
    """I2, P27: a conflict with a row of another program is an error with a name."""
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await prepare(bench)
        await bench.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name) VALUES ('orders-0-3', 'SUCCESS', 'theirs')"
        )
        for n in range(6):
            await bench.deliver(orders, Order(key=f"k{n % 5}", n=n))
        await until(lambda: bench.ref(orders) in bench.engine.sources.halted)
        await asyncio.sleep(0.2)

        ((reason,),) = await bench.fetch_all("SELECT reason FROM dbos.hold")
        assert "orders-0-3" in reason
        assert "theirs" in reason
        assert [event for event in bench.events if isinstance(event, FlushRetried)]


async def test_a_handler_that_hangs_the_loop_loses_its_partition_and_changes_nothing_after(database: str) -> None:
    """P9, I6: it heartbeats and does not answer for three leases; the claimer condemns it, and takes over when its lease has run out.

    When it goes on, neither the record that hung nor the one behind it has an effect from there.
    """
    import threading

    hangs_s = 3 * FAST.lease.total_seconds()
    hung, taken_over, woke = threading.Event(), threading.Event(), threading.Event()

    def shop(where: str, hang_on: asyncio.Event | None = None) -> App:
        app = App("shop")

        @app.transaction()
        async def note(tx: Transaction, order: Order) -> None:
            await tx.execute("INSERT INTO noted VALUES (%s, %s)", (where, order.n))

        @app.workflow(on=orders)
        async def fulfil(order: Order) -> None:
            if hang_on is not None and order.n == 0:
                await hang_on.wait()
                hung.set()
                time.sleep(hangs_s)  # that is the fault
                taken_over.wait(PATIENCE_S)  # on a machine that is busier than three leases
                woke.set()
            await note(order)

        return app

    def hang() -> None:
        async def main() -> None:
            both_are_here = asyncio.Event()
            async with Bench(shop("one", both_are_here), database, executor="one", settings=FAST) as bench:
                await bench.execute("CREATE TABLE noted (executor text, n int)")
                await bench.deliver(orders, Order(key="hang", n=0))
                await bench.deliver(orders, Order(key="hang", n=1))
                both_are_here.set()
                await until(woke.is_set)
                await until(lambda: [event for event in bench.events if isinstance(event, ExecutorLost)])
                await asyncio.sleep(FAST.lease.total_seconds())  # what it still wanted to do, it would have done

        asyncio.run(main())

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        await until(hung.is_set)
        async with Bench(shop("two"), database, executor="two", settings=FAST) as other:
            other.log[other.ref(orders)] = []
            async with asyncio.timeout(PATIENCE_S):
                from engine.sources import Busy

                while isinstance(claimed := await other.engine.sources.claim(other.ref(orders), generation=5), Busy):
                    await asyncio.sleep(0.1)
                await claimed.open(other)
                other.adopt(claimed)
            assert not woke.is_set(), "the takeover does not wait for the one that hangs"
            taken_over.set()
            assert [event for event in other.events if isinstance(event, ExecutorBuried)]
            await other.deliver(orders, Order(key="hang", n=0), offset=0)
            await other.deliver(orders, Order(key="hang", n=1), offset=1)
            await other.settle()
            await asyncio.to_thread(thread.join, PATIENCE_S)

            assert woke.is_set()
            assert await other.fetch_all("SELECT executor, n FROM noted ORDER BY n") == [("two", 0), ("two", 1)]
            assert await other.fetch_all("SELECT kafka_offset, status FROM dbos.workflow_status ORDER BY 1") == [
                (0, "SUCCESS"),
                (1, "SUCCESS"),
            ]
    finally:
        taken_over.set()
        thread.join(PATIENCE_S)
