"""`make cases`: the cases known to lose or duplicate a record, one by one, each with what shows that it does not here.

    python -m tests.cases [-v]

The table is in docs/guarantees.md. A case counts if every test it names is one that pytest collects, or, where it
names none, if it links to a reason on that page. Prints `41/41` and the table; exits 1 if a case does not count.
"""

import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.collected import ROOT, collected

PAGE = ROOT / "docs" / "guarantees.md"
CASES = 41

_ROW = re.compile(r'\| <a id="case-(\d+)"></a>(\d+) \| (.+?) \| (.+?) \| (.+) \|')
_TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
_LINK = re.compile(r"\]\(#([\w-]+)\)")
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table.

    Attributes:
        number: As everywhere in code and tests.
        situation: What loses or duplicates elsewhere.
        tests: File and function of each test.
        reasons: Anchors of the page that say why it cannot happen; only counted where there is no test.
    """

    number: int
    situation: str
    tests: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]


def read(page: str) -> list[Case]:
    """The cases of the page."""
    cases: list[Case] = []
    for line in page.splitlines():
        if match := _ROW.fullmatch(line):
            anchor, number, situation, _, shown_by = match.groups()
            assert anchor == number, f"case {number} has the anchor case-{anchor}"
            tests = tuple((file, name) for file, name in _TEST.findall(shown_by))
            cases.append(Case(int(number), situation, tests, tuple(_LINK.findall(shown_by))))
    return cases


def wanting(case: Case, files: Mapping[str, Path], tests: Collection[str], page: str) -> list[str]:
    """What a case lacks, in words; nothing if it counts."""
    missing: list[str] = []
    for file, name in case.tests:
        if file not in files:
            missing.append(f"{file} is no file of tests/")
        elif place(files[file], name) not in tests:
            missing.append(f"{file}::{name} is no test")
    if not case.tests:
        anchors = set(_ANCHOR.findall(page)) - {f"case-{case.number}"}
        if not anchors.intersection(case.reasons):
            missing.append("neither a test nor a reason why it cannot happen")
    return missing


def place(file: Path, name: str) -> str:
    """What pytest calls a test."""
    return f"{file.relative_to(ROOT).as_posix()}::{name}"


def test_files() -> dict[str, Path]:
    """Every test file by its name, which is unique."""
    found: dict[str, Path] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        assert path.name not in found, f"two test files are called {path.name}"
        found[path.name] = path
    return found


test_files.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def main(session: pytest.Session | None = None) -> int:
    """Print how many cases count, then the table."""
    page = PAGE.read_text(encoding="utf-8")
    cases, files = read(page), test_files()
    named = [place(files[file], name) for case in cases for file, name in case.tests if file in files]
    tests = collected(named, session)
    problems = {case.number: wanting(case, files, tests, page) for case in cases}
    for number in set(range(1, CASES + 1)) - problems.keys():
        problems[number] = ["not in the table"]
    counting = sum(not lacking for lacking in problems.values())
    print(f"{counting}/{CASES}")
    for case in sorted(cases, key=lambda case: case.number):
        shown = [f"{file}::{name}" for file, name in case.tests] or [f"docs/guarantees.md#{a}" for a in case.reasons]
        print(f"{case.number:3}  {case.situation}")
        for each in shown:
            print(f"       {each}")
    for number, lacking in sorted(problems.items()):
        for problem in lacking:
            print(f"case {number}: {problem}", file=sys.stderr)
    return 0 if counting == CASES == len(problems) else 1


if __name__ == "__main__":
    sys.exit(main())
