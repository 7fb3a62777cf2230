"""SQL functions as steps of workflows: called and recorded in one round trip.

processor dev examples.procedures:app        (in a clone)
"""

from pydantic import BaseModel

from processor import App

app = App("procedures")


class Reservation(BaseModel):
    item: str
    left_over: int


@app.procedure("shop.reserve")
async def reserve(item: str, quantity: int) -> Reservation: ...


@app.procedure("shop.stock_list", rows=True)
async def stock_list(at_least: int) -> list[Reservation]: ...


@app.workflow()
async def order(item: str, quantity: int) -> list[str]:
    made = await reserve(item, quantity=quantity)
    return [f"{each.item}: {each.left_over}" for each in await stock_list(made.left_over)]
