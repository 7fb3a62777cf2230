"""The demo's orders under a fused handler whose SQL is not idempotent: a record applied twice counts twice."""

import os
from datetime import timedelta

from processor import App, Retry, Topic, Transaction
from processor.demo.app import ATTEMPTS, Order, refuse

app = App("counting")
_effect = os.environ.get("DEMO_TABLE", "effect")
_tally = os.environ.get("DEMO_TALLY", "tally")


@app.transaction(
    on=Topic(os.environ.get("DEMO_TOPIC", "demo.orders"), Order),
    retry=Retry(attempts=ATTEMPTS, first_delay=timedelta(milliseconds=200)),
)
async def count(tx: Transaction, order: Order) -> None:
    refuse(order)
    await tx.execute(f"UPDATE {_tally} SET n = n + 1 WHERE customer = %s".encode(), (order.customer,))
    await tx.execute(
        f"INSERT INTO {_effect} (customer, sequence, receipt) VALUES (%s, %s, '')".encode(),
        (order.customer, order.sequence),
    )
