"""What is counted of telemetry events, and what a scrape shows."""

import re
from dataclasses import fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumers import telemetry as kafka
from engine import telemetry
from engine.ids import SourceRef, WorkflowId
from engine.states import WorkflowStatus
from processor.instruments import LABEL_SETS_MAX, OTHER, Counter, Kind, Metric
from processor.metric_table import METRICS
from processor.metrics import Metrics
from processor.web.telemetry import HttpAnswered

SOURCE = SourceRef("shop", "fulfil", "orders", 3)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics((0.01, 0.1, 1))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"processor_{name}", labels)


def test_a_commits_workflows_are_counted_at_once(metrics: Metrics) -> None:
    metrics.observe(telemetry.WorkflowsFinished("fulfil", WorkflowStatus.SUCCESS, [0.005, 0.05, 0.05, 7]))
    metrics.observe(telemetry.WorkflowsFinished("fulfil", WorkflowStatus.ERROR, [3]))

    assert value(metrics, "workflows_finished_total", handler="fulfil", status="SUCCESS") == 4
    assert value(metrics, "workflow_latency_seconds_bucket", handler="fulfil", status="SUCCESS", le="0.01") == 1
    assert value(metrics, "workflow_latency_seconds_bucket", handler="fulfil", status="SUCCESS", le="0.1") == 3
    assert value(metrics, "workflow_latency_seconds_bucket", handler="fulfil", status="SUCCESS", le="+Inf") == 4
    assert value(metrics, "workflow_latency_seconds_count", handler="fulfil", status="ERROR") == 1
    assert value(metrics, "workflow_latency_seconds_sum", handler="fulfil", status="SUCCESS") == pytest.approx(7.105)


def test_a_commit_is_measured_by_its_time_by_who_shares_it_and_by_who_waited(metrics: Metrics) -> None:
    def flushed(kind: str, works: int, waited_s: float | None) -> telemetry.Flushed:
        return telemetry.Flushed(kind, 0.02, works, waited_s, rows=works, checkpoints=works, outcomes=0, partitions=1)

    metrics.observe(flushed("journaled", 40, 0.03))
    metrics.observe(flushed("journaled", 3, None))
    metrics.observe(flushed("release", 0, None))
    metrics.observe(telemetry.TransactionsCommitted("book", 0.2, 60))

    assert value(metrics, "flush_duration_seconds_count", kind="journaled") == 2
    assert value(metrics, "flush_batch_size_bucket", kind="journaled", le="5.0") == 1
    assert value(metrics, "flush_batch_size_bucket", kind="journaled", le="50.0") == 2
    assert value(metrics, "flush_batch_size_sum", kind="journaled") == 43
    assert value(metrics, "flush_batch_size_count", kind="release") == 1
    assert value(metrics, "checkpoint_wait_seconds_count", kind="journaled") == 1
    assert value(metrics, "transaction_duration_seconds_bucket", step="book", le="0.25") == 1
    assert value(metrics, "transaction_batch_size_bucket", step="book", le="50.0") == 0
    assert value(metrics, "transaction_batch_size_bucket", step="book", le="100.0") == 1


def test_events_of_partitions_carry_group_topic_and_partition(metrics: Metrics) -> None:
    place = {"group": "shop", "topic": "orders", "partition": "3"}

    metrics.observe(telemetry.RecordsDelivered(SOURCE, 500, 12_345))
    metrics.observe(telemetry.RecordsDecided(SOURCE, "filtered", 7))
    metrics.observe(telemetry.SourceClaimed(SOURCE, 4, True, 12, 0.2))
    metrics.observe(kafka.PartitionsRevoked((SOURCE,), True))

    assert value(metrics, "records_delivered_total", **place) == 500
    assert value(metrics, "records_passed_over_total", **place, decision="filtered") == 7
    assert value(metrics, "claims_total", **place, after_death="true") == 1
    assert value(metrics, "rebalance_lost_total", group="shop") == 1
    assert value(metrics, "rebalance_revoked_total", group="shop") is None


