"""The handler API as a type checker sees it: what it infers, and the mistakes it finds."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYRIGHT_MAX_S = 110
"""Of which 100 are for a machine that does other things; alone it takes 5."""

CASCADES = ("reportUntypedFunctionDecorator", "reportUnknown")
"""What pyright adds once it has reported the mistake itself."""


@dataclass(frozen=True)
class Finding:
    file: str
    line: int
    message: str
    rule: str


@cache
def findings() -> tuple[Finding, ...]:
    """One run of pyright over everything here."""
    # A configuration of its own: the project's leaves the mistakes out.
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(HERE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PYRIGHT_MAX_S,
        check=False,
    )
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] > len(list((HERE / "rejected").glob("*.py"))), run.stdout
    return tuple(
        Finding(Path(found["file"]).name, found["range"]["start"]["line"] + 1, found["message"], found.get("rule", ""))
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    )


def test_correct_handlers_have_no_errors() -> None:
    assert [found for found in findings() if found.file == "accepted.py"] == []


def expectations() -> list[tuple[str, int, str]]:
    return [
        (path.name, number, expected[1])
        for path in sorted((HERE / "rejected").glob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (expected := re.search(r"  # rejected: (.*)", line))
    ]


@pytest.mark.parametrize("file, line, expected", expectations())
def test_a_mistake_is_found_where_it_is_made(file: str, line: int, expected: str) -> None:
    found = [each.message for each in findings() if (each.file, each.line) == (file, line)]

    assert any(expected in message for message in found), found


def test_nothing_else_is_found() -> None:
    """An error elsewhere would mean that the examples of mistakes are wrong for another reason than they say."""
    expected = {(file, line) for file, line, _ in expectations()}

    assert [
        found
        for found in findings()
        if found.file != "accepted.py"
        and (found.file, found.line) not in expected
        and not found.rule.startswith(CASCADES)
    ] == []
