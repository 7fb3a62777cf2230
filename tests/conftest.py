"""Wires the fixtures: which servers a run uses is decided once and said in its header."""

import asyncio
import os
from collections.abc import Generator

import pytest

from engine.migrations import migrate
from tests.fixtures import postgres
from tests.fixtures.docker_engine import docker_answers
from tests.fixtures.postgres import Databases, PostgresServer

POSTGRES = pytest.StashKey[postgres.Choice]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[POSTGRES] = postgres.choose(
        os.environ, docker_answers=docker_answers, installations=postgres.installations()
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"postgres: {config.stash[POSTGRES].why}"]


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Generator[Databases]:
    """The server of this run, to make databases on."""
    with postgres.started(pytestconfig.stash[POSTGRES]) as address:
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
def private_postgres() -> Generator[PostgresServer]:
    """A running server of this test's own, to stop, kill, back up and restore."""
    with PostgresServer() as server:
        yield server
