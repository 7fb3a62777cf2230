"""The demo's app in its next version: what is paid by card is screened first, and the books say so.

What is under way goes on as it began (`patch`). Its column was added before it is used, as upgrades of handlers want it.
"""

import os
from datetime import timedelta

from processor import App, Retry, Topic, Transaction, patch
from processor.demo.app import ATTEMPTS, Order, refuse

app = App("demo")
_retry = Retry(attempts=ATTEMPTS, first_delay=timedelta(milliseconds=200))
_topics = dict(each.split("=", 1) for each in os.environ["DEMO_HANDLERS"].split(","))
_insert = (
    f"INSERT INTO {os.environ['DEMO_TABLE']} (customer, sequence, receipt, screened) VALUES (%s, %s, %s, %s)".encode()
)


@app.step()
async def screen(order: Order) -> bool:
    return order.cents > 0


@app.step()
async def pay(order: Order) -> str:
    refuse(order)
    return f"receipt {order.sequence}"


@app.transaction()
async def record(tx: Transaction, order: Order, receipt: str, screened: bool = False) -> None:
    await tx.execute(_insert, (order.customer, order.sequence, receipt, screened))


@app.workflow(on=Topic(_topics["transactional"], Order), retry=_retry)
async def fulfil(order: Order) -> None:
    screened = await screen(order) if patch("screen-first") else False
    await record(order, await pay(order), screened)


@app.transaction(on=Topic(_topics["fused"], Order), retry=_retry)
async def book(tx: Transaction, order: Order) -> None:
    refuse(order)
    await tx.execute(_insert, (order.customer, order.sequence, "on account", True))