def test_answers_of_the_http_server_are_counted_by_route(metrics: Metrics) -> None:
    metrics.observe(HttpAnswered("/orders/{order_id}", "POST", 202, 0.02))
    metrics.observe(HttpAnswered("other", "GET", 404, 0.001))

    route = {"route": "/orders/{order_id}", "method": "POST"}
    assert value(metrics, "http_requests_total", **route, status="202") == 1
    assert value(metrics, "http_request_seconds_count", **route) == 1
    assert value(metrics, "http_requests_total", route="other", method="GET", status="404") == 1


def test_what_the_relay_does_is_counted(metrics: Metrics) -> None:
    """I9."""
    metrics.observe(kafka.OutboxPublished({"shipments": 3, "orders.dead": 1}, 900, 0.02))
    metrics.observe(kafka.OutboxPublished({"shipments": 2}, 100, 0.03))
    metrics.observe(kafka.TopicRefused("orders.dead", "there is no such topic", 30))
    metrics.observe(kafka.RelayHalted("Kafka has batch 7"))

    assert value(metrics, "outbox_published_total", topic="shipments") == 5
    assert value(metrics, "outbox_published_total", topic="orders.dead") == 1
    assert value(metrics, "outbox_published_bytes_total") == 1_000
    assert value(metrics, "relay_transactions_total") == 2
    assert value(metrics, "relay_transaction_seconds_count") == 2
    assert value(metrics, "relay_refusals_total", topic="orders.dead") == 1
    assert value(metrics, "relay_halts_total") == 1


def test_deleted_rows_are_counted_by_handler_and_by_how_they_ended(metrics: Metrics) -> None:
    metrics.observe(telemetry.RetentionDeleted({("fulfil", "SUCCESS"): 500, ("fulfil", "DEAD_LETTER"): 2}, 0.05))
    metrics.observe(telemetry.RetentionDeleted({("fulfil", "SUCCESS"): 70}, 0.05))

    assert value(metrics, "retention_deleted_total", handler="fulfil", kind="SUCCESS") == 570
    assert value(metrics, "retention_deleted_total", handler="fulfil", kind="DEAD_LETTER") == 2
    assert value(metrics, "retention_batch_seconds_count") == 2


def test_ticks_are_counted_by_what_became_of_them(metrics: Metrics) -> None:
    metrics.observe(telemetry.TicksStarted("close", [0.02, 3_600.0, 7_200.0], 2))
    metrics.observe(telemetry.TicksPassedOver("close", 5))
    metrics.observe(telemetry.TickRefused("close", WorkflowId("sched-close-x"), "its ID is that of a 'open'"))

    counted = {
        outcome: value(metrics, "schedule_ticks_total", schedule="close", outcome=outcome)
        for outcome in ("started", "made_up", "passed_over", "refused")
    }
    assert counted == {"started": 1, "made_up": 2, "passed_over": 5, "refused": 1}
    assert value(metrics, "schedule_delay_seconds_count", schedule="close") == 3
    assert value(metrics, "schedule_delay_seconds_bucket", schedule="close", le="0.025") == 1


def test_refused_writes_are_counted_wherever_they_are_refused(metrics: Metrics) -> None:
    """I6: a zombie's writes show, whichever fence refused them."""
    metrics.observe(telemetry.FlushRetried("fenced", "lost orders-3"))
    metrics.observe(telemetry.FlushRetried("weather", "connection reset"))
    metrics.observe(telemetry.LateResultRefused(WorkflowId("orders-3-7"), "row fence"))

    assert value(metrics, "fenced_writes_total") == 2


def test_an_outage_is_one_however_often_it_is_told(metrics: Metrics) -> None:
    for waiting in (1, 2, 4):
        metrics.observe(telemetry.StoreUnavailable("refused", waiting))
    assert value(metrics, "store_unavailable") == 1

    metrics.observe(telemetry.StoreAvailable(7))

    assert value(metrics, "store_unavailable") == 0
    assert value(metrics, "store_outages_total") == 1


