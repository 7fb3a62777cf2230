"""`processor retention` and what the other commands show of it, as operators meet them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import psycopg
import pytest

from engine.keeping import Keep, policy_rows
from engine.store import retention
from engine.store.statement import send
from processor.cli import DONE, MISTAKE, main
from tests.integration.sweeping import DAY, WEEK, connecting, ids, left, partition, workflow

Command = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def command(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on the test's database."""
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", database)

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, arguments)
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


@pytest.fixture
def rows(database: str) -> Generator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def policies(database: str) -> None:
    """What processes said: one handler for a week, one for ever and a day."""
    async with connecting(database) as connection:
        said = policy_rows({"fulfil": WEEK, "audit": Keep(cancelled=DAY)})
        await send(connection, "dbos", retention.write_policies(said))


async def test_without_a_word_of_any_process_nothing_is_ever_deleted(
    command: Command, rows: psycopg.Connection[Any]
) -> None:
    partition(rows, next=10)
    workflow(rows, "orders-0-0", days=4_000)

    assert await command("retention", "show") == (
        DONE,
        "no process has said how long anything is kept: nothing is ever deleted\n",
        "",
    )
    assert (await command("retention", "run", "--yes"))[:2] == (DONE, "nothing is due\n")
    assert left(rows) == ids(0)


@pytest.mark.usefixtures("policies")
async def test_policies_are_shown_by_handler(command: Command) -> None:
    _, table, _ = await command("retention", "show")
    _, lines, _ = await command("retention", "show", "--json")

    assert table.splitlines()[0].split() == ["HANDLER", "SUCCESS", "ERROR", "CANCELLED", "DEAD", "LETTER"]
    audit, fulfil = [json.loads(line) for line in lines.splitlines()]
    assert audit == {
        "handler": "audit",
        "success": "forever",
        "error": "forever",
        "cancelled": "1d",
        "dead_letter": "forever",
        "paused": None,
    }
    assert fulfil["success"] == "7d"


@pytest.mark.usefixtures("policies")
async def test_what_is_due_is_counted_and_only_with_yes_it_goes(
    command: Command, rows: psycopg.Connection[Any]
) -> None:
    """P30: what is shown is what would go, neither more nor less; who did it is recorded."""
    partition(rows, next=3)
    for offset, days in enumerate([9, 8, 1, 9]):
        workflow(rows, f"orders-0-{offset}", days=days)

    counted = await command("retention", "run", "--json")
    untouched = left(rows)
    done = await command("retention", "run", "--yes", "--json", "--actor", "ann")
    _, lines, _ = await command("partitions", "list", "--json")
    acts = rows.execute("SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit").fetchall()

    assert counted[0] == MISTAKE
    assert json.loads(counted[1]) == {"handler": "fulfil", "kind": "SUCCESS", "rows": 2}
    assert counted[2] == "processor: nothing was deleted; with --yes it is\n"
    assert untouched == ids(0, 3, 1, 2)
    assert done == (DONE, counted[1], "")
    assert left(rows) == ids(3, 2)
    assert json.loads(lines)["horizon"] == 2
    assert acts == [("ann", "sweep", "retention", "2 rows deleted")]


@pytest.mark.usefixtures("policies")
async def test_a_pause_stops_all_deleting_until_it_is_taken_away(
    command: Command, rows: psycopg.Connection[Any]
) -> None:
    partition(rows, next=3)
    workflow(rows, "orders-0-0")

    paused = await command("retention", "pause", "--note", "incident 7", "--actor", "ann")
    again = await command("retention", "pause", "--note", "incident 7")
    shown = await command("retention", "show")
    refused = await command("retention", "run", "--yes")
    counted = await command("retention", "run")
    kept = left(rows)
    resumed = await command("retention", "resume", "--actor", "ann")
    twice = await command("retention", "resume")
    done = await command("retention", "run", "--yes")
    acts = rows.execute("SELECT actor, action FROM dbos.audit WHERE actor = 'ann'").fetchall()

    assert [each[1] for each in (paused, again, resumed, twice)] == [
        "retention: paused\n",
        "retention: is paused already\n",
        "retention: resumed\n",
        "retention: was not paused\n",
    ]
    assert shown[2] == "processor: deleting is paused: incident 7\n"
    assert (refused[0], "deleting is paused: incident 7" in refused[2]) == (MISTAKE, True)
    assert "fulfil" in counted[1]
    assert kept == ids(0)
    assert (done[0], left(rows)) == (DONE, [])
    assert acts == [("ann", "pause"), ("ann", "resume")]


@pytest.mark.usefixtures("policies")
async def test_acts_on_retention_answer_programs_in_json(command: Command) -> None:
    """Whether it changed anything too; and each policy says whether anything is deleted by it now."""
    said = [
        json.loads((await command("retention", act, "--note", "incident 7", "--json"))[1])
        for act in ("pause", "pause", "resume", "resume")
    ]
    await command("retention", "pause", "--note", "incident 7")
    policies = [json.loads(line) for line in (await command("retention", "show", "--json"))[1].splitlines()]

    assert said == [
        {"paused": True, "changed": True},
        {"paused": True, "changed": False},
        {"paused": False, "changed": True},
        {"paused": False, "changed": False},
    ]
    assert {policy["paused"] for policy in policies} == {"incident 7"}


async def test_a_pause_says_why(command: Command) -> None:
    code, _, errors = await command("retention", "pause", "--note", " ")

    assert (code, "--note is empty" in errors) == (MISTAKE, True)
