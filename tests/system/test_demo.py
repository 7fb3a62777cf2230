"""The demo on given servers, with wrong arguments, and ended by signals; on servers of its own: tests/docs/test_readme.py."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from processor.demo import demo
from processor.demo.kills import KILLS_MIN
from tests.fixtures.kafka import Kafka

WAIT_S = 60
"""Longest until a demo has ended; a second alone."""

COMMAND = [sys.executable, "-c", "import sys; from onceflow import main; sys.exit(main())", "demo"]
"""As the installed `processor` begins."""


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--orders", "10"], "--orders 10: at least 2,000"),
        (["--rate", "0"], "--rate 0: orders a second, at least 1"),
    ],
)
def test_a_demo_that_would_prove_nothing_is_refused(arguments: list[str], said: str) -> None:
    refused = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)

    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_a_demo_on_given_servers_leaves_no_topic_no_group_and_no_schema(
    own_tmp: Path, capsys: pytest.CaptureFixture[str], kafka: Kafka, empty_database: str
) -> None:
    given = demo.Options(
        orders=6_000,
        rate=400,
        kill_every_s=2,
        away_s=6,
        seed=2,
        kafka=kafka.bootstrap_servers,
        postgres=empty_database,
    )

    code = demo.run(given)

    said = capsys.readouterr().out
    assert code == 0, said
    result = json.loads(said.splitlines()[-1])
    assert (result["missing"], result["duplicates"], result["out_of_order"]) == (0, 0, 0)
    assert result["kills"] >= KILLS_MIN
    deadline = time.monotonic() + WAIT_S  # metadata follows the deletion
    while left := [name for name in kafka.admin.list_topics(timeout=10).topics if name.startswith("demo.")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    groups = kafka.admin.list_consumer_groups(request_timeout=10).result().valid
    assert [group.group_id for group in groups if group.group_id.startswith("demo.")] == []
    with psycopg.connect(empty_database) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'processor_demo%'").fetchall()
    assert found == []


def servers_are_set_up(process: "subprocess.Popen[str]") -> None:
    """Wait until `initdb` runs."""
    children = psutil.Process(process.pid).children
    while not any(name(each) == "initdb" for each in children()):
        assert process.poll() is None
        time.sleep(0.01)


def orders_are_done(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert any(re.search(r"[1-9]\d* done of", line) for line in process.stdout)


@pytest.mark.parametrize(
    "moment, number",
    [
        (servers_are_set_up, signal.SIGINT),
        (orders_are_done, signal.SIGTERM),
        (orders_are_done, signal.SIGKILL),
    ],
)
def test_a_signal_at_any_time_leaves_nothing_behind(
    own_tmp: Path, number: signal.Signals, moment: Callable[["subprocess.Popen[str]"], None]
) -> None:
    """To the whole group of processes, as a terminal sends it."""
    with subprocess.Popen(
        [*COMMAND, "--rate", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            moment(process)
            family = psutil.Process(process.pid).children(recursive=True)

            os.killpg(process.pid, number)
            said, complained = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()

    if number != signal.SIGKILL:
        assert process.returncode == 128 + number, complained
        assert said.endswith(f"ended by {number.name}; nothing is left running\n")
    assert complained == ""
    _, alive = psutil.wait_procs(family, timeout=WAIT_S)
    assert not alive
    assert list(own_tmp.iterdir()) == []


@pytest.mark.parametrize("module", ["psycopg", "consumers.mock", "consumers.feed"])
def test_ctrl_c_while_it_is_imported_is_no_traceback(own_tmp: Path, module: str) -> None:
    """When these come, its package, its commands and the demo itself are being imported."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", *COMMAND[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert any(line.rpartition("|")[2].strip().startswith(module) for line in process.stderr)

            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()

    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert "Traceback" not in said
    assert list(own_tmp.iterdir()) == []


@pytest.mark.parametrize(
    "given, said",
    [
        ("--kafka", "processor: Kafka at 127.0.0.1:1 did not answer within 8 s: "),
        ("--postgres", "processor: Postgres as given cannot be used: "),
    ],
)
def test_servers_that_do_not_answer_are_one_message_and_nothing_is_said_to_be_left_on_them(
    own_tmp: Path, given: str, said: str
) -> None:
    address = {"--kafka": "127.0.0.1:1", "--postgres": "host=127.0.0.1 port=1"}[given]

    refused = subprocess.run([*COMMAND, given, address], capture_output=True, text=True, check=False, timeout=WAIT_S)

    assert refused.returncode == 2
    assert refused.stderr.startswith(said)
    assert "\n  Check " in refused.stderr
    assert "not deleted" not in refused.stdout
    assert "not dropped" not in refused.stdout
    assert list(own_tmp.iterdir()) == []


def name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
