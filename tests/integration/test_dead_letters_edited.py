"""`processor dead-letters edit`, and bulk retries and discards (P18, I2, I4)."""

import json
from base64 import b64encode
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from engine.payloads import PayloadKeys
from engine.settings import EngineSettings
from processor import App, TerminalError, Topic
from processor.cli import DONE, FAILED, MISTAKE
from processor.cli import dead_letters as acts
from processor.cli.progress_bar import ProgressBar
from processor.testing import Bench
from tests.integration.conftest import Command
from tests.integration.protocol import FAST, until


class Order(BaseModel):
    order_id: str
    amount: int


orders = Topic("orders", Order, key=lambda order: order.order_id, order_by=lambda order: order.order_id)
app = App("shop")
ran: list[int] = []


@app.step()
async def reserve(order: Order) -> str:
    return order.order_id


@app.step()
async def charge(order: Order) -> None:
    if order.amount < 0:
        raise TerminalError("nothing to charge")
    ran.append(order.amount)


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    if order.amount > 100:
        await reserve(order)
        raise TerminalError("too much")
    await charge(order)


other = App("other")

KEY = bytes(range(32))
APP = ("--app", f"{__name__}:app")
WHY = ("--note", "a typo", "--actor", "ada")


@pytest.fixture
async def bench(database: str) -> AsyncGenerator[Bench]:
    ran.clear()
    async with Bench(app, database, settings=FAST) as bench:
        yield bench


def order(amount: int) -> str:
    return Order(order_id="o", amount=amount).model_dump_json()


async def test_a_mended_payload_runs_under_the_same_id(bench: Bench, command: Command) -> None:
    """I2: the row has the new payload, the letter the record as it came; audited, and put back in one commit."""
    await bench.deliver(orders, b'{"order_id": "o", "amount": "many"}', key=b"o")
    await bench.deliver(orders, Order(order_id="o", amount=-1))
    await bench.settle()

    code, out, _ = await command("dead-letters", "edit", "1", "--value", order(7), *APP, *WHY, "--dry-run", "--json")
    assert (code, json.loads(out)["done"], json.loads(out)["after"]) == (DONE, False, order(7))
    assert await bench.fetch_all("SELECT state FROM dbos.dead_letter ORDER BY 1") == [("OPEN",), ("OPEN",)]
    code, out, _ = await command("dead-letters", "edit", "1", "--value", order(7), *APP, *WHY)
    assert (code, out) == (DONE, "orders-0-0 is back to work with the new payload\n")
    code, out, _ = await command("dead-letters", "edit", "2", "--value", order(8), *WHY)
    assert code == DONE
    await until(lambda: sorted(ran) == [7, 8])
    await bench.settle()

    letters = await bench.fetch_all("SELECT state, note, record_value FROM dbos.dead_letter ORDER BY dead_letter_id")
    assert letters[0] == ("RETRIED", "edited: a typo", b'{"order_id": "o", "amount": "many"}')
    keys = await bench.fetch_all("SELECT DISTINCT kafka_key FROM dbos.workflow_status")
    assert len(keys) == 1, "what its event says orders it, as it orders the others"
    assert await bench.fetch_all("SELECT actor, action, detail ->> 'detail' FROM dbos.audit ORDER BY audit_id") == [
        ("ada", "edit dead letter", "orders-0-0 edited: a typo"),
        ("ada", "edit dead letter", "orders-0-1 edited: a typo"),
    ]
    assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("SUCCESS",)]


async def test_what_does_not_fit_or_would_change_nothing_is_refused(
    bench: Bench, command: Command, tmp_path: Path
) -> None:
    """Nothing is changed, and the message says why."""
    await bench.deliver(orders, Order(order_id="o", amount=-1))
    await bench.settle()
    for arguments, message in [
        (("1", "--value", '{"order_id": "o"}', *APP), "nothing that handler 'fulfil' takes"),
        (("1", "--tombstone", *APP), "nothing that handler 'fulfil' takes"),
        (("1", "--value", order(-1)), "the payload is what it was"),
        (("9", "--value", order(1)), "dead letter 9 does not exist"),
        (("1", "--file", str(tmp_path / "none")), "No such file"),
        (("1", "--value", order(1), "--app", f"{__name__}:other"), "app 'other' has no handler 'fulfil' of records"),
    ]:
        code, _, err = await command("dead-letters", "edit", *arguments, *WHY)
        assert (code, message in err) == (MISTAKE, True), (arguments, err)
    code, _, err = await command("dead-letters", "edit", "1", "--value", order(1), "--note", " ")
    assert (code, "--note is empty" in err) == (MISTAKE, True)
    assert await bench.fetch_all("SELECT state FROM dbos.dead_letter") == [("OPEN",)]
    assert ran == []


