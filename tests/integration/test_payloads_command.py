"""`processor payloads` and `dead-letters` over sealed rows, as operators meet them."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from engine.payloads import PayloadKeys
from processor import TerminalError
from processor.cli import DONE, FAILED, MISTAKE, main
from processor.testing import Bench
from tests.integration.protocol import FAST, Order, Shop

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
TEXTS = {"old": b64encode(OLD).decode(), "new": b64encode(NEW).decode()}

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shop(database: str) -> str:
    """A database with a workflow that ended well and one that was buried, sealed with the key 'old'."""

    async def fill() -> None:
        shop = Shop()
        shop.error = TerminalError
        shop.fails["first 1"] = 1
        settings = replace(FAST, payload_keys=PayloadKeys({"old": OLD}, "old"))
        async with Bench(shop.app, database, settings=settings) as bench:
            for n in range(2):
                await bench.deliver(shop.topic, Order(key=f"secret{n}", n=n))
            await bench.settle()

    asyncio.run(fill())
    return database


@pytest.fixture
def say(shop: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command with some keys; returns exit code, output and errors."""

    def run(*words: str, keys: tuple[str, ...] = (), key: str = "") -> tuple[int, str, str]:
        monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", shop)
        monkeypatch.setenv("PROCESSOR_PAYLOADS_KEYS", json.dumps({name: TEXTS[name] for name in keys}))
        monkeypatch.setenv("PROCESSOR_PAYLOADS_KEY", key)
        code = main(words)
        told = capsys.readouterr()
        assert not any(text in told.out + told.err for text in TEXTS.values())
        return code, told.out, told.err

    return run


def test_a_key_is_rotated(say: Say, shop: str) -> None:
    """The guide's way: list, rotate, list, take the old key away."""
    code, out, _ = say("payloads", "list", "--json", keys=("old", "new"), key="new")
    assert code == DONE
    assert {(row["key"], row["configured"]) for row in map(json.loads, out.splitlines())} == {("old", "yes")}

    code, out, err = say("payloads", "rotate", "--actor", "ada", keys=("old", "new"), key="new")
    assert (code, err) == (DONE, "")
    assert out.endswith("values sealed with key 'new'\n")

    _, out, _ = say("payloads", "list", keys=("new",), key="new")
    assert "old" not in out
    assert "new" in out
    assert say("payloads", "rotate", keys=("new",), key="new")[1] == "0 values sealed with key 'new'\n"
    _, out, _ = say("payloads", "rotate", "--json", keys=("new",), key="new")
    assert json.loads(out) == {"values": 0, "key": "new", "unreadable": 0}
    with psycopg.connect(shop) as connection:
        first = connection.execute("SELECT actor, action, subject FROM dbos.audit ORDER BY audit_id").fetchone()
        assert first == ("ada", "seal payloads anew", "new")


def test_what_cannot_be_opened_is_said_and_left(say: Say) -> None:
    code, out, err = say("payloads", "rotate", keys=("new",), key="new")

    assert code == FAILED
    assert out == "0 values sealed with key 'new'\n"
    assert "is sealed with key 'old', which is not among those configured (new)" in err
    assert "values cannot be opened and were left as they are" in err
    code, out, _ = say("payloads", "rotate", "--json", keys=("new",), key="new")
    assert (code, json.loads(out)["unreadable"] > 0) == (FAILED, True)
    assert "NO" in say("payloads", "list", keys=("new",), key="new")[1]


def test_payloads_are_made_readable_again(say: Say, shop: str) -> None:
    assert say("payloads", "rotate", keys=("old",))[0] == MISTAKE, "no key to seal with"
    code, _, err = say("payloads", "rotate", "--plain", keys=("old",), key="old")
    assert code == MISTAKE
    assert "payloads.key is set" in err

    assert say("payloads", "rotate", "--plain", keys=("old",))[0] == DONE

    with psycopg.connect(shop) as connection:
        rows = connection.execute("SELECT inputs, request FROM dbos.workflow_status ORDER BY 1").fetchall()
    assert rows[0][0] == '{"args": [{"key":"secret0","n":0}], "kwargs": {}}'
    assert json.loads(rows[0][1])["key"] == "secret0"


def test_dead_letters_are_read_with_the_key_and_listed_without(say: Say) -> None:
    code, out, _ = say("dead-letters", "show", "1", keys=("old",))
    assert code == DONE
    shown = json.loads(out)
    assert shown["record_value"] == '{"key":"secret1","n":1}'
    assert shown["record_key"] == "secret1"
    assert shown["error"] == "TerminalError: first 1"

    code, out, err = say("dead-letters", "show", "1")
    assert (code, out) == (MISTAKE, "")
    assert "dead letter 1: error is sealed with key 'old', which is not among those configured (none)" in err

    code, out, _ = say("dead-letters", "list", "--json")
    assert code == DONE
    (row,) = map(json.loads, out.splitlines())
    assert row["workflow"] == "orders-0-1"
    assert "is sealed with key 'old'" in row["error"]
