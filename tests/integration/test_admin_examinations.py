"""What `processor lag`, `doctor`, `verify`, `executors` and `payloads` do, by HTTP: the same answers, by the same roles."""

import json
from base64 import b64encode
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from confluent_kafka import Producer
from pydantic import BaseModel

from consumers.mock import MockCluster
from engine.payloads import PayloadKeys
from engine.settings import EngineSettings
from processor import App, Topic, Transaction
from processor.config import Settings
from processor.config_web import WebSettings
from processor.current import current_workflow
from processor.testing import Bench
from processor.testing.http import HttpClient
from processor.web.application import Site
from tests.integration.members import fetch
from tests.integration.test_sealed_payloads import CANARY, NEW, OLD

TOKENS = {name: name.ljust(32, "-") for name in ("looker", "on-call", "boss")}
SETTINGS = WebSettings.model_validate(
    {"tokens": TOKENS, "access": {"looker": "viewer", "on-call": "operator", "boss": "admin"}}
)
DONE_WITH = """
SELECT count(*) FILTER (WHERE status = 'SUCCESS'), count(*) FILTER (WHERE status = 'PENDING') FROM dbos.workflow_status
"""


class Order(BaseModel):
    amount: int


app = App("shop")
orders = Topic("orders", Order, where=lambda record: record.key != b"skip")


@app.workflow(version="1")
async def place(order_id: str) -> str:
    return order_id


@app.transaction(on=orders)
async def book(tx: Transaction, order: Order) -> None:
    await tx.execute("INSERT INTO sale VALUES (%s, %s)", (current_workflow().id, order.amount))


def no_engine() -> NoReturn:
    raise AssertionError("what looks at everything has connections of its own")


def clients(site: Site) -> dict[str, HttpClient]:
    return {who: HttpClient(site.asgi).with_headers(authorization=f"Bearer {token}") for who, token in TOKENS.items()}


@pytest.fixture
async def shop(database: str, mock_cluster: MockCluster) -> dict[str, HttpClient]:
    """Eight orders, of which one is passed over, all done with; the process has stopped."""
    mock_cluster.create_topic("orders", 1)
    await fetch(database, "CREATE TABLE sale (workflow_id text, amount integer)")
    producer = Producer({"bootstrap.servers": mock_cluster.bootstrap_servers, "log_level": 0})
    for offset in range(8):
        producer.produce("orders", json.dumps({"amount": offset}), key="skip" if offset == 5 else "k")
    assert producer.flush(30) == 0
    settings = Settings.model_validate(
        {
            "postgres": {"dsn": database},
            "kafka": {"bootstrap_servers": mock_cluster.bootstrap_servers},
            "web": {"enabled": False},
        }
    )
    async with app.running(settings):
        while await fetch(database, DONE_WITH) != [(7, 0)]:
            pass
    told: list[object] = []
    return clients(Site(app, no_engine, SETTINGS, tell=told.append, of_process=settings))


async def test_lag_and_set_up_are_those_of_the_commands(shop: dict[str, HttpClient], mock_cluster: MockCluster) -> None:
    producer = Producer({"bootstrap.servers": mock_cluster.bootstrap_servers, "log_level": 0})
    producer.produce("orders", '{"amount": 9}', key="k")
    assert producer.flush(30) == 0

    [lag] = (await shop["looker"].get("/admin/lag?group=shop")).json()
    none = (await shop["looker"].get("/admin/lag?topic=returns")).json()
    hidden = await shop["looker"].get("/admin/doctor")
    checkup = (await shop["on-call"].get("/admin/doctor")).json()

    assert {name: lag[name] for name in ("group", "partition", "handler", "next", "end", "lag")} == {
        "group": "shop",
        "partition": "orders-0",
        "handler": "book",
        "next": 8,
        "end": 9,
        "lag": 1,
    }
    assert lag["lag_s"] >= 0
    assert (none, hidden.status) == ([], 403)
    by_subject = {each["subject"]: each for each in checkup["checks"]}
    assert {"versions", "pooler", "consumer group"} <= set(by_subject), set(by_subject)
    assert checkup["is_well"] is all(each["level"] != "problem" for each in checkup["checks"])


