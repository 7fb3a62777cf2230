"""`processor dev`: an app on this machine, with an embedded Postgres and the pretend broker; nothing is left behind.

The broker is librdkafka's mock cluster, which any Kafka client can talk to. What it does not do (transactions that
abort, admin requests, security) and that it forgets everything at the end stands in `consumers.mock`.
"""

import argparse
import asyncio
from contextlib import ExitStack
from datetime import timedelta

from consumers.mock import MockCluster, MockClusterError
from consumers.telemetry import TopicRefused
from engine.errors import ConfigurationError
from engine.migrations import migrate
from engine.telemetry import Event, Observer
from processor.app import App
from processor.cli.apps import add_app_argument, load_app
from processor.cli.commands import run_commands
from processor.cli.run import run_until_stopped
from processor.config import Settings
from processor.embedded import EmbeddedPostgres
from processor.loading import load_settings, override
from processor.logs import setup_logging
from processor.policies import dead_letter_topic
from processor.runtime import Runtime

HELP = "Run an app on this machine with a Postgres and a broker of its own"

PARTITIONS_MAX = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_app_argument(parser)
    parser.add_argument(
        "--partitions", type=int, default=4, metavar="N", help="of each topic the app names (default: 4)"
    )
    parser.epilog = (
        "With postgres.dsn in the settings that database is used (and migrated) instead of an embedded one.\n"
        "Everything else is gone at the end."
    )


def run(arguments: argparse.Namespace) -> int:
    """Start the servers, migrate, run until stopped."""
    if not 1 <= arguments.partitions <= PARTITIONS_MAX:
        raise ConfigurationError(f"--partitions {arguments.partitions}: 1 to {PARTITIONS_MAX}")
    settings = load_settings(arguments.config)
    app = load_app(arguments.app)
    with ExitStack() as servers:
        try:
            broker = servers.enter_context(MockCluster())
        except MockClusterError as error:
            raise ConfigurationError(f"this build of the Kafka client has no pretend broker: {error}") from None
        broker.set_initial_rebalance_delay(timedelta(0))
        for topic in {*_topics(app), *_dead_letter_topics(app)}:
            broker.create_topic(topic, arguments.partitions)
        broker.create_topic(settings.outbox.position_topic, 1)
        dsn = settings.postgres.dsn.get_secret_value() or servers.enter_context(EmbeddedPostgres()).dsn
        settings = _for_development(settings, dsn, broker.bootstrap_servers)
        runtime = Runtime(app, settings, observers=[_topics_as_they_are_published_to(broker, arguments.partitions)])
        asyncio.run(migrate(dsn, settings.postgres.schema_name))
        if code := run_commands(settings.migrate, settings):
            return code
        setup_logging("console", settings.logs.level)
        print(_instructions(app, settings, dsn), flush=True)
        return run_until_stopped(runtime, settings)


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
            "executor": {"name": None},
            "outbox": {"relay": True, "refused_retry": timedelta(seconds=1), "extra": {}},
        },
    )


def _topics(app: App) -> list[str]:
    topics = (registration.topic for registration in app.workflows.values())
    return sorted({topic.name for topic in topics if topic is not None and not topic.is_pattern})


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


def _instructions(app: App, settings: Settings, dsn: str) -> str:
    topics = _topics(app)
    lines = [
        f"{app.name} runs. Ctrl-C ends it.",
        f"  Kafka     {settings.kafka.bootstrap_servers}  topics: {', '.join(topics) or 'none by name'}",
        f'  Postgres  psql "{dsn}"' if "password" not in dsn and "@" not in dsn else "  Postgres  as in the settings",
    ]
    if "password" not in dsn:
        lines.append(f"  Commands  PROCESSOR_POSTGRES_DSN='{dsn}' processor dead-letters list")
    if settings.http.enabled and settings.http.port:
        lines.append(f"  Metrics   http://127.0.0.1:{settings.http.port}/metrics")
    if topics:
        lines.append(
            f"  A record  echo 'key:{{...}}' | kcat -P -K: -b {settings.kafka.bootstrap_servers} -t {topics[0]}"
        )
    return "\n".join(lines)
