"""docker-compose.yml: what the Compose Specification allows, with everything it mounts, starting in the right order."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from jsonschema import Draft202012Validator

from deploy import CHART
from processor.cli import command_parser
from processor.loading import load_settings

ROOT = CHART.parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "worker-1", "worker-2", "producer")
ENDING = ("topics", "migrate")
"""What does its work and ends."""


def test_it_is_what_the_specification_allows() -> None:
    schema = json.loads((Path(__file__).parent / "schemas" / "compose-spec.json").read_text(encoding="utf-8"))
    validator: Any = Draft202012Validator(schema)

    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(COMPOSE)] == []
    assert list(validator.iter_errors({"services": {"a": {"image": "b", "depend_on": "c"}}})) != []


def test_what_lasts_says_whether_it_is_healthy() -> None:
    lacking = [name for name, service in SERVICES.items() if "healthcheck" not in service]

    # A producer is healthy as long as it runs.
    assert sorted(lacking) == sorted([*ENDING, "producer"])


def test_what_is_kept_is_kept_of_both_servers() -> None:
    """`down` keeps volumes: tables that remember a topic which is gone halt its partitions at the next `up`."""
    kafka, postgres = SERVICES["kafka"], SERVICES["postgres"]

    assert kafka["volumes"] == [f"kafka:{kafka['environment']['KAFKA_LOG_DIRS']}"]
    assert kafka["environment"]["CLUSTER_ID"]
    assert {volume.partition(":")[0] for volume in [*kafka["volumes"], *postgres["volumes"]]} == set(COMPOSE["volumes"])


def test_whoever_waits_waits_for_the_right_thing() -> None:
    """Until it is healthy if it lasts, until it has succeeded if it ends; and nobody waits for what may not be started."""
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            ends = other in ENDING
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), (name, other)
            assert set(SERVICES[other].get("profiles", [])) <= set(service.get("profiles", [])), (name, other)


def test_workers_start_on_migrated_tables_and_topics_that_there_are() -> None:
    for name in ("worker-1", "worker-2"):
        assert SERVICES[name]["depends_on"].keys() >= {"migrate", "topics", "kafka", "postgres"}
    (topic,) = [word for word in SERVICES["topics"]["command"] if word.startswith("--topic=")]
    assert topic == "--topic=orders.placed"


def test_only_what_observes_needs_the_profile() -> None:
    assert sorted(name for name, service in SERVICES.items() if service.get("profiles") == ["observe"]) == [
        "grafana", "prometheus",
    ]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_more_rights_than_in_the_chart(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service  # the image's: a number, and not root's


def test_a_worker_is_given_longer_than_it_takes_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    drain_s = settings_of("worker-1", monkeypatch).executor.drain.total_seconds()

    assert float(SERVICES["worker-1"]["stop_grace_period"].removesuffix("s")) >= drain_s + 10


@pytest.mark.parametrize("name", ["migrate", "worker-1", "worker-2"])
def test_commands_and_settings_are_ones_that_there_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command_parser().parse_args(SERVICES[name]["command"])
    settings = settings_of(name, monkeypatch)

    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert settings.postgres.dsn.get_secret_value().endswith("@postgres:5432/postgres")


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(ROOT)
    return load_settings(None, SERVICES[name]["environment"])


def test_the_producer_takes_its_arguments() -> None:
    words = SERVICES["producer"]["entrypoint"] + SERVICES["producer"]["command"]
    assert words[:3] == ["python", "-m", "examples.deployed.produce"]

    ended = subprocess.run(
        [sys.executable, *words[1:], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr


def test_whatever_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for mount in cast("list[str]", service.get("volumes", [])):
            source = mount.partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), mount


def test_prometheus_scrapes_every_worker() -> None:
    config = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (targets,) = job["static_configs"]

    assert targets["targets"] == [f"{name}:9464" for name in SERVICES if name.startswith("worker-")]


def test_the_health_check_of_a_worker_is_one_command() -> None:
    test = SERVICES["worker-1"]["healthcheck"]["test"]

    assert test[:3] == ["CMD", "python", "-c"]
    compile(test[3], "healthcheck", "exec")
    assert "/readyz" in shlex.join(test)
