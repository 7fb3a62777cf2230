"""The servers that tests start: they keep what they promised over kills, take secure clients, and never stay behind."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.conformance.members import PATIENCE_S, produce
from tests.fixtures.kafka import KafkaServer, Security
from tests.fixtures.postgres import PostgresServer


def test_a_killed_postgres_comes_back_with_what_was_committed(private_postgres: PostgresServer) -> None:
    server = private_postgres
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE TABLE t (i integer)")
        conn.execute("INSERT INTO t VALUES (1)")

    server.kill()
    assert not server.running
    server.start()
    server.restart("immediate")

    with psycopg.connect(server.dsn()) as conn:
        assert conn.execute("SELECT i FROM t").fetchall() == [(1,)]


def test_a_killed_kafka_comes_back_with_what_was_acknowledged(private_kafka: KafkaServer) -> None:
    """Killed, not the machine: the kernel has what the broker wrote."""
    kafka = private_kafka.kafka()
    kafka.create_topic("t", 2)
    produce(private_kafka.bootstrap_servers, "t", ["0", "1"])

    private_kafka.kill()
    assert not private_kafka.running
    private_kafka.start()

    reader = Consumer({"bootstrap.servers": private_kafka.bootstrap_servers, "group.id": "g", "log_level": 0})
    assert reader.get_watermark_offsets(TopicPartition("t", 0), timeout=PATIENCE_S) == (0, 2)
    reader.close()


def token(principal: str) -> tuple[str, float]:
    """An unsecured token, as the test broker takes them."""
    expires = time.time() + 3600

    def part(content: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    claims = {"sub": principal, "iat": time.time(), "exp": expires}
    return f"{part({'alg': 'none'})}.{part(claims)}.", expires


@pytest.mark.private_kafka
def test_secure_listeners_take_who_has_credentials_and_nobody_else() -> None:
    """SCRAM and OAUTHBEARER over TLS."""
    with KafkaServer(security=Security({"alice": "her-password"})) as server:
        common: dict[str, Any] = {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(server.ca_file),
            "log_level": 0,
        }
        scram = common | {"bootstrap.servers": server.scram_servers, "sasl.mechanism": "SCRAM-SHA-512"}
        oauth = common | {"bootstrap.servers": server.oauth_servers, "sasl.mechanism": "OAUTHBEARER"}
        refused: list[int] = []

        def refuse(error: KafkaError) -> None:
            refused.append(error.code())

        def bearer_token(_: str) -> tuple[str, float]:
            return token("bob")

        bearing: dict[str, Any] = oauth | {"oauth_cb": bearer_token}
        guess: dict[str, Any] = scram | {"sasl.username": "alice", "sasl.password": "a guess", "error_cb": refuse}

        alice = AdminClient(scram | {"sasl.username": "alice", "sasl.password": "her-password"})
        bearer = AdminClient(bearing)
        mallory = AdminClient(guess)

        assert alice.list_topics(timeout=PATIENCE_S).brokers
        assert bearer.list_topics(timeout=PATIENCE_S).brokers
        with pytest.raises(KafkaException):
            mallory.list_topics(timeout=2)
        mallory.poll(0)
        assert KafkaError._AUTHENTICATION in refused


def test_a_server_ends_with_its_test_run_even_if_that_is_killed(tmp_path: Path) -> None:
    """No clean-up code runs on SIGKILL: the guard sees the pipe close."""
    script = (
        "import pathlib, sys, time\n"
        "from tests.fixtures.processes import GuardedProcess\n"
        "server = GuardedProcess(['sleep', '600'], log=pathlib.Path(sys.argv[1]))\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert run.stdout
    with run.stdout:
        server = psutil.Process(int(run.stdout.readline()))

    run.send_signal(signal.SIGKILL)
    run.wait()

    gone, _ = psutil.wait_procs([server], timeout=PATIENCE_S)
    assert gone == [server]
