"""`publish` in workflows: an event in the commit of its checkpoint, once, whatever crashes (I4, I9; P7, P12, P17, P31)."""

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from engine.publishing import LARGE, UNDURABLE_MAX
from engine.telemetry import Flushed
from engine.transactional import NotInWorkflowError
from processor import (
    App,
    ConfigurationError,
    DeadLetter,
    NondeterminismError,
    PublishError,
    SyncTransaction,
    TerminalError,
    Topic,
    Transaction,
    publish,
    sleep,
    sync,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import RECORDS, STARTS, STEPS
from tests.fixtures.proxy import losing_proxy
from tests.integration.packing import ALL, DAY, Order, Shop, Told, asleep, blobs, by_order, orders, told, until_packing
from tests.integration.protocol import PATIENCE_S
from tests.integration.shipments import headers_of, in_outbox
from tests.integration.test_rest import until_status


@pytest.fixture
def shop() -> Shop:
    return Shop()


every_kind = pytest.mark.parametrize("kind", ["record", "call"])


@every_kind
async def test_what_a_workflow_publishes_is_in_its_history_and_in_the_outbox(
    database: str, shop: Shop, kind: str
) -> None:
    """P31: one row of the history and one of the outbox for each call."""
    async with Bench(shop.app, database) as bench:
        await shop.begin(bench, kind, 1)
        await bench.settle()

        history = await bench.fetch_all(
            "SELECT function_id, function_name, output, error FROM dbos.operation_outputs ORDER BY 1"
        )
        assert history == [
            (1, "publish to told", "null", None),
            (2, "publish to told", "null", None),
            (3, "pack", "null", None),
            (4, "publish to told", "null", None),
        ]
        first, second, third = await in_outbox(bench, "told")
        assert (first.key, first.value, headers_of(first)) == (b"0", b'{"order":0,"what":"accepted"}', {"trace": b"t"})
        assert (second.key, second.headers, third.key) == (b"0", None, b"of 0")
        assert by_order(await bench.published(told)) == {0: ALL}


@every_kind
@pytest.mark.crash_points(*RECORDS, *STARTS, *STEPS)
async def test_a_crash_anywhere_publishes_once(
    database: str, shop: Shop, kind: str, crash_point: CrashPoint | None
) -> None:
    """I4, I9: an event is there if and only if its checkpoint is; so every one is there once, in order."""
    async with Bench(shop.app, database) as bench:
        bench.crash(at=crash_point)
        await shop.begin(bench, kind, 12)
        await bench.settle()

        assert by_order(await bench.published(told)) == dict.fromkeys(range(12), ALL)
        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs") == [(48,)]


@every_kind
@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_publishes_once(database: str, shop: Shop, kind: str, side: str) -> None:
    """P23, P24: whether the server committed or not."""
    async with losing_proxy(database) as (proxy, dsn), Bench(shop.app, dsn) as bench:
        proxy.marker = b"lock_outbox_keys"
        proxy.lose_commits, proxy.lose_requests = (2, 0) if side == "reply" else (0, 2)
        await shop.begin(bench, kind, 20)
        await bench.settle()

        assert proxy.lost == 2
        assert by_order(await bench.published(told)) == dict.fromkeys(range(20), ALL)


@every_kind
async def test_a_workflow_that_starts_over_its_history_publishes_nothing_again(database: str, kind: str) -> None:
    """I4: it rests in between, and its code runs again from the beginning."""
    app = App("shop")
    begun: Counter[int] = Counter()

    @app.workflow(on=orders)
    async def remind(order: Order) -> None:
        begun[order.n] += 1
        await publish(told, Told(order=order.n, what="accepted"))
        await sleep(DAY)
        await publish(told, Told(order=order.n, what="reminded"))

    async with Bench(app, database) as bench:
        if kind == "record":
            await bench.deliver(orders, Order(n=1))
        else:
            await remind.start(Order(n=1))
        await asleep(bench)
        assert by_order(await bench.published(told)) == {1: ["accepted"]}
        await bench.advance(DAY)
        await until_status(bench, "SUCCESS")

        assert begun == {1: 2}
        assert by_order(await bench.published(told)) == {1: ["accepted", "reminded"]}


async def test_publishing_waits_for_nothing_unless_too_much_waits_already(database: str) -> None:
    """P17: no barrier; I10: what waits for its flush is bounded, and events keep their order across flushes."""
    app = App("shop")
    count = 2 * UNDURABLE_MAX + 500

    @app.workflow(on=orders)
    async def tell(order: Order) -> None:
        for n in range(count):
            await publish(told, Told(order=order.n, what=str(n)))

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        flushed = [event.checkpoints for event in bench.events if isinstance(event, Flushed) and event.checkpoints]
        assert by_order(await bench.published(told)) == {1: [str(n) for n in range(count)]}
        assert sum(flushed) == count
        assert len(flushed) <= 10
        assert max(flushed) <= UNDURABLE_MAX + 1


async def test_large_events_wait_for_each_other(database: str) -> None:
    """I10: a workflow has one of them in memory, not a thousand."""
    app = App("shop")
    sizes = [LARGE + 1, 10, LARGE + 2, LARGE + 3]

    @app.workflow(on=orders)
    async def tell(order: Order) -> None:
        del order
        for size in sizes:
            await publish(blobs, b"x" * size)

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        assert [len(blob) for blob in await bench.published(blobs)] == sizes
        flushed = [event.checkpoints for event in bench.events if isinstance(event, Flushed) and event.checkpoints]
        assert flushed == [2, 1, 1]


@every_kind
async def test_an_event_that_is_refused_is_refused_again_in_every_replay(database: str, kind: str) -> None:
    """I4: the error is in the history; what the code did about it stays right, also when more would be allowed later."""
    app = App("shop")
    encoded: Counter[int] = Counter()

    def key(event: Told) -> str:
        encoded[event.order] += 1
        if encoded[event.order] == 1:
            raise ValueError("no key yet")
        return "k"

    fussy = Topic("fussy", Told, key=key)

    @app.workflow(on=orders)
    async def tell(order: Order) -> str:
        try:
            await publish(fussy, Told(order=order.n, what="accepted"))
        except PublishError as error:
            said = str(error)
        else:
            said = "published"
        await sleep(DAY)
        return said

    async with Bench(app, database) as bench:
        if kind == "record":
            await bench.deliver(orders, Order(n=1))
        else:
            await tell.start(Order(n=1))
        await asleep(bench)
        await bench.advance(DAY)
        await until_status(bench, "SUCCESS")

        [(output,)] = await bench.fetch_all("SELECT output FROM dbos.workflow_status")
        assert output == "\"topic 'fussy': the Told cannot be encoded: ValueError: no key yet\""
        assert encoded == {1: 1}
        assert await in_outbox(bench, "fussy") == []


async def test_an_event_that_is_refused_is_the_workflows_failure(database: str) -> None:
    app = App("shop")

    @app.workflow(on=orders, breaker=None)
    async def tell(order: Order) -> None:
        await publish(Topic("^told.*", Told), Told(order=order.n, what="accepted"))

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        assert await bench.fetch_all("SELECT error::json ->> 'message' FROM dbos.dead_letter") == [
            ("topic '^told.*': a pattern stands for many topics; publish to one by its name",)
        ]


async def test_another_topic_at_the_same_place_is_another_program(database: str) -> None:
    """The history says where each call published."""
    app = App("shop")
    topics = [told, Topic("elsewhere", Told)]

    @app.workflow()
    async def tell() -> None:
        await publish(topics[0], Told(order=1, what="accepted"))
        await sleep(DAY)

    async with Bench(app, database) as bench:
        handle = await tell.start()
        await asleep(bench)
        topics.reverse()
        await bench.advance(DAY)

        with pytest.raises(NondeterminismError, match="'publish to told' here, the code called 'publish to elsewhere'"):
            await handle.result()


async def test_calls_gathered_together_keep_their_places(database: str, shop: Shop) -> None:
    """Places are given at the call: a replay finds each event where it was."""
    app = App("shop")
    gate = asyncio.Event()

    @app.step()
    async def pack(n: int) -> int:
        await gate.wait()
        return n

    @app.workflow(on=orders)
    async def tell(order: Order) -> list[Any]:
        later = publish(told, Told(order=order.n, what="first called"))
        return list(await asyncio.gather(pack(1), publish(told, Told(order=order.n, what="second called")), later))

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        async with asyncio.timeout(PATIENCE_S):
            while len(await in_outbox(bench, "told")) < 2:
                await asyncio.sleep(0.01)
        await bench.crash_now()
        gate.set()
        await bench.settle()

        history = await bench.fetch_all("SELECT function_id, function_name FROM dbos.operation_outputs ORDER BY 1")
        assert history == [(1, "publish to told"), (2, "pack"), (3, "publish to told")]
        assert sorted(by_order(await bench.published(told))[1]) == ["first called", "second called"]
        assert await bench.fetch_all("SELECT output FROM dbos.workflow_status") == [("[1,null,null]",)]


@every_kind
async def test_a_workflow_that_was_cancelled_meanwhile_publishes_nothing_more(
    database: str, shop: Shop, kind: str
) -> None:
    """P7: neither its checkpoint nor its event stands."""
    async with Bench(shop.app, database) as bench:
        shop.gate.clear()
        await shop.begin(bench, kind, 1)
        await until_packing(shop)
        await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED', owner_xid = NULL")
        shop.gate.set()
        await bench.deliver(orders, Order(n=9, key="another"))
        await bench.settle()

        published = by_order(await bench.published(told))
        assert published == {0: ["accepted", "packing"], 9: ALL}


@every_kind
async def test_an_event_of_a_run_whose_place_another_has_filled_is_not_published_again(
    database: str, shop: Shop, kind: str
) -> None:
    """P7: a checkpoint at that place is no proof; it has to be this transaction's own."""
    async with Bench(shop.app, database) as bench:
        shop.gate.clear()
        await shop.begin(bench, kind, 1)
        await until_packing(shop)
        # Another executor took the row, finished its step, published, and has not ended.
        await bench.execute("UPDATE dbos.workflow_status SET owner_xid = 'of another', executor_id = NULL")
        await bench.execute(
            """
            INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output,
                                                started_at_epoch_ms, completed_at_epoch_ms)
            SELECT workflow_uuid, t.id, t.name, 'null', 0, 0
              FROM dbos.workflow_status, (VALUES (3, 'pack'), (4, 'publish to told')) AS t (id, name)
            """
        )
        shop.gate.set()
        await bench.deliver(orders, Order(n=9, key="another"))
        async with asyncio.timeout(PATIENCE_S):
            while len(await in_outbox(bench, "told")) < 5:
                await asyncio.sleep(0.01)

        assert by_order(await bench.published(told)) == {0: ["accepted", "packing"], 9: ALL}


@pytest.mark.parametrize("moment", ["before", "behind"])
async def test_a_partition_that_leaves_takes_along_what_its_workflows_have_published(
    database: str, moment: str
) -> None:
    """P11, P12, P31: published before its release, an event comes with that; behind it, from the next owner's run."""
    app = App("late")
    call, end, called = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.step()
    async def pack() -> None:
        called.set()
        await end.wait()

    async def announce(order: Order) -> None:
        if moment == "behind":
            await call.wait()
        await publish(told, Told(order=order.n, what="accepted"))

    @app.workflow(on=orders)
    async def tell(order: Order) -> None:
        await asyncio.gather(pack(), announce(order))

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await called.wait()
        await bench.release(bench.ref(orders))
        assert len(bench.engine.late) == 1
        assert len(await in_outbox(bench, "told")) == (1 if moment == "before" else 0)
        call.set()
        await asyncio.sleep(0)
        end.set()
        await bench.claim(bench.ref(orders))
        await bench.settle()

        assert by_order(await bench.published(told)) == {1: ["accepted"]}
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",)]


async def test_what_a_workflow_published_stands_before_its_dead_letter(database: str) -> None:
    """One commit may have both: in the order in which they came about."""
    app = App("shop")
    dead = Topic("told", Told, key=lambda event: "k")

    @app.workflow(on=orders, on_failure=DeadLetter(topic="told"), breaker=None)
    async def tell(order: Order) -> None:
        await publish(dead, Told(order=order.n, what="accepted"))
        raise TerminalError("not today")

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(n=1))
        await bench.settle()

        rows = await in_outbox(bench, "told")
        assert [(row.key, row.value) for row in rows] == [
            (b"k", b'{"order":1,"what":"accepted"}'),
            (b"k", b'{"n":1,"key":"k"}'),
        ]


