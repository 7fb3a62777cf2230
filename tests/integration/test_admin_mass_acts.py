"""Acts on many by HTTP, and another payload for a dead letter: said before they are done, by roles, each in the audit (I2, P18)."""

from base64 import b64encode
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import BaseModel

from processor import App, TerminalError, Topic
from processor.config_web import WebSettings
from processor.testing import Bench
from processor.testing.http import HttpClient
from tests.integration.protocol import FAST, until

TOKENS = {name: name.ljust(32, "-") for name in ("looker", "on-call", "boss")}
SETTINGS = WebSettings.model_validate(
    {"tokens": TOKENS, "access": {"looker": "viewer", "on-call": "operator", "boss": "admin"}}
)


class Order(BaseModel):
    order_id: str
    amount: int


orders = Topic("orders", Order, key=lambda order: order.order_id)
app = App("shop")
ran: list[int] = []
breaks: list[bool] = []


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    if order.amount < 0:
        raise TerminalError("nothing to charge")
    ran.append(order.amount)


@app.workflow(version="1")
async def place(order_id: str) -> str:
    if breaks:
        raise TerminalError(f"no {order_id}")
    return order_id


@pytest.fixture
async def bench(database: str) -> AsyncGenerator[Bench]:
    ran.clear()
    breaks.clear()
    async with Bench(app, database, settings=FAST) as bench:
        yield bench


def client(bench: Bench, who: str) -> HttpClient:
    return bench.http(settings=SETTINGS).with_headers(authorization=f"Bearer {TOKENS[who]}")


async def audited(bench: Bench) -> list[tuple[Any, ...]]:
    return await bench.fetch_all("SELECT actor, action, subject FROM dbos.audit ORDER BY audit_id")


async def test_workflows_of_a_filter_are_acted_on_when_yes_is_said(bench: Bench) -> None:
    """The oldest first, at most so many; one that is refused says why, and the others are done."""
    breaks.append(True)
    for number in range(4):
        with pytest.raises(TerminalError):
            await (await place.start(f"o-{number}", id=f"w-{number}")).result()
    breaks.clear()
    operator, boss = client(bench, "on-call"), client(bench, "boss")
    failed = {"which": {"name": "place", "prefix": "w-"}, "note": "the gateway is back"}

    planned = (await operator.post("/admin/workflows/resume", json=failed | {"limit": 2})).json()
    done = (await operator.post("/admin/workflows/resume", json=failed | {"limit": 2, "yes": True})).json()
    assert [await place.retrieve(f"w-{number}").result() for number in range(2)] == ["o-0", "o-1"]
    named = {"which": {"ids": ["w-0", "w-2", "w-9"]}, "note": "x", "yes": True}
    some = (await operator.post("/admin/workflows/resume", json=named)).json()
    anew = (await operator.post("/admin/workflows/restart", json=named | {"which": {"ids": ["w-3"]}})).json()
    not_theirs = await operator.post("/admin/workflows/delete", json=failed)
    await place.retrieve(anew["new_ids"]["w-3"]).result()
    gone = (
        await boss.post("/admin/workflows/delete", json=failed | {"which": {"status": ["ERROR"]}, "yes": True})
    ).json()

    assert (planned["done"], planned["ids"], planned["refused"]) == (False, ["w-0", "w-1"], [])
    assert (done["done"], done["ids"]) == (True, ["w-0", "w-1"])
    assert (some["ids"], [(each["id"], each["why"]) for each in some["refused"]]) == (
        ["w-2"],
        [("w-0", "it has succeeded: fork or restart it"), ("w-9", "there is no such workflow")],
    )
    assert (not_theirs.status, gone["ids"]) == (403, ["w-3"])
    assert [row[:2] for row in await audited(bench)] == [
        *[("http:on-call", "resume workflow")] * 3,
        ("http:on-call", "restart workflow"),
        ("http:boss", "delete workflow"),
    ]


