"""`processor dev`: an app on this machine, with an embedded Postgres and the pretend broker; nothing is left behind.

Never with another database or other brokers, whatever the settings name. The two belong together: a relay on a database
that lasts would publish its events to a broker that forgets them, and progress would be stored of records that nobody
else has (I9). So the settings, and what commands and the app itself read of them in the environment, name these here.
What the app opens by other settings of its own is its own.

The broker is librdkafka's mock cluster, which any Kafka client can talk to. What it does not do (transactions that
abort, admin requests, security) and that it forgets everything at the end stands in `consumers.mock`.
"""

import argparse
import asyncio
import os
from contextlib import ExitStack
from datetime import timedelta

from consumers.mock import MockCluster, MockClusterError
from consumers.telemetry import PartitionHalted, TopicRefused
from engine.errors import ConfigurationError
from engine.migrations import migrate
from engine.telemetry import Event, Observer
from processor.app import App
from processor.cli.apps import add_app_argument, load_app
from processor.cli.commands import run_commands
from processor.cli.numbers import number
from processor.cli.run import run_until_stopped
from processor.config import Settings
from processor.embedded import EmbeddedPostgres
from processor.loading import load_settings, override
from processor.logs import setup_logging
from processor.policies import dead_letter_topic
from processor.runtime import Runtime

HELP = "Run an app on this machine with a Postgres and a broker of its own"

PARTITIONS_MAX = 100

KEPT_MIB = 5
"""What librdkafka's mock cluster keeps of a partition, and nothing changes."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_app_argument(parser)
    parser.add_argument(
        "--partitions", type=number, default=4, metavar="N", help="of each topic the app names (default: 4)"
    )
    parser.epilog = (
        "A database and brokers that the settings name are left alone: it always has its own, which are gone at the end.\n"
        "The commands under migrate: of the settings run on its Postgres."
        "\nIts pretend broker keeps the last 5 MiB of a partition: what is pushed out before it was read, is gone."
    )


def run(arguments: argparse.Namespace) -> int:
    """Start the servers, migrate, run until stopped."""
    if not 1 <= arguments.partitions <= PARTITIONS_MAX:
        raise ConfigurationError(f"--partitions {arguments.partitions}: 1 to {PARTITIONS_MAX}")
    configured = load_settings(arguments.config)
    with ExitStack() as servers:
        try:
            broker = servers.enter_context(MockCluster())
        except MockClusterError as error:
            raise ConfigurationError(f"this build of the Kafka client has no pretend broker: {error}") from None
        dsn = servers.enter_context(EmbeddedPostgres()).dsn
        settings = _for_development(configured, dsn, broker.bootstrap_servers)
        os.environ.update(_variables(dsn, broker.bootstrap_servers))
        # Not before: it may look at the settings when it is imported.
        app = load_app(arguments.app)
        broker.set_initial_rebalance_delay(timedelta(0))
        for topic in {*_topics(app), *_dead_letter_topics(app)}:
            broker.create_topic(topic, arguments.partitions)
        broker.create_topic(settings.outbox.position_topic, 1)
        runtime = Runtime(
            app,
            settings,
            observers=[_topics_as_they_are_published_to(broker, arguments.partitions), _say_what_is_the_brokers],
        )
        asyncio.run(migrate(dsn, settings.postgres.schema_name))
        if code := run_commands(settings.migrate, settings):
            return code
        setup_logging("console", settings.logs.level)
        instructions = _instructions(app, settings, _left_alone(configured))
        return run_until_stopped(runtime, settings, started=lambda: print(instructions, flush=True))


def _left_alone(settings: Settings) -> list[str]:
    """Which settings name servers that are not used here."""
    named = {
        "postgres.dsn": bool(settings.postgres.dsn.get_secret_value()),
        "postgres.direct_dsn": settings.postgres.direct_dsn is not None,
        "kafka.bootstrap_servers": "bootstrap_servers" in settings.kafka.model_fields_set,
    }
    return [name for name, is_named in named.items() if is_named]


def _for_development(settings: Settings, dsn: str, bootstrap_servers: str) -> Settings:
    """The user's settings, with these servers, and within reach of this machine only."""
    return override(
        settings,
        {
            "postgres": {"dsn": dsn, "direct_dsn": None},
            "kafka": {
                "bootstrap_servers": bootstrap_servers,
                "security_protocol": "PLAINTEXT",
                "sasl": {},
                "ssl": {},
                "group_instance_id": None,
            },
            "http": {"host": "127.0.0.1"},
            "web": {"host": "127.0.0.1"},
            "executor": {"name": None},
            "outbox": {"relay": True, "refused_retry": timedelta(seconds=1), "extra": {}},
        },
    )


def _variables(dsn: str, bootstrap_servers: str) -> dict[str, str]:
    """These servers for whoever else reads the settings, in this process or in a command: variables win over files."""
    return {
        "PROCESSOR_POSTGRES_DSN": dsn,
        "PROCESSOR_POSTGRES_DIRECT_DSN": "",
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
    }


def _topics(app: App) -> list[str]:
    topics = (registration.topic for registration in app.workflows.values())
    return sorted({topic.name for topic in topics if topic is not None and not topic.is_pattern})


def _say_what_is_the_brokers(event: Event) -> None:
    """Records that are larger than what the pretend broker keeps push others out: a loss that is none of the app's."""
    if isinstance(event, PartitionHalted) and event.reason.startswith("retention passed the progress"):
        print(
            f"{event.source}: the pretend broker keeps the last {KEPT_MIB} MiB of a partition, and has dropped records that\n"
            f"  were not read yet. Kafka keeps what a topic's retention says. Produce less at once, or start anew.",
            flush=True,
        )


def _topics_as_they_are_published_to(broker: MockCluster, partitions: int) -> Observer:
    """What a handler publishes to is known when it does: here the topic is made then, and the event tried again."""
    made: set[str] = set()

    def observe(event: Event) -> None:
        if isinstance(event, TopicRefused) and event.topic not in made:
            made.add(event.topic)
            broker.create_topic(event.topic, partitions)

    return observe


def _dead_letter_topics(app: App) -> list[str]:
    named = (dead_letter_topic(registration.on_failure) for registration in app.workflows.values())
    return sorted({topic for topic in named if topic is not None})


def _instructions(app: App, settings: Settings, ignored: list[str]) -> str:
    topics = _topics(app)
    dsn, brokers = settings.postgres.dsn.get_secret_value(), settings.kafka.bootstrap_servers
    direct = "PROCESSOR_POSTGRES_DIRECT_DSN= " if "postgres.direct_dsn" in ignored else ""
    lines = [
        f"{app.name} runs. Ctrl-C ends it.",
        f"  Kafka     {brokers}  topics: {', '.join(topics) or 'none by name'}",
        f'  Postgres  psql "{dsn}"',
        f'  Commands  {direct}PROCESSOR_POSTGRES_DSN="{dsn}" processor dead-letters list',
    ]
    if settings.http.enabled and settings.http.port:
        lines.append(f"  Metrics   http://127.0.0.1:{settings.http.port}/metrics")
    if topics:
        lines.append(f"  A record  echo 'key:{{...}}' | kcat -P -K: -b {brokers} -t {topics[0]}")
    if ignored:
        names = " and ".join(filter(None, [", ".join(ignored[:-1]), ignored[-1]]))
        lines.append(
            f"  Settings  {names} {'are' if len(ignored) > 1 else 'is'} left alone: dev has servers of its own"
        )
    return "\n".join(lines)