async def test_completeness_is_proven_with_the_filters_of_the_app_that_serves(
    shop: dict[str, HttpClient], database: str
) -> None:
    """I1, I5: as `processor verify --app` finds; effects by the name of a table, never by SQL."""
    effects = {"table": "public.sale", "column": "workflow_id"}
    whole = await shop["on-call"].post("/admin/verify", json={"finished": True, "effects": effects})
    await fetch(database, "DELETE FROM dbos.workflow_status WHERE kafka_offset = 4")
    await fetch(database, "INSERT INTO sale SELECT * FROM sale WHERE workflow_id = 'orders-0-3'")
    lacking = (await shop["on-call"].post("/admin/verify", json={"effects": effects})).json()
    below = (await shop["on-call"].post("/admin/verify", json={"partitions": ["orders-0"], "end": "4"})).json()
    refused = [
        (await shop[who].post("/admin/verify", json=body)).status
        for who, body in (
            ("looker", {}),
            ("on-call", {"partitions": ["orders-7"]}),
            ("on-call", {"start": "yesterday"}),
            ("on-call", {"effects": {"table": "sale; DELETE FROM sale", "column": "workflow_id"}}),
            ("on-call", {"effects": {"table": "sales", "column": "workflow_id"}}),
        )
    ]

    assert whole.status == 200, whole.body
    proof = whole.json()
    assert (proof["is_proven"], proof["effects"]) == (True, [])
    [partition] = proof["partitions"]
    assert {name: count for name, count in partition["counts"].items() if count} == {
        "records": 8,
        "succeeded": 7,
        "filtered": 1,
    }
    assert (lacking["is_proven"], lacking["partitions"][0]["is_proven"]) == (False, False)
    assert [(each["kind"], each["examples"]) for each in lacking["partitions"][0]["findings"]] == [("lost", ["4"])]
    assert {each["kind"]: each["examples"] for each in lacking["effects"]} == {
        "doubled effect": ["orders-0-3 (2)"],
        "orphaned effect": ["orders-0-4 (1)"],
    }
    assert (below["is_proven"], below["partitions"][0]["end"]) == (True, 4)
    assert refused == [403, 409, 422, 422, 409]


@pytest.fixture
async def bench(database: str) -> AsyncGenerator[Bench]:
    quiet = EngineSettings(conninfo=database, scan=timedelta(hours=1))
    async with Bench(app, database, settings=quiet) as bench:
        yield bench


async def test_executors_are_shown_and_one_whose_lease_is_over_is_ended(bench: Bench) -> None:
    """P2: a live one is not ended from here."""
    who = {name: bench.http(settings=SETTINGS).with_headers(authorization=f"Bearer {TOKENS[name]}") for name in TOKENS}
    own = bench.engine.executor_id
    await bench.execute(
        """INSERT INTO dbos.executor (executor_id, name, hostname, pid, started_at, renewed_at, lease_until)
           VALUES ('gone', 'worker-7', 'node-1', 7, 1, 1, 2)"""
    )

    listed = {each["executor_id"]: each for each in (await who["looker"].get("/admin/executors")).json()}
    lives = await who["on-call"].post(f"/admin/executors/{own}/end", json={"note": "x"})
    ended = await who["on-call"].post("/admin/executors/gone/end", json={"note": "node-1 burnt"})
    twice = await who["on-call"].post("/admin/executors/gone/end", json={"note": "x"})
    nobody = await who["looker"].post("/admin/executors/gone/end", json={"note": "x"})
    every = (await who["looker"].get("/admin/executors?all=true")).json()

    assert (listed[own]["state"], listed["gone"]["state"], listed["gone"]["host"]) == ("live", "silent", "node-1")
    assert (lives.status, ended.json(), twice.status, nobody.status) == (409, {"done": True}, 409, 403)
    assert "gone" in {each["executor_id"] for each in every}
    acts = (await who["boss"].get("/admin/audit")).json()
    assert [(each["actor"], each["action"], each["subject"]) for each in acts] == [
        ("http:on-call", "end executor", "gone")
    ]


async def test_a_program_without_settings_says_so(bench: Bench) -> None:
    client = bench.http(settings=SETTINGS).with_headers(authorization=f"Bearer {TOKENS['boss']}")

    answers = [await client.get(f"/admin/{what}") for what in ("lag", "doctor", "payloads")]

    assert {answer.status for answer in answers} == {409}


async def test_keys_of_payloads_are_counted_and_everything_sealed_with_that_of_today(database: str) -> None:
    """Decision 0012: who asked is recorded before it begins; without a key that seals it is refused."""
    async with Bench(app, database) as bench:
        bench.settings = replace(bench.settings, payload_keys=PayloadKeys({"old": OLD}, "old"))
        await bench.restart()
        await (await place.start(CANARY, id="w")).result()
    keys: dict[str, Any] = {"keys": {"old": b64encode(OLD).decode(), "new": b64encode(NEW).decode()}, "key": "new"}

    def site(payloads: dict[str, Any]) -> dict[str, HttpClient]:
        settings = Settings.model_validate({"postgres": {"dsn": database}, "payloads": payloads})
        told: list[object] = []
        return clients(Site(app, no_engine, SETTINGS, tell=told.append, of_process=settings))

    who = site(keys)
    before = (await who["on-call"].get("/admin/payloads")).json()
    refused = await who["on-call"].post("/admin/payloads/rotate", json={})
    done = await who["boss"].post("/admin/payloads/rotate", json={})
    after = (await who["on-call"].get("/admin/payloads")).json()
    plain = await who["boss"].post("/admin/payloads/rotate", json={"plain": True})
    keyless = await site({"keys": keys["keys"]})["boss"].post("/admin/payloads/rotate", json={})

    assert {each["key"] for each in before if each["key"]} == {"old"}
    assert (refused.status, done.status, plain.status, keyless.status) == (403, 200, 409, 409)
    assert done.json() == {"values": sum(each["values"] for each in before if each["key"]), "unreadable": 0, "why": []}
    assert {(each["key"], each["is_configured"]) for each in after if each["key"]} == {("new", True)}
    assert await fetch(database, "SELECT actor, action FROM dbos.audit WHERE subject = 'new'") == [
        ("http:boss", "seal payloads anew")
    ]
