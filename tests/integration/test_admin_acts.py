"""Acts of operators by HTTP on a real Postgres: what `processor workflows`, `queues`, `schedules`, `retention`, `outbox` do as well.

Who acts is in the audit, by whichever way: these acts are the functions of the commands.
"""

import json
from base64 import b64decode
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from consumers.mock import MockCluster
from engine.given_ids import ReservedIdError
from engine.keeping import RetentionSettings
from engine.settings import EngineSettings
from processor import App, Cron, Queue, Settings, TerminalError, Tick, Topic, Transaction
from processor.config_web import WebSettings
from processor.testing import Bench
from processor.testing.http import HttpClient
from processor.web.application import Site
from tests.conformance.members import produce

TOKENS = {name: name.ljust(32, "-") for name in ("looker", "on-call", "boss")}
SETTINGS = WebSettings.model_validate(
    {"tokens": TOKENS, "access": {"looker": "viewer", "on-call": "operator", "boss": "admin"}}
)


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)
told = Topic("told", Order)
app = App("shop")
slow = app.register_queue(Queue("slow"))
tries: list[str] = []


@app.step()
async def charge(order_id: str) -> str:
    tries.append(order_id)
    if order_id.startswith("bad") and tries.count(order_id) == 1:
        raise TerminalError("no money")
    return f"receipt-{order_id}"


@app.step()
async def ship(receipt: str) -> str:
    return f"shipped-{receipt}"


@app.workflow(version="1")
async def place(order_id: str) -> str:
    return await ship(await charge(order_id))


@app.workflow()
async def parent(order_id: str) -> str:
    return await (await place.start(order_id)).result()


@app.workflow(on=Cron("0 3 * * *"))
async def close_day(tick: Tick) -> None:
    del tick


@app.transaction()
async def tell(tx: Transaction, order: Order) -> None:
    await tx.publish(told, order)


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    await tell(order)


@pytest.fixture
async def bench(database: str) -> AsyncGenerator[Bench]:
    tries.clear()
    quiet = EngineSettings(
        conninfo=database, scan=timedelta(milliseconds=100), retention=RetentionSettings(every=timedelta(hours=1))
    )
    async with Bench(app, database, settings=quiet) as bench:
        yield bench


def client(bench: Bench, who: str) -> HttpClient:
    return bench.http(settings=SETTINGS).with_headers(authorization=f"Bearer {TOKENS[who]}")


async def audited(bench: Bench) -> list[tuple[Any, ...]]:
    return await bench.fetch_all("SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit ORDER BY audit_id")


async def test_workflows_are_resumed_restarted_forked_and_deleted(bench: Bench) -> None:
    """I4: each goes on behind what it has recorded. What cannot be done is 409 and says why; what is not there 404."""
    failed = await place.start("bad-1", id="w-1")
    with pytest.raises(TerminalError):
        await failed.result()
    await (await parent.start("o-2", id="w-2")).result()
    operator, boss = client(bench, "on-call"), client(bench, "boss")

    resumed = await operator.post("/admin/workflows/w-1/resume", json={"note": "paid now"})
    assert await place.retrieve("w-1").result() == "shipped-receipt-bad-1"
    twice = await operator.post("/admin/workflows/w-1/resume", json={})
    forked = await operator.post("/admin/workflows/w-1/fork", json={"from_step": 2, "new_id": "f-1", "note": "again"})
    assert await place.retrieve("f-1").result() == "shipped-receipt-bad-1"
    too_far = await operator.post("/admin/workflows/w-1/fork", json={"from_step": 9})
    restarted = await operator.post("/admin/workflows/w-1/restart", json={})
    anew = restarted.json()["workflow_id"]
    assert await place.retrieve(anew).result() == "shipped-receipt-bad-1"
    missing = [
        await boss.post(f"/admin/workflows/none/{act}", json={"from_step": 1} if act == "fork" else {})
        for act in ("resume", "fork", "restart", "delete")
    ]
    deleted = await boss.post("/admin/workflows/w-2/delete?children=true", json={"note": "asked by ada"})
    left = await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY created_at")
    versions = (await client(bench, "looker").get("/admin/versions?name=place")).json()

    assert (resumed.json(), forked.json(), deleted.json()) == ({"done": True}, {"workflow_id": "f-1"}, {"done": True})
    assert (twice.status, twice.json()["detail"]) == (409, "workflow w-1: it has succeeded: fork or restart it")
    assert (too_far.status, [each.status for each in missing]) == (409, [404] * 4)
    assert tries == ["bad-1", "o-2", "bad-1", "bad-1"]  # the fork took its first step over
    assert [row[0] for row in left] == ["w-1", "f-1", anew]
    assert [(each["version"], each["executors"]) for each in versions] == [("1", 1)]
    assert await audited(bench) == [
        ("http:on-call", "resume workflow", "w-1", "paid now"),
        ("http:on-call", "fork workflow", "w-1", "f-1 from step 2 again"),
        ("http:on-call", "restart workflow", "w-1", f"{anew} from step 1"),
        ("http:boss", "delete workflow", "w-2", "asked by ada"),
        ("http:boss", "delete workflow", "w-2-1", "asked by ada"),
    ]


