"""The `processor` command up to where servers would be needed: help, mistakes, what `check` shows."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.addresses import VARIABLES
from processor import cli
from processor.cli import MISTAKE, UNREAD, main

SHOP = """
from pydantic import BaseModel

from processor import App, Topic


class Order(BaseModel):
    order_id: str


app = App("shop")


@app.workflow(on=Topic("orders", Order))
async def fulfil(order: Order) -> None: ...
"""

BOOKS = """
from processor import App, CatchUp, Cron, Tick

app = App("books")


@app.workflow(on=Cron("0 3 * * *", timezone="Europe/Paris", catch_up=CatchUp.LATEST))
async def close_day(tick: Tick) -> None: ...
"""

Command = Callable[..., tuple[int, str, str]]
"""Arguments to exit code, output, errors."""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in a folder with a few apps."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "lacking.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "uncalled.py").write_text(
        "from processor import App\n\napp = App('a')\n\n\n@app.step\ndef f() -> None: ...\n"
    )
    (tmp_path / "books.py").write_text(BOOKS)
    (tmp_path / "wrong_books.py").write_text(BOOKS.replace("0 3 * * *", "0 3 * *"))
    (tmp_path / "idle.py").write_text("from processor import App\n\napp = App('a')\n")
    (tmp_path / "never.py").write_text("from processor import Retry\n\nnever = Retry(attempts=0)\n")
    (tmp_path / "refused.py").write_text(SHOP + "\napp.workflow(on=Topic('orders', Order), name='again')(fulfil.fn)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in (
        "shop",
        "broken",
        "lacking",
        "empty",
        "refused",
        "uncalled",
        "never",
        "idle",
        "books",
        "wrong_books",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's own
            code = int(ended.code or 0)
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("check", "nowhere:app"), "there is no module 'nowhere' here"),
        (("check", "shop:appp"), "did you mean shop:app?"),
        (("check", "empty"), "'app' is no App; it has no App at all"),
        (("check", "broken:app"), "broken.py:1: ZeroDivisionError"),
        (("check", "lacking:app"), "lacking.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (("check", "refused:app"), "has two handlers"),
        (("check", "shop.py:app"), "is no MODULE:app. Name the module as Python imports it"),
        (("check", ":app"), "is no MODULE:app"),
        (("check", "uncalled:app"), "A decorator of an app is called: @app.step()"),
        (("check", "idle:app"), "has no workflow, so nothing would ever run"),
        (("check", "never:app"), "never.py:3: ValueError: Retry(attempts=0)"),
        (("rollback",), "no commands under rollback:"),
        (("run", "shop:app", "--config", "none.yaml"), "none.yaml: there is no such file"),
        (("new", "Not A Name"), "is no name for a project"),
        (("new", "class"), "it is a keyword of Python's"),
        (("new", "pydantic"), "would hide one that it needs"),
        (("new", "asyncio"), "would hide Python's own, or be hidden"),
        (("new", "n" * 300), "nnn… is no name for a project: it has 300 characters, 63 at most"),
        (("dev", "shop:app", "--partitions", "0"), "1 to 100"),
        (("rum",), "usage: processor"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    code, _, errors = command(*arguments)

    assert code == MISTAKE
    assert message in errors
    assert "Traceback" not in errors


OF_A_DATABASE = [
    ("migrate",),
    ("workflows", "list"),
    ("partitions", "list"),
    ("dead-letters", "list"),
    ("schedules", "list"),
    ("queues", "list"),
    ("outbox", "status"),
    ("retention", "show"),
    ("payloads", "list"),
    ("executors", "list"),
    ("lag",),
    ("verify",),
]
"""Commands that open a database and serve nobody; `run` and `relay`: tests/integration/test_cli.py."""


@pytest.mark.parametrize("arguments", OF_A_DATABASE, ids=" ".join)
@pytest.mark.parametrize(
    "dsn, parts",
    [
        ("", ("postgres.dsn is not set, nor any of libpq's variables (PGHOST, ", "PROCESSOR_POSTGRES_DSN")),
        ("host=127.0.0.1 port=1 password=hunter2", ("reached at 127.0.0.1:1, ", "Check the address (postgres.dsn")),
        ("hunter2", ("PROCESSOR_POSTGRES_DSN: this is no connection string", "write postgresql://")),
        ("postgresql://u:hunter2@:::bad", ('PROCESSOR_POSTGRES_DSN: invalid value for connection option "port"',)),
        ("postgresql//me:hunter2@db/shop", ("PROCESSOR_POSTGRES_DSN: this is no connection string",)),
    ],
)
def test_a_database_that_cannot_be_had_is_one_message_that_says_what_to_do(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], dsn: str, parts: tuple[str, ...]
) -> None:
    """Of every command alike; the setting is named, and what may hold a password is not shown."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", dsn)

    code, _, errors = command(*arguments)

    assert code == MISTAKE, errors
    assert not [part for part in parts if part not in errors], errors
    assert "Traceback" not in errors
    assert "hunter2" not in errors


def test_every_command_that_opens_a_database_is_tried() -> None:
    """A command of an operator is recognised by what it connects with."""
    folder = Path(cli.__file__).parent
    opening = {
        path.stem.replace("_", "-")
        for path in folder.glob("*.py")
        if re.search(
            r"from engine\.inspection import .*connected|from processor\.(lags|proofs) import", path.read_text()
        )
    }

    assert opening | {"migrate"} == {name for name, *_ in OF_A_DATABASE}


