"""The dashboards: what is asked, and the queries that answer it. Every metric of the reference is in one of them.

Queries name what the processor has (`processor.metric_table`), what prometheus_client says of its process, and labels
that a scrape adds. `{S` stands for the dashboard's selection.
"""

from collections.abc import Callable, Mapping

from deploy.grafana import Dashboard, Panel
from deploy.queries import RATE, of_partition, of_process, quantiles, rate, stat, total

STATES = {
    "attached": "attached",
    "opening": "assigned|claiming|opening|validating",
    "held": "held",
    "halted": "halted",
    "leaving": "leaving|gone",
}
"""Of a partition, as the state timeline shows them: a word, and which states it stands for."""

OVERVIEW = Dashboard(
    "overview",
    "onceflow / overview",
    "Whether everything gets done, and in time.",
    {
        "Now": [
            stat("Processes", "count(processor_lease_remaining_seconds{S})", "Started and scraped."),
            stat("Lag", "sum(processor_partition_lag{S})", "Records in Kafka that are not done."),
            stat(
                "Oldest record at work",
                "max(processor_partition_lag_seconds{S})",
                "Age of the oldest record that is taken and not finished.",
                unit="s",
                bad_above=900,
            ),
            stat(
                "Dead letters to decide",
                "sum(max by (group, topic) (processor_dead_letters_open{S}))",
                "processor dead-letters list",
                bad_above=1,
            ),
            stat(
                "Blocked keys",
                "sum(max by (group, topic, partition) (processor_partition_blocked_keys{S}))",
                "Keys whose later records wait for an operator's decision.",
                bad_above=1,
            ),
            stat(
                "Partitions not fetched",
                'sum(max by (group, topic, partition) (processor_partition_state{S, state=~"halted|held"})) or vector(0)',
                "Halted or held: processor partitions list says why.",
                bad_above=1,
            ),
        ],
        "Records": [
            Panel(
                "Finished",
                rate("workflows_finished_total", "status"),
                "ops",
                "Workflows that became durably terminal.",
                stacked=True,
            ),
            Panel("Lag", total("partition_lag"), meaning="End of the log minus progress."),
            Panel(
                "Oldest record at work",
                {"max by (group, topic) (processor_partition_lag_seconds{S})": "{{group}} {{topic}}"},
                "s",
                "Rises in a straight line where one record is stuck.",
            ),
            Panel(
                "From the record's timestamp to its commit",
                quantiles("workflow_latency_seconds"),
                "s",
                "A backlog shows here too: records are old when they come.",
            ),
            Panel("Delivered", rate("records_delivered_total", "topic"), "ops", "Redeliveries included.", stacked=True),
            Panel("Delivered, bytes", rate("records_delivered_bytes_total", "topic"), "Bps", stacked=True),
        ],
        "Handlers and steps": [
            Panel("Finished by handler", rate("workflows_finished_total", "handler, status"), "ops"),
            Panel(
                "95 % are done within",
                {
                    "histogram_quantile(0.95, sum by (le, handler)"
                    f" (rate(processor_workflow_latency_seconds_bucket{{S}}[{RATE}])))": "{{handler}}"
                },
                "s",
            ),
            Panel("Steps", rate("steps_finished_total", "handler, step, outcome"), "ops"),
            Panel(
                "95 % of a step's calls take up to",
                {
                    "histogram_quantile(0.95, sum by (le, handler, step)"
                    f" (rate(processor_step_duration_seconds_bucket{{S}}[{RATE}])))": "{{handler}} {{step}}"
                },
                "s",
                "Retries of the step included.",
            ),
            Panel("Given up", rate("dead_letters_total", "handler, reason"), "ops", "New dead letters."),
            Panel(
                "Oldest dead letter",
                {"max by (group, topic) (processor_dead_letter_oldest_seconds{S})": "{{group}} {{topic}}"},
                "s",
                "How long somebody has not decided.",
            ),
            Panel("Holds placed", rate("holds_total", "kind"), "ops", "Keys blocked, partitions halted."),
            Panel(
                "Suspects",
                rate("suspects_total", "alone"),
                "ops",
                "Workflows started again whose process had died under them; alone=true: with nothing beside them.",
            ),
        ],
        "Workflows without records": [
            Panel("Taken", rate("workflows_taken_total", "reason"), "ops", "Rested and due, or their process died."),
            Panel("Out of time", rate("workflows_expired_total"), "ops", "Cancelled because their time was over."),
            Panel(
                "Nobody has the code of",
                {"max by (name) (processor_workflows_stranded{S})": "{{name}}"},
                meaning="They wait for a process that has.",
            ),
        ],
        "Schedules": [
            Panel(
                "Ticks",
                rate("schedule_ticks_total", "schedule, outcome"),
                "ops",
                "Started in time; made up, a lease late or more; passed over, as catch_up says; refused.",
            ),
            Panel("From a tick's time to its row", quantiles("schedule_delay_seconds"), "s", "By Postgres's clock."),
            Panel(
                "Overdue",
                {"max by (schedule) (processor_schedule_overdue_seconds{S})": "{{schedule}}"},
                "s",
                "Due, and started by nobody: it rises while none can, or while 1,000 runs wait to be taken.",
            ),
            Panel(
                "Paused",
                {"max by (schedule) (processor_schedule_paused{S})": "{{schedule}}"},
                meaning="1: processor schedules list says since when, by whom and why.",
            ),
        ],
        "Queues": [
            Panel(
                "Waiting for their turn",
                {"max by (queue) (processor_queue_depth{S})": "{{queue}}"},
                meaning="At most 10,000 of each queue are counted: processor queues list.",
            ),
            Panel(
                "Oldest that waits",
                {"max by (queue) (processor_queue_oldest_seconds{S})": "{{queue}}"},
                "s",
                "From its enqueueing; 0 where none waits.",
            ),
            Panel(
                "Taken", rate("queue_taken_total", "queue, reason"), "ops", "Started, woken, or left by a dead process."
            ),
            Panel("95 % waited up to", quantiles("queue_wait_seconds", "queue"), "s", "From enqueueing to start."),
            Panel(
                "Have a place",
                {"max by (queue) (processor_queue_places{S})": "{{queue}}"},
                meaning="Between start and end, running or at rest: what the limit `concurrency` counts.",
            ),
            Panel(
                "Delayed",
                {"max by (queue) (processor_queue_delayed{S})": "{{queue}}"},
                meaning="Not before their time.",
            ),
            Panel(
                "Processes that take from it",
                {"max by (queue) (processor_queue_listeners{S})": "{{queue}}"},
                meaning="0 while something waits: nobody will start it.",
            ),
            Panel(
                "Paused", {"max by (queue) (processor_queue_paused{S})": "{{queue}}"}, meaning="processor queues resume"
            ),
        ],
        "Outbox": [
            Panel(
                "Waiting to be published",
                {"max(processor_outbox_depth{S})": "events"},
                meaning="At most 10,000 are counted: processor outbox list.",
            ),
            Panel(
                "Oldest event that waits",
                {"max(processor_outbox_oldest_seconds{S})": "age"},
                "s",
                "From its commit; 0 where none waits.",
            ),
            Panel("Published", rate("outbox_published_total", "topic"), "ops", "Committed in Kafka."),
            Panel("Bytes published", rate("outbox_published_bytes_total"), "Bps"),
            Panel("A relay's transaction takes", quantiles("relay_transaction_seconds"), "s"),
            Panel(
                "Transactions",
                rate("relay_transactions_total") | rate("relay_interruptions_total"),
                "ops",
                "Interruptions: it opened anew, and asked Kafka how far it was.",
            ),
            Panel(
                "Topics that Kafka refuses",
                {"max by (topic) (processor_relay_topic_refused{S})": "{{topic}}"}
                | {f"sum by (topic) (rate(processor_relay_refusals_total{{S}}[{RATE}]))": "tries {{topic}}"},
                meaning="Their events wait; those of other topics go on.",
            ),
            Panel(
                "Halted",
                {"max(processor_relay_halted{S})": "halted"} | rate("relay_halts_total"),
                meaning="Nothing is published until somebody decides: processor outbox status.",
            ),
            Panel(
                "Who relays",
                of_process("relay_active") | rate("relay_claims_total"),
                meaning="1 in one process; the others stand by.",
            ),
        ],
        "Processes": [
            Panel("Releases", {"count by (version) (processor_build_info{S})": "{{version}}"}),
            Panel("In flight", of_process("in_flight"), meaning="Workflows taken and not finished."),
            Panel(
                "Bytes in memory",
                {
                    "sum by (instance) (processor_in_flight_bytes{S})": "{{instance}} in flight",
                    "sum by (instance) (processor_backlog_bytes{S})": "{{instance}} waiting for room",
                },
                "bytes",
            ),
            Panel(
                "Memory",
                {"max by (instance, process) (process_resident_memory_bytes{S})": "{{instance}} {{process}}"},
                "bytes",
            ),
            Panel(
                "CPU",
                {
                    f"max by (instance, process) (rate(process_cpu_seconds_total{{S}}[{RATE}]))": "{{instance}} {{process}}"
                },
                "percentunit",
                "Of one core: a process uses one and a little.",
            ),
            Panel("Workers running", total("process_up", "instance"), meaning="Only with `run --processes`."),
            Panel("Workers started anew", of_process("process_restarts"), meaning="Only with `run --processes`."),
            Panel("Executors started", rate("executors_started_total"), "ops", "One for each start of a process."),
            Panel(
                "Executors declared dead",
                {
                    f"sum by (reason) (rate(processor_executors_lost_total{{S}}[{RATE}]))": "own: {{reason}}",
                    f"sum by (reason) (rate(processor_executors_buried_total{{S}}[{RATE}]))": "others: {{reason}}",
                },
                "ops",
            ),
            Panel("Unexpected errors", rate("service_failures_total", "service"), "ops", "0 unless there is a bug."),
        ],
    },
)

