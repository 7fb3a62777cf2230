"""docs/reference/features.md: every feature is shown by tests that run, and what is not there yet names none."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from processor.executions import SyncExecutionStore
from tests import features
from tests.collected import collect, of_items
from tests.features import MISSING, PAGE, Feature, PageError, read, wanting
from tests.fixtures import peers

ROWS = """
## Queues

| feature | here | shown by |
|---|---|---|
| limits | of `a \\| b` | `tests/a.py::test_one`, `tests/a.py::test_two` |
| pauses | a pause | test_three |

## Not there yet

| feature | its test will be in |
|---|---|
| clients | `tests/b.py` |
| others | `tests/b.py::test_one` |
"""
TESTS = """
import pytest

def test_plain(): ...

@pytest.mark.skip(reason="never")
def test_skipped(): ...

@pytest.mark.skipif(True, reason="here")
def test_skipped_here(): ...

@pytest.mark.skipif(False, reason="elsewhere")
def test_skipped_elsewhere(): ...

@pytest.mark.xfail(reason="broken")
def test_expected_to_fail(): ...

@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.skip(reason="one")), 2])
def test_skipped_once(n): ...
"""


def test_every_feature_is_shown_by_tests_that_run(request: pytest.FixtureRequest) -> None:
    assert features.main(request.session) == 0


def test_each_feature_has_one_row() -> None:
    counts = Counter((feature.section, feature.name) for feature in read(PAGE.read_text(encoding="utf-8")))

    assert [row for row, count in counts.items() if count > 1] == []


def test_every_method_of_the_store_of_executions_has_a_row() -> None:
    names = " ".join(feature.name for feature in read(PAGE.read_text(encoding="utf-8")))
    methods = {name for name in vars(SyncExecutionStore) if not name.startswith("_")} - {"open", "close"}

    assert [method for method in sorted(methods) if f"`{method}(" not in names] == []


def test_a_feature_counts_only_if_its_tests_are_there_and_run() -> None:
    limits, pauses, clients, others = read(ROWS)

    assert limits == Feature("Queues", "limits", ("tests/a.py::test_one", "tests/a.py::test_two"), "")
    assert wanting(limits, {"tests/a.py::test_one": True, "tests/a.py::test_two": True}) == []
    assert wanting(limits, {"tests/a.py::test_one": False}) == [
        "tests/a.py::test_one is skipped on this machine",
        "tests/a.py::test_two is no test",
    ]
    assert wanting(pauses, {}) == ["'test_three' is no place of a test", "names no test"]
    assert (clients.section, wanting(clients, {})) == (MISSING, [])
    assert wanting(others, {"tests/b.py::test_one": True}) == ["is not there, and names tests/b.py::test_one"]


@pytest.mark.parametrize(
    "line", ["<<<<<<< HEAD", "=======", "| a | row `tests/a.py::test_one` |", "|no | spaces | here|", "- a list"]
)
def test_a_line_that_is_neither_heading_nor_row_is_refused(line: str) -> None:
    """The marks of a merge were read over, and the page counted."""
    with pytest.raises(PageError, match=f"^line 7: neither a heading nor a row of its table: '{re.escape(line)}'"):
        read(ROWS.replace("| pauses |", f"{line}\n| pauses |"))


def test_a_test_whose_peer_cannot_be_had_is_not_shown(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fixture skips when it runs, which no collection sees; one of two clients is not both."""
    monkeypatch.setattr(peers, "absence", {"there": "", "there-not": "no network"}.__getitem__)
    function: Callable[..., pytest.Item] = cast("Any", pytest.Function).from_parent

    def item(name: str, *marks: str) -> pytest.Item:
        made = function(request.node.parent, name=name, callobj=lambda: None)
        for mark in marks:
            made.add_marker(pytest.mark.peer(mark))
        return made

    items = [
        item("test_both[a]", "there"),
        item("test_both[b]", "there-not"),
        item("test_one[a]", "there"),
        item("test_no"),
    ]

    assert [*of_items(items).values()] == [False, True, True]


def test_what_pytest_collects_is_found_with_whether_it_runs(tmp_path: Path) -> None:
    """Three seconds: the only test that starts a pytest, where a session has collected everything."""
    file = tmp_path / "test_some.py"
    file.write_text(TESTS, encoding="utf-8")

    found = {place.rpartition("::")[2]: runs for place, runs in collect(file).items()}

    assert found == {
        "test_plain": True,
        "test_skipped": False,
        "test_skipped_here": False,
        "test_skipped_elsewhere": True,
        "test_expected_to_fail": False,
        "test_skipped_once": True,
    }