async def test_a_fork_takes_no_id_that_the_engine_gives(bench: Bench) -> None:
    """I1: it would stand where a record's workflow, a tick, or what a workflow starts belongs, and they would never run."""
    await bench.deliver(orders, Order(order_id="o-1"))
    await bench.settle()
    await (await place.start("o-1", id="w")).result()
    operator = client(bench, "on-call")

    reserved = ("sched-close_day-2026-01-01T03:00:00.000Z", "orders-0-7", "shop|orders~2-0-7", "w-2")
    answers = [await operator.post("/admin/workflows/w/fork", json={"from_step": 1, "new_id": id}) for id in reserved]

    assert [answer.status for answer in answers] == [422] * len(reserved)
    assert answers[1].json()["detail"] == "workflow ID orders-0-7: it is that of a record; choose another"
    for id in reserved[:-1]:
        with pytest.raises(ReservedIdError):
            await place.retrieve("w").fork(from_step=1, id=id)
    assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE forked_from IS NOT NULL") == [(0,)]


async def test_a_family_is_cancelled_together(bench: Bench) -> None:
    await bench.execute(
        """INSERT INTO dbos.workflow_status (workflow_uuid, status, name, request, inputs, kafka_wake_at, created_at, updated_at)
           SELECT id, 'PENDING', 'parent', request, '{"args": ["o"], "kwargs": {}}', 9000000000000000, 1, 1
             FROM (VALUES ('p', NULL), ('c', '{"parent": "p", "function_id": 1}')) AS t (id, request)"""
    )
    await bench.execute(
        "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, child_workflow_id)"
        " VALUES ('p', 1, 'place', 'c')"
    )

    answer = await client(bench, "on-call").post("/admin/workflows/p/cancel?children=true", json={"note": "n"})

    assert answer.json() == {"done": True}
    assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("CANCELLED",)] * 2


