"""The Postgres that `processor dev` and users' tests start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from processor.embedded import EmbeddedPostgres, installed

WAIT_S = 60

INITDB = """#!/bin/sh
trap 'echo FATAL: canceling statement due to user request >&2; exit 1' INT
while [ "$1" != --pgdata ]; do shift; done
mkdir "$2"
sleep 1000 &
: > "$2/begun"
wait
"""

OWNER = """
import signal, sys
from pathlib import Path
from processor.embedded import EmbeddedPostgres

def note(*_):
    print("noted", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)

signal.signal(signal.SIGINT, note)
EmbeddedPostgres(Path(sys.argv[1])).__enter__()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as somebody else")
def test_it_starts_from_a_folder_that_only_root_may_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a virtual environment under /root: the programs are copied, with the libraries they look for beside them.

    And its connection string leads to it although libpq's variables name another server.
    """
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    package = installed().parent.parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / package.name).symlink_to(package)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        (closed / libraries.name).symlink_to(libraries)

    with EmbeddedPostgres(closed / package.name / installed().parent.name / "bin") as postgres:
        with psycopg.connect(postgres.dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        home = Path(postgres.dsn.split()[0].removeprefix("host="))
        assert (home / "install").is_dir()

    assert not home.exists()


def test_ctrl_c_while_it_is_set_up_is_for_its_owner_alone(own_tmp: Path) -> None:
    """A terminal sends it to every process of the group: `initdb` is not asked, and leaves nothing when it is ended."""
    programs = own_tmp / "postgres" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("initdb", INITDB), ("postgres", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, programs],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + WAIT_S
            while not list(own_tmp.glob("onceflow-*/data/begun")):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
            family = psutil.Process(process.pid).children(recursive=True)

            os.killpg(process.pid, signal.SIGINT)
            assert process.stdout is not None
            assert process.stdout.readline() == "noted\n"
            assert all(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()

    assert said.endswith("KeyboardInterrupt\n"), said
    assert psutil.wait_procs(family, timeout=WAIT_S)[1] == []
    assert list(own_tmp.iterdir()) == [own_tmp / "postgres"]
