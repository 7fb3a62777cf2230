"""What operators do from the command line: dead letters and partitions, on a real database."""

import asyncio
import json
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from processor import App, BlockKey, TerminalError, Topic
from processor.cli import DONE, MISTAKE
from processor.testing import Bench
from tests.integration.conftest import Command


class Order(BaseModel):
    order_id: str


class Shop:
    """An app whose orders fail until they are mended."""

    def __init__(self) -> None:
        self.is_mended = False
        self.done: list[str] = []
        self.orders = Topic("orders", Order, key=lambda order: order.order_id[0], headers=("trace", "note", "none"))
        self.app = App("shop")

        @self.app.workflow(on=self.orders, on_failure=BlockKey())
        async def fulfil(order: Order) -> None:
            if not self.is_mended and order.order_id.startswith("bad"):
                raise TerminalError(f"order {order.order_id} cannot be fulfilled")
            self.done.append(order.order_id)


async def test_a_dead_letter_is_listed_shown_and_retried(database: str, command: Command) -> None:
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.orders, Order(order_id="bad-1"))
        await bench.deliver(shop.orders, b"no json", key=b"x")
        await bench.settle()

        _, table, _ = await command("dead-letters", "list")
        _, lines, _ = await command("dead-letters", "list", "--reason", "undecodable", "--json")
        undecodable = json.loads(lines)
        _, shown, _ = await command("dead-letters", "show", str(undecodable["id"]))
        shop.is_mended = True
        code, said, _ = await command("dead-letters", "retry", "--reason", "failed", "--actor", "ann")
        await bench.settle()
        again, _, refused = await command("dead-letters", "retry", "1")
        gone, _, _ = await command("dead-letters", "discard", str(undecodable["id"]), "--note", "never valid")
        _, left, _ = await command("dead-letters", "list")
        acts = await bench.fetch_all("SELECT actor, action FROM dbos.audit ORDER BY 1")

    assert "orders-0-0" in table
    assert "TerminalError: order bad-1 cannot be fulfilled" in table
    assert json.loads(shown)["record_value"] == "no json"
    assert (code, said) == (DONE, "1 back to work\n")
    assert shop.done == ["bad-1"]
    assert (again, "RETRIED already" in refused) == (MISTAKE, True)
    assert (gone, left) == (DONE, "no dead letters\n")
    assert ("ann", "retry dead letter") in acts


async def test_bytes_that_are_no_text_are_shown_as_base64_and_cannot_be_taken_for_text(
    database: str, command: Command
) -> None:
    """As they are stored elsewhere: `{"base64": …}`, which no text is shown as."""
    shop = Shop()
    text = '{"base64": "/w=="}'
    headers = (("trace", b"\xff\xfe"), ("note", b"as text"), ("none", None))
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.orders, b"\xff no json", key=b"\xff", headers=headers)
        await bench.deliver(shop.orders, text.encode() + b"}", key=text.encode())
        await bench.settle()

        shown = [json.loads((await command("dead-letters", "show", number))[1]) for number in ("1", "2")]

    assert [(each["record_key"], each["record_value"]) for each in shown] == [
        ({"base64": "/w=="}, {"base64": "/yBubyBqc29u"}),
        (text, text + "}"),
    ]
    assert shown[0]["record_headers"] == [["trace", {"base64": "//4="}], ["note", "as text"], ["none", None]]


async def test_acting_on_everything_has_to_be_said(command: Command) -> None:
    for act in (("retry",), ("discard", "--note", "x"), ("retry", "1", "--all")):
        code, _, errors = await command("dead-letters", *act)

        assert code == MISTAKE
        assert "--all" in errors or "not both" in errors


async def test_a_discard_says_why_and_a_page_has_a_size(command: Command) -> None:
    for act, problem in (
        (("discard", "1", "--note", " "), "--note is empty"),
        (("list", "--limit", "0"), "1 to 1000"),
        (("list", "--limit", "5000"), "1 to 1000"),
    ):
        code, _, errors = await command("dead-letters", *act)

        assert code == MISTAKE
        assert problem in errors


