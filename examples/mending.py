"""What went wrong is put right: failed workflows are listed, resumed, forked from a step, restarted, deleted.

processor dev examples.mending:app        (in a clone)
"""

from datetime import UTC, datetime, timedelta

from processor import Acted, App, WorkflowFilter, WorkflowHandle

app = App("mending")
away: set[str] = set()
calls: list[str] = []


@app.step()
async def charge(order_id: str) -> str:
    calls.append(f"charge {order_id}")
    return f"receipt of {order_id}"


@app.step()
async def ship(order_id: str) -> str:
    if "carrier" in away:
        raise ConnectionError("the carrier is away")
    calls.append(f"ship {order_id}")
    return f"parcel of {order_id}"


@app.workflow()
async def fulfil(order_id: str) -> str:
    return f"{await charge(order_id)}, {await ship(order_id)}"


async def put_back_to_work() -> Acted:
    """The carrier is back: whatever failed in the last day goes on where it failed."""
    since = datetime.now(UTC) - timedelta(days=1)
    failed = await app.list_workflows(WorkflowFilter(status="ERROR", name="fulfil", created_from=since))
    return await app.resume_workflows([info.id for info in failed])


async def ship_again(order_id: str) -> WorkflowHandle[str]:
    """The parcel was lost: the same order from its second step on, charged once."""
    return await fulfil.retrieve(order_id).fork(from_step=2, id=f"{order_id}-again")


@app.workflow()
async def clean_up(ids: list[str]) -> int:
    """In a workflow, too: what an act did is remembered."""
    cancelled = await app.cancel_workflows(ids, children=True)
    deleted = await app.delete_workflows(ids, children=True)
    return len(cancelled) + len(deleted.done)