async def test_steps_that_have_succeeded_stay_only_if_that_is_said(
    bench: Bench, command: Command, tmp_path: Path
) -> None:
    """I4: what they returned was of the former payload."""
    await bench.deliver(orders, Order(order_id="o", amount=101))
    await bench.settle()
    (tmp_path / "payload").write_text(order(5))
    edit = ("dead-letters", "edit", "1", "--file", str(tmp_path / "payload"), *APP, *WHY)

    code, _, err = await command(*edit)
    assert (code, "1 steps have succeeded with the payload as it was" in err) == (MISTAKE, True)
    assert (await command(*edit, "--keep-steps", "--dry-run"))[0] == DONE
    assert (await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs")) == [(1,)]


async def test_large_payloads_stand_where_large_ones_do(database: str, command: Command) -> None:
    """Where a row would be too large; and back again."""
    settings = EngineSettings(conninfo=database)
    large = json.dumps({"order_id": "o" * settings.inputs_inline_max, "amount": 3})
    ran.clear()
    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(order_id="o", amount=-1))
        await bench.deliver(orders, json.dumps({"order_id": "o" * 70_000, "amount": -1}).encode(), key=b"o")
        await bench.settle()
        assert (await command("dead-letters", "edit", "1", "--value", large, *APP, *WHY))[0] == DONE
        assert (await command("dead-letters", "edit", "2", "--value", order(4), *APP, *WHY))[0] == DONE
        await until(lambda: sorted(ran) == [3, 4])
        await bench.settle()
        found = await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_inputs")
    assert found == [("orders-0-0",)]


async def test_an_editor_is_given_the_payload(
    bench: Bench, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal; its exit code counts."""
    await bench.deliver(orders, Order(order_id="o", amount=-1))
    await bench.settle()
    code, _, err = await command("dead-letters", "edit", "1", *WHY)
    assert (code, "there is no terminal to edit on" in err) == (MISTAKE, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setenv("VISUAL", "false")
    code, _, err = await command("dead-letters", "edit", "1", *WHY)
    assert (code, "false: exit code 1" in err) == (MISTAKE, True)
    monkeypatch.setenv("VISUAL", "sed -i s/-1/6/")
    code, _, _ = await command("dead-letters", "edit", "1", *APP, *WHY)
    assert code == DONE
    await until(lambda: ran == [6])


async def test_those_of_a_filter_are_acted_on_in_portions_after_a_dry_run(
    bench: Bench, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that can be are done; those given by their IDs all or none."""
    monkeypatch.setattr(acts, "PORTION", 2)
    for n in range(5):
        await bench.deliver(orders, Order(order_id=f"o{n}", amount=-1))
    await bench.settle()
    await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE kafka_offset = 1")

    code, out, _ = await command("dead-letters", "list", "--group", "another", "--json")
    assert (code, out) == (DONE, "")
    code, _, _ = await command("dead-letters", "retry", "--group", "another", "--dry-run")
    assert code == DONE
    code, out, _ = await command("dead-letters", "retry", "--handler", "fulfil", "--dry-run", "--limit", "4")
    assert (code, out.splitlines()[-1], len(out.splitlines())) == (DONE, "4 would be back to work", 6)
    code, _, _ = await command("dead-letters", "retry", "1", "2")
    assert code == MISTAKE
    assert await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter WHERE state = 'OPEN'") == [(5,)]
    code, out, _ = await command("dead-letters", "retry", "--handler", "fulfil", "--json", "--limit", "4", *WHY)
    assert code == FAILED
    assert [(row["id"], row["done"]) for row in map(json.loads, out.splitlines())] == [
        *((1, True), (2, False), (3, True), (4, True)),
    ]
    code, out, _ = await command("dead-letters", "discard", "2", "5", "--note", "test data")
    assert (code, out) == (DONE, "2 discarded\n")


def test_a_progress_bar_is_one_line_on_a_terminal_and_nothing_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processor.cli.progress_bar.EVERY_S", 0)

    def shown(*, is_shown: bool | None) -> str:
        with ProgressBar("retry", 4, is_shown=is_shown) as bar:
            bar.advance(1)
            bar.advance(9)
        return capsys.readouterr().err

    assert shown(is_shown=None) == ""
    assert [line.strip() for line in shown(is_shown=True).replace("\x1b[K", "").split("\r") if line] == [
        "retry [######                  ]  25%  1 of 4",
        "retry [########################] 100%  4 of 4",
    ]


async def test_what_is_sealed_stays_sealed(database: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decision 0012: the new payload as well, and without a key to seal with nothing is written."""
    ran.clear()
    settings = replace(FAST, payload_keys=PayloadKeys({"old": KEY}, "old"))
    async with Bench(app, database, settings=settings) as bench:
        await bench.deliver(orders, Order(order_id="secret", amount=-1))
        await bench.settle()
        monkeypatch.setenv("PROCESSOR_PAYLOADS_KEYS", json.dumps({"old": b64encode(KEY).decode()}))
        edit = ("dead-letters", "edit", "1", "--value", '{"order_id": "secret", "amount": 9}', *APP, *WHY)
        code, _, err = await command(*edit)
        assert (code, "payloads.key names nothing to seal with" in err) == (MISTAKE, True)
        monkeypatch.setenv("PROCESSOR_PAYLOADS_KEY", "old")
        assert (await command(*edit))[0] == DONE
        await until(lambda: ran == [9])
        await bench.settle()
        ((row,),) = await bench.fetch_all("SELECT w::text FROM dbos.workflow_status AS w")
    assert "secret" not in row
