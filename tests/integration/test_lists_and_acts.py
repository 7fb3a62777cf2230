"""What every command for operators has: a table, JSON for programs, filters of its lists, and exit codes that are written down."""

import argparse
import json
from collections.abc import Generator
from typing import Any

import pytest
from psycopg import AsyncConnection
from pydantic import BaseModel

from consumers.mock import MockCluster
from processor import App, BlockKey, Cron, Queue, TerminalError, Tick, Topic
from processor.cli import DONE, MISTAKE, command_parser
from processor.testing import Bench
from tests.conformance.members import produce
from tests.integration.conftest import Command
from tests.integration.protocol import FAST
from tests.integration.relaying import Outbox

NOT_FOR_PROGRAMS = ("run", "migrate", "rollback", "check", "new", "dev", "demo", "relay", "completion")
"""What runs, makes or describes an app: logs are JSON anyway."""


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)
returns = Topic("returns", Order)
app = App("shop")
fast, slow = (app.register_queue(Queue(name)) for name in ("fast", "slow"))


@app.workflow(on=orders, on_failure=BlockKey())
async def fulfil(order: Order) -> None:
    if order.order_id == "bad":
        raise TerminalError("no")


@app.workflow(on=returns)
async def take_back(order: Order) -> None: ...


@app.workflow()
async def mail(to: str) -> None: ...


@app.workflow(on=Cron("0 3 * * *"))
async def close_day(tick: Tick) -> None: ...


@app.workflow(on=Cron("0 4 * * *"))
async def open_day(tick: Tick) -> None: ...


