"""The alert rules: about metrics that there are, each with a page for whom it wakes, and right by promtool's own tests."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.assignment import State as PartitionState
from consumers.errors import Meaning
from deploy import CHART
from engine.states import WorkflowStatus
from tests.deploy.alert_cases import CASES, RELEASE, promtool_file
from tests.deploy.chart import OPTIONS, of_kind, render
from tests.deploy.prometheus import promtool
from tests.deploy.test_dashboards import FROM_SCRAPE, SERIES, labels_used

ROOT = CHART.parents[1]
FILE = CHART / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
GROUPS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}

SEVERITIES = {name: rule["labels"]["severity"] for name, rule in RULES.items()}


@pytest.fixture(params=list(RULES))
def rule(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each of them."""
    return RULES[request.param]


def test_a_rule_names_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    expr = rule["expr"]

    assert set(re.findall(r"processor_\w+", expr)) <= SERIES.keys()
    for name, labels in labels_used(expr).items():
        assert labels <= set(SERIES[name].labels) | FROM_SCRAPE


def test_the_chart_can_put_its_labels_into_every_metric(rule: dict[str, Any]) -> None:
    """Each has braces, between which they are put."""
    assert re.findall(r"processor_\w+(?![\w{])", rule["expr"]) == []


def test_a_rule_keeps_what_tells_releases_apart(rule: dict[str, Any]) -> None:
    for kept in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
        assert kept.startswith("namespace, app_kubernetes_io_instance")


def test_what_an_alert_says_names_labels_that_it_has(rule: dict[str, Any]) -> None:
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", rule["expr"]))))

    assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= kept
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert not rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")


def test_rules_select_by_values_that_there_are() -> None:
    """A misspelt state would match nothing, and nobody would be told."""
    known = {
        "state": {each.value for each in PartitionState},
        "status": {each.value for each in WorkflowStatus},
        "meaning": {each.value for each in Meaning},
        "alone": {"true", "false"},
        "reason": {"bisect"},
    }
    selected = [
        (label, value)
        for rule in RULES.values()
        for label, values in re.findall(r'(\w+)(?:=~|!=|=)"([^"]+)"', rule["expr"])
        for value in values.split("|")
    ]

    assert {label for label, _ in selected} == known.keys()
    assert [(label, value) for label, value in selected if value not in known[label]] == []


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}

    assert pages == set(RULES)


def test_a_page_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    page = (RUNBOOKS / f"{rule['alert']}.md").read_text(encoding="utf-8")

    assert page.startswith(f"# {rule['alert']}\n")
    for heading in ("## What it means", "## Look", "## Do"):
        assert heading in page
    assert f"]({rule['alert']}.md)" in (RUNBOOKS / "README.md").read_text(encoding="utf-8")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert [case.alert for case in CASES] == list(RULES)
    for case in CASES:
        assert case.fires, case.alert
        assert case.rests, case.alert


def test_rules_are_what_prometheus_understands() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", FILE)


def test_rules_fire_when_they_should(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(promtool_file(str(FILE), SEVERITIES)))

    promtool("test", "rules", tmp_path / "cases.yaml")


def test_rules_of_a_release_fire_for_it_and_for_no_other(tmp_path: Path) -> None:
    """The same cases, with the labels of the release put into the rules by the chart."""
    (made,) = of_kind("PrometheusRule", render(OPTIONS["pod monitor"], {"prometheusRule": {"enabled": True}}))
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(made["spec"]))

    for whose in (RELEASE, {**RELEASE, "app_kubernetes_io_instance": "other"}):
        cases = promtool_file("alerts.yaml", SEVERITIES, of_release=True, whose=whose)
        (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
        promtool("test", "rules", "cases.yaml", folder=tmp_path)


def test_prometheus_of_the_compose_file_has_a_valid_configuration(tmp_path: Path) -> None:
    config = yaml.safe_load((CHART.parent / "compose" / "prometheus.yml").read_text(encoding="utf-8"))
    config["rule_files"] = [str(FILE)]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))

    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")
