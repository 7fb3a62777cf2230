"""The second peer: restate's server with its own Kafka subscription, and its Python SDK.

    Kafka ──subscription──▶ restate-server (its log and tables on disk, synced) ──HTTP/2──▶ restate_service.py

The clock is the server's, as Postgres's is for everybody else: `completed_at` of every invocation it has completed.
"""

import contextlib
import json
import secrets
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Measured, MeasurementError
from benchmarks.peer import RESTATE_VERSION
from benchmarks.servers import Servers
from benchmarks.workloads import Participant, topic_of
from tests.fixtures.processes import free_ports

RESTATE = "restate"
RECORDS = 10_000
CONCURRENT = 40
"""Invocations of each of its 24 partitions: a tenth of the records are under way at once. With its default of 1,000 all of
them are, calls of the one Python process time out, and what completes behind the first tenth was nearly all done before."""
START_S = 60.0
ANSWER_S = 30.0
LOOK_S = 0.5

_CONFIG = """
base-dir = "{scratch}/data"
bind-ip = "127.0.0.1"
bind-port = {node}
listen-mode = "tcp"
disable-telemetry = true
log-filter = "warn"
[admin]
bind-port = {admin}
disable-web-ui = true
[worker.invoker]
concurrent-invocations-limit = {concurrent}
[ingress]
bind-port = {ingress}
[[ingress.kafka-clusters]]
name = "bench"
brokers = ["PLAINTEXT://{kafka}"]
"""
_COMPLETED = "SELECT count(*) AS n FROM sys_invocation WHERE status = 'completed'"
_TIMES = "SELECT completed_at FROM sys_invocation WHERE status = 'completed'"


def restate(servers: Servers, programs: Sequence[str], seconds: float) -> Participant:
    """For some seconds from its first success, or until it has done all.

    Args:
        servers: For the topic.
        programs: The interpreter of its environment, and its server.
        seconds: For how long.
    """

    def run() -> Measured:
        topic = topic_of(servers, RECORDS)
        with _running(servers, programs) as (server, service, admin, service_port):
            _post(admin, "/deployments", {"uri": f"http://127.0.0.1:{service_port}"})
            subscription = {
                "source": f"kafka://bench/{topic}",
                "sink": "service://Orders/fulfil",
                "options": {"auto.offset.reset": "earliest", "group.id": f"restate-{secrets.token_hex(4)}"},
            }
            _post(admin, "/subscriptions", subscription)
            deadline, first = time.monotonic() + measure.STALL_S, True
            while time.monotonic() < deadline:
                server.look()
                service.look()
                [row] = _query(admin, _COMPLETED)
                if row["n"] >= RECORDS:
                    break
                if row["n"] and first:
                    deadline, first = time.monotonic() + seconds, False
                if not server.running or not service.running:
                    raise (service if server.running else server).failed("ended by itself")
                time.sleep(LOOK_S)
            times = [datetime.fromisoformat(row["completed_at"]).timestamp() for row in _query(admin, _TIMES)]
            if not times:
                raise server.failed(f"no invocation was completed within {measure.STALL_S:.0f} s")
            return Measured(records_per_s=rate_of(times), rss_mib=max(server.rss_mib, service.rss_mib))

    return Participant(RESTATE, f"restate {RESTATE_VERSION}, one async step", run, is_peer=True)


def rate_of(times: Sequence[float]) -> float:
    """How many a second, from the one that completes the first tenth to the last: as Postgres is asked of others."""
    ordered = sorted(times)
    first = ordered[max(0, -(-len(ordered) // 10) - 1)]
    if ordered[-1] == first:
        raise MeasurementError(f"{len(times)} invocations in one moment: too few for a rate")
    return sum(each > first for each in ordered) / (ordered[-1] - first)


@contextlib.contextmanager
def _running(servers: Servers, programs: Sequence[str]) -> Generator[tuple[measure.Subject, measure.Subject, str, int]]:
    """Server and service; yields them with the address of the server's admin API and the service's port."""
    interpreter, program = programs
    node, admin, ingress, port = free_ports(4)
    script = str(Path(__file__).with_name("restate_service.py"))
    with tempfile.TemporaryDirectory(prefix="onceflow-restate-") as scratch:
        config = Path(scratch) / "restate.toml"
        config.write_text(
            _CONFIG.format(
                scratch=scratch,
                node=node,
                admin=admin,
                ingress=ingress,
                concurrent=CONCURRENT,
                kafka=servers.bootstrap_servers,
            )
        )
        with (
            measure.running([program, "--no-logo", "--config-file", str(config)], {}) as server,
            measure.running([interpreter, script, str(port)], {}) as service,
        ):
            address = f"http://127.0.0.1:{admin}"
            _until(server, lambda: _query(address, _COMPLETED))
            _until(service, lambda: _get(f"http://127.0.0.1:{port}/health"))
            yield server, service, address, port


def _until(subject: measure.Subject, ask: Callable[[], object]) -> None:
    """Ask until there is an answer: it listens before it knows which of its partitions are where."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            ask()
        except (OSError, MeasurementError) as error:
            if not subject.running or time.monotonic() > deadline:
                raise subject.failed(f"did not answer within {START_S:.0f} s: {error}") from error
            time.sleep(measure.LOOK_S)
        else:
            return


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=ANSWER_S):  # noqa: S310  # our own http://127.0.0.1
        pass


def _query(admin: str, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _post(admin, "/query", {"query": query})["rows"]
    return rows


def _post(admin: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"content-type": "application/json", "accept": "application/json"}
    request = urllib.request.Request(admin + path, json.dumps(body).encode(), headers)  # noqa: S310  # as above
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310  # as above
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise MeasurementError(f"restate answers {error.code} to {path}: {error.read().decode()[:500]}") from error
