"""The `processor` command as its users meet it: in a process of its own, by exit code and output."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest

from consumers.mock import MockCluster
from engine.addresses import VARIABLES
from processor.cli import FAILED, MISTAKE, main
from tests.fixtures.kafka import KafkaServer
from tests.fixtures.kafka import Security as BrokerSecurity
from tests.integration.commands import WAIT_S, Running, command, env_of, environment, fetch, produce, running, wait_for

# -- mistakes (those that no server is needed for: tests/unit/test_command_line.py)


@pytest.mark.parametrize("arguments", [("relay",), ("run", "shop:app")])
@pytest.mark.parametrize(
    "dsn, message, advice",
    [
        ("host=127.0.0.1 port=1 password=hunter2", "Postgres cannot be reached", "Check the address (postgres.dsn"),
        ("", "postgres.dsn is not set", "PROCESSOR_POSTGRES_DSN"),
    ],
)
def test_a_database_that_does_not_answer_is_one_message(
    project: Path, arguments: tuple[str, ...], dsn: str, message: str, advice: str
) -> None:
    """Other commands: tests/unit/test_command_line.py."""
    nowhere = dict.fromkeys(VARIABLES, "")

    ended = command(project, *arguments, env={"PROCESSOR_POSTGRES_DSN": dsn, "PROCESSOR_HTTP_PORT": "0", **nowhere})

    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert advice in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


@pytest.mark.parametrize(
    "lacks, message",
    [
        ("settings", "PROCESSOR_EXECUTOR_IN_FLIGHT_MAX: Input should be a valid integer"),
        ("migrations", "Run `processor migrate`"),
        ("rights", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"),
        ("brokers", "Kafka at 127.0.0.1:1 did not answer"),
        ("topic", "topics ['orders'] do not exist"),
    ],
)
def test_what_the_world_lacks_is_one_message_that_says_what_to_do(
    project: Path, request: pytest.FixtureRequest, mock_cluster: MockCluster, lacks: str, message: str
) -> None:
    """And exit code 2; nothing has begun."""
    database: str = request.getfixturevalue("empty_database" if lacks == "migrations" else "database")
    env = env_of(database, mock_cluster)
    match lacks:
        case "settings":
            env["PROCESSOR_EXECUTOR_IN_FLIGHT_MAX"] = "many"
        case "rights":
            fetch(database, "CREATE ROLE onceflow_reader")
            fetch(database, "GRANT USAGE ON SCHEMA dbos TO onceflow_reader")
            fetch(database, "GRANT SELECT ON ALL TABLES IN SCHEMA dbos TO onceflow_reader")
            request.addfinalizer(lambda: fetch(database, "DROP ROLE onceflow_reader"))
            request.addfinalizer(lambda: fetch(database, "DROP OWNED BY onceflow_reader"))
            env["PGOPTIONS"] = "-c role=onceflow_reader"
        case "brokers":
            env["PROCESSOR_KAFKA_BOOTSTRAP_SERVERS"] = "127.0.0.1:1"
        case _:
            pass

    ended = command(project, "run", "shop:app", env=env)

    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "FAIL" not in ended.stderr  # what the Kafka client says at every attempt, the message says once
    if lacks == "rights":
        listed, discarded = (
            command(project, "dead-letters", *words, env=env)
            for words in (("list",), ("discard", "1", "--note", "as a test"))
        )
        assert listed.returncode == 0, listed.stderr
        assert (discarded.returncode, message in discarded.stderr) == (2, True), discarded.stderr


# -- what commands do


def test_importing_an_app_has_no_effect_on_the_world(project: Path) -> None:
    """No thread, no connection; not even the Kafka client is loaded."""
    script = "import shop, sys, threading; print(threading.active_count(), 'confluent_kafka' in sys.modules)"

    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=project, env=environment(None), capture_output=True, text=True, check=True
    )

    assert ended.stdout == "1 False\n"


def test_migrate_brings_tables_and_runs_the_users_commands_once_asked(project: Path, empty_database: str) -> None:
    script = "import os, psycopg; psycopg.connect(os.environ['PROCESSOR_POSTGRES_DSN'], autocommit=True).execute('CREATE TABLE sale (id text)')"
    (project / "processor.yaml").write_text(
        json.dumps(
            {
                "postgres": {"dsn": "${DSN}", "schema": "other"},
                "migrate": [[sys.executable, "-c", script]],
                "rollback": ["false", "echo never"],
            }
        )
    )
    env = {"DSN": empty_database}

    first, second, back = (
        command(project, *words, env=env) for words in (("migrate",), ("migrate", "--phase", "post"), ("rollback",))
    )

    assert first.returncode == 0, first.stderr
    assert "other: applied" in first.stdout
    assert fetch(empty_database, "SELECT count(*) FROM sale") == [(0,)]
    assert fetch(empty_database, "SELECT count(*) FROM other.workflow_status") == [(0,)]
    assert (second.returncode, second.stdout) == (0, "other: nothing to apply\n")
    assert (back.returncode, "never" in back.stdout) == (1, False)
    assert "false: exit code 1" in back.stderr


def test_a_command_of_the_users_is_shown_as_it_is_written(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A `${NAME}` in it may be a secret: neither the line before it, nor what is said of its end, has it filled in."""
    file = project / "processor.yaml"
    monkeypatch.setenv("MYDSN", "postgresql://ada:hunter2@db/shop")

    for shown, rollback in (
        ("false ${MYDSN}", ["false ${MYDSN}"]),
        ("false '${MYDSN}'", [["false", "${MYDSN}"]]),
        ("${MYDSN} -c x", ["${MYDSN} -c x"]),
    ):
        file.write_text(json.dumps({"rollback": rollback}))
        assert main(["rollback", "--config", str(file)]) in (FAILED, MISTAKE)
        written = "".join(capfd.readouterr())
        assert (shown in written, "hunter2" in written) == (True, False), written


