"""Messages name commands to type: as printed, each is one that the command line takes."""

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.validation import Halt, Log, Refusal, judge
from engine.partitions import Place
from engine.progress import Progress
from processor.cli import command_parser

ROOT = Path(__file__).parents[2]
STANDS_FOR = {"OFFSET": "7", "WHERE": "latest"}
"""What the reader is to fill in, where not any word does."""
COMMANDS_WITH_AN_APP = {"processor run", "processor check"}
"""Named by their names alone: what app it is, whoever reads it knows."""
PARSER = command_parser()


def taken(line: str) -> str:
    """What the command line says against it; '' if nothing."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(line)[1:]]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        PARSER.parse_args(words)
    return said.getvalue()


def named() -> Iterator[tuple[str, str]]:
    """Where, and the command, of every text that is no documentation of the code; values in it are a word."""
    for package in ("engine", "consumers", "processor"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    text = "".join(str(p.value) if isinstance(p, ast.Constant) else _value(p) for p in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
                    text = "" if node in documentation else node.value
                else:
                    continue
                for command in re.findall(r"`(processor [^`]+)`", text):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", command


def _value(part: ast.expr) -> str:
    expression = ast.unparse(part)
    if ".arguments" in expression:
        return Place("shop", "orders-3").arguments
    return "pre" if "phase" in expression else "7"


@pytest.mark.parametrize("where, command", [pytest.param(*each, id=f"{each[0]} {each[1]}") for each in named()])
def test_a_command_that_a_message_names_is_taken_as_printed(where: str, command: str) -> None:
    assert command in COMMANDS_WITH_AN_APP or not taken(command), f"{where}: {taken(command)}"


def test_there_are_such_messages() -> None:
    """The test above finds nothing where nothing is found."""
    assert len(list(named())) > 10


@pytest.mark.parametrize(
    "log, refusal, commands",
    [
        (Log("B", 0, 40), None, 2),
        (Log("A", 0, 20), None, 2),
        (Log("A", 35, 40), None, 1),
        (Log("A", 0, 40), Refusal("Partition log truncation detected at offset 30", 1), 2),
    ],
    ids=["made anew", "truncated", "retention", "rewritten"],
)
def test_a_halt_names_its_partition_and_group_in_commands_that_do_it(
    log: Log, refusal: Refusal | None, commands: int
) -> None:
    """What `partitions list` shows can be copied; a group's name may have spaces."""
    place = Place("the shop", "orders.eu-3")
    halt = judge(Progress(next=30, high=32, topic_id="A"), log, place=place, refusal=refusal)

    assert isinstance(halt, Halt)
    found = re.findall(r"`(processor [^`]+)`", halt.reason)
    assert len(found) == commands
    for command in found:
        assert not taken(command)
        parsed = PARSER.parse_args([STANDS_FOR.get(word, word) for word in shlex.split(command)[1:]])
        assert (parsed.group, parsed.partition) == place
        assert parsed.act == "release" or parsed.yes


@pytest.mark.parametrize("act", ["release", "pause", "resume"])
def test_what_acts_at_once_takes_yes_as_well(act: str) -> None:
    assert not taken(f"processor partitions {act} orders-3 --group shop --note why --yes")