async def test_queues_and_schedules_are_paused_resumed_and_run_by_hand(bench: Bench) -> None:
    viewer, operator = client(bench, "looker"), client(bench, "on-call")

    paused = await operator.post("/admin/queues/slow/pause", json={"note": "gateway"})
    handle = await slow.enqueue(place, "o-1")
    listed = (await viewer.get("/admin/queues")).json()
    unknown = await operator.post("/admin/queues/fast/pause", json={"note": "x"})
    without = await operator.post("/admin/queues/slow/resume", json={"note": " "})
    await operator.post("/admin/queues/slow/resume", json={"note": "back"})
    assert await handle.result() == "shipped-receipt-o-1"
    await operator.post("/admin/schedules/close_day/pause", json={"note": "audit"})
    schedules = (await viewer.get("/admin/schedules")).json()
    why = {"note": "late books"}
    triggered = (await operator.post("/admin/schedules/close_day/trigger", json=why)).json()
    await operator.post("/admin/schedules/close_day/resume", json={"note": "done"})
    filled = await operator.post(
        "/admin/schedules/close_day/backfill",
        json={"since": "2026-01-01T00:00:00Z", "to": "2026-01-03T12:00:00+01:00", **why},
    )
    zoneless = await operator.post("/admin/schedules/close_day/backfill", json={"since": "2026-01-01T00:00:00"})
    none = await operator.post("/admin/schedules/open_day/trigger")
    await bench.settle()

    assert (paused.json(), unknown.status, without.status) == ({"done": True}, 409, 422)
    shown = next(each for each in listed if each["queue"] == "slow")
    assert (shown["ready"], shown["is_paused"], shown["listeners"]) == (1, True, 1)
    assert [
        (each["name"], each["cron"], each["state"], each["paused_by"], each["next_tick"]) for each in schedules
    ] == [("close_day", "0 3 * * *", "paused", "http:on-call", None)]
    assert (filled.json(), zoneless.status, none.status) == ({"started": 3, "stood": 0}, 422, 409)
    [(ended,)] = await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE name = 'close_day'")
    assert (triggered["workflow_id"].startswith("sched-"), ended) == (True, 4)
    assert [row[:3] for row in await audited(bench)] == [
        ("http:on-call", action, subject)
        for action, subject in (
            ("pause queue", "slow"),
            ("resume queue", "slow"),
            ("pause schedule", "close_day"),
            ("trigger schedule", "close_day"),
            ("resume schedule", "close_day"),
            ("back-fill schedule", "close_day"),
        )
    ]
    assert [str(row).count("late books") for row in await audited(bench)] == [0, 0, 0, 1, 0, 1]


async def test_retention_is_shown_counted_paused_and_run(bench: Bench) -> None:
    """P30: a run says in the audit that it was asked for, before anything is deleted, and what it came to."""
    viewer, operator, boss = (client(bench, who) for who in TOKENS)
    await bench.execute("INSERT INTO dbos.retention_policy VALUES ('place', 'SUCCESS', 1, 1)")
    await (await place.start("o-1", id="w-1")).result()
    await bench.execute("UPDATE dbos.workflow_status SET created_at = 1, updated_at = 1")

    shown = (await viewer.get("/admin/retention")).json()
    due = await operator.get("/admin/retention/due")
    paused = await operator.post("/admin/retention/pause", json={"note": "look first"})
    again = await operator.post("/admin/retention/pause", json={"note": "look first"})
    refused = await boss.post("/admin/retention/run", json={"note": "now"})
    still = (await viewer.get("/admin/retention")).json()["paused"]
    await boss.post("/admin/retention/resume", json={"note": "seen"})
    gone = await boss.post("/admin/retention/run", json={"note": "now"})

    kept = [each for each in shown["policies"] if each["handler"] == "place" and each["kind"] == "SUCCESS"]
    assert kept == [{"handler": "place", "kind": "SUCCESS", "keep": "PT0.001S"}]
    assert due.json() == [{"handler": "place", "kind": "SUCCESS", "rows": 1}]
    assert (paused.json(), again.json(), refused.status, still) == ({"done": True}, {"done": False}, 409, "look first")
    assert gone.json() == due.json()
    assert await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status") == []
    assert [(row[0], row[1], row[3]) for row in await audited(bench)] == [
        ("http:on-call", "pause", "look first"),
        ("http:boss", "sweep asked for", "now"),
        ("http:boss", "resume", "seen"),
        ("http:boss", "sweep asked for", "now"),
        ("http:boss", "sweep", "1 rows deleted"),
    ]


