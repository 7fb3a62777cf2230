"""`processor dev` and `processor new`: what a user begins with, in processes of its own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.integration.commands import ROOT, SHOP, WAIT_S, command, environment, produce, running, wait_for


def test_dev_brings_its_own_servers_touches_no_others_and_takes_them_away(project: Path, own_tmp: Path) -> None:
    """I9: a pretend broker and a database that lasts do not belong together: events would be published, and gone.

    Whatever names other servers, for the app itself, the commands of `migrate:` and libpq: nobody so much as connects to them.
    """
    (project / "shop.py").write_text(SHOP + READS)
    with listeners() as (by_file, by_variable, by_libpq, brokers):
        settings = {
            "migrate": [[sys.executable, "migrate.py"]],
            "postgres": {"dsn": f"host=127.0.0.1 port={by_file}", "direct_dsn": f"host=127.0.0.1 port={by_file}"},
            "kafka": {"bootstrap_servers": f"127.0.0.1:{brokers}"},
        }
        (project / "processor.yaml").write_text(json.dumps(settings))
        (project / "migrate.py").write_text(MIGRATE)
        variables = {
            "PROCESSOR_HTTP_PORT": "0",
            "PROCESSOR_POSTGRES_DSN": f"host=127.0.0.1 port={by_variable}",
            "PGHOSTADDR": "127.0.0.1",
            "PGPORT": str(by_libpq),
        }
        with running(project, "dev", "shop:app", env=variables) as program:
            broker = program.until(r"Kafka +(\S+)")[1]
            dsn = program.until(r'psql "([^"]+)"')[1]
            program.until("postgres.dsn, postgres.direct_dsn and kafka.bootstrap_servers are left alone")
            produce(broker, {"order_id": "o-1"})
            wait_for(dsn, "SELECT count(*) FROM sale", 1)
            code = program.end(signal.SIGINT)

    assert code == 0, program.lines
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    assert list(own_tmp.iterdir()) == []


READS = """
import processor

assert "127.0.0.1" not in processor.load_settings().postgres.dsn.get_secret_value()
"""

MIGRATE = """
import os
import psycopg
import processor

settings = processor.load_settings()
assert settings.postgres.direct_dsn is None
assert settings.postgres.dsn.get_secret_value() == os.environ["PROCESSOR_POSTGRES_DSN"]
with psycopg.connect(os.environ["PROCESSOR_POSTGRES_DSN"]) as connection:
    connection.execute("CREATE TABLE sale (id text)")
"""


@contextlib.contextmanager
def listeners() -> Generator[list[int]]:
    """Four ports to which nobody may have connected at the end."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        yield [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.accept()


def test_a_second_ctrl_c_ends_dev_at_once_and_leaves_nothing_either(project: Path, own_tmp: Path) -> None:
    """Its Postgres and the data of it go, although there was no time to see to them."""
    (project / "migrate.py").write_text(MIGRATE)
    (project / "processor.yaml").write_text(json.dumps({"migrate": [[sys.executable, "migrate.py"]]}))
    with running(project, "dev", "shop:app", env={"PROCESSOR_HTTP_PORT": "0"}) as program:
        produce(program.until(r"Kafka +(\S+)")[1], {"order_id": "o-1", "naps_s": 1_000})
        program.until("it naps")
        servers = psutil.Process(program.process.pid).children(recursive=True)
        program.process.send_signal(signal.SIGINT)
        program.until("signal received")
        code = program.end(signal.SIGINT)

    assert code == 130
    assert psutil.wait_procs(servers, timeout=WAIT_S)[1] == []
    assert list(own_tmp.iterdir()) == []


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
def test_the_commands_that_a_new_project_is_begun_with_work(tmp_path: Path) -> None:
    """As a stranger types them, with the pip that came with Python, and with uv; onceflow is on no package index."""
    hidden = ("PROCESSOR_", "PYTEST_", "VIRTUAL_ENV", "PYTHON")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    env["PIP_NO_COMPILE"] = "1"
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
    for name, tool in (("my-shop", "with pip"), ("our-shop", "or with uv")):
        _, *said = re.split(r"^(with pip|or with uv).*\n", sh(f"processor new {name}"), flags=re.MULTILINE)
        block = said[said.index(tool) + 1]
        install, test, develop = (line.strip() for line in block.strip().splitlines())

        sh(install, tmp_path / name)
        assert " passed" in sh(test, tmp_path / name)
        assert "usage: processor dev" in sh(f"{develop} --help", tmp_path / name)