def test_rollback_runs_the_users_commands_in_order_and_leaves_the_system_tables(
    project: Path, empty_database: str
) -> None:
    """The second one finds what the first one did; the settings' environment is theirs."""
    script = "import os, psycopg; psycopg.connect(os.environ['PROCESSOR_POSTGRES_DSN'], autocommit=True).execute({!r})"
    steps = ("ALTER TABLE sale RENAME TO sold", "INSERT INTO sold VALUES ('back')")
    (project / "processor.yaml").write_text(
        json.dumps(
            {
                "postgres": {"dsn": "${DSN}", "schema": "other"},
                "rollback": [*([sys.executable, "-c", script.format(step)] for step in steps), "echo went back"],
            }
        )
    )
    fetch(empty_database, "CREATE TABLE sale (id text)")
    env = {"DSN": empty_database}

    migrated = command(project, "migrate", env=env)
    back = command(project, "rollback", env=env)

    assert migrated.returncode == 0, migrated.stderr
    assert back.returncode == 0, back.stderr
    assert "went back" in back.stdout
    assert fetch(empty_database, "SELECT id FROM sold") == [("back",)]
    assert fetch(empty_database, "SELECT count(*) FROM other.workflow_status") == [(0,)]


def test_run_handles_records_and_stops_in_order_on_sigterm(
    project: Path, database: str, mock_cluster: MockCluster
) -> None:
    mock_cluster.create_topic("orders", 1)
    fetch(database, "CREATE TABLE sale (order_id text)")
    produce(mock_cluster.bootstrap_servers, {"order_id": "o-1"}, {"order_id": "o-2", "naps_s": 2})

    with running(project, "run", "shop:app", env=env_of(database, mock_cluster)) as program:
        port = program.until(r'"port": (\d+)')[1]
        program.until("partition attached")
        program.until("it naps")
        ready = urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=WAIT_S).status
        code = program.end()

    assert (ready, code) == (200, 0), program.lines
    events = [json.loads(line)["event"] for line in program.lines if line.startswith("{")]
    assert events[-1] == "stopped"
    assert {"started", "signal received", "source released"} <= set(events)
    assert fetch(database, "SELECT order_id FROM sale ORDER BY 1")[:1] == [("o-1",)]
    # The step that still ran ended within the drain; what follows it belongs to the next owner.
    recorded = fetch(database, "SELECT function_name FROM dbos.operation_outputs WHERE workflow_uuid = 'orders-0-1'")
    assert ("nap",) in recorded


def test_a_bug_of_ours_ends_the_process_with_its_traceback_and_exit_code_1(
    project: Path, database: str, mock_cluster: MockCluster
) -> None:
    """And not with a partition that is tried again for ever."""
    mock_cluster.create_topic("orders", 1)
    produce(mock_cluster.bootstrap_servers, {"order_id": "o-1"})
    (project / "broken.py").write_text(
        "from engine.inbox import Inbox\nfrom shop import app\n\n\n"
        "def deliver(self, records):\n    raise TypeError('a bug of ours')\n\n\nInbox.deliver = deliver\n"
    )

    with running(project, "run", "broken:app", env=env_of(database, mock_cluster)) as program:
        code = program.wait()

    assert code == 1, program.lines
    lines = [json.loads(line) for line in program.lines if line.startswith("{")]
    (told,) = [line for line in lines if line["event"] == "service failed"]
    assert "broken.py" in told["traceback"]
    assert [line["error"] for line in lines if line["event"] == "cannot go on"] == ["TypeError: a bug of ours"]
    assert fetch(database, "SELECT value::json ->> 'released' FROM dbos.event_dispatch_kv") == [("true",)]