GROUP = Dashboard(
    "group",
    "onceflow / consumer group",
    "One group's partitions: where they are, who has them, and why one does not go on.",
    {
        "Partitions": [
            Panel(
                "State",
                {
                    "max by (topic, partition) ("
                    + " or ".join(
                        f'{number} * processor_partition_state{{S, state=~"{states}"}}'
                        for number, states in enumerate(STATES.values())
                    )
                    + ")": "{{topic}}-{{partition}}"
                },
                meaning="Only `attached` is fetched.",
                kind="state-timeline",
                width=24,
                names=tuple(STATES),
            ),
            Panel("Lag", of_partition("partition_lag")),
            Panel("Oldest record at work", of_partition("partition_lag_seconds"), "s"),
            Panel(
                "Progress",
                {
                    "max by (topic, partition)"
                    f" (deriv(processor_partition_progress_offset{{S}}[{RATE}]))": "{{topic}}-{{partition}}"
                },
                "ops",
                "Offsets a second below which everything is durable.",
            ),
            Panel(
                "Finished above the progress",
                of_partition("partition_watermark_gap"),
                meaning="High and steady: one record is stuck, others pass it.",
            ),
            Panel("In flight", of_partition("partition_inflight")),
            Panel("Waiting for room in memory", of_partition("partition_backlog")),
            Panel("At rest behind their keys", of_partition("partition_parked")),
            Panel("Blocked keys", of_partition("partition_blocked_keys"), meaning="An operator has to decide."),
            Panel(
                "Fetching rests",
                {
                    "max by (topic, partition, reason) (processor_partition_paused{S})": "{{topic}}-{{partition}} {{reason}}"
                },
                meaning="congested: the engine has enough; behind: the loop has not taken what it was given.",
            ),
            Panel(
                "Unreadable offsets",
                of_partition("partition_open_transactions"),
                meaning="A producer holds a transaction open.",
            ),
        ],
        "Records": [
            Panel("Delivered", rate("records_delivered_total", "topic, partition"), "ops"),
            Panel(
                "Without a workflow of their own",
                rate("records_passed_over_total", "topic, decision"),
                "ops",
                "Filtered, tombstones, and known: a redelivery.",
            ),
            Panel("Taken by retention first", rate("gap_records_total", "topic"), "ops", "Rows of the table gap."),
            Panel("Topics made anew", rate("topic_recreated_total", "topic"), "ops"),
            Panel("Halts", rate("partitions_halted_total", "topic, partition"), "ops"),
        ],
        "Who has what": [
            Panel(
                "Rebalances",
                {
                    f"sum(rate(processor_rebalance_{what}_total{{G}}[{RATE}]))": what
                    for what in ("assigned", "revoked", "lost")
                },
                "ops",
                "Lost: the brokers had not heard of a member for a session time-out.",
            ),
            Panel("Claims", rate("claims_total", "after_death"), "ops", "after_death: the owner before was dead."),
            Panel("Epoch of the claim", of_partition("partition_owner_epoch"), meaning="+ 1 with each claim."),
            Panel("Workflows taken over", rate("claimed_workflows_total", "topic"), "ops", "Open ones, with a claim."),
            Panel("A claim waits", quantiles("claim_wait_seconds"), "s", "From the first attempt to the claim."),
            Panel("A release takes", quantiles("drain_seconds"), "s", "Its commit included."),
            Panel(
                "Runs that outlive a release",
                {
                    f"sum(rate(processor_late_runs_total{{S}}[{RATE}]))": "began",
                    f"sum by (finished) (rate(processor_hand_overs_total{{S}}[{RATE}]))": "ended, finished={{finished}}",
                },
                "ops",
                "Steps that still ran when their partition left.",
            ),
            Panel("Such runs now", of_process("late_runs")),
            Panel("Claims that ended without a release", rate("partitions_dropped_total", "reason"), "ops"),
            Panel(
                "Stale records", rate("stale_records_total"), "ops", "Of ended attachments; fetched again by others."
            ),
        ],
        "Kafka's client": [
            Panel(
                "Since the poll thread came round",
                {
                    "max by (instance, process, group) (processor_poll_age_seconds{G})": "{{instance}} {{process}} {{group}}"
                },
                "s",
            ),
            Panel("Errors", rate("client_errors_total", "meaning"), "ops", "denied and fatal need you, others pass."),
            Panel("Clients replaced", rate("client_recreated_total"), "ops"),
        ],
    },
    of_group=True,
)

