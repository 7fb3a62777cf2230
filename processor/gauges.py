"""Snapshots of the engine and of groups as values of gauges. Pure; names are those of `processor.metric_table`."""

from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from consumers.group import GroupSnapshot
from consumers.relay import RelaySnapshot
from engine.snapshots import EngineSnapshot
from engine.store.queues import QueueDepth
from processor.metrics import Samples, place


def _release() -> str:
    try:
        return version("onceflow")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


_BUILD = (_release(), python_version())


def engine_gauges(snapshot: EngineSnapshot, lease: timedelta, now_s: float) -> Samples:
    """Of this process, and of each partition that it has claimed."""
    remaining_s = lease.total_seconds() - snapshot.lease_silence_s if snapshot.lease_is_valid else 0.0
    samples: Samples = {
        "build_info": [(_BUILD, 1)],
        "in_flight": [((), snapshot.in_flight)],
        "in_flight_bytes": [((), snapshot.in_flight_bytes)],
        "backlog_bytes": [((), snapshot.backlog_bytes)],
        "late_runs": [((), snapshot.late_runs)],
        "lease_remaining_seconds": [((), max(remaining_s, 0.0))],
        "pool_connections": [((), snapshot.pool.get("pool_size", 0))],
        "pool_in_use": [((), snapshot.pool.get("pool_size", 0) - snapshot.pool.get("pool_available", 0))],
        "pool_waiting": [((), snapshot.pool.get("requests_waiting", 0))],
    }
    for depth in snapshot.dead_letters:
        labels = (depth.group, depth.topic)
        age_s = 0.0 if depth.oldest_at is None else max(now_s - depth.oldest_at / 1000, 0.0)
        samples.setdefault("dead_letters_open", []).append((labels, depth.count))
        samples.setdefault("dead_letter_oldest_seconds", []).append((labels, age_s))
    samples["workflows_stranded"] = [((name,), count) for name, count in snapshot.stranded]
    if (outbox := snapshot.outbox) is not None:
        age_s = 0.0 if outbox.oldest_at is None else max(now_s - outbox.oldest_at / 1000, 0.0)
        samples["outbox_depth"] = [((), outbox.waiting)]
        samples["outbox_oldest_seconds"] = [((), age_s)]
        samples["relay_halted"] = [((), int(outbox.halted is not None))]
    samples |= _queue_gauges(snapshot.queues, now_s)
    if (retention := snapshot.retention) is not None:
        samples["retention_late_seconds"] = [((), retention.late_s)]
        samples["retention_paused"] = [((), int(retention.is_paused))]
        samples["retention_vacuum_held_seconds"] = [((), retention.vacuum_held_s)]
    samples["intake_share"] = [((reason,), share) for reason, share in snapshot.intake]
    samples["schedule_overdue_seconds"] = [((name,), overdue_s) for name, overdue_s, _ in snapshot.schedules]
    samples["schedule_paused"] = [((name,), int(is_paused)) for name, _, is_paused in snapshot.schedules]
    for source in snapshot.sources:
        values: dict[str, float] = {
            "partition_progress_offset": source.next,
            "partition_inflight": source.in_flight,
            "partition_backlog": source.backlog,
            "partition_parked": source.parked,
            "partition_blocked_keys": source.blocked_keys,
            "partition_watermark_gap": source.high - source.next,
            "partition_owner_epoch": source.epoch,
        }
        if source.oldest_ms:
            values["partition_lag_seconds"] = max(now_s - source.oldest_ms / 1000, 0.0)
        elif not source.in_flight and not source.backlog:
            values["partition_lag_seconds"] = 0.0
        for name, value in values.items():
            samples.setdefault(name, []).append((place(source.ref), value))
        if source.waits is not None:
            samples.setdefault("partition_paused", []).append(((*place(source.ref), "format"), 1))
    return samples


def _queue_gauges(queues: Sequence[QueueDepth], now_s: float) -> Samples:
    samples: Samples = {}
    for queue in queues:
        age_s = 0.0 if queue.oldest_at is None else max(now_s - queue.oldest_at / 1000, 0.0)
        for name, value in (
            ("queue_depth", queue.ready),
            ("queue_oldest_seconds", age_s),
            ("queue_delayed", queue.delayed),
            ("queue_places", queue.places),
            ("queue_paused", int(queue.is_paused)),
            ("queue_listeners", queue.listeners),
        ):
            samples.setdefault(name, []).append(((queue.queue,), value))
    return samples


def group_gauges(snapshot: GroupSnapshot) -> Samples:
    """Of one member, and of each partition that Kafka assigned to it."""
    samples: Samples = {
        "poll_age_seconds": [((snapshot.group,), snapshot.poll_age_s)],
        "partition_lag": [],
        "partition_state": [],
        "partition_paused": [],
        "partition_open_transactions": [],
    }
    for partition in snapshot.partitions:
        labels = place(partition.source)
        samples["partition_state"].append(((*labels, partition.state.value), 1))
        samples["partition_paused"] += [((*labels, reason), 1) for reason in sorted(partition.paused)]
        if partition.lag is not None:
            samples["partition_lag"].append((labels, partition.lag))
        if partition.log_end is not None:
            samples["partition_open_transactions"].append((labels, partition.log_end.open_transactions))
    return samples


def relay_gauges(snapshot: RelaySnapshot) -> Samples:
    """Of this process's relay."""
    return {
        "relay_active": [((), int(snapshot.is_active))],
        "relay_topic_refused": [((topic,), 1) for topic in snapshot.refused],
    }


def without_ages_that_nobody_knows(samples: Samples) -> Samples:
    """Both together, without an age of 0 where the log has records and the process took none of them.

    Held, halted or not fetched yet: how old the oldest is, nobody here knows, and 0 would say that nothing waits.
    """
    behind = {labels for labels, lag in samples.get("partition_lag", ()) if lag > 0}
    ages = samples.get("partition_lag_seconds", ())
    return samples | {"partition_lag_seconds": [(at, age) for at, age in ages if age > 0 or at not in behind]}
