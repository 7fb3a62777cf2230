"""`processor dev` and `processor new`: what a user begins with, in processes of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.integration.commands import ROOT, WAIT_S, command, environment, produce, running, wait_for


def test_dev_brings_its_own_servers_and_takes_them_away(project: Path) -> None:
    (project / "processor.yaml").write_text(
        json.dumps(
            {
                "migrate": [
                    [
                        sys.executable,
                        "-c",
                        "import os, psycopg; psycopg.connect(os.environ['PROCESSOR_POSTGRES_DSN'], autocommit=True).execute('CREATE TABLE sale (id text)')",
                    ]
                ]
            }
        )
    )

    with running(project, "dev", "shop:app", env={"PROCESSOR_HTTP_PORT": "0"}) as program:
        broker = program.until(r"Kafka +(\S+)")[1]
        dsn = program.until(r'psql "([^"]+)"')[1]
        produce(broker, {"order_id": "o-1"})
        wait_for(dsn, "SELECT count(*) FROM sale", 1)
        code = program.end(signal.SIGINT)

    assert code == 0, program.lines
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


def test_a_new_project_passes_its_own_tests(tmp_path: Path) -> None:
    made = command(tmp_path, "new", "my-shop")
    assert made.returncode == 0, made.stderr
    project = tmp_path / "my-shop"

    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env=environment(None),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert tested.returncode == 0, tested.stdout
    assert command(project, "check", "my_shop.app:app").returncode == 0
    again = command(tmp_path, "new", "my-shop")
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


@pytest.mark.fresh_environment
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_the_commands_that_a_new_project_is_begun_with_work(tmp_path: Path, tool: str) -> None:
    """As a stranger types them, with the pip that came with Python, and with uv; onceflow is on no package index."""
    hidden = ("PROCESSOR_", "PYTEST_", "VIRTUAL_ENV", "PYTHON")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    env["PATH"] = f"{tmp_path / 'venv' / 'bin'}:{Path(sys.executable).parent}:{env['PATH']}"

    def sh(line: str, folder: Path = tmp_path) -> str:
        ended = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{line}\n{ended.stdout}"
        return ended.stdout

    sh(f"'{sys.executable}' -m venv venv && venv/bin/pip install -q '{ROOT}'")
    _, _, pip, _, uv = re.split(r"^(with pip|or with uv).*\n", sh("processor new my-shop"), flags=re.MULTILINE)
    install, test, develop = (line.strip() for line in (pip if tool == "pip" else uv).strip().splitlines())

    sh(install, tmp_path / "my-shop")
    assert " passed" in sh(test, tmp_path / "my-shop")
    assert "usage: processor dev" in sh(f"{develop} --help", tmp_path / "my-shop")
