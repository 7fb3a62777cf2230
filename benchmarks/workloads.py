"""What is measured: each workload of ours with its floor, dbos, and the latency at a steady rate.

Whoever takes part can be measured any number of times, each time on a fresh database and under a new group.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from confluent_kafka import Producer

from benchmarks import measure
from benchmarks.floor import STEP_ROWS
from benchmarks.measure import Measured
from benchmarks.orders import PARTITIONS, Keys, fill, order
from benchmarks.peer import DBOS_VERSION
from benchmarks.servers import Servers

CONNECTIONS = (1, 2, 4)
BATCHES = (500, 2_000)


@dataclass(frozen=True, slots=True)
class Workload:
    """One handler that is measured.

    Attributes:
        name: For `--only` and JSON.
        title: For people.
        app: In benchmarks.apps.
        floor: Kind of floor it is compared with.
        records: In its topic.
        steps: Step rows a record.
        has_app_row: Whether the handler writes a row of its own.
    """

    name: str
    title: str
    app: str
    floor: str
    records: int
    steps: int
    has_app_row: bool = False


ONE_STEP = Workload("journaled-1", "journaled, one async step", "journaled_one", "step", 100_000, 1)
"""What every other condition is compared with (benchmarks/conditions.py)."""

WORKLOADS = (
    ONE_STEP,
    Workload("journaled-3", "journaled, three async steps", "journaled_three", "three", 60_000, 3),
    Workload("step-tx", "one step and one transaction", "step_and_transaction", "tx", 10_000, 2, has_app_row=True),
    Workload("fused", "fused transaction, an INSERT each", "fused", "each", 100_000, 0, has_app_row=True),
    Workload("batch", "batch of 500, one INSERT", "batch", "set", 100_000, 0, has_app_row=True),
    Workload("sync", "sync handler, one step", "sync_one", "step", 20_000, 1),
)
FLOORS = {"step": "journaled-1", "three": "journaled-3", "tx": "fused", "each": "fused", "set": "batch"}
"""Kinds of floor, and the workload whose records each reads: long enough for a rate, whoever is compared with it."""

LATENCY = "latency"
LATENCY_RATE = 1_000
QUEUE = "queue"
QUEUE_WORKFLOWS = 100_000
QUEUE_PROCESSES = 2
DBOS = "dbos"
DBOS_RECORDS = 2_000
"""Enough for 14 s; it enqueues all of a topic while it works on it, so more would only slow it down."""


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody who is measured: a row of the table.

    Attributes:
        name: For `--only` and JSON.
        title: For people.
        run: Measures once; may take minutes.
        floor: Name of the one that is its floor; '': it has none.
        plain: Name of the one whose throughput it is to keep; '': of nobody.
        meets_peers: Whether it is compared with other engines.
        is_peer: Whether it is another engine, whose failure is no failure of the run.
    """

    name: str
    title: str
    run: Callable[[], Measured]
    floor: str = ""
    plain: str = ""
    meets_peers: bool = False
    is_peer: bool = False


def topic_of(servers: Servers, records: int, keys: Keys = Keys.MANY) -> str:
    """A topic with so many orders, filled at first use."""
    topic = f"orders-{keys}-{records}"
    if topic not in servers.filled:
        servers.cluster.create_topic(topic, PARTITIONS)
        fill(servers.bootstrap_servers, topic, records, lambda _: None, keys)
        servers.filled.add(topic)
    return topic


def ours(servers: Servers, workload: Workload) -> Participant:
    """A worker process on the whole topic."""

    def run() -> Measured:
        topic = topic_of(servers, workload.records)
        with servers.database() as address:
            return worked_off(workload, address, worker_environment(servers, address, topic))

    return Participant(workload.name, workload.title, run, floor=f"floor-{workload.floor}", meets_peers=True)


