"""Each import contract of pyproject.toml forbids what it says: a planted violation breaks it, and only it.

Planted in a skeleton of the four packages, under the project's own contracts. That the real packages keep them is
`make check`'s business.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

PLANTED = [
    ("sql", "import engine", "layers"),
    ("engine", "import consumers.allowed", "layers"),
    ("engine", "def late() -> None:\n    import processor", "layers"),
    ("consumers", "from processor import allowed", "layers"),
    ("processor", "import psycopg", "postgres"),
    ("processor", "import psycopg_pool", "postgres"),
    ("consumers", "from psycopg.rows import dict_row", "postgres"),
    ("sql", "import psycopg", "postgres"),
    ("processor", "from confluent_kafka import Consumer", "kafka"),
    ("engine", "import confluent_kafka", "kafka"),
    ("engine", "from pydantic import BaseModel", "edge"),
    ("consumers", "import prometheus_client", "edge"),
    ("consumers", "import argparse", "edge"),
    ("sql", "import yaml", "edge"),
]
"""Package, what is planted in it, and the contract that it breaks."""


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """The four packages, each with a module that imports what it may."""
    for package, allowed in {
        "processor": "import consumers, engine, sql, pydantic, prometheus_client",
        "consumers": "import engine, sql, confluent_kafka",
        "engine": "import sql, psycopg, psycopg_pool",
        "sql": "import json",
    }.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "allowed.py").write_text(f"{allowed}\n")
    (tmp_path / "pyproject.toml").write_text((PROJECT / "pyproject.toml").read_text())
    return tmp_path


def broken(project: Path) -> set[str]:
    """Names of the contracts that do not hold."""
    linted = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = dict(re.findall(r"^(.+?) (KEPT|BROKEN)$", linted.stdout, re.MULTILINE))
    assert set(outcomes) == {contract["name"] for contract in CONTRACTS}, linted.stdout + linted.stderr
    found = {name for name, outcome in outcomes.items() if outcome == "BROKEN"}
    assert (linted.returncode != 0) == bool(found)
    return found


def name(contract_id: str) -> str:
    [found] = [contract["name"] for contract in CONTRACTS if contract["id"] == contract_id]
    return found


def test_what_each_package_may_import_keeps_every_contract(skeleton: Path) -> None:
    assert broken(skeleton) == set()


@pytest.mark.parametrize("package, planted, contract", PLANTED)
def test_a_planted_violation_breaks_its_contract(skeleton: Path, package: str, planted: str, contract: str) -> None:
    (skeleton / package / "planted.py").write_text(f"{planted}\n")

    assert broken(skeleton) == {name(contract)}


def test_every_contract_has_a_planted_violation() -> None:
    """A contract that is added here is tested here."""
    assert {contract for _, _, contract in PLANTED} == {contract["id"] for contract in CONTRACTS}
