"""The app that `processor demo` runs in two worker processes: orders, each with one row as its effect.

Which handler, where it reads and where it writes come from the environment, as a run has names of its own. The table
of effects has no unique constraint: a record that took effect twice, or too early, would show.
"""

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from pydantic import BaseModel

from processor import App, ConfigurationError, Retry, Topic, Transaction, current_workflow

ATTEMPTS = 3
"""Of an order: one that fails twice succeeds with the last."""

PAYMENT_S = 0.002
"""How long the payment service of the example takes to answer."""

Kind = Literal["transactional", "journaled", "fused", "batch"]


class Order(BaseModel):
    """An order as its producer sends it.

    Attributes:
        sequence: Its line in the producer's ledger.
        customer: Whose it is: the record's key.
        cents: What it costs.
        failures: How many attempts fail before one succeeds.
    """

    sequence: int
    customer: str
    cents: int
    failures: int = 0


class PaymentError(Exception):
    """The payment service of the example said no."""


def build(kind: str, topic: str, table: str) -> App:
    """The app with one kind of handler.

    Args:
        kind: One of `Kind`. `journaled` has no table: its effects are what its step recorded.
        topic: Where the orders are.
        table: Table of the effects, qualified and quoted: (id, customer, sequence, receipt).
    """
    app = App("demo")
    orders = Topic(topic, Order)
    retry = Retry(attempts=ATTEMPTS, first_delay=timedelta(milliseconds=200))
    insert = f"INSERT INTO {table} (customer, sequence, receipt) VALUES (%s, %s, %s)"

    @app.step()
    async def pay(order: Order) -> str:
        await asyncio.sleep(PAYMENT_S)
        refuse(order)
        return f"receipt {order.sequence}"

    if kind == "transactional":

        @app.transaction()
        async def record(tx: Transaction, order: Order, receipt: str) -> None:
            await tx.execute(insert, (order.customer, order.sequence, receipt))

        @app.workflow(on=orders, retry=retry)
        async def fulfil(order: Order) -> None:
            await record(order, await pay(order))

    elif kind == "journaled":

        @app.workflow(on=orders, retry=retry)
        async def follow(order: Order) -> str:
            return await pay(order)

    elif kind == "fused":

        @app.transaction(on=orders, retry=retry)
        async def book(tx: Transaction, order: Order) -> None:
            refuse(order)
            await tx.execute(insert, (order.customer, order.sequence, ""))

    elif kind == "batch":

        @app.batch(on=orders, size=100, retry=retry)
        async def load(tx: Transaction, batch: Sequence[Order]) -> None:
            for order in batch:
                refuse(order)
            await tx.execute_many(insert, [(order.customer, order.sequence, "") for order in batch])

    else:
        raise ConfigurationError(f"DEMO_HANDLER={kind!r}: transactional, journaled, fused or batch")
    return app


def refuse(order: Order) -> None:
    """Raise `PaymentError` in an order's first `failures` attempts."""
    if order.failures >= attempt():
        raise PaymentError(f"order {order.sequence}: the bank says no")


def attempt() -> int:
    """Which attempt of the workflow this is; 1 where records are handled together, before any is a workflow."""
    try:
        return current_workflow().attempt
    except ConfigurationError:
        return 1


app = build(
    os.environ.get("DEMO_HANDLER", "transactional"),
    os.environ.get("DEMO_TOPIC", "demo.orders"),
    os.environ.get("DEMO_TABLE", "effect"),
)
