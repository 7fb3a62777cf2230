"""What counts and measures: accumulators that take a whole commit's values at once, and give Prometheus families.

`prometheus_client`'s own histogram takes one value at a time, 2 to 3 µs each; at 30,000 records/s that would be a
tenth of a core. These take the list an event carries, 0.1 µs a value, and are turned into families at a scrape.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

PREFIX = "processor_"
LABEL_SETS_MAX = 5_000
"""Time series of one metric. What comes later is counted together under OTHER: names of steps may be made up by code."""
OTHER = "other"

Labels = tuple[str, ...]
Sample = tuple[Labels, float]


class Kind(Enum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the reference.

    Attributes:
        name: Without the prefix; a counter ends in `_total`.
        kind: Counter, gauge or histogram.
        unit: Of its value.
        labels: Names of its labels. Each has few values: no keys, no offsets, no IDs.
        meaning: For people.
    """

    name: str
    kind: Kind
    unit: str
    labels: Labels
    meaning: str

    @property
    def full_name(self) -> str:
        """As scraped."""
        return PREFIX + self.name


class Counter:
    """Sums by labels."""

    def __init__(self, metric: Metric) -> None:
        assert metric.kind is Kind.COUNTER, metric.name
        self.metric = metric
        # Without labels there is one series, and it is there before its first event: a rate needs a sample before it.
        self._sums: dict[Labels, float] = {} if metric.labels else {(): 0}

    def add(self, amount: float, *labels: str) -> None:
        """Add to the sum of these labels."""
        key = _bounded(labels, self._sums, self.metric)
        self._sums[key] = self._sums.get(key, 0) + amount

    def family(self) -> Family:
        """For a scrape."""
        # A family of a counter is named without `_total`, which the exposition appends.
        family = CounterMetricFamily(
            self.metric.full_name.removesuffix("_total"), self.metric.meaning, labels=self.metric.labels
        )
        for labels, total in list(self._sums.items()):
            family.add_metric(labels, total)
        return family


class Histogram:
    """Counts by labels and upper bound."""

    def __init__(self, metric: Metric, bounds: Sequence[float]) -> None:
        assert metric.kind is Kind.HISTOGRAM, metric.name
        self.metric = metric
        self._bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def take(self, values: Iterable[float], *labels: str) -> None:
        """Count each value in its bucket."""
        key = _bounded(labels, self._sums, self.metric)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(self._bounds) + 1)
            self._sums[key] = 0.0
        bounds = self._bounds
        total = 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self._sums[key] += total

    def family(self) -> Family:
        """For a scrape."""
        family = HistogramMetricFamily(self.metric.full_name, self.metric.meaning, labels=self.metric.labels)
        for labels, counts in list(self._counts.items()):
            family.add_metric(labels, list(self._cumulated(counts)), self._sums[labels])
        return family

    def _cumulated(self, counts: Sequence[int]) -> Iterator[tuple[str, float]]:
        total = 0
        for bound, count in zip((*map(_bound, self._bounds), "+Inf"), counts, strict=True):
            total += count
            yield bound, total


def gauge_family(metric: Metric, samples: Iterable[Sample]) -> Family:
    """Values read at the moment of a scrape."""
    assert metric.kind is Kind.GAUGE, metric.name
    family = GaugeMetricFamily(metric.full_name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _bounded(labels: Labels, known: dict[Labels, float], metric: Metric) -> Labels:
    assert len(labels) == len(metric.labels), f"{metric.name} has labels {metric.labels}, not {labels}"
    if labels in known or len(known) < LABEL_SETS_MAX:
        return labels
    return (OTHER,) * len(labels)


def _bound(bound: float) -> str:
    return repr(float(bound))
