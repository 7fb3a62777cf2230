"""Every query of the dashboards and every series of the alerts is there, asked of a real Prometheus that scrapes a live
processor through an outage and a recovery.

What is rare in life (a poisoned client, a zombie) is told to the metrics as the event that it would be; everything else
happens: failures of each kind, a renamed handler, congestion, a Postgres that stops and comes back, a stop in order.
"""

import asyncio
import http.client
import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from confluent_kafka import Producer

from consumers import telemetry as kafka
from consumers.mock import MockCluster
from deploy import CHART
from engine import telemetry
from engine.ids import SourceRef, WorkflowId
from engine.migrations import migrate
from processor import Settings
from processor.http import StatusServer
from processor.runtime import Runtime, running
from tests.deploy.live_app import app, before, gate
from tests.deploy.prometheus import need
from tests.deploy.test_alerts import RULES
from tests.deploy.test_dashboards import BOARDS
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.processes import free_ports

TOPICS = ("orders", "clicks", "blocking", "halting", "slow", "renamed")
WAIT_S = 120
SOURCE = SourceRef("live", "fulfil", "orders", 0)
RARE = (
    telemetry.PayloadUnreadable(WorkflowId("w"), "sealed with key 'old'"),
    telemetry.ExecutorLost("e", "lease"),
    telemetry.ExecutorBuried("e", "no heartbeat for a lease"),
    telemetry.SuspectStarted(WorkflowId("w"), 2, alone=True),
    telemetry.SuspectStarted(WorkflowId("w"), 1, alone=False),
    telemetry.ServiceFailed("scan", ValueError("a bug"), 1.0),
    telemetry.SourceDropped(SOURCE, "fenced"),
    telemetry.HandedOver(SOURCE, finished=True),
    telemetry.FlushRetried("weather", "connection lost"),
    telemetry.WorkflowsTaken("due", 1),
    telemetry.WorkflowsExpired(1),
    telemetry.TicksPassedOver("remind", 1),
    telemetry.RetentionDeleted({("fulfil", "SUCCESS"): 90}, 0.05),
    kafka.PartitionsRevoked((SOURCE,), lost=True),
    kafka.PartitionsRevoked((SOURCE,), lost=False),
    kafka.GapAccepted(SOURCE, 3, 7),
    kafka.TopicRecreated(SOURCE, "a", "b"),
    kafka.OutboxPublished({"taken": 1}, 10, 0.01),
    kafka.TopicRefused("unwanted", "TOPIC_AUTHORIZATION_FAILED", 1.0),
    kafka.ClientError("TOPIC_AUTHORIZATION_FAILED", "no", "denied"),
)
"""Events of what does not happen in a test, or not without taking minutes."""

OF_ANOTHER_RELEASE = """
    INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_version)
    VALUES ('report-7', 'PENDING', 'report', '1')
"""
"""A workflow without a record whose code nobody has."""


class Prometheus:
    """The program, scraping one target each second, with the alert rules loaded."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer."""
        address = f"{self._address}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  # of our own making
            return json.loads(answer.read())["data"]

    def query(self, query: str) -> list[Any]:
        """Series, or nothing."""
        return self.ask("/api/v1/query", query=query)["result"]

    def was_there(self, query: str) -> bool:
        """Whether a query had a value at any second of the last ten minutes."""
        return bool(self.query(f"last_over_time(({query})[10m:1s])"))