async def test_partitions_show_progress_and_what_holds_them(database: str, command: Command) -> None:
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.orders, Order(order_id="bad-1"))
        await bench.deliver(shop.orders, Order(order_id="bad-2"))
        await bench.settle()

        _, table, _ = await command("partitions", "list")
        _, lines, _ = await command("partitions", "list", "--group", "shop", "--json")
        code, said, _ = await command("partitions", "release", "orders-0", "--group", "shop")
        unknown, _, errors = await command("partitions", "release", "orders-9", "--group", "shop")

    (partition,) = [json.loads(line) for line in lines.splitlines()]
    assert (partition["partition"], partition["handler"], partition["dead_letters"]) == ("orders-0", "fulfil", 1)
    assert partition["holds"][0].startswith("block")
    assert "orders-0" in table
    assert (code, said) == (DONE, "orders-0: 1 holds lifted\n")
    assert (unknown, "no partition 'orders-9'" in errors) == (MISTAKE, True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_release_is_recorded_with_who_and_why(database: str, command: Command) -> None:
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.orders, Order(order_id="bad-1"))
        await bench.settle()

        await command("partitions", "release", "orders-0", "--group", "shop", "--actor", "ann", "--note", "mended")
        await command("partitions", "release", "orders-0", "--group", "shop", "--actor", "bob")
        acts = await bench.fetch_all("SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit")

    ((actor, action, subject, detail),) = acts
    assert (actor, action, subject) == ("ann", "release", "shop|orders-0")
    assert detail.startswith("1 holds: block: ")
    assert detail.endswith("; mended")


async def test_a_paused_partition_stands_still_until_it_is_resumed(database: str, command: Command) -> None:
    shop = Shop()
    place = ("orders-0", "--group", "shop")
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.orders, Order(order_id="a"))
        await bench.settle()
        source = bench.source(shop.orders)

        paused, said, _ = await command("partitions", "pause", *place, "--note", "a look at it", "--actor", "ann")
        await until(lambda: source.is_gone)
        twice = await command("partitions", "pause", *place, "--note", "again")
        await bench.deliver(shop.orders, Order(order_id="b"))
        _, lines, _ = await command("partitions", "list", "--json")
        done_while_paused = list(shop.done)
        resumed = await command("partitions", "resume", *place)
        await until(lambda: "b" in shop.done)
        await bench.settle()
        again = await command("partitions", "resume", *place)
        acts = await bench.fetch_all("SELECT actor, action FROM dbos.audit ORDER BY audit_id LIMIT 1")
        unknown = await command("partitions", "pause", "orders-9", "--group", "shop", "--note", "x")

    assert (paused, said) == (DONE, "orders-0: paused\n")
    assert twice[:2] == (DONE, "orders-0: is paused already\n")
    assert json.loads(lines)["holds"] == ["pause: a look at it"]
    assert done_while_paused == ["a"]
    assert shop.done == ["a", "b"]
    assert resumed[:2] == (DONE, "orders-0: resumed\n")
    assert again[:2] == (DONE, "orders-0: was not paused\n")
    assert acts == [("ann", "pause")]
    assert (unknown[0], "no partition 'orders-9'" in unknown[2]) == (MISTAKE, True)


async def test_resuming_lifts_no_other_hold(database: str, command: Command) -> None:
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.orders, Order(order_id="bad-1"))
        await bench.settle()

        resumed = await command("partitions", "resume", "orders-0", "--group", "shop")
        holds = await bench.fetch_all("SELECT kind FROM dbos.hold")

    assert resumed[:2] == (DONE, "orders-0: was not paused\n")
    assert holds == [("block",)]


async def test_a_database_without_our_tables_says_what_to_run(
    empty_database: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", empty_database)

    code, _, errors = await command("partitions", "list")

    assert code == MISTAKE
    assert "processor migrate" in errors