@pytest.mark.parametrize("which", [{}, {"ids": ["w"], "name": "place"}, {"ids": ["w"] * 1_001}, {"status": ["GONE"]}])
async def test_what_does_not_say_whom_it_means_is_refused(bench: Bench, which: dict[str, Any]) -> None:
    """An empty filter is a mistake, not everybody."""
    answer = await client(bench, "on-call").post("/admin/workflows/cancel", json={"which": which, "note": "x"})
    without_note = await client(bench, "on-call").post("/admin/workflows/cancel", json={"which": {"every": True}})

    assert (answer.status, without_note.status) == (422, 422)


@pytest.mark.parametrize(
    "path, body, field",
    [
        ("/admin/workflows/resume", {"which": {"name": "place", "statu": ["ERROR"]}, "yes": True}, "body.which.statu"),
        ("/admin/workflows/delete", {"which": {"every": True}, "yes": True, "dry_run": True}, "body.dry_run"),
        ("/admin/dead-letters/retry", {"which": {"every": True, "topc": "x"}, "yes": True}, "body.which.topc"),
        ("/admin/dead-letters/1/edit", {"value": "{}", "dryrun": True}, "body.dryrun"),
    ],
)
async def test_a_misspelt_name_does_not_widen_an_act(bench: Bench, path: str, body: dict[str, Any], field: str) -> None:
    """I2: it is refused, by its name, and nothing is done."""
    await bench.deliver(orders, Order(order_id="o-1", amount=-1))
    await bench.settle()

    answer = await client(bench, "boss").post(path, json=body | {"note": "x"})

    assert (answer.status, [each["field"] for each in answer.json()["errors"]]) == (422, [field])
    assert await audited(bench) == []


async def test_dead_letters_are_retried_discarded_and_edited(bench: Bench) -> None:
    """I2, P18: the letter keeps what came; the workflow runs under its ID with the new payload, which its handler's type has checked."""
    for number in range(4):
        await bench.deliver(orders, Order(order_id=f"o-{number}", amount=-1))
    await bench.settle()
    operator, boss = client(bench, "on-call"), client(bench, "boss")
    known = {"which": {"handler": "fulfil"}, "note": "known"}
    mended = '{"order_id": "o-0", "amount": 7}'
    edit = "/admin/dead-letters/1/edit"

    planned = (await operator.post("/admin/dead-letters/retry", json=known | {"limit": 3})).json()
    hidden = await operator.post(edit, json={"value": mended, "note": "a typo"})
    wrong = [
        (await boss.post(edit, json=body | {"note": "a typo"})).status
        for body in (
            {},
            {"value": mended, "tombstone": True},
            {"value": '{"order_id": "o-0"}'},
            {"value_base64": "?"},
            {"value": '{"order_id":"o-0","amount":-1}'},
        )
    ]
    silent = await boss.post(edit, json={"value": mended, "note": " "})
    dry = (await boss.post(edit, json={"value": mended, "note": "a typo", "dry_run": True})).json()
    still = await bench.fetch_all("SELECT DISTINCT state FROM dbos.dead_letter")
    done = (await boss.post(edit, json={"value_base64": b64encode(mended.encode()).decode(), "note": "a typo"})).json()
    await until(lambda: ran == [7])
    await bench.settle()
    twice = await boss.post(edit, json={"value": mended, "note": "a typo"})
    gone = (await boss.post("/admin/dead-letters/discard", json=known | {"yes": True, "limit": 1})).json()
    all_or_none = await operator.post(
        "/admin/dead-letters/retry", json={"which": {"ids": [2, 3]}, "note": "x", "yes": True}
    )
    rest = (
        await operator.post("/admin/dead-letters/retry", json={"which": {"every": True}, "note": "x", "yes": True})
    ).json()

    assert (planned["done"], planned["ids"]) == (False, ["1", "2", "3"])
    assert (hidden.status, wrong, silent.status) == (403, [422, 422, 409, 422, 409], 422)
    assert (dry, still) == ({"done": False, "workflow_id": "orders-0-0", "steps": 0}, [("OPEN",)])
    assert (done["done"], twice.status, gone["ids"], all_or_none.status, rest["ids"]) == (
        True,
        409,
        ["2"],
        409,
        ["3", "4"],
    )
    assert (await audited(bench))[:2] == [
        ("http:boss", "edit dead letter", "1"),
        ("http:boss", "discard dead letter", "2"),
    ]
