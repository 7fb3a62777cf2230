"""Events that are published if, and only if, their cause is committed.

The tables: CREATE TABLE sale (order_id text PRIMARY KEY, receipt text NOT NULL);
            CREATE TABLE page_view (page text PRIMARY KEY, n bigint NOT NULL);
"""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel

from processor import App, DeadLetter, SyncTransaction, Topic, Transaction, publish


class OrderPlaced(BaseModel):
    order_id: str
    cents: int


class ShipmentRequested(BaseModel):
    order_id: str


class Progress(BaseModel):
    order_id: str
    state: str


class Viewed(BaseModel):
    page: str


class Popular(BaseModel):
    page: str
    views: int


app = App("fulfilment-events")
orders = Topic("orders.placed", OrderPlaced, key=lambda order: order.order_id, headers=("traceparent",))
shipments = Topic("shipments.requested", ShipmentRequested, key=lambda event: event.order_id, tombstone="deliver")
progress = Topic("orders.progress", Progress, key=lambda event: event.order_id)
popular = Topic("pages.popular", Popular, key=lambda event: event.page)


@app.step()
async def charge(order: OrderPlaced) -> str:
    if order.cents <= 0:
        raise ValueError(f"order {order.order_id}: nothing to charge")
    return f"receipt of {order.order_id}"


@app.transaction()
async def record(tx: Transaction, order: OrderPlaced, receipt: str) -> None:
    """The sale and the request for its shipment: both, or neither."""
    await tx.execute("INSERT INTO sale VALUES (%s, %s)", (order.order_id, receipt))
    await tx.publish(shipments, ShipmentRequested(order_id=order.order_id), headers={"source": "fulfilment"})


@app.workflow(on=orders, on_failure=DeadLetter(topic="orders.dead"))
async def fulfil(order: OrderPlaced) -> None:
    """What fails for good is a dead letter, and in the topic orders.dead as it came."""
    await publish(progress, Progress(order_id=order.order_id, state="accepted"))
    await record(order, await charge(order))
    await publish(progress, Progress(order_id=order.order_id, state="recorded"))


@app.batch(on=Topic("views", Viewed), size=500)
async def count(tx: Transaction, views: Sequence[Viewed]) -> None:
    """One event for each page of a batch, in the commit that counts its views."""
    for page, n in Counter(view.page for view in views).items():
        cursor = await tx.execute(
            "INSERT INTO page_view AS v VALUES (%s, %s) ON CONFLICT (page) DO UPDATE SET n = v.n + excluded.n RETURNING n",
            (page, n),
        )
        row = await cursor.fetchone()
        assert row is not None
        await tx.publish(popular, Popular(page=page, views=row[0]))


@app.transaction(on=Topic("orders.cancelled", OrderPlaced, key=lambda order: order.order_id))
def cancel(tx: SyncTransaction, order: OrderPlaced) -> None:
    """Without async, and a tombstone: it says which key it deletes."""
    tx.execute("DELETE FROM sale WHERE order_id = %s", (order.order_id,))
    tx.publish(shipments, None, key=order.order_id)