def worked_off(
    workload: Workload,
    address: str,
    environment: Mapping[str, str],
    *,
    since_ms: int = 0,
    observe: Callable[[int], None] = lambda _: None,
) -> Measured:
    """One worker from its start to the end of its topic; what it must have written is counted.

    Args:
        workload: What it runs.
        address: Of the database, for whoever looks on: the worker's may lead through something.
        environment: Of the worker.
        since_ms: Workflows that were created before, epoch ms, are not its own.
        observe: Told every `measure.LOOK_S` how far it is.
    """
    with measure.running(worker(workload.app), environment) as subject:
        group = environment["PROCESSOR_KAFKA_GROUP"]
        measure.until_all_is_done(subject, address, workload.records, group=group, observe=observe)
    measure.check_steps(address, workload.records * workload.steps, since_ms=since_ms)
    if workload.has_app_row:
        measure.check_orders(address, workload.records)
    rate = measure.rate(address, expected=workload.records, since_ms=since_ms)
    return Measured(records_per_s=rate, rss_mib=subject.rss_mib)


def worker(app: str) -> list[str]:
    """The command a deployment runs."""
    return ["-m", "processor", "run", f"benchmarks.apps:{app}"]


def worker_environment(servers: Servers, address: str, topic: str) -> dict[str, str]:
    """Settings of a worker: addresses and a group, the defaults otherwise."""
    return {
        "BENCH_TOPIC": topic,
        "PROCESSOR_POSTGRES_DSN": address,
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
        "PROCESSOR_KAFKA_GROUP": f"bench-{secrets.token_hex(4)}",
        "PROCESSOR_HTTP_PORT": "0",
        "PROCESSOR_LOGS_LEVEL": "warning",
    }


@dataclass(frozen=True, slots=True)
class FloorVariant:
    """How a floor shares its work."""

    kind: str
    connections: int
    batch: int

    def __str__(self) -> str:
        return f"{self.connections} connection{'s' * (self.connections > 1)}, batches of {self.batch}"


def floor(servers: Servers, variant: FloorVariant, records: int) -> Participant:
    """The loop written by hand."""

    def run() -> Measured:
        topic = topic_of(servers, records)
        with servers.database() as address:
            command = [
                *("-m", "benchmarks.floor", variant.kind, topic, "--partitions", str(PARTITIONS)),
                *("--connections", str(variant.connections), "--batch", str(variant.batch)),
            ]
            environment = {"KAFKA": servers.bootstrap_servers, "POSTGRES": address}
            with measure.running(command, environment) as subject:
                measure.until_all_is_done(subject, address, records, group="floor", may_end=True)
            measure.check_steps(address, records * STEP_ROWS[variant.kind])
            return Measured(records_per_s=measure.rate(address, expected=records), rss_mib=subject.rss_mib)

    return Participant(f"floor-{variant.kind}", f"floor {variant.kind} ({variant})", run, meets_peers=True)


def best_floor(servers: Servers, kind: str, records: int, say: Callable[[str], None]) -> FloorVariant:
    """Try every variant once."""
    found: list[tuple[float, FloorVariant]] = []
    for connections in CONNECTIONS:
        for batch in BATCHES:
            variant = FloorVariant(kind, connections, batch)
            rate = floor(servers, variant, records).run().records_per_s or 0.0
            say(f"floor-{kind}, {variant}: {rate:,.0f}/s")
            found.append((rate, variant))
    return max(found, key=lambda each: each[0])[1]


def dbos(servers: Servers, interpreter: str, seconds: float) -> Participant:
    """The first peer, for some seconds: at its rate the whole topic would take too long."""

    def run() -> Measured:
        topic = topic_of(servers, DBOS_RECORDS)
        script = str(Path(__file__).with_name("dbos_consumer.py"))
        with servers.database(migrated=False) as address:
            environment = {"KAFKA": servers.bootstrap_servers, "POSTGRES": address}
            command = [interpreter, script, topic, f"dbos-{secrets.token_hex(4)}"]
            with measure.running(command, environment) as subject:
                measure.until_time_is_over(subject, address, count=DBOS_RECORDS, seconds=seconds)
            return Measured(records_per_s=measure.rate(address, expected=None), rss_mib=subject.rss_mib)

    return Participant(DBOS, f"dbos {DBOS_VERSION}, one async step", run, is_peer=True)


