"""`processor workflows`: what it lists, what it does to one and to many, and its exit codes."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from processor.cli import DONE, FAILED, MISTAKE
from processor.testing import Bench
from tests.integration.conftest import Command
from tests.integration.protocol import FAST, until
from tests.integration.shipping import Family, Shipping, failed
from tests.integration.test_rest import until_status


@pytest.fixture
def shipping() -> Shipping:
    return Shipping()


@pytest.fixture
async def bench(database: str, shipping: Shipping) -> AsyncGenerator[Bench]:
    async with Bench(shipping.app, database, settings=FAST) as bench:
        yield bench


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


async def test_workflows_are_listed_and_shown_with_their_steps(
    bench: Bench, shipping: Shipping, command: Command
) -> None:
    """Newest first, by filters, as a table or one JSON object a line; one with its payloads."""
    for n in range(3):
        await (await shipping.ship.start(f"o-{n}", id=f"w-{n}")).result()
    await failed(shipping, id="failed")
    await bench.settle()

    code, out, _ = await command("workflows", "list", "--json", "--limit", "2")
    assert (code, [row["id"] for row in rows(out)]) == (DONE, ["failed", "w-2"])
    _, out, _ = await command("workflows", "list", "--prefix", "w-", "--oldest-first", "--offset", "1", "--json")
    assert [row["id"] for row in rows(out)] == ["w-1", "w-2"]
    _, out, _ = await command("workflows", "list", "--status", "error", "--status", "cancelled")
    assert out.splitlines()[0].split()[:3] == ["ID", "NAME", "STATUS"]
    assert out.splitlines()[1].split()[:3] == ["failed", "ship", "ERROR"]
    code, out, _ = await command("workflows", "list", "--name", "nobody")
    assert (code, out) == (DONE, "no workflows\n")

    _, out, _ = await command("workflows", "show", "w-1")
    shown = json.loads(out)
    assert shown["inputs"]["args"] == ["o-1"]
    assert shown["output"] == ["charge of o-1", "reserve of o-1", "post of o-1"]
    _, out, _ = await command("workflows", "steps", "failed", "--json")
    assert [(row["step"], row["name"], row["error"] is None) for row in rows(out)] == [
        (1, "charge", True),
        (2, "reserve", False),
    ]


async def test_what_cannot_be_is_said_with_exit_code_2(bench: Bench, shipping: Shipping, command: Command) -> None:
    """Nothing was done, and the message says what to write instead."""
    await (await shipping.ship.start("o-1", id="w")).result()
    for arguments, message in [
        (("show", "nobody"), "there is no workflow 'nobody'"),
        (("steps", "nobody"), "there is no workflow 'nobody'"),
        (("fork", "nobody", "--from-step", "1"), "there is no workflow 'nobody'"),
        (
            ("fork", "w", "--from-step", "1", "--new-id", "sched-x"),
            "workflow ID sched-x: it is of the form that runs of",
        ),
        (("list", "--status", "done"), "status 'DONE': one of ENQUEUED"),
        (("list", "--limit", "0"), "limit=0: 1 to 10,000 workflows"),
        (("list", "--since", "yesterday"), "--since 'yesterday': a time with its zone"),
        (("cancel",), "give IDs, or a filter (--name, --status, ...), or --all"),
        (("delete", "w", "--name", "ship"), "give IDs or a filter, not both"),
    ]:
        code, _, err = await command("workflows", *arguments)
        assert code == MISTAKE, arguments
        assert message in err


async def test_many_are_resumed_by_a_filter_after_a_dry_run(bench: Bench, shipping: Shipping, command: Command) -> None:
    """The dry run names them and changes nothing; the act says of each what became of it, and is recorded."""
    for n in range(3):
        await failed(shipping, id=f"failed-{n}")
    await (await shipping.ship.start("o-1", id="fine")).result()

    code, out, _ = await command("workflows", "resume", "--name", "ship", "--dry-run")
    assert code == DONE
    assert out.splitlines()[-1] == "3 would be back to work, 0 refused"
    assert shipping.calls == ["charge o-1", "reserve o-1", "post o-1"]
    code, out, _ = await command(
        "workflows", "resume", "--name", "ship", "--limit", "2", "--actor", "ada", "--note", "mended", "--json"
    )
    assert code == DONE
    assert rows(out) == [{"id": f"failed-{n}", "done": True, "why": None, "new_id": None} for n in range(2)]
    await until_status(bench, "SUCCESS", 3)

    code, out, _ = await command("workflows", "resume", "failed-2", "fine", "nobody")
    assert code == FAILED
    assert out.splitlines()[-1] == "1 back to work, 2 refused"
    assert "it has succeeded: fork or restart it" in out
    await until_status(bench, "SUCCESS", 4)
    audit = await bench.fetch_all(
        "SELECT actor, subject, detail ->> 'detail' FROM dbos.audit ORDER BY audit_id LIMIT 2"
    )
    assert audit == [("ada", "failed-0", "mended"), ("ada", "failed-1", "mended")]


async def test_one_is_forked_and_many_restarted(bench: Bench, shipping: Shipping, command: Command) -> None:
    """The new IDs are printed."""
    await (await shipping.ship.start("o-1", id="w")).result()
    code, out, _ = await command("workflows", "fork", "w", "--from-step", "3", "--new-id", "f", "--json")
    assert (code, rows(out)) == (DONE, [{"id": "w", "done": True, "why": None, "new_id": "f"}])
    assert len(await shipping.ship.retrieve("f").result()) == 3
    code, out, _ = await command("workflows", "restart", "w", "f", "nobody", "--json")
    new = {row["id"]: row["new_id"] for row in rows(out)}

    assert code == FAILED
    assert new.pop("nobody") is None
    for id in new.values():
        assert len(await shipping.ship.retrieve(id).result()) == 3
    assert shipping.calls.count("post o-1") == 4
    code, _, err = await command("workflows", "fork", "w", "--from-step", "9")
    assert code == MISTAKE
    assert "workflow w: from_step=9: it has 3 steps" in err
    del bench


async def test_running_ones_are_cancelled_wherever_they_run(bench: Bench, shipping: Shipping, command: Command) -> None:
    """By a process that runs nothing; theirs hears of it."""
    shipping.shut = {"reserve"}
    for n in range(2):
        await shipping.ship.start(f"o-{n}", id=f"w {n}")
    await until(lambda: "reserve o-1" in shipping.calls)
    code, out, _ = await command("workflows", "cancel", "--all", "--interrupt")
    await until(lambda: not bench.engine.commons.runs)

    assert (code, out.splitlines()[-1]) == (DONE, "2 cancelled, 0 refused")
    code, out, _ = await command("workflows", "cancel", "w 0", "w 1")
    assert (code, out.splitlines()[-1]) == (FAILED, "0 cancelled, 2 refused")


async def test_families_are_cancelled_and_deleted(database: str, command: Command) -> None:
    """`--children`; what has ended already is no failure of a cancel."""
    family = Family()
    async with Bench(family.app, database, settings=FAST) as bench:
        await family.root.start(-1, id="s")
        await until_status(bench, "PENDING", 3)
        code, _, _ = await command("workflows", "delete", "s", "--children")
        assert code == FAILED
        code, out, _ = await command("workflows", "cancel", "s", "--children")
        assert (code, out.splitlines()[-1]) == (DONE, "3 cancelled, 0 refused")
        code, out, _ = await command("workflows", "delete", "s", "--children")
        assert (code, out.splitlines()[-1]) == (DONE, "6 deleted, 0 refused")
        assert await bench.app.list_workflows() == []