def shown(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


async def test_lists_are_filtered_and_acts_say_to_programs_what_they_did(
    database: str, command: Command, mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_cluster.create_topic("orders", 1)
    produce(mock_cluster.bootstrap_servers, "orders", ["{}"] * 5)
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", mock_cluster.bootstrap_servers)

    async def names(name: str, *arguments: str) -> list[str]:
        code, out, err = await command(arguments[0], "list", *arguments[1:], "--json")
        assert code == DONE, err
        return [each[name] for each in shown(out)]

    async def done(*arguments: str) -> dict[str, Any]:
        code, out, err = await command(*arguments, "--note", "x", "--json")
        assert code == DONE, err
        (facts,) = shown(out)
        return facts

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(order_id="bad"))
        await bench.deliver(returns, Order(order_id="o"))
        await bench.settle()
        assert await done("queues", "pause", "slow") == {"queue": "slow", "paused": True}
        await slow.enqueue(mail, "ada")

        assert {"fast", "slow"} < set(await names("queue", "queues"))
        assert await names("queue", "queues", "--queue", "fast") == ["fast"]
        assert await names("queue", "queues", "--waiting") == ["slow"]
        assert await done("queues", "resume", "slow") == {"queue": "slow", "paused": False}
        assert (await done("schedules", "pause", "close_day"))["paused"] is True
        assert await names("name", "schedules", "--state", "paused") == ["close_day"]
        assert await names("name", "schedules", "--name", "open_day") == ["open_day"]
        assert await names("partition", "partitions", "--topic", "returns") == ["returns-0"]
        assert await names("partition", "partitions", "--held") == ["orders-0"]
        own = bench.engine.executor_id
        assert await names("id", "executors", "--state", "live") == [own]
        assert await names("id", "executors", "--state", "dead") == []
        assert await names("id", "executors", "--host", "elsewhere") == []

        of = ("--group", "shop")
        where = {"group": "shop", "partition": "orders-0"}
        assert await done("partitions", "pause", "orders-0", *of) == where | {"done": True}
        assert await done("partitions", "pause", "orders-0", *of) == where | {"done": False}
        assert await done("partitions", "resume", "orders-0", *of) == where | {"done": True}
        assert await done("partitions", "release", "orders-0", *of) == where | {"done": True, "holds": 1}
        await bench.settle()
        nothing = await done("partitions", "cancel", "orders-0", *of, "--all")
        code, out, err = await command("partitions", "seek", "orders-0", *of, "--to", "3", "--note", "x", "--json")
        planned = shown(out)[0]
        moved = await done("partitions", "seek", "orders-0", *of, "--to", "3", "--yes")

    assert nothing == where | {"done": False, "workflows": 0}
    assert (code, "nothing was changed" in err, planned["done"]) == (MISTAKE, True, False)
    assert (moved["done"], moved["next_before"], moved["next_after"], moved["gaps"]) == (True, 1, 3, [[1, 3]])


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every command, by the first word."""
    actions: list[Any] = vars(parser)["_actions"]
    below = [action for action in actions if isinstance(action.choices, dict)]
    return {name: each for action in below for name, each in action.choices.items()}


def leaves(parser: argparse.ArgumentParser, *names: str) -> Generator[tuple[tuple[str, ...], set[str]]]:
    """Every command that does something, by its words, with its options."""
    actions: list[Any] = vars(parser)["_actions"]
    below = [action for action in actions if isinstance(action.choices, dict)]
    if not below:
        yield names, {option for action in actions for option in action.option_strings}
    for action in below:
        for name, each in action.choices.items():
            yield from leaves(each, *names, name)


def test_whatever_operators_do_has_json_and_the_command_says_its_exit_codes() -> None:
    """Each act and each look: a program never meets a table, or words to take apart."""
    parser = command_parser()

    lacking = {words for words, options in leaves(parser) if "--json" not in options}

    assert lacking == {(name,) for name in NOT_FOR_PROGRAMS}
    for name, each in commands(parser).items():
        assert "Exit codes: 0 " in each.format_help(), name
    assert "Exit codes: 0 done; 1 it ran and failed; 2 it could not begin" in parser.format_help()


async def test_acts_on_the_outbox_say_to_programs_what_they_did(database: str, command: Command) -> None:
    outbox = await Outbox(database).named_anew()
    await outbox.publish("a", "b", topic="shipments")

    async def done(*arguments: str) -> dict[str, Any]:
        code, out, err = await command("outbox", *arguments, "--note", "x", "--json")
        assert (code, err) == (DONE, "")
        (facts,) = shown(out)
        return facts

    code, out, _ = await command("outbox", "list", "--json")
    discarded = await done("discard", *(str(each["id"]) for each in shown(out)))
    async with await AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE dbos.outbox_relay SET halted = 'Kafka has batch 7', halted_at = 1")
    resumed = await done("resume")
    renamed = await done("rename")

    assert code == DONE
    assert discarded == {"discarded": 2}
    assert resumed == {"resumed": True, "halted_because": "Kafka has batch 7"}
    assert renamed == {"name": (await outbox.state()).name}


async def test_what_is_shown_whole_is_one_line_to_programs(database: str, command: Command) -> None:
    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(order_id="bad"))
        await bench.settle()
        [(letter, workflow)] = await bench.fetch_all("SELECT dead_letter_id, workflow_uuid FROM dbos.dead_letter")

    for words in (("workflows", "show", workflow), ("dead-letters", "show", str(letter))):
        _, for_people, _ = await command(*words)
        _, for_programs, _ = await command(*words, "--json")
        assert json.loads(for_people) == shown(for_programs)[0], words
        assert for_programs.count("\n") == 1 < for_people.count("\n"), words


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ("outbox", "discard", "99999999999999999999", "--note", "x"),
            "event 99999999999999999999: no event has this ID",
        ),
        (("outbox", "list", "--after", "99999999999999999999"), "--after 99999999999999999999: "),
        (("dead-letters", "retry", "99999999999999999999"), "dead letter 99999999999999999999 does not exist"),
        (("lag", "--offsets-max", "-1"), "--offsets-max -1: 0 or more"),
        (("executors", "list", "--state", "bad"), "'live', 'silent', 'dead'"),
        (("workflows", "fork", "nope", "--from-step", "-1"), "there is no workflow 'nope'"),
    ],
)
async def test_what_cannot_be_is_a_mistake_in_the_line_and_no_failure(
    command: Command, words: tuple[str, ...], said: str
) -> None:
    code, out, err = await command(*words, kafka="127.0.0.1:1")

    assert (code, out) == (MISTAKE, "")
    assert said in err
