"""The app that other programs' clients talk to."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer

from processor import App, Queue, TerminalError, Topic, close_stream, recv, set_event, sleep, write_stream


class Order(BaseModel):
    order_id: str
    amount: int


class Parcel(BaseModel):
    at: datetime
    tags: Annotated[set[str], PlainSerializer(sorted)]
    prices: dict[int, int]
    blob: str


class Shop:
    """A queue, workflows that others enqueue, and one of records.

    Attributes:
        charged: Calls of the step.
        mails: A queue: one after the other.
        orders: A topic.
    """

    def __init__(self) -> None:  # noqa: C901  # a list of functions
        self.app = app = App("shop")
        self.orders = Topic("orders", Order, key=lambda order: order.order_id)
        self.charged: list[str] = []
        self.mails = app.register_queue(Queue("mails", concurrency=1, priority=True))

        @app.step()
        async def charge(order_id: str) -> str:
            self.charged.append(order_id)
            return f"receipt {order_id}"

        @app.workflow()
        async def pay(order: Order, express: bool = False) -> dict[str, Any]:
            if order.amount <= 0:
                raise TerminalError(f"order {order.order_id}: nothing to charge")
            receipt = await charge(order.order_id)
            return {"receipt": receipt, "amount": order.amount, "express": express}

        @app.workflow()
        async def approve(order_id: str) -> Any:
            await set_event("state", {"waits": order_id})
            await write_stream("log", "asked")
            await charge(order_id)
            decision = await recv("decision")
            await write_stream("log", decision)
            await close_stream("log")
            return decision

        @app.workflow()
        async def wait_long(order_id: str) -> str:
            first = await charge(order_id)
            await sleep(timedelta(days=1))
            return first

        @app.workflow()
        async def parent(child_id: str) -> str:
            try:
                await wait_long.start(child_id, id=child_id)
                return await app.retrieve(child_id).result()
            except Exception as error:  # noqa: BLE001  # any: it is what the test is about
                return type(error).__name__

        @app.workflow()
        async def receive(parcel: Parcel, times: int = 1) -> list[Parcel]:
            return [parcel, *[await recv(model=Parcel) for _ in range(times)]]

        self.pay, self.approve, self.wait_long = pay, approve, wait_long

        @app.workflow(on=self.orders)
        async def fulfil(order: Order) -> str:
            receipt = await charge(order.order_id)
            if order.amount > 100:
                await recv("release")
            return receipt
