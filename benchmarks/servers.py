"""The servers of a run: a Postgres and a Kafka of its own, gone with it.

Postgres with fsync on and room for checkpoints, so that none falls into one measurement and not into the next;
`track_commit_timestamp` is on for everybody: commits are timed by the server that made them.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

import psycopg
from confluent_kafka import KafkaError, KafkaException

from consumers.mock_process import MockClusterProcess
from engine.migrations import migrate
from tests.fixtures import kafka as kafka_fixtures
from tests.fixtures import kafka_choice, kafka_jars
from tests.fixtures.kafka import KafkaServer
from tests.fixtures.postgres import Databases, PostgresServer

POSTGRES_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "min_wal_size": "2GB",
    "checkpoint_timeout": "1h",
    "track_commit_timestamp": "on",
}
APP_TABLE = """
    CREATE TABLE app_order (
        order_id text PRIMARY KEY,
        customer text NOT NULL,
        seq integer NOT NULL,
        amount_cents integer NOT NULL
    )
"""


FENCED_S = 60.0
"""Longest to wait for a broker that its controller takes for dead: starved by others, it was late with a heartbeat."""


class Cluster(Protocol):
    """What a run asks of its Kafka."""

    def create_topic(self, name: str, partitions: int) -> None: ...


class _Mock:
    def __init__(self, process: MockClusterProcess) -> None:
        self._process = process

    def create_topic(self, name: str, partitions: int) -> None:
        self._process.call("create_topic", name=name, partitions=partitions)


class _Real:
    def __init__(self, kafka: kafka_fixtures.Kafka) -> None:
        self._kafka = kafka

    def create_topic(self, name: str, partitions: int) -> None:
        deadline = time.monotonic() + FENCED_S
        while True:
            try:
                return self._kafka.create_topic(name, partitions)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.INVALID_REPLICATION_FACTOR or time.monotonic() > deadline:
                    raise
            time.sleep(1)


@dataclass(slots=True)
class Servers:
    """Running servers, and how to get a fresh database."""

    bootstrap_servers: str
    cluster: Cluster
    kafka_is: str
    postgres_is: str
    databases: Databases
    template: str
    postgres_log: Callable[[], str]
    filled: set[str] = field(default_factory=set[str])
    lasting: dict[str, str] = field(default_factory=dict[str, str])
    ends: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @contextlib.contextmanager
    def database(self, *, migrated: bool = True) -> Generator[str]:
        """A fresh database, with our tables and the application's unless a peer brings its own. Nothing is dirty."""
        with self.databases.fresh(self.template if migrated else None) as address:
            with psycopg.connect(self.databases.server, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            yield address

    def lasting_database(self, name: str, make: Callable[[str], None]) -> str:
        """A database that stays until the end of the run: what is in it takes minutes to make, which is done once."""
        if name not in self.lasting:
            address = self.ends.enter_context(self.database())
            make(address)
            self.lasting[name] = address
        return self.lasting[name]


@contextlib.contextmanager
def started() -> Generator[Servers]:
    """Start both. Kafka from its jars where Java is, at PROCESSOR_TEST_KAFKA if that is set, else the mock cluster."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(settings=POSTGRES_SETTINGS))
        choice = kafka_choice.choose(
            os.environ,
            docker_answers=lambda: False,  # a container's network would be measured too
            java_version=kafka_choice.java_version,
            jars=kafka_jars.supply,
        )
        cluster: Cluster
        if choice.kind == "mock":
            process = stack.enter_context(MockClusterProcess())
            bootstrap_servers, cluster = process.bootstrap_servers, _Mock(process)
        elif choice.kind == "address":
            bootstrap_servers, cluster = choice.address, _Real(kafka_fixtures.Kafka(choice.address))
        else:
            kafka = stack.enter_context(KafkaServer()).kafka()
            bootstrap_servers, cluster = kafka.bootstrap_servers, _Real(kafka)
        databases = Databases(postgres.dsn())
        template = stack.enter_context(databases.fresh())
        asyncio.run(migrate(template))
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute(APP_TABLE)
        ends = stack.enter_context(contextlib.ExitStack())
        yield Servers(
            bootstrap_servers=bootstrap_servers,
            cluster=cluster,
            kafka_is=choice.why,
            postgres_is=f"Postgres {postgres.version}, fsync on",
            databases=databases,
            template=template,
            postgres_log=lambda: postgres.log,
            ends=ends,
        )
