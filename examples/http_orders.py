"""Orders by HTTP: one workflow for each request, or for each idempotency key; prices are answered at once.

PROCESSOR_WEB_ENABLED=true processor run examples.http_orders:app
curl -H 'X-User: ada' -H 'X-Roles: customer' -H 'Idempotency-Key: o-1' localhost:8080/orders/o-1 --json '{"item": "book"}'
"""

from datetime import timedelta

from pydantic import BaseModel, Field

from processor import App, Identity, IncomingRequest, Transaction, acting_as, current_workflow


class Order(BaseModel):
    item: str
    amount: int = Field(default=1, ge=1)


app = App("orders", required_roles=["customer"])


@app.transaction()
async def record(tx: Transaction, order_id: str, order: Order, user: str) -> None:
    await tx.execute(
        "INSERT INTO placed (order_id, item, amount, customer) VALUES (%s, %s, %s, %s)",
        (order_id, order.item, order.amount, user),
    )


@app.post("/orders/{order_id}", headers=["X-Request-Id"])
async def place(order_id: str, order: Order, express: bool = False) -> str:
    """Place an order: answered 202 when it is durable, whatever happens to this process then."""
    identity = current_workflow().identity
    assert identity is not None, "nobody without the role gets here"
    await record(order_id, order, identity.user)
    return f"{order_id} for {identity.user}" + (", express" if express else "")


@app.get("/prices/{item}", wait=timedelta(seconds=10), roles=["customer", "clerk"])
async def price(item: str, currency: str = "EUR") -> dict[str, str]:
    """Answered 200 with the result, if there is one within ten seconds."""
    return {"item": item, "price": f"{len(item)}.00 {currency}"}


@app.authenticate
async def who(request: IncomingRequest) -> Identity | None:
    """Behind a gateway that has checked the token, and says whose it was."""
    user = request.headers.get("x-user")
    roles = request.headers.get("x-roles", "")
    return None if user is None else Identity(user, tuple(roles.split()))


async def order_at_night() -> str:
    """In a program that runs the app: as somebody who has the role."""
    with acting_as(Identity("night-shift", ("customer",))):
        handle = await place.start("o-2", Order(item="book"))
    return await handle.result()
