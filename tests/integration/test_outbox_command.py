"""`processor outbox`, `processor relay`, and publishing under `run` and `dev`, as their users meet them."""

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest

from tests.fixtures.kafka import Kafka, unique
from tests.integration.commands import command, fetch, produce, running, wait_for
from tests.integration.relaying import Outbox, values

SHOP = """
from pydantic import BaseModel

from processor import App, DeadLetter, Topic, Transaction


class Order(BaseModel):
    order_id: str


app = App("shop")
shipments = Topic("SHIPMENTS", Order, key=lambda order: order.order_id)


@app.transaction(on=Topic("ORDERS", Order), on_failure=DeadLetter(topic="DEAD"))
async def ship(tx: Transaction, order: Order) -> None:
    if order.order_id == "broken":
        raise ValueError("broken")
    await tx.publish(shipments, order)
"""


@pytest.fixture
def outbox(database: str) -> Outbox:
    return asyncio.run(Outbox(database).named_anew())


def shop(project: Path, **names: str) -> Path:
    """An app with topics of these names."""
    text = SHOP
    for placeholder, name in names.items():
        text = text.replace(placeholder, name)
    (project / "shop.py").write_text(text)
    return project


def test_what_waits_is_shown_and_discarded_with_a_reason(tmp_path: Path, outbox: Outbox) -> None:
    env = {"PROCESSOR_POSTGRES_DSN": outbox.dsn}
    asyncio.run(outbox.publish("a", "\x00", topic="shipments", key="ü"))
    asyncio.run(outbox.publish("b", topic="refunds", key=None))

    status = command(tmp_path, "outbox", "status", env=env)
    assert "relayed by nobody: start `processor run` or `processor relay`" in status.stdout
    assert "waiting    3, since 2" in status.stdout
    listed = command(tmp_path, "outbox", "list", "--topic", "shipments", "--json", env=env)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["topic"], row["key"], row["value"], row["headers"]) for row in rows] == [
        ("shipments", "ü", "a", []),
        ("shipments", "ü", "\x00", []),
    ]
    assert "refunds" in command(tmp_path, "outbox", "list", env=env).stdout

    asyncio.run(outbox.publish_bytes(b"\xff", topic="pictures", key=b"\xfe", headers=(("trace", b"\xfd"), ("n", b"1"))))
    (picture,) = command(tmp_path, "outbox", "list", "--topic", "pictures", "--json", env=env).stdout.splitlines()
    assert {name: json.loads(picture)[name] for name in ("key", "value", "headers")} == {
        "key": {"base64": "/g=="},
        "value": {"base64": "/w=="},
        "headers": [["trace", {"base64": "/Q=="}], ["n", "1"]],
    }
    assert '{"base64": "/w=="}' in command(tmp_path, "outbox", "list", "--topic", "pictures", env=env).stdout
    fetch(outbox.dsn, "DELETE FROM dbos.outbox WHERE topic = 'pictures'")

    first, second = (str(row["id"]) for row in rows)
    refused = command(tmp_path, "outbox", "discard", first, "999", "--note", "n", env=env)
    assert refused.returncode == 2
    assert "event 999 does not wait" in refused.stderr
    assert command(tmp_path, "outbox", "discard", first, env=env).returncode == 2, "without a note"
    done = command(tmp_path, "outbox", "discard", first, second, "--note", "test data", "--actor", "ada", env=env)
    assert done.stdout == "2 events discarded\n"
    state = json.loads(command(tmp_path, "outbox", "status", "--json", env=env).stdout)
    assert (state["waiting"], state["executor"], state["batch"]) == (1, None, 0)
    assert fetch(outbox.dsn, "SELECT actor, action, subject FROM dbos.audit ORDER BY audit_id DESC LIMIT 1") == [
        ("ada", "discard event", second)
    ]


def test_a_relay_that_is_not_halted_is_not_resumed_and_a_copy_gets_a_name(tmp_path: Path, outbox: Outbox) -> None:
    env = {"PROCESSOR_POSTGRES_DSN": outbox.dsn}
    refused = command(tmp_path, "outbox", "resume", "--note", "n", env=env)
    assert (refused.returncode, refused.stderr) == (2, "processor: the relay is not halted\n")

    former = asyncio.run(outbox.state()).name
    renamed = command(tmp_path, "outbox", "rename", "--note", "copied for staging", env=env)

    assert renamed.stdout == f"the outbox is {asyncio.run(outbox.state()).name} now\n"
    assert former not in renamed.stdout


