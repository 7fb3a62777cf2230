"""Programs beside the processors of approvals.py: they have the database's address, and nothing of the app's code.

python -m examples.client postgresql://…/shop e-1 4200        (in a clone, while approvals.py runs)
"""

import asyncio
import sys
from datetime import timedelta
from typing import Any

from processor import Client, SyncClient, WorkflowFilter, load_settings


async def hand_in(client: Client, expense_id: str, cents: int) -> str:
    """For a web server: durable when it returns. A repeated call, also after a lost reply, is the same expense."""
    expense = {"expense_id": expense_id, "cents": cents}
    handle = await client.start("approve", expense, id=f"expense-{expense_id}")
    state = await handle.get_event("state", timeout=timedelta(seconds=10))
    return "on its way" if state is None else str(state["name"])


async def decide(client: Client, expense_id: str, by: str) -> str:
    """Approve, and say what became of it."""
    decision = {"by": by, "approves": True}
    await client.send(f"expense-{expense_id}", decision, "decision", idempotency_key=by)
    return await client.retrieve(f"expense-{expense_id}", model=str).result(timeout=timedelta(minutes=1))


async def every_open_one(client: Client) -> list[str]:
    """Page by page: pages stay apart while expenses come in."""
    ids: list[str] = []
    chosen = WorkflowFilter(name="approve", status="PENDING", prefix="expense-")
    page = await client.list_workflows(chosen, limit=100, payloads=False)
    while page:
        ids += [info.id for info in page]
        page = await client.list_workflows(chosen, limit=100, after=page[-1], payloads=False)
    return ids


def put_right(dsn: str) -> dict[str, Any]:
    """A script without a loop: what failed goes on, and what was given up is shown."""
    with SyncClient(dsn, actor="night-shift") as client:
        failed = client.list_workflows(WorkflowFilter(name="approve", status="ERROR"), payloads=False)
        acted = client.resume_workflows([info.id for info in failed])
        return {
            "back to work": acted.done,
            "dead letters": [letter.workflow_uuid for letter in client.dead_letters.list()],
            "queues": {queue.queue: queue.ready for queue in client.queues.list()},
        }


async def from_the_settings_of_the_deployment() -> int:
    """With its keys, if payloads are sealed: PROCESSOR_POSTGRES_DSN, PROCESSOR_PAYLOADS_..., processor.yaml."""
    async with Client.from_settings(load_settings()) as client:
        return len(await every_open_one(client))


async def main(dsn: str, expense_id: str, cents: int) -> str:
    async with Client(dsn) as client:
        await hand_in(client, expense_id, cents)
        return await decide(client, expense_id, "ada")


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
