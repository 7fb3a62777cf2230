"""What the handler API means to a type checker. `assert_type` is checked by pyright; nothing here runs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, assert_type
from uuid import UUID

from pydantic import BaseModel

from processor import (
    App,
    CatchUp,
    Cron,
    Record,
    SyncTransaction,
    Tick,
    Topic,
    Transaction,
    WorkflowFilter,
    WorkflowHandle,
    WorkflowInfo,
    get_event,
    now,
    patch,
    publish,
    read_stream,
    recv,
    send,
    sleep,
    sync,
    workflow_id,
)
from processor.decorators import FusedFunction, TransactionFunction


class OrderPlaced(BaseModel):
    """An event."""

    order_id: str


orders = Topic("orders.placed", OrderPlaced, key=lambda order: order.order_id, order_by=lambda order: order.order_id)
deletions = Topic("orders.deleted", OrderPlaced, tombstone="deliver")
blobs = Topic("blobs", bytes)
app = App("typing")

assert_type(orders, Topic[OrderPlaced])
assert_type(deletions, Topic[OrderPlaced | None])
assert_type(blobs, Topic[bytes])


@app.step()
async def charge(order: OrderPlaced, *, cents: int = 0) -> str:
    """A step returns what its function returns."""
    return f"{order.order_id} {cents}"


@app.step()
def charge_in_thread(order: OrderPlaced) -> str:
    """A sync one too."""
    return order.order_id


@app.transaction()
async def record(tx: Transaction, order: OrderPlaced, receipt: str) -> int:
    """The caller leaves `tx` out."""
    cursor = await tx.execute("INSERT INTO sale VALUES (%s, %s)", (order.order_id, receipt))
    return cursor.rowcount


@app.transaction(isolation="serializable")
def record_in_thread(tx: SyncTransaction, order: OrderPlaced) -> None:
    """A sync one too."""
    tx.execute("INSERT INTO sale VALUES (%s)", (order.order_id,))


@app.transaction()
async def announce(tx: Transaction, order: OrderPlaced) -> None:
    """What is published is of the topic's type."""
    assert_type(await tx.publish(orders, order, headers={"trace": "t"}), None)
    await tx.publish(deletions, None, key=order.order_id)
    await tx.publish(blobs, b"", headers=[("a", None), ("a", b"1")])


@app.transaction()
def announce_in_thread(tx: SyncTransaction, order: OrderPlaced) -> None:
    """A sync one too."""
    assert_type(tx.publish(deletions, order), None)


@app.workflow(on=orders)
async def fulfil(order: OrderPlaced) -> None:
    """A handler of the event."""
    assert_type(await publish(orders, order, headers={"trace": "t"}), None)
    await publish(deletions, None, key=order.order_id)
    assert_type(await charge(order, cents=1), str)
    assert_type(await record(order, receipt="r"), int)
    assert_type(await app.run_step(charge_in_thread, order), str)
    assert_type(await app.run_step(record_in_thread, order), None)
    assert_type(await app.run_step(lambda: charge(order, cents=2), name="charge two"), str)


@app.workflow(on=deletions)
def forget(record: Record[OrderPlaced | None]) -> None:
    """A handler of the record, tombstones among them."""
    assert_type(sync.publish(blobs, b"", headers=[("a", None)]), None)
    assert_type(record.event, OrderPlaced | None)
    if record.event is not None:
        both = sync.gather(partial(charge_in_thread, record.event), partial(charge_in_thread, record.event))
        assert_type(both, list[str])
        assert_type(sync.gather(partial(charge, record.event, cents=2)), list[str])
        assert_type(sync.gather(partial(charge, record.event), return_exceptions=True), list[Any])


@app.workflow(on=Cron("0 3 * * *", timezone="Europe/Paris", catch_up=CatchUp.LATEST))
async def close_day(tick: Tick) -> str:
    return tick.scheduled_at.isoformat()


@app.workflow(on=Cron("*/30 * * * * *"), name="refresh", version="1")
def refresh_rates(tick: Tick) -> int:
    return tick.started_at.second


async def calls_of_schedules(tick: Tick) -> None:
    """A schedule's workflow can be called as well."""
    assert_type(await close_day(tick), str)
    assert_type(refresh_rates(tick), int)
    assert_type(await close_day.start(tick), WorkflowHandle[str])
    assert_type(refresh_rates.retrieve("sched-refresh-2026-01-01T00:00:00.000Z"), WorkflowHandle[int])


@app.workflow(on=orders, group="audit")
async def audit(order: BaseModel) -> None:
    """A handler of something wider."""


