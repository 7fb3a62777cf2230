"""`make features`: what there is, feature by feature, each with the tests that show it.

    python -m tests.features

The page is docs/reference/features.md: a table for each section. A feature counts if every test it names is one that
pytest collects and that runs. Prints how many count, and what does not; exits 1 if there is such a one.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.collected import ROOT, collected

PAGE = ROOT / "docs" / "reference" / "features.md"
MISSING = "Not there yet"
"""The section whose rows are no features: what is promised, and where its test will be."""

_SECTION = re.compile(r"## (.+)")
_TEST = re.compile(r"`(tests/[\w/]+\.py::test_\w+)`")
_RULE = re.compile(r"\|(-+\|)+")
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Feature:
    """A row of the page.

    Attributes:
        section: Heading of its table.
        name: Its first cell.
        tests: Places of the tests that it names.
        rest: What its last cell has beside them, which is nothing where every test is written as a place.
    """

    section: str
    name: str
    tests: tuple[str, ...]
    rest: str


class PageError(Exception):
    """A line of the page is neither heading nor row. The message names it."""


def read(page: str) -> list[Feature]:
    """Every row of every table of the page, but for headings.

    Raises:
        PageError: Behind the first heading there is something else, as what a merge leaves behind.
    """
    features: list[Feature] = []
    section, columns = "", 0
    for number, line in enumerate(page.splitlines(), start=1):
        if heading := _SECTION.fullmatch(line):
            section, columns = heading[1], 0
        elif section and line and not _RULE.fullmatch(line):
            cells = _CELL.split(line)
            columns = columns or len(cells)
            if not line.startswith("| ") or not line.endswith(" |") or len(cells) != columns:
                raise PageError(f"line {number}: neither a heading nor a row of its table: {line[:60]!r}")
            name, *_, shown_by = (cell.strip() for cell in cells[1:-1])
            if name != "feature":
                rest = _TEST.sub("", shown_by).replace(",", "").strip()
                features.append(Feature(section, name, tuple(_TEST.findall(shown_by)), rest))
    return features


def wanting(feature: Feature, tests: Mapping[str, bool]) -> list[str]:
    """What a feature lacks, in words; nothing if it counts. What is not there yet may name no test."""
    if feature.section == MISSING:
        return [f"is not there, and names {test}" for test in feature.tests]
    missing = [
        f"{test} is skipped on this machine" if test in tests else f"{test} is no test" for test in feature.tests
    ]
    missing = [each for each, test in zip(missing, feature.tests, strict=True) if not tests.get(test)]
    if feature.rest:
        missing.append(f"{feature.rest!r} is no place of a test")
    return missing if feature.tests else [*missing, "names no test"]


def main(session: pytest.Session | None = None) -> int:
    """Print how many features count, and what the others lack."""
    features = read(PAGE.read_text(encoding="utf-8"))
    tests = collected([test for feature in features for test in feature.tests], session)
    there = [feature for feature in features if feature.section != MISSING]
    problems = {f"{each.section}, {each.name}": wanting(each, tests) for each in features}
    counting = sum(not wanting(feature, tests) for feature in there)
    print(f"{counting}/{len(there)}, and {len(features) - len(there)} not there yet")
    for feature, lacking in problems.items():
        for problem in lacking:
            print(f"{feature}: {problem}", file=sys.stderr)
    return 1 if any(problems.values()) or not there else 0


if __name__ == "__main__":
    sys.exit(main())