async def test_the_outbox_is_shown_without_payloads_and_its_events_given_up_all_or_none(bench: Bench) -> None:
    for number in range(3):
        await bench.deliver(orders, Order(order_id=f"o-{number}"))
        await bench.settle()  # one by one: there is no order between keys
    viewer, operator, boss = (client(bench, who) for who in TOKENS)

    state = (await viewer.get("/admin/outbox")).json()
    listed = (await viewer.get("/admin/outbox/events?limit=2")).json()
    behind = (await viewer.get(f"/admin/outbox/events?after={listed[-1]['event_id']}")).json()
    hidden = await viewer.get("/admin/outbox/events?payloads=true")
    whole = (await operator.get("/admin/outbox/events?payloads=true&topic=told")).json()
    ids = [each["event_id"] for each in (*listed, *behind)]
    some = await boss.post("/admin/outbox/discard", json={"events": [ids[0], 10**12], "note": "x"})
    nothing = await boss.post("/admin/outbox/discard", json={"events": [], "note": "x"})
    done = await boss.post("/admin/outbox/discard", json={"events": ids[:2], "note": "sent by hand"})
    resumed = await boss.post("/admin/outbox/resume", json={"note": "x"})
    renamed = await boss.post("/admin/outbox/rename", json={"note": "a copy"})

    assert (state["waiting"], state["executor_id"], state["halted"]) == (3, None, None)
    assert [(each["topic"], each["value"]) for each in listed] == [("told", None)] * 2
    assert (len(behind), hidden.status) == (1, 403)
    assert [json.loads(_bytes(each["value"]))["order_id"] for each in whole] == ["o-0", "o-1", "o-2"]
    assert (some.status, nothing.status, done.json(), resumed.status) == (409, 422, {"done": True}, 409)
    assert renamed.json()["name"] != state["name"]
    assert await bench.fetch_all("SELECT count(*) FROM dbos.outbox") == [(1,)]
    assert [row[:2] for row in await audited(bench)] == [("http:boss", "discard event")] * 2 + [
        ("http:boss", "rename outbox")
    ]


async def test_a_partition_is_moved_when_yes_is_said_and_what_is_open_of_it_cancelled(
    bench: Bench, mock_cluster: MockCluster
) -> None:
    """I1, I3: Kafka is asked first; without `yes` nothing changes, and the answer says what would."""
    for number in range(3):
        await bench.deliver(orders, Order(order_id=f"o-{number}"))
    await bench.settle()
    mock_cluster.create_topic("orders", 1)
    produce(mock_cluster.bootstrap_servers, "orders", ["{}"] * 5)
    settings = Settings.model_validate({"kafka": {"bootstrap_servers": mock_cluster.bootstrap_servers}})
    site = Site(app, lambda: bench.engine, SETTINGS, tell=bench.events.append, of_process=settings)
    boss = HttpClient(site.asgi).with_headers(authorization=f"Bearer {TOKENS['boss']}")
    where = "/admin/partitions/shop/orders-0"

    planned = await boss.post(f"{where}/seek", json={"to": "5", "note": "poison"})
    stands = await bench.fetch_all("SELECT value::json ->> 'next' FROM dbos.event_dispatch_kv")
    done = await boss.post(f"{where}/seek", json={"to": "5", "note": "poison", "yes": True})
    moved = await bench.fetch_all("SELECT value::json ->> 'next' FROM dbos.event_dispatch_kv")
    wrong = [
        (await boss.post(f"{where}/seek", json={"to": to, "note": "x", "yes": True})).status
        for to in ("99", "yesterday", "2026-01-01T00:00:00")
    ]
    nowhere = await boss.post("/admin/partitions/shop/none-0/seek", json={"to": "1", "note": "x"})
    unasked = await client(bench, "boss").post(f"{where}/seek", json={"to": "1", "note": "x"})
    cancelled = await boss.post(f"{where}/cancel", json={"note": "x", "former": False, "yes": True})

    assert (planned.json()["done"], done.json()["done"], stands, moved) == (False, True, [("3",)], [("5",)])
    assert planned.json() | {"done": True, "epoch": 0} == done.json() | {"epoch": 0}
    assert done.json()["gaps"] == [[3, 5]]
    assert (wrong, nowhere.status, unasked.status) == ([409, 422, 422], 409, 409)
    assert cancelled.json() == {"done": False, "workflows": 0}
    assert [(row[0], row[1]) for row in await audited(bench)] == [("http:boss", "seek")]


def _bytes(text: str) -> bytes:
    return b64decode(text)
