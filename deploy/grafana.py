"""What a Grafana dashboard is made of, as far as ours need it. Pure.

A dashboard is rows of panels, a panel is a question and the queries that answer it. Places, IDs, colours and the like
follow from that. A query's braces begin with what its dashboard's variables select: `{S`, all of them; `{G`, without the
topic, for what has none.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

WIDTH = 24
"""Columns that Grafana has."""
SELECTION = 'namespace=~"$namespace", app_kubernetes_io_instance=~"$release"'
OF_GROUP = f'{SELECTION}, group=~"$group"'
OF_TOPIC = f'{OF_GROUP}, topic=~"$topic"'

HEIGHT = 8
STAT_HEIGHT = 4
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """One question.

    Attributes:
        title: What is asked.
        queries: PromQL to legend. `{S` stands for the dashboard's selection.
        unit: Grafana's name of it.
        meaning: What is good and bad.
        kind: `timeseries`, `stat` or `state-timeline`.
        width: Columns of 24.
        bad_above: A stat turns red above it.
        stacked: Areas upon each other, where the sum means something.
        names: Words for values, of a state timeline.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    meaning: str = ""
    kind: str = "timeseries"
    width: int = 8
    bad_above: float | None = None
    stacked: bool = False
    names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page: panels under headings.

    Attributes:
        name: Of the file, and part of the address: links to it stay.
        title: Shown.
        meaning: Shown behind it.
        rows: Panels by heading.
        of_group: Whether group and topic are chosen, beside namespace and release.
    """

    name: str
    title: str
    meaning: str
    rows: dict[str, list[Panel]]
    of_group: bool = False

    def queries(self) -> list[str]:
        """Every query of every panel, with its selection."""
        return [self.selected(expr) for panels in self.rows.values() for panel in panels for expr in panel.queries]

    def selected(self, expr: str) -> str:
        """A query with its selection."""
        return expr.replace("{S", "{" + (OF_TOPIC if self.of_group else SELECTION)).replace("{G", "{" + OF_GROUP)

    def page(self) -> str:
        """The file that Grafana reads."""
        return json.dumps(self._json(), indent=1, ensure_ascii=False) + "\n"

    def _json(self) -> Json:
        return {
            "uid": f"onceflow-{self.name}",
            "title": self.title,
            "description": self.meaning,
            "tags": ["onceflow"],
            "schemaVersion": 39,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "annotations": {"list": []},
            "links": [_link_to_others()],
            "templating": {"list": self._variables()},
            "panels": list(self._panels()),
        }

    def _variables(self) -> list[Json]:
        of_release = "processor_lease_remaining_seconds"
        found = [
            _variable("namespace", f"label_values({of_release}, namespace)"),
            _variable("release", f'label_values({of_release}{{namespace=~"$namespace"}}, app_kubernetes_io_instance)'),
        ]
        if self.of_group:
            found.append(_variable("group", f"label_values(processor_poll_age_seconds{{{SELECTION}}}, group)"))
            found.append(_variable("topic", f"label_values(processor_partition_state{{{OF_GROUP}}}, topic)"))
        source = {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus", "hide": 0}
        return [source, *found]

    def _panels(self) -> Iterator[Json]:
        ids = count(1)
        y = 0
        for heading, panels in self.rows.items():
            place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
            yield {"id": next(ids), "type": "row", "title": heading, "collapsed": False, "gridPos": place, "panels": []}
            y += 1
            x = height = 0
            for panel in panels:
                if x + panel.width > WIDTH:
                    x, y = 0, y + height
                height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
                yield self._panel(panel, next(ids), {"x": x, "y": y, "w": panel.width, "h": height})
                x += panel.width
            y += height

    def _panel(self, panel: Panel, number: int, place: Json) -> Json:
        targets = [
            {"refId": chr(ord("A") + at), "expr": self.selected(expr), "legendFormat": legend, "datasource": SOURCE}
            for at, (expr, legend) in enumerate(panel.queries.items())
        ]
        return {
            "id": number,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.meaning,
            "datasource": SOURCE,
            "gridPos": place,
            "targets": targets,
            "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
            "options": _options(panel),
        }


def _variable(name: str, query: str) -> Json:
    """A choice among a label's values. `All` also matches series without the label: not everybody runs on Kubernetes."""
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _link_to_others() -> Json:
    return {
        "type": "dashboards",
        "title": "onceflow",
        "tags": ["onceflow"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
    }


def _defaults(panel: Panel) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.bad_above is not None:
        steps.append({"color": "red", "value": panel.bad_above})
    found: Json = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        custom: Json = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never", "spanNulls": False}
        if panel.stacked:
            custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
        found["custom"] = custom
    if panel.kind == "state-timeline":
        found["custom"] = {"fillOpacity": 80, "lineWidth": 0}
        words = {str(at): {"text": name, "index": at} for at, name in enumerate(panel.names)}
        found["mappings"] = [{"type": "value", "options": words}]
        found["color"] = {"mode": "palette-classic"}
    return found


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value"}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    if panel.kind == "state-timeline":
        return {"legend": legend, "mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