POSTGRES = Dashboard(
    "postgres",
    "onceflow / Postgres",
    "What the processor asks of Postgres, and how Postgres takes it.",
    {
        "Commits": [
            Panel("Commits", rate("flushes_total", "kind"), "ops", stacked=True),
            Panel("A commit takes", quantiles("flush_duration_seconds"), "s", "From BEGIN to the reply of COMMIT."),
            Panel(
                "A checkpoint waits",
                quantiles("checkpoint_wait_seconds"),
                "s",
                "From the end of a step until it is durable, of the one in each commit that waited longest.",
            ),
            Panel(
                "Workflows share a commit",
                quantiles("flush_batch_size", "kind"),
                meaning="What gathered while the one before ran.",
            ),
            Panel(
                "Records in a commit",
                {
                    f"sum by (kind) (rate(processor_flush_{what}_total{{S}}[{RATE}]))"
                    f" / sum by (kind) (rate(processor_flushes_total{{S}}[{RATE}]))": f"{what} {{{{kind}}}}"
                    for what in ("rows", "checkpoints", "outcomes")
                },
                meaning="Rises with the load: what gathers while a commit runs shares the next.",
            ),
            Panel("Workflow rows", rate("flush_rows_total", "kind"), "ops", stacked=True),
            Panel("Checkpoints", rate("flush_checkpoints_total", "kind"), "ops", stacked=True),
            Panel("Outcomes of earlier rows", rate("flush_outcomes_total", "kind"), "ops", stacked=True),
            Panel(
                "A transactional step's commit takes",
                quantiles("transaction_duration_seconds", "step"),
                "s",
                "From BEGIN to the reply of COMMIT, users' functions included.",
            ),
            Panel(
                "Workflows share a transactional step's commit",
                quantiles("transaction_batch_size", "step"),
                meaning="1: each is alone, by its isolation level, after failures, or because nobody else is there.",
            ),
            Panel(
                "Sent again",
                rate("flush_retries_total", "reason"),
                "ops",
                "weather passes; fenced means another owner.",
            ),
            Panel(
                "Refused by a fence",
                rate("fenced_writes_total"),
                "ops",
                "Writes of a process that no longer owns what it writes. They changed nothing.",
            ),
            Panel(
                "Not to be opened",
                rate("payloads_unreadable_total"),
                "ops",
                "Workflows put off: what they need is sealed with a key that this process has not.",
            ),
        ],
        "Connections": [
            Panel("Of the pool", of_process("pool_connections"), meaning="For transactional steps and claims."),
            Panel("In use", of_process("pool_in_use"), meaning="All of them, and some wait?"),
            Panel("Waiting for one", of_process("pool_waiting"), meaning="Above 0 for long: raise postgres.pool_max."),
            Panel(
                "Postgres does not answer",
                of_process("store_unavailable"),
                meaning="1 while everything waits.",
            ),
            Panel("Outages", rate("store_outages_total"), "ops"),
            Panel(
                "Intake",
                {"min by (reason) (processor_intake_share{S})": "{{reason}}"},
                "percentunit",
                "Below 1: fewer records are taken in, because the database cannot follow.",
            ),
        ],
        "Retention": [
            Panel(
                "Deleted", rate("retention_deleted_total", "handler, kind"), "ops", "By their policies.", stacked=True
            ),
            Panel(
                "Late",
                {"max(processor_retention_late_seconds{S})": "oldest that is due"},
                "s",
                "How long ago it should have been deleted. Rises: rows become due faster than they go.",
            ),
            Panel(
                "A batch takes", quantiles("retention_batch_seconds"), "s", "It rests in between, and waits for nobody."
            ),
            Panel(
                "Deleted rows are kept by an old snapshot",
                {"max(processor_retention_vacuum_held_seconds{S})": "oldest"},
                "s",
                "Vacuum cannot remove them before that transaction or slot moves on.",
            ),
            Panel("Paused", of_process("retention_paused"), meaning="processor retention resume"),
        ],
        "HTTP": [
            Panel("Requests", rate("http_requests_total", "route, method"), "reqps", "Triggers and the admin API."),
            Panel(
                "Not answered with success",
                {
                    f'sum by (route, status) (rate(processor_http_requests_total{{S, status=~"[45].."}}[{RATE}]))': "{{status}} {{route}}"
                },
                "reqps",
                "401, 403: refused. 409: a key that is taken. 429, 503: too many. 500: a workflow failed, or the log says why.",
            ),
            Panel("An answer takes", quantiles("http_request_seconds", "route"), "s", "Waits for results included."),
        ],
        "Leases": [
            Panel(
                "Left of the lease", of_process("lease_remaining_seconds"), "s", "At 0 a process begins nothing more."
            ),
            Panel("A heartbeat takes", quantiles("heartbeat_duration_seconds"), "s"),
        ],
    },
)

PAGES: Mapping[str, Callable[[], str]] = {board.name: board.page for board in (OVERVIEW, GROUP, POSTGRES)}
"""What makes each file."""
