"""An app in which everything happens that the dashboards show: steps, transactions, batches, failures of each kind."""

import asyncio
from collections.abc import Sequence

from pydantic import BaseModel

from processor import App, BlockKey, Cron, HaltPartition, Queue, RawRecord, Tick, Topic, Transaction


class Order(BaseModel):
    order_id: str
    fails: bool = False


def wanted(record: RawRecord) -> bool:
    """A filter."""
    return dict(record.headers).get("skip") is None


app = App("live")
orders = Topic("orders", Order, key=lambda order: order.order_id, where=wanted)
gate = asyncio.Event()
"""Until it is set, `slow` does not end: partitions get congested."""


@app.step()
async def charge(order: Order) -> str:
    if order.fails:
        raise ValueError(f"{order.order_id}: no")
    return order.order_id


@app.transaction()
async def record(tx: Transaction, order: Order) -> None:
    await tx.execute("INSERT INTO effect VALUES (%s)", (order.order_id,))


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    await charge(order)
    await record(order)


@app.batch(on=Topic("clicks", Order), size=100)
async def load(tx: Transaction, clicks: Sequence[Order]) -> None:
    await tx.execute("INSERT INTO effect SELECT unnest(%s::text[])", ([click.order_id for click in clicks],))


@app.workflow(on=Topic("blocking", Order, key=lambda order: order.order_id), on_failure=BlockKey())
async def block(order: Order) -> None:
    await charge(order)


@app.workflow(on=Topic("halting", Order), on_failure=HaltPartition())
async def halt(order: Order) -> None:
    await charge(order)


@app.step()
async def wait_for_the_gate(order: Order) -> str:
    await gate.wait()
    return order.order_id


@app.workflow(on=Topic("slow", Order))
async def slow(order: Order) -> None:
    await wait_for_the_gate(order)


mails = Queue("mails")
app.register_queue(mails)


@app.workflow()
async def post(order_id: str) -> None:
    await charge(Order(order_id=order_id))


@app.workflow(on=Cron("* * * * * *"))
async def remind(tick: Tick) -> None:
    await mails.enqueue(post, str(tick))


before = App("live")
"""The same group, a release earlier: `renamed` had another name."""


@before.workflow(on=Topic("renamed", Order))
async def former_name(order: Order) -> None:
    await charge.fn(order)


@app.workflow(on=Topic("renamed", Order))
async def new_name(order: Order) -> None:
    await charge(order)
