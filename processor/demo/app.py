"""The app that `processor demo` runs in two worker processes: orders, each with one row as its effect.

    by card       a workflow: a step asks the payment service, a transaction records the receipt
    on account    the whole handler is one transaction, which many orders share

Which handlers, where they read and where they write come from the environment, as a run has names of its own. The
table of effects has no unique constraint: an order that took effect twice, or too early, would show.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from pydantic import BaseModel

from processor import App, ConfigurationError, Retry, Topic, Transaction, current_workflow

ATTEMPTS = 3
"""Of an order: one that fails twice succeeds with the last."""

PAYMENT_S = 0.002
"""How long the payment service of the example takes to answer."""


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


def build(handlers: Mapping[str, str], table: str) -> App:
    """The app with some of its handlers.

    Args:
        handlers: Topics by kind of handler: `transactional`, `journaled`, `fused`, `batch`.
        table: Table of the effects, qualified and quoted: (id, customer, sequence, receipt). `journaled` does not
            use it: its effect is what its step recorded.
    """
    app = App("demo")
    retry = Retry(attempts=ATTEMPTS, first_delay=timedelta(milliseconds=200))
    insert = f"INSERT INTO {table} (customer, sequence, receipt) VALUES (%s, %s, %s)".encode()

    @app.step()
    async def pay(order: Order) -> str:
        await asyncio.sleep(PAYMENT_S)
        refuse(order)
        return f"receipt {order.sequence}"

    @app.transaction()
    async def record(tx: Transaction, order: Order, receipt: str) -> None:
        await tx.execute(insert, (order.customer, order.sequence, receipt))

    async def fulfil(order: Order) -> None:
        await record(order, await pay(order))

    async def follow(order: Order) -> str:
        return await pay(order)

    async def book(tx: Transaction, order: Order) -> None:
        refuse(order)
        await tx.execute(insert, (order.customer, order.sequence, "on account"))

    async def load(tx: Transaction, batch: Sequence[Order]) -> None:
        for order in batch:
            refuse(order)
        await tx.execute_many(insert, [(order.customer, order.sequence, "in bulk") for order in batch])

    register: Mapping[str, Callable[[Topic[Order]], object]] = {
        "transactional": lambda topic: app.workflow(on=topic, retry=retry)(fulfil),
        "journaled": lambda topic: app.workflow(on=topic, retry=retry)(follow),
        "fused": lambda topic: app.transaction(on=topic, retry=retry)(book),
        "batch": lambda topic: app.batch(on=topic, size=100, retry=retry)(load),
    }
    for kind, name in handlers.items():
        if kind not in register:
            raise ConfigurationError(f"DEMO_HANDLERS: {kind!r} is not one of {', '.join(register)}")
        register[kind](Topic(name, Order))
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
    dict(each.split("=", 1) for each in os.environ.get("DEMO_HANDLERS", "transactional=demo.orders").split(",")),
    os.environ.get("DEMO_TABLE", "effect"),
)
