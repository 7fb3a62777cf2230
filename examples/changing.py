"""Code that changes while workflows are under way, and methods of named objects as workflows.

processor dev examples.changing:app        (in a clone)
"""

from datetime import timedelta

from processor import App, patch, sleep

app = App("changing")
calls: list[str] = []


@app.step()
async def check(order_id: str) -> None:
    calls.append(f"check {order_id}")


@app.step()
async def ship(order_id: str) -> str:
    calls.append(f"ship {order_id}")
    return f"parcel of {order_id}"


@app.workflow(version="2", continues=["1"])
async def fulfil(order_id: str) -> str:
    """Version 1 did not check the address; what it began goes on as it began, until it wakes."""
    if patch("check-first"):
        await check(order_id)
    await sleep(timedelta(days=1))
    if patch("check-again"):
        await check(order_id)
    return await ship(order_id)


class Carrier:
    """One of several, each with a connection of its own."""

    def __init__(self, host: str) -> None:
        self.host = host

    @app.step()
    async def fetch(self, parcel: str) -> str:
        calls.append(f"{self.host}: {parcel}")
        return f"{parcel} by {self.host}"

    @app.workflow()
    async def deliver(self, parcel: str) -> str:
        return await self.fetch(parcel)


europe = app.instance("europe", Carrier("eu.example.org"))
america = app.instance("america", Carrier("us.example.org"))
