"""Which servers a test run uses: an address, Docker, what the machine has, and what is said when it has nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.fixtures import kafka_choice, postgres
from tests.fixtures.kafka_jars import Supply
from tests.fixtures.postgres import Installation, address_of

INSTALLED = [Installation(18, Path("/wheel18")), Installation(16, Path("/wheel16")), Installation(15, Path("/debian"))]


def never() -> NoReturn:
    raise AssertionError("asked although it does not matter")


def choose_kafka(
    env: Mapping[str, str], *, docker: bool = False, java: int | None = 17, jars: bool = True
) -> kafka_choice.Choice:
    supply = Supply(jars, "from here" if jars else "no Maven, and nobody else has it")
    return kafka_choice.choose(env, docker_answers=lambda: docker, java_version=lambda: java, jars=lambda: supply)


def test_an_address_is_used_without_looking_further() -> None:
    env = {"PROCESSOR_TEST_KAFKA": "broker:9092", "PROCESSOR_TEST_POSTGRES": "postgresql://server/postgres"}

    chosen = kafka_choice.choose(env, docker_answers=never, java_version=never, jars=never)

    assert (chosen.kind, chosen.address) == ("address", "broker:9092")
    assert postgres.choose(env, docker_answers=never, installations=[]).address == "postgresql://server/postgres"


@pytest.mark.parametrize(
    "docker, java, jars, kind",
    [
        (True, 17, True, "docker"),
        (True, None, False, "docker"),
        (False, 17, True, "jars"),
        (False, 21, True, "jars"),
        (False, 17, False, "mock"),
        (False, 11, True, "mock"),
        (False, None, True, "mock"),
    ],
)
def test_docker_comes_before_jars_and_the_mock_cluster_last(
    docker: bool, java: int | None, jars: bool, kind: str
) -> None:
    assert choose_kafka({}, docker=docker, java=java, jars=jars).kind == kind


def test_the_choice_says_why() -> None:
    assert choose_kafka({}).why.endswith("on Java 17, from here")
    assert "is not here: no Maven, and nobody else has it" in choose_kafka({}, jars=False).why
    assert "Java 11 where Kafka needs 17" in choose_kafka({}, java=11).why
    assert "no Java" in choose_kafka({}, java=None).why


def test_a_run_can_ask_for_no_real_kafka() -> None:
    chosen = choose_kafka({"PROCESSOR_TEST_KAFKA": "mock"}, docker=True)

    assert (chosen.kind, chosen.real) == ("mock", False)


def test_a_run_that_requires_a_real_kafka_does_not_start_without() -> None:
    """CI must not pass because Java went missing."""
    with pytest.raises(LookupError, match="real Kafka is required.*no Java"):
        choose_kafka({"PROCESSOR_TEST_KAFKA_REQUIRED": "1"}, java=None)

    assert choose_kafka({"PROCESSOR_TEST_KAFKA_REQUIRED": "1"}).kind == "jars"


def test_the_newest_postgres_is_taken_unless_a_version_is_asked_for() -> None:
    def version(env: Mapping[str, str]) -> int:
        chosen = postgres.choose(env, docker_answers=lambda: False, installations=INSTALLED)
        assert chosen.installation
        return chosen.installation.version

    assert version({}) == 18
    assert version({"PROCESSOR_TEST_POSTGRES_VERSION": "16"}) == 16


def test_docker_gets_the_version_that_is_asked_for() -> None:
    def image(env: Mapping[str, str]) -> str:
        return postgres.choose(env, docker_answers=lambda: True, installations=INSTALLED).image

    assert image({}) == "postgres:18"
    assert image({"PROCESSOR_TEST_POSTGRES_VERSION": "16"}) == "postgres:16"


def test_a_postgres_that_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(LookupError, match="no Postgres 14 for tests .installed: 18, 16, 15"):
        postgres.choose(
            {"PROCESSOR_TEST_POSTGRES_VERSION": "14"}, docker_answers=lambda: False, installations=INSTALLED
        )


@pytest.mark.parametrize(
    "server, expected",
    [
        ("postgresql://postgres@127.0.0.1:5/postgres", "postgresql://postgres@127.0.0.1:5/other"),
        ("host=h port=6 user=u password='p/@' dbname=x", "postgresql://u:p%2F%40@h:6/other"),
        ("postgresql://u@h/x?sslmode=require", "postgresql://u@h:5432/other?sslmode=require"),
    ],
)
def test_the_address_of_another_database_keeps_everything_else(server: str, expected: str) -> None:
    assert address_of(server, "other") == expected
