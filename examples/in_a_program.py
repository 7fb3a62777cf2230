"""The engine inside of an asyncio program of your own, instead of `processor run`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pydantic import BaseModel

from processor import App, Settings, Topic, load_settings


class Order(BaseModel):
    order_id: str


@asynccontextmanager
async def resources(app: App) -> AsyncGenerator[None]:
    """Opened once a process, before anything runs; closed after everything has ended: clients, pools."""
    opened.append(app.name)
    yield
    opened.remove(app.name)


opened: list[str] = []
app = App("shop", lifespan=resources)
handled: asyncio.Queue[str] = asyncio.Queue()


@app.workflow(on=Topic("orders", Order, key=lambda order: order.order_id))
async def fulfil(order: Order) -> None:
    await handled.put(order.order_id)


async def main(settings: Settings) -> str:
    """Consume until the first order came. Signals are the program's own business."""
    async with app.running(settings):
        return await handled.get()


if __name__ == "__main__":
    print(asyncio.run(main(load_settings())))
