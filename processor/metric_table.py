"""Every metric there is: the table from which the collectors are made, and docs/reference/metrics.md.

No label has a value per record, per key or per ID.
"""

from processor.instruments import Kind, Metric

PARTITION = ("group", "topic", "partition")

METRICS: tuple[Metric, ...] = (
    # -- workflows and steps
    Metric(
        "workflows_finished_total",
        Kind.COUNTER,
        "workflows",
        ("handler", "status"),
        "Workflows that became durably terminal, by status.",
    ),
    Metric(
        "workflow_latency_seconds",
        Kind.HISTOGRAM,
        "seconds",
        ("handler", "status"),
        "From the record's timestamp to the commit of its outcome, by status.",
    ),
    Metric(
        "steps_finished_total",
        Kind.COUNTER,
        "steps",
        ("handler", "step", "outcome"),
        "Checkpoints that became durable, by outcome: success or error.",
    ),
    Metric(
        "step_duration_seconds",
        Kind.HISTOGRAM,
        "seconds",
        ("handler", "step"),
        "From the call of a step to its final value or error, its retries included.",
    ),
    Metric(
        "workflows_taken_total",
        Kind.COUNTER,
        "workflows",
        ("reason",),
        "Workflows without a source that this process took: reason=due (they rested), dead (their executor died), left (a worker of executions was lost).",
    ),
    Metric(
        "workflows_expired_total", Kind.COUNTER, "workflows", (), "Workflows cancelled because their time was over."
    ),
    Metric(
        "workflows_stranded",
        Kind.GAUGE,
        "workflows",
        ("name",),
        "Workflows without a source that no live process has the code for, at most 1,000. Shown by one process for all, "
        "as old as 30 s.",
    ),
    # -- schedules
    Metric(
        "schedule_ticks_total",
        Kind.COUNTER,
        "ticks",
        ("schedule", "outcome"),
        "Ticks that this process decided about: outcome=started (in time), made_up (a lease late, or more), passed_over "
        "(missed, and its catch_up makes none up; at most 100 a look are counted), refused (its ID is another workflow's).",
    ),
    Metric(
        "schedule_delay_seconds",
        Kind.HISTOGRAM,
        "seconds",
        ("schedule",),
        "From a tick's time to its row, by Postgres's clock; of ticks that are made up, how late they are.",
    ),
    Metric(
        "schedule_overdue_seconds",
        Kind.GAUGE,
        "seconds",
        ("schedule",),
        "For how long a tick has been due and not started; 0 where none is. Shown by every process that has the schedule, "
        "as old as its last look: the greatest is true.",
    ),
    Metric(
        "schedule_paused",
        Kind.GAUGE,
        "1",
        ("schedule",),
        "1 while an operator has paused it. Noticed at its next tick, or within a minute.",
    ),
    Metric(
        "dead_letters_total",
        Kind.COUNTER,
        "records",
        ("handler", "reason"),
        "Records and workflows given up, kept with error and history.",
    ),
    Metric(
        "dead_letters_open",
        Kind.GAUGE,
        "records",
        ("group", "topic"),
        "Dead letters that nobody has decided about, at most 10,000. Shown by one process for all, as old as 30 s.",
    ),
    Metric(
        "dead_letter_oldest_seconds",
        Kind.GAUGE,
        "seconds",
        ("group", "topic"),
        "Age of the oldest of them; 0 where there is none. Shown by the same process.",
    ),
    Metric("holds_total", Kind.COUNTER, "holds", ("kind",), "Keys and partitions stopped until an operator decides."),
    Metric(
        "suspects_total",
        Kind.COUNTER,
        "workflows",
        ("alone",),
        "Workflows started again whose process had died while they ran; alone=true: with nothing beside them.",
    ),
    # -- records
    Metric(
        "records_delivered_total",
        Kind.COUNTER,
        "records",
        PARTITION,
        "Records taken from Kafka, redeliveries included.",
    ),
    Metric("records_delivered_bytes_total", Kind.COUNTER, "bytes", PARTITION, "Bytes of their keys and values."),
    Metric(
        "records_passed_over_total",
        Kind.COUNTER,
        "records",
        (*PARTITION, "decision"),
        "Records without a workflow of their own, by decision: filtered, tombstone, or known (a redelivery).",
    ),
    Metric("gap_records_total", Kind.COUNTER, "records", PARTITION, "Offsets that retention took first, by policy."),
    Metric(
        "stale_records_total",
        Kind.COUNTER,
        "records",
        (),
        "Records of ended attachments; their successor fetches them.",
    ),
    # -- commits
    Metric(
        "flushes_total",
        Kind.COUNTER,
        "commits",
        ("kind",),
        "Commits of gathered work: journaled, fused, commons (workflows without a source) or release (of a partition).",
    ),
    Metric(
        "flush_duration_seconds",
        Kind.HISTOGRAM,
        "seconds",
        ("kind",),
        "Latency of these commits: from BEGIN to the reply of COMMIT; of a fused one its handler's statements are part.",
    ),
    Metric(
        "flush_batch_size",
        Kind.HISTOGRAM,
        "workflows",
        ("kind",),
        "Workflows that share such a commit: what gathered while the one before it ran; 0 where only progress moves.",
    ),
    Metric(
        "checkpoint_wait_seconds",
        Kind.HISTOGRAM,
        "seconds",
        ("kind",),
        "From the end of a step to the commit that makes it durable, of the one in each commit that waited longest: what an effect behind it waits for.",
    ),
    Metric("flush_rows_total", Kind.COUNTER, "rows", ("kind",), "New workflow rows in these commits."),
    Metric("flush_checkpoints_total", Kind.COUNTER, "rows", ("kind",), "Checkpoints in these commits."),
    Metric("flush_outcomes_total", Kind.COUNTER, "rows", ("kind",), "Outcomes in these commits."),
    Metric(
        "flush_retries_total",
        Kind.COUNTER,
        "commits",
        ("reason",),
        "Commits sent again: weather, unknown commit, fenced, bisect.",
    ),
    Metric(
        "transaction_duration_seconds",
        Kind.HISTOGRAM,
        "seconds",
        ("step",),
        "Latency of transactional steps' commits: from BEGIN to the reply of COMMIT, users' functions included.",
    ),
    Metric(
        "transaction_batch_size",
        Kind.HISTOGRAM,
        "workflows",
        ("step",),
        "Workflows at the same transactional step that share such a commit; 1 where it runs alone.",
    ),
    Metric(
        "fenced_writes_total",
        Kind.COUNTER,
        "writes",
        (),
        "Writes that the database refused because another process owns their partition or workflow.",
    ),
    Metric(
        "payloads_unreadable_total",
        Kind.COUNTER,
        "tries",
        (),
        "Times a workflow was put off because what it needs is sealed with a key that is not configured here.",
    ),
    # -- partitions
    Metric("rebalance_assigned_total", Kind.COUNTER, "partitions", ("group",), "Partitions that Kafka gave to us."),
    Metric("rebalance_revoked_total", Kind.COUNTER, "partitions", ("group",), "Partitions that Kafka asked back."),
    Metric(
        "rebalance_lost_total",
        Kind.COUNTER,
        "partitions",
        ("group",),
        "Partitions that Kafka took without asking, because this process was silent for too long.",
    ),
    Metric("claims_total", Kind.COUNTER, "claims", (*PARTITION, "after_death"), "Claims of partitions in Postgres."),
    Metric(
        "claim_wait_seconds", Kind.HISTOGRAM, "seconds", (), "From the first attempt to claim a partition to its claim."
    ),
    Metric("claimed_workflows_total", Kind.COUNTER, "workflows", PARTITION, "Open workflows taken over with a claim."),
    Metric("drain_seconds", Kind.HISTOGRAM, "seconds", (), "Duration of a partition's release, its commit included."),
    Metric(
        "late_runs_total",
        Kind.COUNTER,
        "workflows",
        (),
        "Workflows whose steps still ran at their partition's release.",
    ),
    Metric(
        "hand_overs_total",
        Kind.COUNTER,
        "workflows",
        ("finished",),
        "Late runs that ended here (finished=true) or were handed to the new owner.",
    ),
    Metric(
        "partitions_dropped_total", Kind.COUNTER, "partitions", ("reason",), "Claims that ended without our release."
    ),
    Metric("partitions_halted_total", Kind.COUNTER, "partitions", PARTITION, "Times a partition stopped by itself."),
    Metric("topic_recreated_total", Kind.COUNTER, "partitions", PARTITION, "New incarnations begun, by policy."),
    Metric(
        "partition_progress_offset",
        Kind.GAUGE,
        "offset",
        PARTITION,
        "Everything below is durably processed or decided. Partitions of this process.",
    ),
    Metric(
        "partition_lag",
        Kind.GAUGE,
        "offsets",
        PARTITION,
        "End of the log minus progress; as old as the last look, 15 s.",
    ),
    Metric(
        "partition_lag_seconds",
        Kind.GAUGE,
        "seconds",
        PARTITION,
        "Age of the oldest record that is taken and not finished; no sample while the log has records and none is taken.",
    ),
    Metric("partition_inflight", Kind.GAUGE, "workflows", PARTITION, "Workflows taken and not finished."),
    Metric("partition_backlog", Kind.GAUGE, "records", PARTITION, "Records in memory that wait for room."),
    Metric(
        "partition_parked", Kind.GAUGE, "workflows", PARTITION, "Workflows at rest in the database behind their keys."
    ),
    Metric("partition_blocked_keys", Kind.GAUGE, "keys", PARTITION, "Keys that an operator has to decide about."),
    Metric(
        "partition_open_transactions",
        Kind.GAUGE,
        "offsets",
        PARTITION,
        "Offsets that no reader can reach, because a producer holds a transaction open.",
    ),
    Metric(
        "partition_watermark_gap",
        Kind.GAUGE,
        "offsets",
        PARTITION,
        "Highest persisted offset minus progress: how much is finished above the oldest that is not.",
    ),
    Metric(
        "partition_owner_epoch", Kind.GAUGE, "claims", PARTITION, "Epoch of our claim: + 1 with each claim by anybody."
    ),
    Metric(
        "partition_paused",
        Kind.GAUGE,
        "1",
        (*PARTITION, "reason"),
        "1 while fetching rests for this reason; 'format': while its next record cannot be decoded yet.",
    ),
    Metric(
        "partition_state",
        Kind.GAUGE,
        "1",
        (*PARTITION, "state"),
        "1 for the state the partition is in; only 'attached' is fetched.",
    ),
    # -- the outbox
    Metric(
        "outbox_depth",
        Kind.GAUGE,
        "events",
        (),
        "Events that are committed and not known to be published, at most 10,000. Shown by one process for all, as old as 10 s.",
    ),
    Metric(
        "outbox_oldest_seconds",
        Kind.GAUGE,
        "seconds",
        (),
        "Age of the oldest of them; 0 where there is none. Shown by the same process.",
    ),
    Metric("outbox_published_total", Kind.COUNTER, "events", ("topic",), "Events committed in Kafka by this process."),
    Metric("outbox_published_bytes_total", Kind.COUNTER, "bytes", (), "Bytes of their keys and values."),
    Metric("relay_active", Kind.GAUGE, "1", (), "1 in the process that relays, 0 in those that stand by."),
    Metric(
        "relay_halted",
        Kind.GAUGE,
        "1",
        (),
        "1 while nothing is published until an operator decides. Shown by the process that shows outbox_depth.",
    ),
    Metric(
        "relay_topic_refused",
        Kind.GAUGE,
        "1",
        ("topic",),
        "1 while Kafka refuses a topic's events, which wait; the other topics go on.",
    ),
    Metric("relay_transactions_total", Kind.COUNTER, "transactions", (), "Kafka transactions committed by the relay."),
    Metric(
        "relay_transaction_seconds", Kind.HISTOGRAM, "seconds", (), "From their begin to the reply of their commit."
    ),
    Metric(
        "relay_interruptions_total",
        Kind.COUNTER,
        "errors",
        (),
        "Failures after which the relay opened anew and asked Kafka how far it was.",
    ),
    Metric(
        "relay_refusals_total", Kind.COUNTER, "batches", ("topic",), "Batches that Kafka refused for a topic's events."
    ),
    Metric(
        "relay_halts_total", Kind.COUNTER, "halts", (), "Times Kafka's position was none of this database's history."
    ),
    Metric("relay_claims_total", Kind.COUNTER, "claims", (), "Times this process became the one that relays."),
    # -- queues
    Metric(
        "queue_depth",
        Kind.GAUGE,
        "workflows",
        ("queue",),
        "Workflows that wait for their turn, at most 10,000. Shown by one process for all, as old as 10 s.",
    ),
    Metric(
        "queue_oldest_seconds",
        Kind.GAUGE,
        "seconds",
        ("queue",),
        "Age of the oldest of them, of the first 10,000 in the queue's order; 0 where there is none. Shown by the same process.",
    ),
    Metric(
        "queue_delayed", Kind.GAUGE, "workflows", ("queue",), "Workflows that do not start before their time; likewise."
    ),
    Metric(
        "queue_places",
        Kind.GAUGE,
        "workflows",
        ("queue",),
        "Workflows between their start and their end, running or at rest; likewise.",
    ),
    Metric("queue_paused", Kind.GAUGE, "1", ("queue",), "1 while an operator has it paused; likewise."),
    Metric("queue_listeners", Kind.GAUGE, "processes", ("queue",), "Live processes that take from it; likewise."),
    Metric(
        "queue_taken_total",
        Kind.COUNTER,
        "workflows",
        ("queue", "reason"),
        "Workflows that this process took: reason=ready (they start), due (they rested), dead (their executor died).",
    ),
    Metric("queue_wait_seconds", Kind.HISTOGRAM, "seconds", ("queue",), "From its enqueueing to its start."),
    # -- this process
    Metric(
        "build_info", Kind.GAUGE, "1", ("version", "python"), "1: the release that runs, and the Python it runs on."
    ),
    Metric("in_flight", Kind.GAUGE, "workflows", (), "Workflows taken and not finished, all partitions."),
    Metric("in_flight_bytes", Kind.GAUGE, "bytes", (), "Bytes of their payloads."),
    Metric("backlog_bytes", Kind.GAUGE, "bytes", (), "Bytes of records in memory that wait for room."),
    Metric("late_runs", Kind.GAUGE, "workflows", (), "Workflows of released partitions whose steps still run here."),
    Metric("pool_connections", Kind.GAUGE, "connections", (), "Open connections of the pool for transactional steps."),
    Metric("pool_in_use", Kind.GAUGE, "connections", (), "Those that are taken from the pool just now."),
    Metric("pool_waiting", Kind.GAUGE, "requests", (), "Transactional steps and claims that wait for a connection."),
    Metric("poll_age_seconds", Kind.GAUGE, "seconds", ("group",), "Since the poll thread last came round."),
    Metric("lease_remaining_seconds", Kind.GAUGE, "seconds", (), "Until this process may begin no effect any more."),
    Metric("heartbeat_duration_seconds", Kind.HISTOGRAM, "seconds", (), "Round trip of a renewal of the lease."),
    Metric(
        "executors_started_total", Kind.COUNTER, "executors", (), "Executors registered by this process: 1, or it died."
    ),
    Metric(
        "executors_lost_total", Kind.COUNTER, "executors", ("reason",), "Own executors declared dead, or abandoned."
    ),
    Metric(
        "executors_buried_total", Kind.COUNTER, "executors", ("reason",), "Other executors this process declared dead."
    ),
    Metric("store_unavailable", Kind.GAUGE, "1", (), "1 while Postgres does not answer and everything waits."),
    Metric("store_outages_total", Kind.COUNTER, "outages", (), "Times Postgres stopped answering."),
    Metric(
        "intake_share",
        Kind.GAUGE,
        "1",
        ("reason",),
        "Share of executor.in_flight_max up to which records are taken in, by what the database cannot follow with"
        " (commits, replicas, vacuum); 1 while it can. The least one counts.",
    ),
    # -- retention
    Metric(
        "retention_deleted_total",
        Kind.COUNTER,
        "rows",
        ("handler", "kind"),
        "Workflows deleted by this process, by how they ended; and dead letters that were decided (DEAD_LETTER).",
    ),
    Metric("retention_batch_seconds", Kind.HISTOGRAM, "seconds", (), "One deleting transaction."),
    Metric(
        "retention_late_seconds",
        Kind.GAUGE,
        "seconds",
        (),
        "By how much the oldest row that is due has outlived its policy; 0 where none is left. Shown by one process.",
    ),
    Metric(
        "retention_paused",
        Kind.GAUGE,
        "1",
        (),
        "1 while an operator has stopped all deleting. Shown by the same process.",
    ),
    Metric(
        "retention_vacuum_held_seconds",
        Kind.GAUGE,
        "seconds",
        (),
        "For how long the oldest snapshot has been seen to keep deleted rows in the tables. Shown by the same process.",
    ),
    # -- the HTTP server
    Metric(
        "http_requests_total",
        Kind.COUNTER,
        "requests",
        ("route", "method", "status"),
        "Requests answered by the HTTP server (`web`), by route as it is declared: 401 and 403 are refused, 429 and 503 too many.",
    ),
    Metric(
        "http_request_seconds",
        Kind.HISTOGRAM,
        "seconds",
        ("route", "method"),
        "From a request's head to its answer, waits for results included.",
    ),
    # -- the process
    Metric("service_failures_total", Kind.COUNTER, "errors", ("service",), "Unexpected errors of a service's loop."),
    Metric(
        "client_errors_total",
        Kind.COUNTER,
        "errors",
        ("meaning",),
        "Errors the Kafka client reported, by what they mean.",
    ),
    Metric("process_up", Kind.GAUGE, "1", ("process",), "1 while this worker runs. Only with `run --processes`."),
    Metric(
        "process_restarts",
        Kind.GAUGE,
        "starts",
        ("process",),
        "Times this worker was started anew. Only with `run --processes`.",
    ),
    Metric("client_recreated_total", Kind.COUNTER, "clients", (), "Kafka clients that were unusable and replaced."),
)
