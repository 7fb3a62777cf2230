"""The handlers that are measured, as a user would write them: one app a workload, all on the topic in BENCH_TOPIC."""

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta

from pydantic import BaseModel

from processor import App, Queue, Topic, Transaction, sleep


class Order(BaseModel):
    order_id: str
    customer: str
    seq: int
    amount_cents: int
    note: str


orders = Topic(os.environ.get("BENCH_TOPIC", "orders"), Order)

INSERT = "INSERT INTO app_order (order_id, customer, seq, amount_cents) VALUES (%s, %s, %s, %s)"

journaled_one = App("journaled-one")


@journaled_one.step()
async def charge(order: Order) -> str:
    return order.order_id


@journaled_one.workflow(on=orders)
async def fulfil(order: Order) -> None:
    await charge(order)


journaled_three = App("journaled-three")


@journaled_three.step()
async def reserve(order: Order) -> str:
    return order.order_id


@journaled_three.step()
async def pay(order: Order) -> str:
    return order.order_id


@journaled_three.step()
async def ship(order: Order) -> str:
    return order.order_id


@journaled_three.workflow(on=orders)
async def fulfil_in_three(order: Order) -> None:
    await reserve(order)
    await pay(order)
    await ship(order)


step_and_transaction = App("step-and-transaction")


@step_and_transaction.step()
async def charge_first(order: Order) -> str:
    return order.order_id


@step_and_transaction.transaction()
async def record(tx: Transaction, order: Order) -> None:
    await tx.execute(INSERT, (order.order_id, order.customer, order.seq, order.amount_cents))


@step_and_transaction.workflow(on=orders)
async def fulfil_and_record(order: Order) -> None:
    await charge_first(order)
    await record(order)


fused = App("fused")


@fused.transaction(on=orders)
async def book(tx: Transaction, order: Order) -> None:
    await tx.execute(INSERT, (order.order_id, order.customer, order.seq, order.amount_cents))


batch = App("batch")


@batch.batch(on=orders, size=500)
async def load(tx: Transaction, orders: Sequence[Order]) -> None:
    await tx.execute(
        """
        INSERT INTO app_order (order_id, customer, seq, amount_cents)
        SELECT * FROM unnest(%b::text[], %b::text[], %b::integer[], %b::integer[])
        """,
        (
            [order.order_id for order in orders],
            [order.customer for order in orders],
            [order.seq for order in orders],
            [order.amount_cents for order in orders],
        ),
    )


sync_one = App("sync-one")


@sync_one.step()
def charge_sync(order: Order) -> str:
    return order.order_id


@sync_one.workflow(on=orders)
def fulfil_sync(order: Order) -> None:
    charge_sync(order)


queued = App("queued")
queued.register_queue(Queue("orders"))


@queued.step()
async def charge_queued(order: Order) -> str:
    return order.order_id


@queued.workflow()
async def fulfil_queued(order: Order) -> None:
    await charge_queued(order)


reminders = App("reminders")


@reminders.step()
async def remind(order: Order) -> str:
    return order.order_id


@reminders.workflow(version="1")
async def remind_tomorrow(order: Order) -> None:
    await sleep(timedelta(days=1))
    await remind(order)


held = App("held")


@held.step()
async def reserve_held(order: Order) -> str:
    return order.order_id


@held.step()
async def hold(order: Order) -> str:
    if os.environ.get("BENCH_HOLD"):
        await asyncio.Event().wait()
    return order.order_id


@held.workflow(version="1")
async def fulfil_held(order: Order) -> None:
    await reserve_held(order)
    await hold(order)
