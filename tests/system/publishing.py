"""The demo's orders, each effect published in its commit; dead letters go to a topic."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from processor import App, DeadLetter, Retry, Topic, Transaction, publish
from processor.demo.app import ATTEMPTS, Order, refuse


class Booked(BaseModel):
    sequence: int
    customer: str


TABLE = os.environ.get("DEMO_TABLE", "effect")
HANDLERS = dict(pair.split("=") for pair in os.environ.get("DEMO_HANDLERS", "fused=demo.orders").split(","))
"""Topics by kind, a handler each."""
FROM_WORKFLOW = os.environ.get("PUBLISH_FROM") == "workflow"
"""A checkpoint of its own publishes, behind the transaction that has the effect."""
INSERT = f"INSERT INTO {TABLE} (customer, sequence, receipt) VALUES (%s, %s, '')".encode()

app = App("publishing")
booked = Topic(os.environ.get("BOOKED", "booked"), Booked, key=lambda event: event.customer)
options: Mapping[str, Any] = {
    "retry": Retry(attempts=ATTEMPTS, first_delay=timedelta(milliseconds=200)),
    "on_failure": DeadLetter(topic=os.environ.get("DEAD", "dead")),
}


def booked_of(order: Order) -> Booked:
    return Booked(sequence=order.sequence, customer=order.customer)


async def book(tx: Transaction, order: Order) -> None:
    refuse(order)
    if not FROM_WORKFLOW:
        await tx.publish(booked, booked_of(order))
    await tx.execute(INSERT, (order.customer, order.sequence))


@app.step()
async def pay(order: Order) -> None:
    await asyncio.sleep(0.002)


@app.transaction()
async def record(tx: Transaction, order: Order) -> None:
    await book(tx, order)


async def fulfil(order: Order) -> None:
    await pay(order)
    await record(order)
    if FROM_WORKFLOW:
        await publish(booked, booked_of(order))


async def load(tx: Transaction, orders: Sequence[Order]) -> None:
    for order in orders:
        await book(tx, order)


for kind, topic in HANDLERS.items():
    match kind:
        case "transactional":
            app.workflow(on=Topic(topic, Order), **options)(fulfil)
        case "fused":
            app.transaction(on=Topic(topic, Order), **options)(book)
        case _:
            app.batch(on=Topic(topic, Order), size=100, **options)(load)
