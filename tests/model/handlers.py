"""What the two executors run: a journaled handler and a fused one, and a ledger of what they saw."""

import asyncio
import time
from collections import Counter, defaultdict
from datetime import timedelta

from pydantic import BaseModel

from processor import App, Retry, TerminalError, Topic, Transaction, current_workflow

LEASE_S = 0.9


class Order(BaseModel):
    """An event of the model: `kind` is ok, poison (fails for good) or flaky (its first attempt fails)."""

    key: str
    n: int
    partition: int
    kind: str = "ok"


ORDERS = Topic("orders", Order, key=lambda order: order.key)
RETRY = Retry(attempts=3, first_delay=timedelta(milliseconds=30))

OUTCOME = 0
"""Stands for a fused handler's outcome among the recorded functions, which are numbered from 1."""
EFFECT = 2
"""The journaled handler's function that has the effect."""


class Ledger:
    """What the handlers saw, and what they must not have seen."""

    def __init__(self) -> None:
        self.recorded: set[tuple[str, int]] = set()
        self.running: dict[str, set[str]] = defaultdict(set)
        self.tried: Counter[str] = Counter()
        self.restored_at = -1e9
        self.violations: list[str] = []

    def begins(self, order: Order, function_id: int) -> str:
        """A step's function begins."""
        workflow = f"orders-{order.partition}-{order.n}"
        key = f"{order.partition} {order.key}"
        if (workflow, function_id) in self.recorded:
            self.violations.append(f"I4: step {function_id} of {workflow} is recorded and ran again")
        others = self.running[key] - {workflow}
        if others and time.monotonic() - self.restored_at > 2 * LEASE_S:
            self.violations.append(f"I7: {workflow} beside {others}")
        self.running[key].add(workflow)
        return key

    def tries(self, order: Order) -> None:
        """Its handler fails, where it is a record that does."""
        name = current_workflow().id
        self.tried[name] += 1
        if order.kind == "poison":
            raise TerminalError("poison")
        if order.kind == "flaky" and self.tried[name] == 1:
            raise ConnectionError("flaky")

    def ends(self, order: Order) -> None:
        """It has returned, raised, or was cancelled with its engine."""
        self.running[f"{order.partition} {order.key}"].discard(f"orders-{order.partition}-{order.n}")


def journaled(ledger: Ledger) -> App:
    """A journaled handler: step, transaction, step."""
    app = App("model")

    async def called(order: Order, function_id: int) -> None:
        ledger.begins(order, function_id)
        try:
            await asyncio.sleep(0.002 * (order.n % 5))
        finally:
            ledger.ends(order)

    @app.step()
    async def before(order: Order) -> int:
        await called(order, 1)
        ledger.tries(order)
        return order.n

    @app.transaction()
    async def effect(tx: Transaction, order: Order) -> None:
        await insert(tx, order)

    @app.step()
    async def after(order: Order) -> None:
        await called(order, 3)

    @app.workflow(on=ORDERS, retry=RETRY)
    async def fulfil(order: Order) -> None:
        await before(order)
        await effect(order)
        await after(order)

    return app


def fused(ledger: Ledger) -> App:
    """A fused handler: the effect is there before it fails, so that only a rollback takes it away."""
    app = App("model")

    @app.transaction(on=ORDERS, retry=RETRY)
    async def fulfil(tx: Transaction, order: Order) -> None:
        ledger.begins(order, OUTCOME)
        try:
            await insert(tx, order)
            await asyncio.sleep(0.001 * (order.n % 3))
            ledger.tries(order)
        finally:
            ledger.ends(order)

    return app


async def insert(tx: Transaction, order: Order) -> None:
    """The effect."""
    await tx.execute(
        'INSERT INTO effect (part, "offset", key) VALUES (%s, %s, %s)', (order.partition, order.n, order.key)
    )
