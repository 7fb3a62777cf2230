"""The admin API on a real Postgres: what operators see and do, and what the audit says of it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import AsyncConnection
from pydantic import BaseModel

from engine.payloads import PayloadKeys
from engine.settings import EngineSettings
from processor import App, Identity, TerminalError, Topic, acting_as, current_workflow
from processor.config_web import WebSettings
from processor.testing import Bench
from processor.testing.http import HttpClient
from processor.web.statements import STATEMENTS_MAX
from tests.integration.test_sealed_payloads import CANARY, NEW

TOKENS = {name: name.ljust(32, "-") for name in ("looker", "on-call", "boss")}
SETTINGS = WebSettings.model_validate(
    {"tokens": TOKENS, "access": {"looker": "viewer", "on-call": "operator", "boss": "admin"}}
)


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)
app = App("shop")


@app.step()
async def charge(order_id: str) -> str:
    return f"receipt-{order_id}"


@app.workflow(version="1")
async def place(order_id: str) -> str:
    return await charge(order_id)


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    raise TerminalError(f"no {order.order_id}")


@app.post("/orders", public=True)
async def by_http(order: Order, note: str = "") -> str:
    request = current_workflow().request
    assert request is not None
    return f"{request.query} {note}"


@pytest.fixture
async def bench(database: str) -> AsyncGenerator[Bench]:
    """Of an engine that looks around by itself only when it starts."""
    quiet = EngineSettings(conninfo=database, scan=timedelta(hours=1))
    async with Bench(app, database, settings=quiet) as bench:
        yield bench


def client(bench: Bench, who: str, settings: WebSettings = SETTINGS) -> HttpClient:
    return bench.http(settings=settings).with_headers(authorization=f"Bearer {TOKENS[who]}")


async def test_workflows_are_listed_newest_first_page_by_page_and_shown(bench: Bench) -> None:
    for number in range(7):
        with acting_as(Identity("ada" if number % 2 else "bob")):
            await (await place.start(f"o-{number}", id=f"w-{number}")).result()
    viewer, operator = client(bench, "looker"), client(bench, "on-call")

    seen: list[str] = []
    after = ""
    for _ in range(10):
        answer = (await viewer.get(f"/admin/workflows?limit=3&name=place{after}")).json()
        seen += [each["workflow_id"] for each in answer["workflows"]]
        if answer["after"] is None:
            break
        after = f"&after={answer['after']}"
    adas = (await viewer.get("/admin/workflows?user=ada&prefix=w-&status=SUCCESS&status=ERROR")).json()["workflows"]
    newer = f"&created_from={quote(adas[1]['created_at'])}"
    later = (await viewer.get(f"/admin/workflows?version=1&user=ada{newer}")).json()["workflows"]
    one = (await viewer.get("/admin/workflows/w-1")).json()
    whole = (await operator.get("/admin/workflows/w-1?payloads=true")).json()
    steps = (await viewer.get("/admin/workflows/w-1/steps")).json()
    payloads = (await operator.get("/admin/workflows/w-1/steps?payloads=true")).json()

    assert sorted(seen) == [f"w-{number}" for number in range(7)]
    assert {each["workflow_id"] for each in adas} == {"w-1", "w-3", "w-5"}
    assert later == adas[:2]
    assert (await viewer.get("/admin/workflows?version=2")).json()["workflows"] == []
    assert (await viewer.get("/admin/workflows?created_before=2026-01-01T00:00:00")).status == 422
    assert (one["status"], one["user"], one["inputs"], one["output"]) == ("SUCCESS", "ada", None, None)
    assert (whole["inputs"], whole["output"]) == ('{"args": ["o-1"], "kwargs": {}}', '"receipt-o-1"')
    assert [(each["name"], each["has_failed"], each["output"]) for each in steps] == [("charge", False, None)]
    assert payloads[0]["output"] == '"receipt-o-1"'
    assert (await viewer.get("/admin/workflows?after=nonsense")).status == 422
    assert (await viewer.get("/admin/workflows?limit=0")).status == 422
    assert (await viewer.get("/admin/workflows/a%2Fb/steps")).status == 404


async def test_what_dead_executors_ran_is_recovered_and_what_lives_is_left(bench: Bench) -> None:
    """P29: the paths of DBOS. Of a live executor nothing is taken, whoever asks."""
    await bench.execute(
        """INSERT INTO dbos.workflow_status
                  (workflow_uuid, status, name, application_version, inputs, executor_id, owner_xid, created_at, updated_at)
           SELECT 'of-' || e, 'PENDING', 'place', '1', '{"args": ["o-1"], "kwargs": {}}', e, 'token', 1, 1
             FROM (SELECT executor_id FROM dbos.executor UNION VALUES ('ghost'), ('other')) AS x (e)"""
    )
    operator = client(bench, "on-call")

    none = await operator.post("/dbos-workflow-recovery", json=[])
    taken = await operator.post("/dbos-workflow-recovery", json=["ghost", bench.engine.executor_id])
    again = await operator.post("/dbos-workflow-recovery", json=["ghost"])
    wrong = await operator.post("/dbos-workflow-recovery", json={"executors": []})

    assert (none.json(), taken.json(), again.json(), wrong.status) == ([], ["of-ghost"], [], 422)
    assert await place.retrieve("of-ghost").result() == "receipt-o-1"
    rows = await bench.fetch_all("SELECT workflow_uuid, status FROM dbos.workflow_status ORDER BY 1")
    assert [row for row in rows if row[0] in ("of-ghost", "of-other")] == [
        ("of-ghost", "SUCCESS"),
        ("of-other", "PENDING"),
    ]
    acts = (await client(bench, "boss").get("/admin/audit")).json()
    assert [(each["actor"], each["action"], each["subject"]) for each in acts] == [
        ("http:on-call", "recover", "ghost"),
        ("http:on-call", "recover", f"ghost, {bench.engine.executor_id}"),
    ]


async def test_perf_and_health_are_as_dbos_tells_them(bench: Bench) -> None:
    viewer = client(bench, "looker")
    await viewer.get("/dbos-perf")
    for _ in range(100_000):
        pass

    told = (await viewer.get("/dbos-perf")).json()
    health = await bench.http().get("/dbos-healthz")

    assert set(told) == {"idle", "active", "utilization"}
    assert told["active"] > 0
    assert 0 < told["utilization"] <= 1
    assert (health.status, health.body, health.headers["content-type"]) == (
        200,
        b"healthy",
        "text/plain; charset=utf-8",
    )


async def test_operators_deal_with_dead_letters_and_partitions_and_it_is_recorded(bench: Bench) -> None:
    for number in range(2):
        await bench.deliver(orders, Order(order_id=f"o-{number}"))
    await bench.settle()
    viewer, operator, boss = (client(bench, who) for who in TOKENS)

    listed = (await viewer.get("/admin/dead-letters?topic=orders")).json()
    of_group = [len((await viewer.get(f"/admin/dead-letters?group={group}")).json()) for group in ("shop", "another")]
    assert of_group == [2, 0]
    first, second = (each["dead_letter_id"] for each in listed)
    shown = (await operator.get(f"/admin/dead-letters/{first}?payloads=true")).json()
    unsaid = await operator.post(f"/admin/dead-letters/{first}/retry", json={})
    retried = await operator.post(f"/admin/dead-letters/{first}/retry", json={"note": "the gateway is back"})
    refused = await boss.post(f"/admin/dead-letters/{second}/discard", json={"note": " "})
    discarded = await boss.post(f"/admin/dead-letters/{second}/discard", json={"note": "known"})
    twice = await boss.post(f"/admin/dead-letters/{second}/discard", json={"note": "known"})
    where = "/admin/partitions/shop/orders-0"
    paused = await operator.post(f"{where}/pause", json={"note": "look"})
    partitions = (await viewer.get("/admin/partitions?group=shop")).json()
    resumed = [(await operator.post(f"{where}/resume", json={})).json() for _ in range(2)]

    assert [(each["offset"], each["reason"], each["error"]) for each in listed] == [
        (0, "failed", None),
        (1, "failed", None),
    ]
    assert json.loads(shown["error"])["message"] == "no o-0"
    assert (unsaid.status, retried.json(), refused.status, discarded.json(), twice.status) == (
        422,
        {"done": True},
        422,
        {"done": True},
        409,
    )
    assert paused.json() == {"done": True}
    assert [(each["partition"], each["holds"]) for each in partitions] == [("orders-0", ["pause: look"])]
    assert resumed == [{"done": True}, {"done": False}]
    acts: list[Any] = (await boss.get("/admin/audit?limit=10")).json()
    assert [(each["actor"], each["action"]) for each in reversed(acts)] == [
        ("http:on-call", "retry dead letter"),
        ("http:boss", "discard dead letter"),
        ("http:on-call", "pause"),
        ("http:on-call", "resume"),
    ]
    assert "the gateway is back" in json.dumps(acts[-1]["detail"])
    older = (await boss.get(f"/admin/audit?before={acts[0]['audit_id']}")).json()
    assert older == acts[1:]


async def test_more_than_are_answered_at_a_time_are_told_to_come_back(bench: Bench) -> None:
    """I10: at the limit, 503 with a time, and nothing is started."""
    small = SETTINGS.model_copy(update={"requests_max": 1})
    web = client(bench, "looker", small)

    answers = await asyncio.gather(*(web.get("/admin/workflows") for _ in range(5)))

    assert sorted({each.status for each in answers}) == [200, 503]
    assert all("retry-after" in each.headers for each in answers if each.status == 503)
    assert (await web.get("/admin/workflows")).status == 200


async def test_operators_who_wait_for_slow_lists_leave_connections_for_work(database: str) -> None:
    """I10: of a pool of three they have two, however many they are."""
    quiet = EngineSettings(conninfo=database, scan=timedelta(hours=1), pool_max=STATEMENTS_MAX + 1)
    async with Bench(app, database, settings=quiet) as bench, await AsyncConnection.connect(database) as slow:
        await slow.execute("LOCK TABLE dbos.dead_letter")
        viewer = client(bench, "looker")
        lists = [asyncio.ensure_future(viewer.get("/admin/dead-letters")) for _ in range(20)]

        waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'dbos.dead_letter'::regclass AND NOT granted"
        async with asyncio.timeout(30):
            while await bench.fetch_all(waiting) < [(STATEMENTS_MAX,)]:
                await asyncio.sleep(0)

        async with asyncio.timeout(20):  # which is less than Postgres lets a statement take
            started = await bench.http().post("/orders", json={"order_id": "o"}, headers={"Idempotency-Key": "o-1"})
        are_done = [each.done() for each in lists]
        await slow.rollback()

        assert started.status == 202
        assert not any(are_done)
        assert {(await each).status for each in lists} == {200}


async def test_of_a_request_what_is_its_callers_is_sealed_and_opened(database: str) -> None:
    """Decision 0012: path, query, headers and address are nobody's to read in the tables, and there in the workflow."""
    async with Bench(app, database) as bench:
        bench.settings = replace(bench.settings, payload_keys=PayloadKeys({"new": NEW}, "new"))
        await bench.restart()
        call = {"json": {"order_id": CANARY}, "headers": {"Idempotency-Key": "k"}}

        first = await bench.http().post(f"/orders?note={CANARY}", **call)
        again = await bench.http().post(f"/orders?note={CANARY}", **call)
        await bench.settle()

        [(request,)] = await bench.fetch_all("SELECT request::jsonb FROM dbos.workflow_status")
        text = await bench.fetch_all("SELECT w::text FROM dbos.workflow_status AS w")
        shown = (await client(bench, "on-call").get("/admin/workflows/k?payloads=true")).json()
        assert (first.status, again.status) == (202, 202)
        assert set(request) == {"method", "route", "sealed"}
        assert CANARY not in text[0][0]
        assert json.loads(shown["request"])["query"] == f"note={CANARY}"
        assert json.loads(shown["output"]) == f"note={CANARY} {CANARY}"