def latency(servers: Servers, seconds: float) -> Participant:
    """Kafka timestamp to commit, with 1,000 records a second offered to a worker that waits for them."""

    def run() -> Measured:
        topic = f"orders-paced-{secrets.token_hex(4)}"
        servers.cluster.create_topic(topic, PARTITIONS)
        with servers.database() as address:
            environment = worker_environment(servers, address, topic)
            with measure.running(worker(ONE_STEP.app), environment) as subject:
                measure.until_claimed(subject, address, PARTITIONS)
                # A first second, not counted: connections prepare their statements, the broker opens its files.
                since_ms, count = _offer(servers.bootstrap_servers, topic, warm_up_s=1, seconds=seconds)
                measure.until_all_is_done(subject, address, count, group=environment["PROCESSOR_KAFKA_GROUP"])
            rate = measure.rate(address, expected=count)
            p50_ms, p99_ms = measure.latencies(address, since_ms=since_ms)
            return replace(Measured(rate, rss_mib=subject.rss_mib), p50_ms=p50_ms, p99_ms=p99_ms)

    return Participant(LATENCY, f"latency, {LATENCY_RATE:,} records/s offered", run)


def queue_drain(servers: Servers, workflows: int) -> Participant:
    """A full queue without limits, and two processes that start at once: how fast it is empty."""

    def run() -> Measured:
        with servers.database() as address:
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(_ENQUEUE, (workflows,))
            environment = worker_environment(servers, address, "none") | {"PROCESSOR_OUTBOX_RELAY": "false"}
            with contextlib.ExitStack() as stack:
                subjects = [
                    stack.enter_context(measure.running(worker("queued"), environment)) for _ in range(QUEUE_PROCESSES)
                ]
                measure.until_queue_is_drained(subjects, address, workflows)
            measure.check_steps(address, workflows)
            with psycopg.connect(address) as connection:
                row = connection.execute(_SHARES).fetchone()
            if row != (QUEUE_PROCESSES, workflows, 0):
                raise measure.MeasurementError(f"(processes at work, ledger rows, left in it) are {row}")
            rate = measure.rate(address, expected=workflows)
            return Measured(records_per_s=rate, rss_mib=max(subject.rss_mib for subject in subjects))

    return Participant(QUEUE, f"queue drain, {QUEUE_PROCESSES} processes, one async step", run)


# As `queue.enqueue` leaves them, in one statement: what is measured is how they are taken and run.
_ENQUEUE = """
    INSERT INTO dbos.workflow_status
           (workflow_uuid, status, name, queue_name, inputs, created_at, updated_at, kafka_place)
    SELECT gen_random_uuid()::text, 'ENQUEUED', 'fulfil_queued', 'orders',
           json_build_object('args', json_build_array(json_build_object(
               'order_id', 'o-' || n, 'customer', 'c-' || n %% 50000, 'seq', n, 'amount_cents', 100, 'note', 'a note')),
               'kwargs', '{}'::json)::text,
           dbos.now_ms(), dbos.now_ms(), n
      FROM generate_series(1, %s) AS n
"""
_SHARES = """
    SELECT count(DISTINCT executor_id), count(*), count(*) FILTER (WHERE completed_at_epoch_ms IS NULL)
      FROM dbos.workflow_queue
"""


def _offer(bootstrap_servers: str, topic: str, *, warm_up_s: float, seconds: float) -> tuple[int, int]:
    """Produce at an even rate. Returns when the counted part began, epoch ms, and how many there were in all."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0})
    total = int((warm_up_s + seconds) * LATENCY_RATE)
    began, since_ms = time.monotonic(), int((time.time() + warm_up_s) * 1000)
    pause = threading.Event()
    for number in range(total):
        key, value = order(number)
        producer.produce(topic, value=value, key=key)
        producer.poll(0)
        ahead = (number + 1) / LATENCY_RATE - (time.monotonic() - began)
        if ahead > 0:
            pause.wait(ahead)
    if producer.flush(30):
        raise measure.MeasurementError(f"the broker did not take all of {total} records")
    return since_ms, total
