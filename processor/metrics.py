"""Metrics: an observer of telemetry events, and what is read at a scrape. The table is the reference.

    engine, consumers ──events──▶ Metrics.observe ──▶ sums ──┐
    engine.snapshot(), group.snapshot() ─────────────────────┴──▶ Metrics.collect ──▶ /metrics

What there is stands in `processor.metric_table`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from consumers import telemetry as kafka
from engine import telemetry
from engine.ids import SourceRef
from engine.telemetry import Event
from processor.instruments import Counter, Histogram, Kind, Sample, gauge_family
from processor.metric_table import METRICS
from processor.web.telemetry import HttpAnswered

DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds for times that are not latencies of records."""

SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Upper bounds for how many share a commit: from who is alone to `batch_max`, and what a release adds."""

BUCKETS = {"seconds": DURATION_BUCKETS_S, "workflows": SIZE_BUCKETS}
"""By the unit of a histogram."""

_TABLE = {metric.name: metric for metric in METRICS}

Samples = dict[str, list[Sample]]
"""Values of gauges, by the metric's name."""


class Metrics(Collector):
    """Observer of one process, and collector for its registry.

    Args:
        latency_buckets_s: Upper bounds for `workflow_latency_seconds`.
    """

    def __init__(self, latency_buckets_s: Sequence[float]) -> None:
        self._lock = threading.Lock()
        self._counters = {name: Counter(metric) for name, metric in _TABLE.items() if metric.kind is Kind.COUNTER}
        self._histograms = {
            name: Histogram(metric, latency_buckets_s if "latency" in name else BUCKETS[metric.unit])
            for name, metric in _TABLE.items()
            if metric.kind is Kind.HISTOGRAM
        }
        self._store_unavailable = 0
        self._readers: list[Callable[[], Samples]] = []
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        for of_process in (ProcessCollector, PlatformCollector, GCCollector):
            of_process(registry=self.registry)

    def read_at_scrape(self, reader: Callable[[], Samples]) -> None:
        """Ask for values of gauges at every scrape. Called in the scraping thread: it must only read."""
        self._readers.append(reader)

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body, in the format that the scraper accepts."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)

    def collect(self) -> Iterable[Family]:
        """All families, in the order of the table."""
        samples: Samples = {"store_unavailable": [((), self._store_unavailable)]}
        for read in self._readers:
            for name, found in read().items():
                samples.setdefault(name, []).extend(found)
        with self._lock:
            return list(self._families(samples))

    def _families(self, samples: Samples) -> Iterator[Family]:
        for name, metric in _TABLE.items():
            match metric.kind:
                case Kind.COUNTER:
                    yield self._counters[name].family()
                case Kind.HISTOGRAM:
                    yield self._histograms[name].family()
                case Kind.GAUGE:
                    yield gauge_family(metric, samples.get(name, ()))

    def observe(self, event: Event) -> None:
        """Count an event. Called by `Telemetry`, in the thread of the event."""
        with self._lock:
            self._count(event)

    def _add(self, name: str, amount: float, *labels: str) -> None:
        self._counters[name].add(amount, *labels)

    def _take(self, name: str, values: Iterable[float], *labels: str) -> None:
        self._histograms[name].take(values, *labels)

    def _count(self, event: Event) -> None:
        match event:
            case telemetry.WorkflowsFinished():
                self._add("workflows_finished_total", len(event.latencies_s), event.handler, event.status.value)
                self._take("workflow_latency_seconds", event.latencies_s, event.handler, event.status.value)
            case telemetry.StepsFinished():
                self._add("steps_finished_total", len(event.durations_s), event.handler, event.step, event.outcome)
                self._take("step_duration_seconds", event.durations_s, event.handler, event.step)
            case telemetry.RecordsDelivered():
                self._add("records_delivered_total", event.count, *place(event.source))
                self._add("records_delivered_bytes_total", event.size, *place(event.source))
            case telemetry.RecordsDecided():
                self._add("records_passed_over_total", event.count, *place(event.source), event.decision)
            case _:
                self._count_commit(event)

    def _count_commit(self, event: Event) -> None:
        match event:
            case telemetry.FlushRetried():
                self._add("flush_retries_total", 1, event.reason)
                if event.reason == "fenced":
                    self._add("fenced_writes_total", 1)
            case telemetry.LateResultRefused():
                self._add("fenced_writes_total", 1)
            case telemetry.StoreUnavailable():
                if not self._store_unavailable:
                    self._add("store_outages_total", 1)
                self._store_unavailable = 1
            case telemetry.StoreAvailable():
                self._store_unavailable = 0
            case telemetry.DeadLettered():
                self._add("dead_letters_total", 1, event.handler, event.reason)
            case telemetry.HoldPlaced():
                self._add("holds_total", 1, event.kind)
            case _:
                self._count_flush(event)

    def _count_flush(self, event: Event) -> None:
        match event:
            case telemetry.Flushed():
                self._add("flushes_total", 1, event.kind)
                self._add("flush_rows_total", event.rows, event.kind)
                self._add("flush_checkpoints_total", event.checkpoints, event.kind)
                self._add("flush_outcomes_total", event.outcomes, event.kind)
                self._take("flush_duration_seconds", (event.duration_s,), event.kind)
                self._take("flush_batch_size", (event.works,), event.kind)
                if event.waited_s is not None:
                    self._take("checkpoint_wait_seconds", (event.waited_s,), event.kind)
            case telemetry.TransactionsCommitted():
                self._take("transaction_duration_seconds", (event.duration_s,), event.step)
                self._take("transaction_batch_size", (event.workflows,), event.step)
            case _:
                self._count_partition(event)

    def _count_partition(self, event: Event) -> None:
        match event:
            case telemetry.SourceClaimed():
                self._add("claims_total", 1, *place(event.source), _truth(event.after_death))
                self._add("claimed_workflows_total", event.open_rows, *place(event.source))
                self._take("claim_wait_seconds", (event.waited_s,))
            case telemetry.SourceReleased():
                self._take("drain_seconds", (event.duration_s,))
                self._add("late_runs_total", event.late_runs)
            case telemetry.SourceDropped():
                self._add("partitions_dropped_total", 1, event.reason)
            case telemetry.WorkflowsTaken():
                self._add("workflows_taken_total", event.count, event.reason)
            case telemetry.QueueTaken():
                self._add("queue_taken_total", event.count, event.queue, event.reason)
                self._take("queue_wait_seconds", event.waits_s, event.queue)
            case telemetry.WorkflowsExpired():
                self._add("workflows_expired_total", event.count)
            case telemetry.PayloadUnreadable():
                self._add("payloads_unreadable_total", 1)
            case telemetry.SuspectStarted():
                self._add("suspects_total", 1, _truth(event.alone))
            case telemetry.HandedOver():
                self._add("hand_overs_total", 1, _truth(event.finished))
            case _:
                self._count_ticks(event)

    def _count_ticks(self, event: Event) -> None:
        match event:
            case telemetry.TicksStarted():
                self._take("schedule_delay_seconds", event.delays_s, event.schedule)
                self._add("schedule_ticks_total", len(event.delays_s) - event.late, event.schedule, "started")
                self._add("schedule_ticks_total", event.late, event.schedule, "made_up")
            case telemetry.TicksPassedOver():
                self._add("schedule_ticks_total", event.count, event.schedule, "passed_over")
            case telemetry.TickRefused():
                self._add("schedule_ticks_total", 1, event.schedule, "refused")
            case _:
                self._count_kafka(event)

    def _count_kafka(self, event: Event) -> None:
        match event:
            case kafka.PartitionsAssigned():
                for source in event.sources:
                    self._add("rebalance_assigned_total", 1, source.group)
            case kafka.PartitionsRevoked():
                for source in event.sources:
                    self._add("rebalance_lost_total" if event.lost else "rebalance_revoked_total", 1, source.group)
            case kafka.PartitionHalted():
                self._add("partitions_halted_total", 1, *place(event.source))
            case kafka.GapAccepted():
                self._add("gap_records_total", event.end - event.start, *place(event.source))
            case kafka.TopicRecreated():
                self._add("topic_recreated_total", 1, *place(event.source))
            case kafka.StaleBatchDropped():
                self._add("stale_records_total", event.count)
            case _:
                self._count_relay(event)

    def _count_relay(self, event: Event) -> None:
        match event:
            case kafka.OutboxPublished():
                for topic, count in event.counts.items():
                    self._add("outbox_published_total", count, topic)
                self._add("outbox_published_bytes_total", event.size)
                self._add("relay_transactions_total", 1)
                self._take("relay_transaction_seconds", (event.duration_s,))
            case kafka.RelayInterrupted():
                self._add("relay_interruptions_total", 1)
            case kafka.TopicRefused():
                self._add("relay_refusals_total", 1, event.topic)
            case kafka.RelayHalted():
                self._add("relay_halts_total", 1)
            case kafka.RelayClaimed():
                self._add("relay_claims_total", 1)
            case _:
                self._count_process(event)

    def _count_process(self, event: Event) -> None:
        match event:
            case telemetry.HeartbeatRenewed():
                self._take("heartbeat_duration_seconds", (event.duration_s,))
                # Postgres answered. A process that has nothing to commit would not say so otherwise.
                self._store_unavailable = 0
            case telemetry.ExecutorStarted():
                self._add("executors_started_total", 1)
            case telemetry.RetentionDeleted():
                for (handler, kind), count in event.deleted.items():
                    self._add("retention_deleted_total", count, handler, kind)
                self._take("retention_batch_seconds", (event.duration_s,))
            case telemetry.ExecutorLost():
                self._add("executors_lost_total", 1, event.reason)
            case telemetry.ExecutorBuried():
                self._add("executors_buried_total", 1, event.reason)
            case telemetry.ServiceFailed():
                self._add("service_failures_total", 1, event.service)
            case kafka.ClientError():
                self._add("client_errors_total", 1, event.meaning)
            case kafka.ClientRecreated():
                self._add("client_recreated_total", 1)
            case _:
                self._count_http(event)

    def _count_http(self, event: Event) -> None:
        match event:
            case HttpAnswered():
                self._add("http_requests_total", 1, event.route, event.method, str(event.status))
                self._take("http_request_seconds", (event.duration_s,), event.route, event.method)
            case _:
                pass  # nothing to count: attached, paused, refused are read as states


def place(source: SourceRef) -> tuple[str, str, str]:
    """A partition as the labels of PARTITION."""
    return source.group, source.topic, str(source.partition)


def _truth(value: Any) -> str:
    return "true" if value else "false"
