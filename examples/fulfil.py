"""Orders: charge once, record once. What the README begins with.

processor dev examples.fulfil:app        (in a clone)
"""

from pydantic import BaseModel

from processor import App, Retry, TerminalError, Topic, Transaction, current_step


class OrderPlaced(BaseModel):
    order_id: str
    amount_cents: int


app = App("fulfilment")
orders = Topic("orders.placed", OrderPlaced, key=lambda order: order.order_id)


@app.step(retry=Retry(attempts=5, on=(TimeoutError,)))
async def charge(order: OrderPlaced) -> str:
    """At least once: a real gateway is handed the key, and drops repeats of it."""
    if order.amount_cents <= 0:
        raise TerminalError(f"order {order.order_id}: nothing to charge")
    return f"receipt {current_step().idempotency_key}"


@app.transaction()
async def record(tx: Transaction, order: OrderPlaced, receipt: str) -> None:
    """Exactly once."""
    await tx.execute("INSERT INTO sale (order_id, receipt) VALUES (%s, %s)", (order.order_id, receipt))


@app.workflow(on=orders)
async def fulfil(order: OrderPlaced) -> None:
    receipt = await charge(order)  # a step: its result is remembered, a crash goes on behind it
    await record(order, receipt)  # a transaction: commits together with the record of having run
