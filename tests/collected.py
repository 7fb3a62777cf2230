"""Which tests there are and which of them run: what pages that name tests are compared with.

A test is called by its place, as `tests/unit/test_cron.py::test_six_fields_have_the_seconds_first`. It runs if one of its
runs (one for each set of parameters) is neither skipped nor expected to fail: what is skipped shows nothing. A test that is
marked with a peer (`@pytest.mark.peer("dbos-2.10.0")`) is one only where that can be had, which is tried; and where one
of its runs lacks a peer, it is not shown: each peer is a promise of its own.

Importing every test takes ten seconds. A session that has collected a test is believed about it; pytest is asked for what
is left, in a process of its own (`-p tests.collected`), once.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import cast

import pytest

from tests.fixtures import peers

ROOT = Path(__file__).parents[1]
OPTION = "--write-collected"


def collected(names: Iterable[str], session: pytest.Session | None = None) -> Mapping[str, bool]:
    """Whether each test runs, by its place; at least of the named ones that there are.

    Raises:
        RuntimeError: pytest could not collect; the message ends with what it said.
    """
    found = {} if session is None else of_items(session.items)
    return found if found.keys() >= set(names) else {**everything(), **found}


@cache
def everything() -> Mapping[str, bool]:
    """All tests of this checkout."""
    return collect(ROOT / "tests")


def collect(path: Path) -> dict[str, bool]:
    """The tests of a file or folder, as a pytest of its own collects them. Raises `RuntimeError`, as `collected` does."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "collected.json"
        options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "tests.collected", OPTION, str(file)]
        command = [sys.executable, "-m", "pytest", *options, str(path)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
        if ended.returncode:
            raise RuntimeError(f"pytest --collect-only failed:\n{ended.stdout[-3000:]}{ended.stderr[-1000:]}")
        return cast("dict[str, bool]", json.loads(file.read_text(encoding="utf-8")))


def of_items(items: Iterable[pytest.Item]) -> dict[str, bool]:
    """The tests that a session has collected."""
    found: dict[str, bool] = {}
    lacking: set[str] = set()
    for item in items:
        place = item.nodeid.partition("[")[0]
        found[place] = found.get(place, False) or _runs(item)
        if _lacks_a_peer(item):
            lacking.add(place)
    return {place: runs and place not in lacking for place, runs in found.items()}


def _lacks_a_peer(item: pytest.Item) -> bool:
    return any(peers.absence(name) for mark in item.iter_markers("peer") for name in mark.args)


def _runs(item: pytest.Item) -> bool:
    conditions = [mark.args[0] if mark.args else mark.kwargs["condition"] for mark in item.iter_markers("skipif")]
    return not any(conditions) and not any(True for name in ("skip", "xfail") for _ in item.iter_markers(name))


# -- as a plugin of the pytest that is asked


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, default=None, help="file for the tests that were collected, as JSON")


def pytest_collection_finish(session: pytest.Session) -> None:
    file: Path | None = session.config.getoption(OPTION)
    if file is not None:
        file.write_text(json.dumps(of_items(session.items)), encoding="utf-8")
