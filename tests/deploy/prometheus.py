"""Prometheus' own programs, where they are: Debian's package `prometheus` has both."""

import shutil
import subprocess
from pathlib import Path

import pytest

MISSING = "there is no {} on the PATH; Debian's package `prometheus` has it"


def need(program: str) -> str:
    """Its path. Skips the test, with the reason, where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(MISSING.format(program))
    return found


def promtool(*words: str | Path, folder: Path | None = None) -> str:
    """Run it; returns what it printed. Raises `AssertionError` with it if it failed."""
    ended = subprocess.run(
        [need("promtool"), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout
