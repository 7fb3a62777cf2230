"""Fused handlers: the whole handler is one transaction, shared by many records.

The table: CREATE TABLE balance (account text PRIMARY KEY, cents bigint NOT NULL);
           CREATE TABLE click (page text NOT NULL, at timestamptz);
"""

from collections.abc import Sequence

from pydantic import BaseModel

from processor import App, Record, SyncTransaction, Topic, Transaction


class Payment(BaseModel):
    account: str
    cents: int


class Click(BaseModel):
    page: str


app = App("bank")


@app.transaction(on=Topic("payments", Payment, key=lambda payment: payment.account))
async def book(tx: Transaction, payment: Payment) -> None:
    """Called once for each record, many records in one commit. `cents + %s` is safe: it commits with its record."""
    await tx.execute(
        "INSERT INTO balance AS b VALUES (%s, %s) ON CONFLICT (account) DO UPDATE SET cents = b.cents + excluded.cents",
        (payment.account, payment.cents),
    )


@app.batch(on=Topic("clicks", Click), size=500)
async def load(tx: Transaction, clicks: Sequence[Record[Click]]) -> None:
    """Called once for up to 500 records of one partition, in offset order: one statement for all of them."""
    await tx.execute(
        "INSERT INTO click SELECT * FROM unnest(%s::text[], %s::timestamptz[])",
        ([click.event.page for click in clicks], [click.timestamp for click in clicks]),
    )


@app.transaction(on=Topic("refunds", Payment, key=lambda payment: payment.account))
def refund(tx: SyncTransaction, payment: Payment) -> None:
    """The same without async: it runs in a thread."""
    row = tx.execute("SELECT cents FROM balance WHERE account = %s FOR UPDATE", (payment.account,)).fetchone()
    if row is None or row[0] < payment.cents:
        raise ValueError(f"account {payment.account}: nothing to refund")
    tx.execute("UPDATE balance SET cents = cents - %s WHERE account = %s", (payment.cents, payment.account))
