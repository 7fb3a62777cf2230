"""The dashboards show every metric that there is, and nothing that there is not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import CHART
from deploy.dashboards import GROUP, OVERVIEW, POSTGRES
from deploy.grafana import WIDTH, Dashboard
from processor.instruments import Kind
from processor.metric_table import METRICS
from tests.deploy.prometheus import promtool

BOARDS = (OVERVIEW, GROUP, POSTGRES)
TABLE = {metric.full_name: metric for metric in METRICS}
SERIES = {
    metric.full_name + suffix: metric
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}
"""What a scrape has, by name."""
FROM_SCRAPE = {"namespace", "app_kubernetes_io_instance", "instance", "process", "le"}
"""Labels that no metric of ours declares: a scrape adds them, a supervisor of several processes, or a histogram has them."""


@pytest.fixture(params=BOARDS, ids=lambda board: board.name)
def board(request: pytest.FixtureRequest) -> Dashboard:
    """Each of them."""
    return request.param


def labels_used(expr: str) -> dict[str, set[str]]:
    """By metric: labels that a query selects it by, or keeps of it."""
    found: dict[str, set[str]] = {}
    kept = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expr) for label in group.split(",")}
    for name, selection in re.findall(r"(processor_\w+)\{([^}]*)\}", expr):
        selected = set(re.findall(r"(\w+)\s*[!=]~?", selection))
        found[name] = found.get(name, set()) | selected | kept
    return found


def test_every_metric_is_shown_somewhere() -> None:
    shown = " ".join(query for board in BOARDS for query in board.queries())

    assert [name for name in TABLE if name not in shown] == []


def test_queries_name_metrics_and_labels_that_there_are(board: Dashboard) -> None:
    for query in board.queries():
        for name, labels in labels_used(query).items():
            known = set(SERIES[name].labels) | FROM_SCRAPE
            # A group's dashboard selects by topic whatever has one.
            assert labels - {"topic", "group"} <= known, (query, labels - known)
        assert set(re.findall(r"processor_\w+", query)) <= SERIES.keys(), query


def test_a_selection_by_topic_is_made_only_where_there_are_topics_or_a_process() -> None:
    """`topic=~".*"` finds series without the label, one topic does not: what has groups only, says `{G`."""
    for query in GROUP.queries():
        for name, labels in labels_used(query).items():
            if "group" in SERIES[name].labels and "topic" not in SERIES[name].labels:
                assert "topic" not in labels, query


def test_legends_name_labels_that_the_query_keeps(board: Dashboard) -> None:
    for panels in board.rows.values():
        for panel in panels:
            for query, legend in panel.queries.items():
                kept = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for label in group.split(",")}
                assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept, query


def test_panels_are_whole_and_beside_each_other(board: Dashboard) -> None:
    page: dict[str, Any] = json.loads(board.page())
    places = [panel["gridPos"] for panel in page["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
    assert all(place["x"] + place["w"] <= WIDTH for place in places)
    assert len(cells) == len(set(cells)), "panels lie on each other"


def test_queries_are_what_prometheus_understands(board: Dashboard, tmp_path: Path) -> None:
    """Each as a rule, with what Grafana fills in filled in."""
    rules = [{"record": f"query:{at}", "expr": filled_in(query)} for at, query in enumerate(board.queries())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": board.name, "rules": rules}]}))

    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def filled_in(query: str) -> str:
    """As Grafana asks it where everything is selected."""
    return re.sub(r"\$(namespace|release|group|topic)\b", ".*", query).replace("$__rate_interval", "1m")


def test_grafana_of_the_compose_file_finds_its_home() -> None:
    compose = yaml.safe_load((CHART.parents[1] / "docker-compose.yml").read_text(encoding="utf-8"))
    grafana = compose["services"]["grafana"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    mounts = {target: source for source, target, *_ in (each.split(":") for each in grafana["volumes"])}

    assert (CHART.parents[1] / mounts[str(home.parent)] / home.name).is_file()