async def test_rows_whose_key_is_not_here_are_shown_and_say_so(database: str) -> None:
    """Decision 0012: a payload that cannot be read hides neither its row from a viewer nor the reason from an operator."""
    async with Bench(app, database) as bench:
        keyless = bench.settings
        bench.settings = replace(keyless, payload_keys=PayloadKeys({"new": NEW}, "new"))
        await bench.restart()
        await (await place.start(CANARY, id="w")).result()
        await bench.deliver(orders, Order(order_id=CANARY))
        await bench.settle()
        bench.settings = keyless
        await bench.restart()

        viewer, operator = client(bench, "looker"), client(bench, "on-call")
        row, history, letter = [f"/admin/{each}" for each in ("workflows/w", "workflows/w/steps", "dead-letters/1")]
        seen = [await viewer.get(path) for path in (row, history, letter)]
        shown = [await operator.get(f"{path}?payloads=true") for path in (row, history, letter)]

    assert {answer.status for answer in (*seen, *shown)} == {200}
    assert (seen[0].json()["status"], seen[0].json()["inputs"]) == ("SUCCESS", None)
    assert [(step["name"], step["output"], step["has_failed"]) for step in seen[1].json()] == [("charge", None, False)]
    texts = [
        shown[0].json()["inputs"],
        shown[0].json()["output"],
        shown[1].json()[0]["output"],
        shown[2].json()["error"],
    ]
    why = "sealed with key 'new', which is not among those configured (none)"
    assert [json.loads(text)["unreadable"].partition(" is ")[::2] for text in texts] == [
        ("workflow w: inputs", why),
        ("workflow w: output", why),
        ("workflow w: step 1 'charge': output", why),
        ("dead letter 1: error", why),
    ]
    assert (shown[2].json()["topic"], shown[2].json()["record_value"]) == ("orders", None)
