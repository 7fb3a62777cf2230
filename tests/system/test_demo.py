"""The demo itself: a short one ends well, and a signal at any time leaves nothing behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from processor.demo import demo
from tests.fixtures.kafka import Kafka

WAIT_S = 60
"""Longest until a demo has ended; a second alone."""

COMMAND = [sys.executable, "-m", "processor", "demo"]


@pytest.mark.timeout(600)
def test_a_demo_of_few_orders_takes_its_time_and_ends_with_clean_books(
    own_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = demo.run(demo.Options(orders=demo.ORDERS_MIN, seed=1))

    said = capsys.readouterr().out
    assert code == 0, said
    result = json.loads(said.splitlines()[-1])
    assert result["produced"] == demo.ORDERS_MIN == result["effects"] + result["dead_letters"]
    assert (result["missing"], result["duplicates"], result["out_of_order"]) == (0, 0, 0)
    assert result["kills"] >= demo.HITS_MIN


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
def test_a_demo_on_given_servers_leaves_no_topic_and_no_schema(
    own_tmp: Path, capsys: pytest.CaptureFixture[str], kafka: Kafka, empty_database: str
) -> None:
    given = demo.Options(
        orders=12_000,
        rate=400,
        kill_every_s=3,
        away_s=8,
        seed=2,
        kafka=kafka.bootstrap_servers,
        postgres=empty_database,
    )

    code = demo.run(given)

    assert code == 0, capsys.readouterr().out
    deadline = time.monotonic() + WAIT_S  # metadata follows the deletion
    while left := [name for name in kafka.admin.list_topics(timeout=10).topics if name.startswith("demo.")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    with psycopg.connect(empty_database) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'processor_demo%'").fetchall()
    assert found == []


@pytest.mark.parametrize("after_s", [0.3, 2.0, 7.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_leaves_nothing_behind(own_tmp: Path, number: signal.Signals, after_s: float) -> None:
    with subprocess.Popen([*COMMAND, "--rate", "200"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if after_s > 1:
                process.stdout.readline()  # it has begun
            time.sleep(after_s)
            family = psutil.Process(process.pid).children(recursive=True)

            process.send_signal(number)
            if after_s < 1:
                again(process, number)
            process.communicate(timeout=WAIT_S)
        finally:
            process.kill()

    assert process.returncode != 0
    _, alive = psutil.wait_procs(family, timeout=WAIT_S)
    assert not alive
    assert list(own_tmp.iterdir()) == []


def again(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """As a user presses Ctrl-C once more: while modules are imported, Python passes a `KeyboardInterrupt` over that is
    raised where nothing can be raised, such as in a weak reference's callback."""
    try:
        process.wait(WAIT_S / 4)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
