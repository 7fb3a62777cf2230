"""What dashboards ask Prometheus, over and over: rates, quantiles, sums, as queries with their legends.

`{S` stands for the dashboard's selection.
"""

from deploy.grafana import Panel

RATE = "$__rate_interval"


def quantiles(metric: str, by: str = "", labels: str = "S") -> dict[str, str]:
    """Median, one in twenty, one in a hundred."""
    total = f"sum by (le{', ' + by if by else ''}) (rate(processor_{metric}_bucket{{{labels}}}[{RATE}]))"
    legend = f" {{{{{by}}}}}" if by else ""
    return {f"histogram_quantile({q}, {total})": f"p{round(q * 100)}{legend}" for q in (0.5, 0.95, 0.99)}


def rate(metric: str, by: str = "") -> dict[str, str]:
    """Events a second."""
    of = f" by ({by})" if by else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ")) if by else metric.removesuffix("_total")
    return {f"sum{of} (rate(processor_{metric}{{S}}[{RATE}]))": legend}


def total(metric: str, by: str = "group, topic") -> dict[str, str]:
    """A gauge of partitions, summed over the processes that have them."""
    return {f"sum by ({by}) (processor_{metric}{{S}})": " ".join(f"{{{{{label}}}}}" for label in by.split(", "))}


def of_partition(metric: str) -> dict[str, str]:
    """A gauge, one line for each partition."""
    return {f"max by (topic, partition) (processor_{metric}{{S}})": "{{topic}}-{{partition}}"}


def of_process(metric: str) -> dict[str, str]:
    """A gauge, one line for each process."""
    return {f"max by (instance, process) (processor_{metric}{{S}})": "{{instance}} {{process}}"}


def stat(title: str, query: str, meaning: str, *, unit: str = "short", bad_above: float | None = None) -> Panel:
    """One number, red above a bound."""
    return Panel(title, {query: ""}, unit, meaning, "stat", 4, bad_above)
