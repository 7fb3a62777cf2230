"""What linters say: Helm's own of the chart, hadolint of the Dockerfile."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python

from deploy import CHART

ROOT = CHART.parents[1]
WARNING = 2
"""Of Helm's severities: 1 is news (that there might be an icon), 2 a warning, 3 an error."""


def chart(values: dict[str, Any] | None = None) -> list[str]:
    """What Helm finds in the chart with some values; without, with the least that it needs."""
    report = helm_python.lint(CHART, {"app": "app:app"} if values is None else values, strict=True)
    found = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] >= WARNING]
    return found + [str(error) for error in report["errors"]]


def hadolint() -> Path | None:
    """Where it is; its package has no binary for Linux on ARM."""
    program = Path(sys.executable).with_name("hadolint")
    return program if program.is_file() else None


def dockerfile() -> list[str]:
    """What hadolint finds; nothing where it is not to be had."""
    program = hadolint()
    if program is None:
        return []
    ended = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    return (ended.stdout + ended.stderr).splitlines()
