"""`processor run --processes N`: real processes, killed, stopped, and asked for all of them at one place."""

import contextlib
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from consumers.mock import MockCluster
from tests.integration.commands import Running, command, env_of, fetch, produce, running

WAIT_S = 60


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until_ready(port: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while get(port, "/readyz")[0] != 200:
        assert time.monotonic() < deadline, get(port, "/readyz")
        time.sleep(0.05)


def started(program: Running, count: int) -> tuple[int, dict[int, int]]:
    """The port of the endpoint, and the workers' process IDs by number."""
    port = int(json.loads(program.until('"status server listens"').string)["port"])
    workers: dict[int, int] = {}
    while len(workers) < count:
        line = json.loads(program.until('"worker started"').string)
        workers[line["worker"]] = line["pid"]
    return port, workers


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_workers_share_the_partitions_and_answer_at_one_place(
    project: Path, database: str, mock_cluster: MockCluster
) -> None:
    mock_cluster.create_topic("orders", 4)
    env = env_of(database, mock_cluster) | {"PROCESSOR_EXECUTOR_NAME": "shop"}
    fetch(database, "CREATE TABLE sale (order_id text)")
    with running(project, "run", "shop:app", "--processes", "2", env=env) as program:
        port, workers = started(program, 2)
        until_ready(port)
        assert get(port, "/livez")[0] == 200
        names = fetch(database, "SELECT name FROM dbos.executor WHERE died_at IS NULL ORDER BY name")
        assert names == [("shop-0",), ("shop-1",)]

        produce(mock_cluster.bootstrap_servers, {"order_id": "o-1"}, {"order_id": "o-2"})
        deadline = time.monotonic() + WAIT_S
        while fetch(database, "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'") != [(2,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

        metrics = get(port, "/metrics")[1]
        assert 'processor_process_up{process="0"} 1.0' in metrics
        assert 'processor_process_up{process="1"} 1.0' in metrics
        assert len(re.findall(r"^# TYPE processor_in_flight gauge", metrics, re.MULTILINE)) == 1
        finished = re.findall(
            r'^processor_workflows_finished_total\{.*process="\d".*\} ([0-9.]+)', metrics, re.MULTILINE
        )
        assert sum(map(float, finished)) == 2

        assert program.end() == 0
    assert all(gone(pid) for pid in workers.values())


def test_a_worker_that_dies_is_started_anew(project: Path, database: str, mock_cluster: MockCluster) -> None:
    mock_cluster.create_topic("orders", 4)
    env = env_of(database, mock_cluster)
    with running(project, "run", "shop:app", "--processes", "2", env=env) as program:
        port, workers = started(program, 2)
        until_ready(port)

        os.kill(workers[1], signal.SIGKILL)
        program.until('"worker ended, starting another"')
        again = json.loads(program.until('"worker started"').string)

        assert again["worker"] == 1
        until_ready(port)
        assert 'processor_process_restarts{process="1"} 1.0' in get(port, "/metrics")[1]
        assert program.end() == 0


def test_workers_end_with_their_supervisor_however_it_ends(
    project: Path, database: str, mock_cluster: MockCluster
) -> None:
    mock_cluster.create_topic("orders", 4)
    env = env_of(database, mock_cluster)
    with running(project, "run", "shop:app", "--processes", "2", env=env) as program:
        port, workers = started(program, 2)
        until_ready(port)

        program.process.kill()

        deadline = time.monotonic() + WAIT_S
        while not all(gone(pid) for pid in workers.values()):
            assert time.monotonic() < deadline, workers
            time.sleep(0.05)


def test_a_mistake_is_said_once_and_ends_all(project: Path, empty_database: str, mock_cluster: MockCluster) -> None:
    """A missing migration: no worker is started again and again for it."""
    env = env_of(empty_database, mock_cluster)

    ended = command(project, "run", "shop:app", "--processes", "3", env=env)

    assert ended.returncode == 2
    assert ended.stderr.count("not applied") == 1, ended.stderr
    assert ended.stderr.count("worker started") == 1


@pytest.mark.parametrize("count", ["0", "many", "1000"])
def test_a_count_that_is_none_is_refused(project: Path, count: str) -> None:
    ended = command(project, "run", "shop:app", "--processes", count)

    assert ended.returncode == 2
    assert "--processes" in ended.stderr