@pytest.mark.kafka
def test_relay_runs_alone_halts_visibly_and_goes_on_when_it_is_resumed(
    tmp_path: Path, kafka: Kafka, outbox: Outbox
) -> None:
    """I9: it knows no app; a halt is no reason to restart it or to take it out of service. It serves no HTTP, whatever
    the settings say for those who run the app: at that address nobody could."""
    topic = unique("events")
    kafka.create_topic(topic)
    env = {
        "PROCESSOR_POSTGRES_DSN": outbox.dsn,
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PROCESSOR_HTTP_HOST": "127.0.0.1",
        "PROCESSOR_HTTP_PORT": "0",
        "PROCESSOR_WEB_ENABLED": "true",
        "PROCESSOR_WEB_HOST": "192.0.2.1",
    }
    asyncio.run(outbox.publish("a", topic=topic))
    with running(tmp_path, "relay", env=env) as program:
        port = program.until(r'"port": (\d+)')[1]
        program.until(r'"event": "relay claimed"')
        asyncio.run(outbox.emptied())
        assert program.end() == 0, program.lines
    assert "relayed by nobody" in command(tmp_path, "outbox", "status", env=env).stdout

    fetch(outbox.dsn, "UPDATE dbos.outbox_relay SET number = 0, token = NULL")
    asyncio.run(outbox.publish("b", topic=topic))
    with running(tmp_path, "relay", env=env) as program:
        port = program.until(r'"port": (\d+)')[1]
        program.until(r'"event": "relay halted", "reason": "Kafka has batch 1')
        for path in ("livez", "readyz"):
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30).status == 200
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
        assert "processor_relay_halts_total 1.0" in metrics
        assert "processor_relay_active 1.0" in metrics
        assert "halted     Kafka has batch 1" in command(tmp_path, "outbox", "status", env=env).stdout

        resumed = command(tmp_path, "outbox", "resume", "--note", "on purpose", env=env)
        assert resumed.stdout.startswith("resumed; it had halted because Kafka has batch 1")
        asyncio.run(outbox.emptied())
        assert program.end() == 0, program.lines

    assert values(kafka.bootstrap_servers, topic) == ["a", "b"]


@pytest.mark.kafka
def test_run_relays_what_its_handlers_publish(tmp_path: Path, kafka: Kafka, outbox: Outbox) -> None:
    names = {name: unique(name.lower()) for name in ("ORDERS", "SHIPMENTS", "DEAD")}
    project = shop(tmp_path, **names)
    env = {
        "PROCESSOR_POSTGRES_DSN": outbox.dsn,
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PROCESSOR_KAFKA_GROUP": names["ORDERS"],
        "PROCESSOR_HTTP_ENABLED": "false",
    }
    kafka.create_topic(names["ORDERS"])
    kafka.create_topic(names["SHIPMENTS"])
    refused = command(project, "run", "shop:app", env=env)
    assert refused.returncode == 2
    assert f"topics ['{names['DEAD']}'] do not exist" in refused.stderr

    kafka.create_topic(names["DEAD"])
    with running(project, "run", "shop:app", env=env) as program:
        produce(kafka.bootstrap_servers, {"order_id": "o-1"}, {"order_id": "broken"}, topic=names["ORDERS"])
        wait_for(outbox.dsn, "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('SUCCESS', 'ERROR')", 2)
        asyncio.run(outbox.emptied())
        assert program.end() == 0, program.lines

    assert values(kafka.bootstrap_servers, names["SHIPMENTS"]) == ['{"order_id":"o-1"}']
    assert values(kafka.bootstrap_servers, names["DEAD"]) == ['{"order_id": "broken"}']


def test_dev_makes_the_topics_that_are_published_to(tmp_path: Path) -> None:
    """Its broker is the pretend one: what it does not know of transactions, a reader of that broker does not miss."""
    project = shop(tmp_path, ORDERS="orders", SHIPMENTS="shipments", DEAD="orders.dead")
    with running(project, "dev", "shop:app", env={"PROCESSOR_HTTP_PORT": "0"}) as program:
        broker = program.until(r"Kafka +(\S+)")[1]
        dsn = program.until(r'psql "([^"]+)"')[1]
        produce(broker, {"order_id": "o-1"}, {"order_id": "broken"})
        wait_for(dsn, "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('SUCCESS', 'ERROR')", 2)
        asyncio.run(Outbox(dsn).emptied())
        shipped, dead = values(broker, "shipments"), values(broker, "orders.dead")
        code = program.end()

    assert code == 0, program.lines
    assert (shipped, dead) == (['{"order_id":"o-1"}'], ['{"order_id": "broken"}'])