@every_kind
async def test_sync_workflows_publish_from_their_threads(database: str, kind: str) -> None:
    app = App("shop")
    threads: set[int] = set()

    @app.step()
    def pack(n: int) -> None:
        threads.add(threading.get_ident())

    @app.workflow(on=orders)
    def fulfil(order: Order) -> None:
        sync.publish(told, Told(order=order.n, what="accepted"))
        sync.publish(told, Told(order=order.n, what="packing"))
        pack(order.n)
        sync.publish(told, Told(order=order.n, what="packed"))
        with pytest.raises(PublishError):
            sync.publish(Topic("^told.*", Told), Told(order=order.n, what="packed"))

    async with Bench(app, database) as bench:
        if kind == "record":
            await bench.deliver(orders, Order(n=1))
        else:
            await fulfil.start(Order(n=1))
        await bench.settle()

        assert by_order(await bench.published(told)) == {1: ALL}
        assert threading.get_ident() not in threads
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",)]


async def test_workflows_without_a_record_have_transactions_that_publish(database: str) -> None:
    """I5: and both kinds of one workflow keep their order."""
    app = App("shop")

    @app.transaction()
    async def record(tx: Transaction, n: int) -> None:
        await tx.publish(told, Told(order=n, what="packing"))

    @app.workflow()
    async def fulfil(n: int) -> None:
        await publish(told, Told(order=n, what="accepted"))
        await record(n)
        await publish(told, Told(order=n, what="packed"))

    async with Bench(app, database) as bench:
        for n in range(10):
            await fulfil.start(n)
        await bench.settle()

        assert by_order(await bench.published(told)) == dict.fromkeys(range(10), ALL)


