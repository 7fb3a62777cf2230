"""Every column of the schema that could hold what is of users is sealed, or readable for a reason (decision 0012)."""

import psycopg

from engine.store import payloads
from engine.store.payloads import TABLES
from engine.store.statement import rendered

OURS = "the engine's own: names, IDs, states, versions"
BY_OPERATORS = "what operators say and do"
NAMED = "a topic or key as the code names it: looked up in SQL, and of some told by NOTIFY"
REASON = "the class of an error at most, where payloads are sealed (engine/outcomes.py)"
ROLES = "who is allowed what; not a payload"
PUBLISHED = "events on their way to readers who have no key of ours; gone once they are in Kafka"
APART = "sealed by statements of their own (engine/store/payloads.py, letters)"

READABLE = {
    "audit": dict.fromkeys(("actor", "action", "subject", "detail"), BY_OPERATORS),
    "claim_request": dict.fromkeys(("service_name", "key", "executor_id"), OURS),
    "debounce": dict.fromkeys(("name", "workflow_uuid", "last_call"), OURS) | {"key": NAMED},
    "dead_letter": dict.fromkeys(("workflow_uuid", "handler", "service_name", "topic", "reason", "state"), OURS)
    | {"note": BY_OPERATORS}
    | dict.fromkeys(("record_key", "record_value", "record_headers", "error"), APART),
    "event_dispatch_kv": dict.fromkeys(("service_name", "workflow_fn_name", "key", "value"), OURS),
    "executor_schedule": dict.fromkeys(("executor_id", "name", "expression", "timezone", "catch_up", "version"), OURS),
    "execution": dict.fromkeys(
        (
            *("workflow_uuid", "flow_id", "owner_id", "root_execution_id", "parent_execution_id", "error_node_id"),
            *("options", "paused_node_id"),
        ),
        OURS,
    ),
    "execution_event": dict.fromkeys(("workflow_uuid", "type"), OURS),
    "executor": dict.fromkeys(("executor_id", "name", "hostname", "application_version", "claim_of"), OURS),
    "executor_workflow": dict.fromkeys(("executor_id", "name", "version", "instance"), OURS),
    "workflow_version": dict.fromkeys(("name", "version"), OURS),
    "gap": dict.fromkeys(("kafka_source",), OURS) | dict.fromkeys(("reason", "decided_by"), BY_OPERATORS),
    "hold": dict.fromkeys(("service_name", "key", "kind", "workflow_uuid"), OURS) | {"reason": REASON},
    "horizon": {"kafka_source": OURS},
    "message_key": {"destination_uuid": OURS, "idempotency_key": NAMED},
    "notifications": dict.fromkeys(("message_uuid", "destination_uuid"), OURS) | {"topic": NAMED},
    "operation_outputs": dict.fromkeys(("workflow_uuid", "function_name", "child_workflow_id"), OURS),
    "outbox": {"topic": OURS} | dict.fromkeys(("record_key", "record_value", "record_headers"), PUBLISHED),
    "outbox_relay": dict.fromkeys(("outbox_name", "executor_id", "token", "next_token", "halted"), OURS),
    "processor_migration": dict.fromkeys(("name", "checksum"), OURS),
    "queue": {"queue_name": OURS},
    "queue_listener": dict.fromkeys(("executor_id", "queue_name"), OURS),
    "queue_start": dict.fromkeys(("queue_name", "owner_xid"), OURS) | {"partition_key": NAMED},
    "recovery": dict.fromkeys(("workflow_uuid", "worker_id", "reason", "previous_status", "previous_worker_id"), OURS),
    "retention_policy": dict.fromkeys(("handler", "kind"), OURS),
    "schedule": dict.fromkeys(("name", "expression", "timezone", "catch_up", "version"), OURS)
    | dict.fromkeys(("paused_by", "pause_note"), BY_OPERATORS),
    "scheduler_state": {"workflow_fn_name": OURS},
    "streams": {"workflow_uuid": OURS, "key": NAMED},
    "topic_owner": dict.fromkeys(("topic", "service_name"), OURS),
    "waiting": dict.fromkeys(("workflow_uuid", "kind", "target", "name"), OURS),
    "workflow_events": {"workflow_uuid": OURS, "key": NAMED},
    "workflow_events_history": {"workflow_uuid": OURS, "key": NAMED},
    "workflow_inputs": {"workflow_uuid": OURS},
    "workflow_queue": dict.fromkeys(("workflow_uuid", "queue_name", "executor_id", "deduplication_id"), OURS),
    "workflow_status": dict.fromkeys(
        (
            *("workflow_uuid", "status", "name", "executor_id", "application_version", "application_id", "class_name"),
            *("config_name", "queue_name", "deduplication_id", "queue_partition_key", "forked_from", "owner_xid"),
            "kafka_source",
        ),
        OURS,
    )
    | dict.fromkeys(("authenticated_user", "assumed_role", "authenticated_roles"), ROLES),
}


def test_every_column_that_could_hold_a_payload_is_thought_of(database: str) -> None:
    """A migration that brings a column of text, JSON or bytes fails here until somebody has said what is in it."""
    with psycopg.connect(database, autocommit=True) as connection:
        there = connection.execute(
            """SELECT table_name, column_name FROM information_schema.columns
                WHERE table_schema = 'dbos' AND data_type IN ('text', 'json', 'jsonb', 'bytea', 'character varying')"""
        ).fetchall()

    sealed = {(table.name, column.name) for table in TABLES for column in table.columns}
    readable = {(table, column) for table, columns in READABLE.items() for column in columns}
    assert sealed | readable == set(there)
    assert not sealed & readable


def test_a_batch_reads_and_writes_its_own_blocks_only(database: str) -> None:
    """I10: however large the table is; nothing is sorted, and no batch begins at the first row again."""
    with psycopg.connect(database, autocommit=True) as connection:
        for table in TABLES:
            for statement in (
                payloads.rows(table, first=64, end=128),
                payloads.replace(table, [("(64,1)", ["x"] * len(table.columns))], first=64, end=128),
            ):
                query = b"EXPLAIN (FORMAT TEXT) " + rendered(statement, "dbos")
                plan = "\n".join(row[0] for row in connection.execute(query, statement.parameters))
                assert "Tid" in plan, plan
                assert "Seq Scan" not in plan, plan
                assert "Sort" not in plan, plan
