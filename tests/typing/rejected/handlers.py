"""Mistakes that pyright finds. `# rejected: text` stands on the line of an error whose message has that text."""

from collections.abc import Sequence

from pydantic import BaseModel

from processor import App, Cron, SyncTransaction, Tick, Topic, Transaction, publish, sync


class OrderPlaced(BaseModel):
    order_id: str


class Payment(BaseModel):
    cents: int


orders = Topic("orders.placed", OrderPlaced)
deletions = Topic("orders.deleted", OrderPlaced, tombstone="deliver")
app = App("rejected")

Topic("x", OrderPlaced, key=lambda order: order.nothing)  # rejected: Cannot access attribute "nothing"


@app.workflow(on=orders)  # rejected: is not assignable to "Payment"
async def another_model(payment: Payment) -> None: ...


@app.workflow(on=deletions)  # rejected: "None" is not assignable to "OrderPlaced"
async def forgets_tombstones(order: OrderPlaced) -> None: ...


@app.workflow(on=orders)  # rejected: too few positional parameters
async def forgets_the_event() -> None: ...


@app.workflow(on=Cron("0 3 * * *"))  # rejected: "Tick" is not assignable to "OrderPlaced"
async def an_event_of_a_schedule(order: OrderPlaced) -> None: ...


@app.workflow(on=Cron("0 3 * * *"), persist_first=True)  # rejected: "Cron" is not assignable to "Topic
async def a_record_of_a_schedule(tick: Tick) -> None: ...


@app.transaction(on=orders)  # rejected: too few positional parameters
async def forgets_tx(order: OrderPlaced) -> None: ...


@app.batch(on=orders)  # rejected: is not assignable to "Payment"
async def another_model_in_batches(tx: Transaction, payments: Sequence[Payment]) -> None: ...


@app.transaction()  # rejected: is not assignable to "OrderPlaced"
async def a_transaction_without_tx(order: OrderPlaced) -> None: ...


@app.step()
async def charge(order: OrderPlaced) -> str:
    return order.order_id


@app.transaction()
async def record(tx: Transaction, order: OrderPlaced, receipt: str) -> None: ...


@app.transaction(on=Topic("payments", Payment))
def book(tx: SyncTransaction, payment: Payment) -> None: ...


@app.workflow()
async def parts(order: OrderPlaced, count: int = 1) -> str:
    return order.order_id * count


async def starts(order: OrderPlaced, payment: Payment) -> None:
    await parts.start(payment, id="p")  # rejected: "Payment" is not assignable to "OrderPlaced"
    await parts.start(order, "2", id="p")  # rejected: is not assignable to "int"
    await parts.start(id="p")  # rejected: No overloads for "__call__"
    number: int = await (await parts.start(order)).result()  # rejected: "str" is not assignable to "int"
    del number


async def publishes(tx: Transaction, stx: SyncTransaction, order: OrderPlaced, payment: Payment) -> None:
    await tx.publish(orders, payment)  # rejected: "Payment" is not assignable to "OrderPlaced"
    await tx.publish(orders, None)  # rejected: "None" is not assignable to "OrderPlaced"
    await tx.publish(orders, order, headers={"n": 1})  # rejected: "int" is not assignable
    await tx.publish("orders", order)  # rejected: cannot be assigned to parameter "topic" of type "EventTopic
    stx.publish(orders, payment)  # rejected: "Payment" is not assignable to "OrderPlaced"
    await publish(orders, payment)  # rejected: "Payment" is not assignable to "OrderPlaced"
    sync.publish(orders, None)  # rejected: "None" is not assignable to "OrderPlaced"


async def calls(tx: Transaction, order: OrderPlaced, payment: Payment) -> str:
    await charge(payment)  # rejected: "Payment" is not assignable to "OrderPlaced"
    await record(tx, order, "r")  # rejected: Expected 2 positional arguments
    await record(order)  # rejected: Argument missing for parameter "receipt"
    await record(order, charge(order))  # rejected: is not assignable to "str"
    await app.run_step(charge, payment)  # rejected: is not assignable to "OrderPlaced"
    book(payment)  # rejected: is not callable
    return charge(order)  # rejected: is not assignable to return type "str"