@contextmanager
def prometheus(target: int, folder: Path) -> Generator[Prometheus]:
    """A Prometheus of the test's own, until the block ends."""
    [port] = free_ports(1)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(CHART / "files" / "alerts.yaml")],
        "scrape_configs": [{"job_name": "live", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        need("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(30)


async def until(met: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Ask again and again, in a thread: the loop has a processor to run."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while asyncio.get_running_loop().time() < deadline:
        try:
            if await asyncio.to_thread(met):
                return
        except (OSError, psycopg.Error):
            pass  # it does not listen yet
        await asyncio.sleep(0.2)
    raise AssertionError(f"not within {WAIT_S} s: {what if isinstance(what, str) else what()}")


def produce(
    cluster: MockCluster,
    topic: str,
    *orders: Mapping[str, object],
    headers: list[tuple[str, str | bytes | None]] | None = None,
) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    for order in orders:
        producer.produce(topic, json.dumps(order), key=str(order["order_id"]), headers=headers or [])
    assert producer.flush(30) == 0


@pytest.fixture
def settings(private_postgres: PostgresServer, mock_cluster: MockCluster) -> Settings:
    for topic in TOPICS:
        mock_cluster.create_topic(topic, 1)
    return Settings.model_validate(
        {
            "postgres": {"dsn": private_postgres.dsn()},
            "kafka": {"bootstrap_servers": mock_cluster.bootstrap_servers},
            # Little room, so that what is slow congests its partition.
            "executor": {"in_flight_max": 20, "backlog_max": 20, "lease": "6s", "heartbeat": "1s"},
            "web": {"enabled": True, "host": "127.0.0.1", "port": 0},
        }
    )


@pytest.mark.timeout(600)
async def test_every_query_finds_series_in_a_live_processor(
    private_postgres: PostgresServer, mock_cluster: MockCluster, settings: Settings, tmp_path: Path
) -> None:
    need("prometheus")
    await migrate(private_postgres.dsn())
    with psycopg.connect(private_postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE effect (id text)")
        connection.execute(OF_ANOTHER_RELEASE)
    async with running(before, settings):
        produce(mock_cluster, "renamed", {"order_id": "r"})
        await until(lambda: count(private_postgres, "dbos.workflow_status") == 1, "the release before did its record")

    runtime = Runtime(app, settings)
    runtime.metrics.read_at_scrape(runtime.gauges)
    with (
        StatusServer(host="127.0.0.1", port=0, metrics=runtime.metrics, live=list, ready=list) as server,
        prometheus(server.port, tmp_path) as told,
    ):
        await until(lambda: told.query("up == 1"), "Prometheus scrapes")
        await runtime.start()
        try:
            assert runtime.web is not None
            await asyncio.to_thread(calls, runtime.web.port)
            await an_ordinary_day(mock_cluster, told)
            await an_outage(private_postgres, mock_cluster, told)
            for event in RARE:
                runtime.engine.telemetry.emit(event)
            await until(lambda: told.query('processor_dead_letters_open{topic="orders"} > 0'), "depths were read")
        finally:
            gate.set()
            await runtime.stop()
        await until(lambda: told.query("processor_drain_seconds_count > 0"), "the stop was scraped")
        await until(lambda: not missing(told), lambda: f"series for {missing(told)}")

        rules = [rule for group in told.ask("/api/v1/rules")["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == RULES.keys()
        assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def calls(port: int) -> None:
    """One that is answered, and one that is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    for path, status in (("/dbos-healthz", 200), ("/dbos-perf", 401)):
        connection.request("GET", path)
        with connection.getresponse() as answer:
            assert answer.status == status
            answer.read()
    connection.close()


async def an_ordinary_day(cluster: MockCluster, told: Prometheus) -> None:
    """Work, failures of each kind, a filter, a halt, congestion."""
    produce(cluster, "orders", *({"order_id": f"o{n}", "fails": n % 10 == 0} for n in range(100)))
    produce(cluster, "orders", {"order_id": "f"}, headers=[("skip", "yes")])
    produce(cluster, "clicks", *({"order_id": f"c{n}"} for n in range(100)))
    produce(cluster, "blocking", {"order_id": "b", "fails": True}, {"order_id": "b"})
    produce(cluster, "halting", {"order_id": "h", "fails": True})
    for query in (
        'processor_partition_state{topic="renamed", state="halted"} == 1',
        'processor_partition_state{topic="halting", state="held"} == 1',
        'processor_partition_blocked_keys{topic="blocking"} == 1',
        'sum(processor_workflows_finished_total{handler="fulfil"}) == 100',
        'processor_workflows_finished_total{handler="load"} == 100',
    ):
        await until(lambda query=query: told.query(query), query)
    # It takes all the room there is, so it comes last.
    produce(cluster, "slow", *({"order_id": f"s{n}"} for n in range(200)))
    await until(lambda: told.query('processor_partition_paused{topic="slow"} == 1'), "congestion")


async def an_outage(postgres: PostgresServer, cluster: MockCluster, told: Prometheus) -> None:
    """Postgres stops, work waits; it comes back, work is done."""
    postgres.stop("immediate")
    await until(lambda: told.query("processor_store_unavailable == 1"), "the outage was scraped")
    postgres.start()
    await until(lambda: told.query("processor_store_unavailable == 0"), "the recovery was scraped")
    gate.set()
    await until(lambda: told.query('processor_partition_lag{topic="slow"} == 0'), "what had waited was done")


def count(postgres: PostgresServer, table: str) -> int:
    with psycopg.connect(postgres.dsn()) as connection:
        (found,) = connection.execute(f"SELECT count(*) FROM {table} WHERE status = 'SUCCESS'".encode()).fetchall()[0]
        return int(found)


NOT_HERE = re.compile(r'processor_process_(up|restarts)|\{state=~"assigned|processor_relay_topic_refused')
"""Only with `run --processes`, which tests/integration/test_supervisor.py looks at; states that may have passed before
anybody scrapes them (by themselves: in the dashboards they are one of many); and what only a relay on a real Kafka says,
which tests/integration/test_relay.py looks at."""


def missing(told: Prometheus) -> list[str]:
    """Queries of dashboards that never had a value, and series of alert rules that were never there."""
    queries = {filled_in(query) for board in BOARDS for query in board.queries()}
    series = {found for rule in RULES.values() for found in re.findall(r"processor_\w+\{[^}]*\}", rule["expr"])}
    asked = (query for query in sorted(queries | series) if not NOT_HERE.search(query))
    return [query for query in asked if not told.was_there(query)]


def filled_in(query: str) -> str:
    """As Grafana asks it where everything is selected; rates of seconds, because a test takes no more."""
    return re.sub(r"\$(namespace|release|group|topic)\b", ".*", query).replace("$__rate_interval", "10s")
