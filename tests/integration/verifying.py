"""What the tests of `processor verify` share: an app, its orders, and what they say of the answer."""

import asyncio
import json
from typing import Any

from confluent_kafka import Producer
from pydantic import BaseModel

from processor import App, Topic, Transaction
from processor.config import Settings
from processor.current import current_workflow
from tests.integration.members import PATIENCE_S, fetch

EFFECTS = "SELECT workflow_id, count(*) FROM sale WHERE workflow_id LIKE '%orders-%' GROUP BY 1;"
VERIFY = ("verify", "--json")
DONE_WITH = """
SELECT k.value::json ->> 'next', (SELECT count(*) FROM dbos.workflow_status AS w WHERE w.status = 'PENDING')
  FROM dbos.event_dispatch_kv AS k
"""


class Order(BaseModel):
    amount: int


app = App("shop")
orders = Topic("orders", Order, where=lambda record: record.key != b"skip")


@app.transaction()
async def book(tx: Transaction, amount: int) -> None:
    await tx.execute("INSERT INTO sale VALUES (%s, %s)", (current_workflow().id, amount))


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    if order.amount < 0:
        raise ValueError("nothing to charge")
    await book(order.amount)


APP = ("--app", f"{__name__}:app")


async def processed(database: str, brokers: str) -> None:
    """Twelve orders: 0 to 5 fulfilled, 6 fails, 7 is passed over, 8 is a tombstone, 9 to 11 fulfilled."""
    await fetch(database, "CREATE TABLE sale (workflow_id text, amount integer)")
    producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
    for offset in range(12):
        value = None if offset == 8 else json.dumps({"amount": -1 if offset == 6 else offset})
        # One with a time that is no plausible one, and may be all the same.
        timestamp = 2**62 if offset == 10 else 0
        producer.produce("orders", value, key="skip" if offset == 7 else "k", timestamp=timestamp)
    assert producer.flush(30) == 0
    settings = Settings.model_validate(
        {
            "postgres": {"dsn": database},
            "kafka": {"bootstrap_servers": brokers},
            "web": {"enabled": False},
        }
    )
    async with app.running(settings):
        await finished(database, 12)


async def finished(database: str, progress: int) -> None:
    """Wait until it is where it should be, and nothing is open."""
    async with asyncio.timeout(PATIENCE_S):
        while await fetch(database, DONE_WITH) != [(str(progress), 0)]:
            await asyncio.sleep(0.02)


def shown(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def kinds(row: dict[str, Any]) -> dict[str, list[str]]:
    key = "findings" if "findings" in row else "effects"
    return {finding["kind"]: finding["examples"] for finding in row[key]}
