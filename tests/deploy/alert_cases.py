"""For each alert a case in which it fires, and when in that case it does not; as promtool's own tests.

Series are in promtool's notation, a sample a minute: `0x30` is 0 thirty-one times, `_x5` nothing six times, `0+2x9` rises.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Labels = Mapping[str, str]
RELEASE: Labels = {"namespace": "prod", "app_kubernetes_io_instance": "shop"}
"""What a monitor of the chart puts on every series."""
PLACE: Labels = {"group": "g", "topic": "orders", "partition": "3"}


@dataclass(frozen=True, slots=True)
class Case:
    """What happens, and when somebody is told.

    Attributes:
        alert: Its name.
        series: A metric and its labels, to its values.
        rests: Minutes at which it does not fire.
        fires: Minutes at which it does.
        labels: Of the alert, beside severity and release.
    """

    alert: str
    series: list[tuple[str, Labels, str]]
    rests: tuple[int, ...]
    fires: tuple[int, ...]
    labels: Labels = field(default_factory=dict[str, str])


POD: Labels = {"instance": "a"}
CASES: tuple[Case, ...] = (
    # -- running
    Case("OnceflowNoProcess", [("processor_lease_remaining_seconds", POD, "8x10 _x20")], (5, 18), (25,)),
    Case(
        "OnceflowPollThreadSlow",
        [("processor_poll_age_seconds", POD | {"group": "g"}, "0x10 12x10 0x10")],
        (5, 10, 25),
        (15,),
        POD | {"group": "g"},
    ),
    Case(
        "OnceflowLeaseAtRisk",
        [
            ("processor_lease_remaining_seconds", POD, "9x10 1x20"),
            ("processor_store_unavailable", POD, "0x30"),
            # This one's Postgres is away, which is another alert's business.
            ("processor_lease_remaining_seconds", {"instance": "b"}, "0x30"),
            ("processor_store_unavailable", {"instance": "b"}, "1x30"),
        ],
        (5, 11),
        (15,),
        POD,
    ),
    Case(
        "OnceflowExecutorLost",
        [("processor_executors_lost_total", POD | {"reason": "lease"}, "_x9 1x40")],
        (5, 40),
        (10, 15),
        {"reason": "lease"},
    ),
    Case(
        "OnceflowProcessesDie",
        [
            ("processor_executors_buried_total", POD | {"reason": "no heartbeat"}, "0x20 2x40"),
            ("processor_executors_buried_total", {"instance": "b", "reason": "no heartbeat"}, "_x29 2x60"),
        ],
        # Two are not enough, two more within a quarter of an hour are.
        (10, 25, 60),
        (31,),
    ),
    Case(
        "OnceflowWorkerRestarts",
        [("processor_process_restarts", POD | {"process": "2"}, "0x10 1x10 2 4 5x40")],
        (5, 15, 45),
        (25,),
        POD | {"process": "2"},
    ),
    Case(
        "OnceflowServiceFails",
        [("processor_service_failures_total", POD | {"service": "scan"}, "0x20 1x40")],
        (10, 50),
        (22,),
        {"service": "scan"},
    ),
    # -- partitions
    Case(
        "OnceflowPartitionHalted",
        [
            ("processor_partition_state", {**POD, **PLACE, "state": "attached"}, "1x10 _x30"),
            ("processor_partition_state", {**POD, **PLACE, "state": "halted"}, "_x10 1x30"),
        ],
        (5, 10),
        (13,),
        PLACE,
    ),
    Case(
        "OnceflowPartitionHeld",
        [("processor_partition_state", {**POD, **PLACE, "state": "held"}, "_x10 1x30")],
        (5, 19),
        (22,),
        PLACE,
    ),
    Case(
        "OnceflowPartitionUnclaimed",
        [
            ("processor_partition_state", {**POD, **PLACE, "state": "claiming"}, "1x3 _ _x30"),
            ("processor_partition_state", {**POD, **PLACE, "state": "assigned"}, "_x3 1x10 _x30"),
        ],
        (4, 25),
        (7,),
        PLACE,
    ),
    Case(
        "OnceflowLagGrows",
        [("processor_partition_lag", {**POD, **PLACE}, "0x20 0+200x40 8000x60")],
        # High and steady is a matter of taste, growing is not.
        (15, 35, 90),
        (50,),
        {"group": "g", "topic": "orders"},
    ),
    Case(
        "OnceflowRecordStuck",
        [("processor_partition_lag_seconds", {**POD, **PLACE}, "0+60x40 5x20")],
        (15, 20, 45),
        (25,),
        PLACE,
    ),
    Case(
        "OnceflowTransactionOpen",
        [("processor_partition_open_transactions", {**POD, **PLACE}, "0x10 40x30")],
        (5, 24),
        (27,),
        PLACE,
    ),
    Case(
        "OnceflowPartitionsLost",
        [("processor_rebalance_lost_total", POD | {"group": "g"}, "_x9 4x60")],
        (5, 40),
        (10, 15),
        {"group": "g"},
    ),
    Case(
        "OnceflowRebalancesOften",
        [
            ("processor_rebalance_revoked_total", POD | {"group": "g"}, "0x40 0+1x20 20x60"),
            ("processor_partition_progress_offset", {**POD, **PLACE}, "5x120"),
        ],
        (30, 100),
        (50,),
        {"group": "g"},
    ),
    Case(
        "OnceflowClientRefused",
        [
            ("processor_client_errors_total", POD | {"meaning": "denied"}, "_x9 1x40"),
            ("processor_client_errors_total", POD | {"meaning": "passing"}, "0+5x60"),
        ],
        (5, 40),
        (10,),
        {"meaning": "denied"},
    ),
    # -- records
    Case(
        "OnceflowRecordsMissing",
        [("processor_gap_records_total", {**POD, **PLACE}, "_x9 500x100")],
        (5, 90),
        (10, 40),
        {"group": "g", "topic": "orders"},
    ),
    Case(
        "OnceflowTopicRecreated",
        [("processor_topic_recreated_total", {**POD, **PLACE}, "_x9 1x100")],
        (5, 90),
        (10, 40),
        {"group": "g", "topic": "orders"},
    ),
    Case(
        "OnceflowHandlerFails",
        [
            ("processor_workflows_finished_total", POD | {"handler": "h", "status": "SUCCESS"}, "0+600x60"),
            ("processor_workflows_finished_total", POD | {"handler": "h", "status": "ERROR"}, "0x20 0+60x40"),
        ],
        (20, 30),
        (45,),
        {"handler": "h"},
    ),
    Case(
        "OnceflowDeadLetters",
        [
            ("processor_dead_letters_total", POD | {"handler": "h", "reason": "failed"}, "_x9 11x60"),
            ("processor_dead_letters_total", POD | {"handler": "h", "reason": "undecodable"}, "10x60"),
        ],
        (5, 40),
        (10, 15),
        {"handler": "h", "reason": "failed"},
    ),
    Case(
        "OnceflowDeadLettersWait",
        [("processor_dead_letter_oldest_seconds", {**POD, "group": "g", "topic": "orders"}, "86000x10 87000x30")],
        (5, 20),
        (28,),
        {"group": "g", "topic": "orders"},
    ),
    Case(
        "OnceflowKeysBlocked",
        [("processor_partition_blocked_keys", {**POD, **PLACE}, "0x10 2x30 0x10")],
        (5, 24, 45),
        (28,),
        PLACE,
    ),
    Case(
        "OnceflowPoisonSuspected",
        [
            ("processor_suspects_total", POD | {"alone": "false"}, "0+1x60"),
            ("processor_suspects_total", POD | {"alone": "true"}, "_x9 1x60"),
        ],
        (5, 55),
        (10, 30),
    ),
    # -- postgres
    Case(
        "OnceflowStoreUnavailable",
        [("processor_store_unavailable", POD, "0x10 1x10 0x10")],
        (5, 11, 25),
        (14,),
    ),
    Case(
        "OnceflowCommitsSlow",
        [
            ("processor_flush_duration_seconds_bucket", {**POD, "kind": "journaled", "le": "0.5"}, "0+100x20 2000x40"),
            ("processor_flush_duration_seconds_bucket", {**POD, "kind": "journaled", "le": "2.5"}, "0+100x60"),
            ("processor_flush_duration_seconds_bucket", {**POD, "kind": "journaled", "le": "+Inf"}, "0+100x60"),
        ],
        (15, 25),
        (40,),
    ),
    Case(
        "OnceflowCommitsRetried",
        [
            ("processor_flush_retries_total", POD | {"reason": "weather"}, "0x10 0+30x50"),
            ("processor_flush_retries_total", POD | {"reason": "bisect"}, "0+100x60"),
        ],
        (10, 18),
        (40,),
        {"reason": "weather"},
    ),
    Case(
        "OnceflowPoolExhausted",
        [
            ("processor_pool_waiting", POD, "0x10 5x30"),
            # Waiting now and then is what a pool is for.
            ("processor_pool_waiting", {"instance": "b"}, "0 5 0 5 0 5 0 5 0 5 0 5 0 5 0 5 0 5 0 5 0 5 0 5 0 5"),
        ],
        (10, 18),
        (25,),
        POD,
    ),
    # -- outbox
    Case("OnceflowRelayHalted", [("processor_relay_halted", POD, "0x10 1x10 0x10")], (5, 10, 25), (15,)),
    Case(
        "OnceflowOutboxWaits",
        [
            ("processor_outbox_oldest_seconds", POD, "1x10 301x10 301x20"),
            # From then on it is the halt's alert.
            ("processor_relay_halted", POD, "0x20 1x20"),
        ],
        (5, 14, 30),
        (18,),
    ),
    Case(
        "OnceflowScheduleLate",
        [("processor_schedule_overdue_seconds", POD | {"schedule": "close_day"}, "0x5 240+60x10 0x10")],
        (5, 20),
        (12,),
        {"schedule": "close_day"},
    ),
    Case(
        "OnceflowTopicRefused",
        [("processor_relay_topic_refused", POD | {"topic": "orders.dead"}, "_x9 1x20 _x20")],
        (5, 12, 45),
        (20,),
        {"topic": "orders.dead"},
    ),
    Case(
        "OnceflowRetentionLate",
        # A sweep catches up; what stays behind for an hour is not caught up with.
        [("processor_retention_late_seconds", POD, "30000x30 0x10 30000x120")],
        (20, 65, 95),
        (105, 150),
    ),
    Case(
        "OnceflowVacuumStarved",
        [("processor_retention_vacuum_held_seconds", POD, "0x10 7000x30 7300x60")],
        (20, 50),
        (57, 90),
    ),
)


def promtool_file(
    rules: str, severities: Mapping[str, str], *, of_release: bool = False, whose: Labels = RELEASE
) -> dict[str, Any]:
    """The cases as `promtool test rules` reads them.

    Args:
        rules: Path of the rules, from where the file will be.
        severities: Of each alert.
        of_release: Whether the rules are about RELEASE only. Then nothing fires for others but that nobody is there.
        whose: Whose series they are.
    """
    cases = [case for case in CASES if whose == RELEASE or case.alert != "OnceflowNoProcess"]
    quiet = of_release and whose != RELEASE
    return {
        "rule_files": [rules],
        "evaluation_interval": "1m",
        "tests": [_test(case, severities[case.alert], whose, quiet=quiet, of_release=of_release) for case in cases],
    }


def _test(case: Case, severity: str, whose: Labels, *, quiet: bool, of_release: bool) -> dict[str, Any]:
    # `absent` has the labels that it was asked for: the chart's, or none.
    fired = {"alertname": case.alert, "alertstate": "firing", "severity": severity, **case.labels}
    if of_release or case.alert != "OnceflowNoProcess":
        fired |= whose
    expr = f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}'
    firing = [{"labels": _series("ALERTS", fired), "value": 1}]
    return {
        "interval": "1m",
        "input_series": [
            {"series": _series(name, {**whose, **labels}), "values": values} for name, labels, values in case.series
        ],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": f"{minute}m",
                "exp_samples": firing if minute in case.fires and not quiet else [],
            }
            for minute in (*case.rests, *case.fires)
        ],
    }


def _series(name: str, labels: Labels) -> str:
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in labels.items()) + "}"