def test_a_reader_that_leaves_ends_a_command_quietly(tmp_path: Path) -> None:
    """As `processor check --schemas | head -1` does, whenever the pipe breaks: while it prints, or at the end."""
    (tmp_path / "shop.py").write_text(SHOP)
    for more, unbuffered in ([], ""), (["--schemas"], ""), ([], "1"):
        read, write = os.pipe()
        os.close(read)

        ended = subprocess.run(
            [sys.executable, "-m", "processor", "check", "shop:app", *more],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "PYTHONUNBUFFERED": unbuffered},
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(write)

        assert (ended.returncode, ended.stderr) == (UNREAD, "")


def test_a_traceback_is_shown_when_asked_for(command: Command) -> None:
    assert "Traceback" in command("check", "broken:app", "--traceback")[2]


def test_every_command_has_help(command: Command) -> None:
    code, overview, _ = command("--help")
    listed = re.findall(r"^    ([a-z-]+)", overview, re.MULTILINE)

    assert code == 0
    assert {"run", "migrate", "rollback", "check", "new", "dev"} <= set(listed)
    for name in listed:
        code, page, _ = command(name, "--help")
        assert code == 0
        assert page.startswith(f"usage: processor {name}")


def test_check_shows_when_schedules_run(command: Command) -> None:
    code, output, _ = command("check", "books")

    assert code == 0
    assert "cron          0 3 * * *, Europe/Paris" in output
    assert "catch up      latest" in output
    assert re.search(r"next          (\d{4}-\d\d-\d\dT0[12]:00:00Z(, )?){3}\n", output)


def test_a_wrong_expression_is_named(command: Command) -> None:
    code, _, error = command("check", "wrong_books")

    assert code == 2
    assert "Cron('0 3 * *'): 4 fields." in error


def test_check_shows_what_would_run(command: Command) -> None:
    code, output, _ = command("check", "shop", "--schemas")

    assert code == 0
    for expected in (
        "journaled fulfil",
        "topic         orders",
        "group         shop",
        "on failure    DeadLetter",
        '"order_id"',
    ):
        assert expected in output


def test_a_shell_completes_commands_acts_and_arguments() -> None:
    """What `processor completion` prints asks the command itself, by its own variables and file descriptor 8."""

    def completed(line: str) -> set[str]:
        reading, writing = os.pipe()
        environment = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
        environment |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
        script = f'exec 8>&{writing} 9>&2; exec "{sys.executable}" -m processor'
        subprocess.run(["bash", "-c", script], env=environment, pass_fds=(writing,), check=False, timeout=60)
        os.close(writing)
        with os.fdopen(reading) as found:
            return set(found.read().split())

    assert {"run", "verify", "doctor", "lag", "dead-letters"} <= completed("processor ")
    assert completed("processor dead-letters ed") == {"edit"}
    assert "--dry-run" in completed("processor workflows cancel --d")
    assert completed("processor completion ") >= {"bash", "zsh", "fish"}


@pytest.mark.parametrize(
    "shell, mark", [("bash", "complete "), ("zsh", "compdef"), ("fish", "complete --command processor")]
)
def test_each_shell_is_given_what_it_reads(command: Command, shell: str, mark: str) -> None:
    code, out, _ = command("completion", shell)
    assert (code, mark in out, "processor" in out) == (0, True, True)


@pytest.mark.parametrize(
    "arguments, column",
    [
        (["dead-letters", "show", "orders-0-3"], "ID of `processor dead-letters list`"),
        (["dead-letters", "retry", "1", "orders-0-3"], "ID of `processor dead-letters list`"),
        (["dead-letters", "discard", "--note", "n", "orders-0-3"], "ID of `processor dead-letters list`"),
        (["dead-letters", "edit", "--note", "n", "orders-0-3"], "ID of `processor dead-letters list`"),
        (["dead-letters", "list", "--after", "orders-0-3"], "ID of `processor dead-letters list`"),
        (["outbox", "discard", "--note", "n", "orders-0-3"], "ID of `processor outbox list`"),
        (["workflows", "fork", "w", "--from-step", "orders-0-3"], "STEP of `processor workflows steps`"),
    ],
)
def test_what_is_no_number_is_told_where_the_number_stands(command: Command, arguments: list[str], column: str) -> None:
    """A workflow's ID in the place of a dead letter's number, above all."""
    code, _, errors = command(*arguments)

    assert code == MISTAKE
    assert f"'orders-0-3': a number is wanted, that in column {column}" in errors


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["dead-letters", "list", "--limit", "ten"], "'ten': a whole number is wanted"),
        (["dead-letters", "show", "9" * 101], "a number is wanted"),
        (["lag", "--offsets-max", "1.5"], "'1.5': a whole number is wanted"),
        (["run", "shop:app", "--processes", "two"], "'two': a number from 1 to 256, or auto"),
    ],
)
def test_a_count_that_is_none_is_told_so(command: Command, arguments: list[str], said: str) -> None:
    code, _, errors = command(*arguments)

    assert code == MISTAKE
    assert said in errors


def test_a_supervisor_too_looks_at_the_settings_before_the_port(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*VARIABLES, "PROCESSOR_POSTGRES_DSN"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PROCESSOR_HTTP_HOST", "127.0.0.1")
        monkeypatch.setenv("PROCESSOR_HTTP_PORT", str(server.getsockname()[1]))

        code, _, errors = command("run", "shop:app", "--processes", "2")

    assert code == MISTAKE
    assert "postgres.dsn is not set" in errors