@app.workflow()
def total(cents: int, orders: Sequence[OrderPlaced] = ()) -> int:
    """A workflow that nothing starts is called."""
    return cents * len(orders)


@app.transaction(on=Topic("payments", OrderPlaced))
async def book(tx: Transaction, payment: OrderPlaced) -> None:
    """Fused."""


@app.batch(on=Topic("clicks", OrderPlaced), size=500)
def load(tx: SyncTransaction, clicks: Sequence[OrderPlaced]) -> None:
    """Fused, many records."""


@app.batch(on=Topic("views", OrderPlaced))
async def load_records(tx: Transaction, views: Sequence[Record[OrderPlaced]]) -> None:
    """Fused, with coordinates."""


@app.workflow()
async def parts(order: OrderPlaced, count: int = 1, *, note: str = "") -> list[str]:
    """Started with its own arguments, typed, and with options beside them."""
    return [order.order_id, note] * count


async def starts(order: OrderPlaced) -> None:
    """A handle knows the result, of async and sync workflows alike."""
    assert_type(await parts.start(order), WorkflowHandle[list[str]])
    assert_type(await parts.start(order, id="o-1", timeout=timedelta(days=1)), WorkflowHandle[list[str]])
    assert_type(await parts.start(order, 2, id="o-1"), WorkflowHandle[list[str]])
    assert_type(await parts.start(order, note="n"), WorkflowHandle[list[str]])
    assert_type(await total.start(1, id="t"), WorkflowHandle[int])
    assert_type(await (await fulfil.start(order, id="f")).result(), None)
    assert_type(parts.start_sync(order, id="o-1").result(), list[str])
    with workflow_id("o-1"):
        assert_type(await parts(order, note="n"), list[str])
    assert_type(parts.retrieve("o-1"), WorkflowHandle[list[str]])
    assert_type(total.retrieve("t"), WorkflowHandle[int])
    await sleep(timedelta(days=1))


async def talks(tx: Transaction, sync_tx: SyncTransaction, order: OrderPlaced) -> None:
    """What is received is what `model` says, or nothing where the wait has an end."""
    day = timedelta(days=1)
    assert_type(await recv(model=OrderPlaced), OrderPlaced)
    assert_type(await recv("orders", model=OrderPlaced, timeout=day), OrderPlaced | None)
    assert_type(sync.recv(model=OrderPlaced, timeout=day), OrderPlaced | None)
    assert_type(await get_event("o-1", "state", model=int), int | None)
    assert_type([value async for value in read_stream("o-1", "lines", model=str)], list[str])
    assert_type(list(sync.read_stream("o-1", "lines", model=str)), list[str])
    assert_type(await app.get_event("o-1", "state", model=int, timeout=day), int | None)
    assert_type(await parts.retrieve("o-1").get_event("state", model=int), int | None)
    await send("o-1", order, tx=tx)
    sync.send("o-1", order, tx=sync_tx)
    assert_type(await now(), datetime)
    assert_type(sync.uuid4(), UUID)


async def unit_test(tx: Transaction, sync_tx: SyncTransaction, order: OrderPlaced) -> None:
    """The function as it was is under `fn`, `tx` included."""
    assert_type(charge_in_thread(order), str)
    assert_type(await record.fn(tx, order, "r"), int)
    assert_type(record_in_thread.fn(sync_tx, order), None)
    assert_type(await book.fn(tx, order), None)
    assert_type(total(1, [order]), int)


def transactions_have_their_colour(
    one: TransactionFunction[Transaction, ..., Any], two: TransactionFunction[SyncTransaction, ..., Any]
) -> Sequence[object]:
    """An async function's `tx` is not a sync one's."""
    return [one, two]


fused: Sequence[FusedFunction[..., Any]] = [book, load, load_records]
coloured = transactions_have_their_colour(record, record_in_thread)


class Gate:
    """Methods: taken from an object, they have no `self`, and transactions no `tx`."""

    @app.step()
    async def unlock(self, n: int) -> str:
        return str(n)

    @app.transaction()
    async def note(self, tx: Transaction, n: int) -> int:
        return n

    @app.workflow()
    async def open(self, n: int) -> str:
        assert_type(await self.note(n), int)
        return await self.unlock(n)


async def opens() -> None:
    gate = app.instance("eu", Gate())
    assert_type(gate, Gate)
    assert_type(await gate.open(1), str)
    assert_type(await (await gate.open.start(1, id="g")).result(), str)
    assert_type(await gate.open.retrieve("g").fork(from_step=2), WorkflowHandle[str])
    assert_type(await app.list_workflows(WorkflowFilter(status="ERROR")), list[WorkflowInfo])
    assert_type(patch("x"), bool)
