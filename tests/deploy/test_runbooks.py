"""What the runbooks have a tired person type is right: statements, commands, what is looked for in the log."""

import re
import shlex
from collections.abc import Iterator

import psycopg
import pytest

from deploy import CHART
from processor.cli import command_parser
from processor.logs import LEVELS

ROOT = CHART.parents[1]
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return request.param.read_text(encoding="utf-8")


def indented(page: str) -> Iterator[str]:
    """Lines to type, each with what goes on below it."""
    pending = ""
    for line in page.splitlines():
        if line.startswith("    "):
            pending += line.strip().removesuffix("\\") + " "
            if not line.endswith("\\") and not (pending.startswith("SELECT") and ";" not in line):
                yield pending.strip()
                pending = ""
    assert not pending, pending


def test_statements_run_on_the_tables_there_are(database: str) -> None:
    statements: list[str] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        statements += [line for line in indented(text) if line.startswith("SELECT")]
        statements += re.findall(r"`((?:UPDATE|SELECT) [^`]+)`", text)

    assert len(statements) >= 10
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.rstrip(";").encode())


def test_commands_are_ones_that_there_are(page: str) -> None:
    typed = [line for line in indented(page) if line.startswith("processor ")]
    typed += [" ".join(found.split()) for found in re.findall(r"`(processor [^`]+)`", page)]

    for command in typed:
        words = [re.sub(r"^(ID|N)$", "7", word) for word in shlex.split(command)[1:]]
        if words in (["dead-letters"], ["migrate"], ["partitions", "release"], ["partitions", "seek"]):
            continue  # named, not typed
        command_parser().parse_args(words)


def test_the_log_has_what_is_looked_for(page: str) -> None:
    events = {re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower() for kind in LEVELS}

    loggers = {'"processor.supervisor"'}
    for pattern in re.findall(r"grep (?:-E )?'([^']+)'", page):
        assert set(pattern.split("|")) <= events | loggers