async def test_where_nothing_would_remember_it_a_call_is_refused_and_says_what_to_do(database: str) -> None:
    app = App("shop")
    event = Told(order=1, what="accepted")
    said: dict[str, str] = {}

    async def tried(where: str) -> None:
        with pytest.raises(NotInWorkflowError) as raised:
            await publish(told, event)
        said[where] = str(raised.value)

    def tried_in_a_thread(where: str) -> None:
        with pytest.raises(NotInWorkflowError) as raised:
            sync.publish(told, event)
        said[where] = str(raised.value)

    @app.step()
    async def step() -> None:
        await tried("step")

    @app.step()
    def sync_step() -> None:
        tried_in_a_thread("sync step")

    @app.transaction()
    async def record(tx: Transaction) -> None:
        await tried("transactional step")

    @app.workflow()
    async def tell() -> None:
        await step()
        await app.run_step(sync_step)
        await record()
        with pytest.raises(ConfigurationError, match="a sync call on an event loop"):
            sync.publish(told, event)

    @app.transaction(on=orders, breaker=None)
    async def fused(tx: Transaction, order: Order) -> None:
        await tried("fused")

    @app.transaction(on=Topic("others", Order), breaker=None)
    def fused_in_a_thread(tx: SyncTransaction, order: Order) -> None:
        tried_in_a_thread("fused in a thread")

    async with Bench(app, database) as bench:
        await tried("outside")
        tried_in_a_thread("outside, sync")
        await (await tell.start()).result()
        await bench.deliver(orders, Order(n=1))
        await bench.deliver(Topic("others", Order), Order(n=1))
        await bench.settle()

        assert await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter") == [(0,)]
        assert set(said) == {
            *("step", "sync step", "transactional step", "fused", "fused in a thread", "outside", "outside, sync")
        }
        assert all("tx.publish" in text and "'told'" in text for text in said.values())
        assert await in_outbox(bench, "told") == []