def test_a_second_signal_ends_it_at_once(project: Path, database: str, mock_cluster: MockCluster) -> None:
    mock_cluster.create_topic("orders", 1)
    produce(mock_cluster.bootstrap_servers, {"order_id": "o-1", "naps_s": 50})

    with running(project, "run", "shop:app", env=env_of(database, mock_cluster)) as program:
        program.until("partition attached")
        wait_for(database, "SELECT count(*) FROM dbos.workflow_status", 1)
        program.process.send_signal(signal.SIGINT)
        program.until("signal received")
        code = program.end(signal.SIGINT)

    assert code == 130, program.lines
    assert fetch(database, "SELECT status FROM dbos.workflow_status") == [("PENDING",)]


def test_a_step_that_outlives_the_drain_does_not_hold_the_process(
    project: Path, database: str, mock_cluster: MockCluster
) -> None:
    mock_cluster.create_topic("orders", 1)
    produce(mock_cluster.bootstrap_servers, {"order_id": "o-1", "naps_s": 300})

    env = env_of(database, mock_cluster) | {"PROCESSOR_EXECUTOR_DRAIN": "500ms"}
    with running(project, "run", "shop:app", env=env) as program:
        wait_for(database, "SELECT count(*) FROM dbos.workflow_status", 1)
        code = program.end()

    assert code == 0, program.lines


KILLER = """
import os

from pydantic import BaseModel

from processor import App, Topic, Transaction


class Order(BaseModel):
    order_id: str


app = App("shop")


@app.transaction(on=Topic("orders", Order))
async def write(tx: Transaction, order: Order) -> None:
    if order.order_id == "o-3":
        os.abort()
    await tx.execute("INSERT INTO sale VALUES (%s)", (order.order_id,))
"""


@pytest.mark.timeout(240)
def test_a_handler_that_aborts_its_process_is_found_and_its_record_buried(
    project: Path, database: str, mock_cluster: MockCluster
) -> None:
    """P21, P22: a process of its own dies of `os.abort()` as often as it takes; neighbours, of its key too, take effect once."""
    (project / "killer.py").write_text(KILLER)
    mock_cluster.create_topic("orders", 1)
    fetch(database, "CREATE TABLE sale (order_id text)")
    produce(mock_cluster.bootstrap_servers, *({"order_id": f"o-{number}"} for number in range(8)))
    env = env_of(database, mock_cluster) | {
        "PROCESSOR_EXECUTOR_NAME": "one",
        "PROCESSOR_KAFKA_SESSION_TIMEOUT": "1s",  # the broker waits so long for each that died
    }

    deaths = 0
    while True:
        with running(project, "run", "killer:app", env=env) as program:
            if ended := _died_or_buried(program, database):
                assert ended == -signal.SIGABRT, program.lines
                deaths += 1
                assert deaths < 10, "nobody finds the record that kills"
                continue
            wait_for(database, "SELECT count(*) FROM sale", 7)
            assert program.end() == 0
            break

    assert deaths >= 3
    assert fetch(database, "SELECT order_id FROM sale ORDER BY 1") == [(f"o-{n}",) for n in range(8) if n != 3]
    assert fetch(database, "SELECT kafka_offset, reason FROM dbos.dead_letter") == [(3, "killed its process")]
    assert fetch(database, "SELECT workflow_uuid FROM dbos.workflow_status WHERE status <> 'SUCCESS'") == [
        ("orders-0-3",)
    ]


def _died_or_buried(program: Running, database: str) -> int:
    """The exit code of a process that died, or 0: it lives, and the dead letter stands."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if program.process.poll() is not None:
            return program.wait()
        if fetch(database, "SELECT 1 FROM dbos.dead_letter"):
            return 0
        time.sleep(0.05)
    program.end(signal.SIGKILL)
    raise AssertionError("neither dead nor done:\n" + "\n".join(program.lines))


TOKENS = """
import json
import time
from base64 import urlsafe_b64encode


def fetch(config):
    expires = time.time() + 300
    parts = [{"alg": "none"}, {"sub": "alice", "iat": int(time.time()), "exp": int(expires)}]
    encoded = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, ""]), expires
"""


@pytest.mark.private_kafka
def test_run_over_sasl_ssl_with_tokens_of_the_users(project: Path, database: str) -> None:
    """A settings file names the function; the broker lets in who has its token."""
    (project / "tokens.py").write_text(TOKENS)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE sale (order_id text)")
    with KafkaServer(security=BrokerSecurity()) as server:
        server.kafka().create_topic("orders", 1)
        produce(server.kafka().bootstrap_servers, {"order_id": "o-1"})
        env = {
            "PROCESSOR_POSTGRES_DSN": database,
            "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": server.oauth_servers,
            "PROCESSOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "PROCESSOR_KAFKA_SSL_CA": str(server.ca_file),
            "PROCESSOR_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
            "PROCESSOR_KAFKA_SASL_OAUTHBEARER_TOKEN": "tokens:fetch",
            "PROCESSOR_HTTP_ENABLED": "false",
        }
        with running(project, "run", "shop:app", env=env) as program:
            wait_for(database, "SELECT count(*) FROM sale", 1)
            assert program.end() == 0, program.lines
