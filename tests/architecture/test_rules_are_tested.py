"""Every rule of the protocol that the code claims is cited by a test that is collected, and the other way round."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("engine", "consumers", "processor", "sql")
RULES = [f"P{number}" for number in range(1, 32)]
INVARIANTS = [f"I{number}" for number in range(1, 11)]

LATER: dict[str, str] = {}
"""What nothing claims yet, and why."""

_CITED = re.compile(r"\b([PI])(\d+)(?:\s*(?:to|-)\s*\1(\d+))?\b")


def cited_in(text: str, *, ranges: bool = True) -> set[str]:
    """The rules a text names; `P5 to P7` are three."""
    found: set[str] = set()
    for kind, first, last in _CITED.findall(text):
        if last and not ranges:
            continue
        found |= {f"{kind}{number}" for number in range(int(first), int(last or first) + 1)}
    return found


def claimed() -> set[str]:
    """What the code says it implements."""
    found: set[str] = set()
    for package in CODE:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in {".py", ".sql"}:
                found |= cited_in(path.read_text())
    return found & {*RULES, *INVARIANTS}


def docstrings() -> Iterator[tuple[str, str]]:
    """Name and docstring of every test pytest collects; the random model names all rules and counts for none."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        if "model" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(ROOT)}::{node.name}", ast.get_docstring(node) or ""


def test_every_rule_the_code_claims_is_cited_by_a_test() -> None:
    """A rule without a test is a comment."""
    tested = {rule for _, text in docstrings() for rule in cited_in(text, ranges=False)}

    missing = sorted(claimed() - tested, key=lambda rule: (rule[0], int(rule[1:])))
    assert not missing, f"claimed by the code and cited by no test's docstring: {', '.join(missing)}"


def test_every_rule_is_claimed_or_listed_as_later() -> None:
    """What is neither built nor said to come has been forgotten; what is built leaves the table."""
    assert set(RULES) - claimed() - LATER.keys() == set()
    assert claimed() & LATER.keys() == set()


def test_a_test_cites_only_rules_there_are() -> None:
    """A number that does not exist is a slip of the pen."""
    wrong = {name: rules for name, text in docstrings() if (rules := cited_in(text) - {*RULES, *INVARIANTS})}

    assert not wrong
