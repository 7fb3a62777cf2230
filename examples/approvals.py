"""Expenses that somebody has to approve: messages to a workflow, its state as an event, its progress as a stream.

    CREATE TABLE payout (expense_id text PRIMARY KEY, cents bigint NOT NULL);

processor dev examples.approvals:app        (in a clone)
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel

from processor import (
    App,
    Transaction,
    WorkflowHandle,
    close_stream,
    get_event,
    now,
    recv,
    send,
    set_event,
    sync,
    uuid4,
    write_stream,
)

DECIDE_WITHIN = timedelta(days=14)


class Expense(BaseModel):
    expense_id: str
    cents: int


class Decision(BaseModel):
    by: str
    approves: bool


class State(BaseModel):
    name: Literal["waiting", "approved", "refused", "expired", "paid"]
    since: datetime


app = App("approvals")


@app.transaction()
async def pay(tx: Transaction, expense: Expense) -> None:
    """The payout, and word of it to the ledger: both, or neither."""
    await tx.execute("INSERT INTO payout VALUES (%s, %s)", (expense.expense_id, expense.cents))
    await send("ledger", expense.cents, "payout", tx=tx)


@app.workflow()
async def approve(expense: Expense) -> str:
    """Rests until somebody decides, for two weeks at most: a row waits, whatever happens to this process."""
    await set_event("state", State(name="waiting", since=await now()))
    decision = await recv("decision", model=Decision, timeout=DECIDE_WITHIN)
    if decision is None or not decision.approves:
        await set_event("state", State(name="expired" if decision is None else "refused", since=await now()))
        return "not paid"
    await set_event("state", State(name="approved", since=await now()))
    await pay(expense)
    await set_event("state", State(name="paid", since=await now()))
    return f"paid under {await uuid4()}"


@app.workflow()
async def ledger(payouts: int) -> int:
    """Adds up what is paid, and lets others follow."""
    total = 0
    for _ in range(payouts):
        total += await recv("payout", model=int)
        await write_stream("totals", total)
    await close_stream("totals")
    return total


@app.workflow()
def remind(workflow_id: str, clerk: str) -> str:
    """A sync workflow: it has no thread while it waits."""
    state = sync.get_event(workflow_id, "state", model=State)
    if state is None or state.name != "waiting":
        return "nothing to remind of"
    sync.send(clerk, f"{workflow_id} waits since {state.since:%d %B}")
    return "reminded"


async def hand_in(expense: Expense) -> WorkflowHandle[str]:
    return await approve.start(expense, id=f"expense-{expense.expense_id}")


async def decide(expense_id: str, decision: Decision) -> None:
    """For a web handler: a click that is repeated decides once."""
    await app.send(f"expense-{expense_id}", decision, "decision", idempotency_key=decision.by)


async def state_of(expense_id: str) -> State | None:
    return await app.get_event(f"expense-{expense_id}", "state", model=State, timeout=timedelta(seconds=1))


async def totals() -> AsyncIterator[int]:
    """For a page that follows: what was written, then what comes, to the end."""
    async for total in app.read_stream("ledger", "totals", model=int):
        yield total


@app.workflow()
async def watch(workflow_id: str) -> str:
    """Workflows ask for events as well, and remember what they were told."""
    state = await get_event(workflow_id, "state", model=State)
    return "nothing" if state is None else state.name