def test_postgres_is_back_when_it_takes_a_heartbeat(metrics: Metrics) -> None:
    """A process that has nothing to commit notices an outage by its lease, and its end too."""
    metrics.observe(telemetry.StoreUnavailable("refused", 1.0))

    metrics.observe(telemetry.HeartbeatRenewed("e", 0.01))

    assert value(metrics, "store_unavailable") == 0


def test_counters_without_labels_are_there_before_their_first_event(metrics: Metrics) -> None:
    """A rate needs a sample before the event that it is about."""
    assert value(metrics, "fenced_writes_total") == 0
    assert "processor_fenced_writes_total 0.0" in metrics.exposition()[1].decode()


def test_gauges_are_read_at_the_scrape(metrics: Metrics) -> None:
    lag = iter([5.0, 0.0])
    metrics.read_at_scrape(lambda: {"partition_lag": [(("shop", "orders", "3"), next(lag))]})
    place = {"group": "shop", "topic": "orders", "partition": "3"}

    assert [value(metrics, "partition_lag", **place) for _ in range(2)] == [5, 0]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_every_metric_of_the_table_is_exposed(metrics: Metrics, accept: str) -> None:
    content_type, body = metrics.exposition(accept)

    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain")
    if not accept:
        names = {family.name for family in text_string_to_metric_families(body.decode())}
        assert {metric.full_name.removesuffix("_total") for metric in METRICS} <= names


def test_time_series_of_one_metric_are_bounded() -> None:
    """I10: an inline step's name may be made up by code."""
    counter = Counter(Metric("steps_total", Kind.COUNTER, "steps", ("step",), ""))

    for number in range(LABEL_SETS_MAX + 50):
        counter.add(1, f"step {number}")

    samples = {sample.labels["step"]: sample.value for sample in counter.family().samples}
    assert len(samples) == LABEL_SETS_MAX + 1
    assert samples[OTHER] == 50


def test_the_table_names_things_as_prometheus_does() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.meaning.endswith("."), metric.name
        assert not {"key", "offset", "workflow"} & set(metric.labels), f"{metric.name}: unbounded labels"
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_what_people_graph_of_a_consumer_has_these_names() -> None:
    """The shape of kafka_exporter and its kind, for progress in the database. Fixed: dashboards and alerts use them."""
    labels = {metric.name: metric.labels for metric in METRICS}
    partition = ("group", "topic", "partition")

    for name in ("progress_offset", "lag", "lag_seconds", "inflight", "watermark_gap", "owner_epoch"):
        assert labels[f"partition_{name}"] == partition
    assert labels["partition_paused"] == (*partition, "reason")
    assert labels["workflow_latency_seconds"] == ("handler", "status")
    assert {
        "fenced_writes_total",
        "rebalance_assigned_total",
        "rebalance_revoked_total",
        "rebalance_lost_total",
        "drain_seconds",
        "gap_records_total",
        "topic_recreated_total",
        "dead_letters_total",
    } <= labels.keys()


def test_no_event_is_unknown_to_the_observer(metrics: Metrics) -> None:
    """Every event of the contract can be observed, whatever its fields hold."""
    modules = (telemetry, kafka)
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    events = [kind for kind in kinds if issubclass(kind, telemetry.Event)]
    values = {
        "source": SOURCE,
        "sources": (SOURCE,),
        "status": WorkflowStatus.ERROR,
        "latencies_s": [1.0],
        "durations_s": [1.0],
        "delays_s": [1.0],
        "waits_s": [1.0],
        "counts": {"t": 2},
        "deleted": {("fulfil", "SUCCESS"): 1},
    }

    for kind in events:
        metrics.observe(
            kind(**{field.name: values.get(field.name, "x" if field.type is str else 1) for field in fields(kind)})
        )

    assert len(events) > 30
