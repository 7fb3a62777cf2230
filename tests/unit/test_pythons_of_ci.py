"""`.ci/pythons`: which Pythons CI finds, from where, and what it says of those that it does not."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "pythons"
WORKS, FAILS = "exit 0", "exit 1"


class Machine:
    """Programs of a machine, by what they do; versions are such as no machine has."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.calls = home / "calls"
        for name, script in (("apt-get", FAILS), ("apt-cache", FAILS), ("id", "echo 0")):
            self.has(name, script)

    def has(self, name: str, script: str, folder: str = "bin") -> Path:
        program = self.home / folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.calls}"\n{script}\n')
        program.chmod(0o755)
        return program

    def asked_for(self, *versions: str) -> list[list[str]]:
        env = {"PATH": f"{self.home / 'bin'}:/usr/bin:/bin", "HOME": str(self.home), "UV": str(self.home / "uv" / "uv")}
        found = subprocess.run(["bash", SCRIPT, *versions], env=env, capture_output=True, text=True, check=True)
        assert found.stderr == ""
        return [line.split("\t") for line in found.stdout.splitlines()]

    def called(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.calls.read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_shim_that_does_not_work_is_passed_over_for_pyenvs_own(machine: Machine) -> None:
    on_path = machine.has("python9.7", WORKS)
    machine.has("python9.8", FAILS)
    of_pyenv = machine.has("python", WORKS, ".pyenv/versions/9.8.1/bin")

    assert machine.asked_for("9.7", "9.8") == [
        ["9.7", str(on_path), "from the PATH"],
        ["9.8", str(of_pyenv), "of pyenv"],
    ]


def test_what_uv_has_or_can_download_is_taken(machine: Machine) -> None:
    python = machine.has("python9.8", WORKS, "pythons")
    there = machine.home / "there"
    machine.has("uv", f'case "$2" in find) [ -e {there} ] && echo {python};; install) touch {there};; esac', "uv")

    assert machine.asked_for("9.8") == [["9.8", str(python), "downloaded by uv"]]
    assert machine.asked_for("9.8") == [["9.8", str(python), "of uv"]]
    assert machine.called("uv python install") == 1


def test_a_download_that_fails_is_not_tried_for_every_version(machine: Machine) -> None:
    machine.has("uv", FAILS, "uv")

    (_, none, first), (_, _, second) = machine.asked_for("9.8", "9.9")

    assert none == ""
    assert first == ("not on the PATH, not of pyenv; uv: it could not be downloaded; Debian has no python9.8-venv")
    assert "uv: not tried after a download that failed" in second
    assert machine.called("uv python install") == 1


def test_debians_package_is_installed_by_root_only(machine: Machine) -> None:
    machine.has("apt-cache", WORKS)
    ((_, _, refused),) = machine.asked_for("9.9")
    machine.has("id", "echo 1000")
    ((_, _, as_user),) = machine.asked_for("9.9")

    assert refused.endswith("no uv; Debian's python9.9-venv could not be installed")
    assert as_user.endswith("Debian has python9.9-venv, and only root can install it")
    assert machine.called("apt-get install") == 1


def test_ci_asks_for_every_version_that_the_readme_names() -> None:
    """And for no other: what it does not find it says."""
    root = SCRIPT.parents[1]
    (line,) = [line for line in (root / ".ci" / "run").read_text().splitlines() if line.startswith("PYTHONS=")]
    (row,) = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("| Python |")]

    assert all(version in row for version in line.removeprefix("PYTHONS=(").rstrip(")").split())
    assert os.access(SCRIPT, os.X_OK)
