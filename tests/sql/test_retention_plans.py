"""What retention asks of Postgres when tables are large: windows of an index, never a table (I10, P30)."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from engine.ids import parts_of
from engine.keeping import Span
from engine.migrations import migrate
from engine.progress import Progress
from engine.store import retention
from engine.store.statement import Statement, rendered
from tests.fixtures.postgres import Databases

SOURCE = "shop|orders-0"
SPAN = Span(("fulfil", "fulfil"), ("SUCCESS", "ERROR"), 50_000, 90_000)
ROWS = 1_000


@pytest.fixture
async def large(each_version: Databases) -> Any:
    """100,000 finished workflows with a step each, every fiftieth failed with a dead letter, a quarter of them open."""
    with each_version.fresh() as address:
        await migrate(address)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(
                """
                INSERT INTO dbos.workflow_status (workflow_uuid, status, name, inputs, created_at, updated_at,
                                                  kafka_source, kafka_offset)
                SELECT 'orders-0-' || n, CASE WHEN n % 50 = 0 THEN 'ERROR' ELSE 'SUCCESS' END,
                       CASE WHEN n % 2 = 0 THEN 'fulfil' ELSE 'audit' END, repeat('x', 200), n, n,
                       CASE WHEN n % 10 = 0 THEN NULL ELSE 'shop|orders-0' END, n
                  FROM generate_series(1, 100000) AS n
                """
            )
            connection.execute(
                """
                INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, child_workflow_id)
                SELECT 'orders-0-' || n, 1, CASE WHEN n % 10 = 1 THEN 'orders-0-' || n - 1 END
                  FROM generate_series(1, 100000) AS n
                """
            )
            connection.execute(
                """
                INSERT INTO dbos.dead_letter (workflow_uuid, handler, service_name, topic, partition, kafka_offset, reason,
                                              error, state, created_at, resolved_at)
                SELECT 'orders-0-' || n, 'fulfil', 'kafka:shop', 'orders', 0, n, 'failed', '{}',
                       CASE WHEN n % 200 = 0 THEN 'OPEN' ELSE 'RETRIED' END, n, n
                  FROM generate_series(50, 1000000, 50) AS n
                """
            )
            connection.execute(
                "INSERT INTO dbos.event_dispatch_kv VALUES ('kafka:shop', 'fulfil', 'orders-0', %s, 1, 0)",
                (Progress(next=100_001, high=100_001).encode(),),
            )
            connection.execute("VACUUM ANALYZE")
            yield connection


def explained(connection: psycopg.Connection[Any], statement: Statement[Any]) -> dict[str, Any]:
    """The plan as it ran; whatever it changed is taken back."""
    asked = replace(statement, text="EXPLAIN (FORMAT JSON, ANALYZE) " + statement.text)
    with connection.transaction(force_rollback=True):
        (((whole,),),) = connection.execute(rendered(asked, "dbos"), asked.parameters).fetchall()
    return {"Plans": [whole["Plan"]]}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan, from the top."""
    for node in plan.get("Plans", ()):
        yield node
        yield from nodes(node)


def visited(plan: dict[str, Any]) -> int:
    """Rows of tables that a plan read, those it threw away included."""
    return sum(
        int(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
        for node in nodes(plan)
        if "Relation Name" in node
    )


def asked(large: psycopg.Connection[Any]) -> Generator[tuple[str, Statement[Any]]]:
    parts = parts_of(SOURCE)
    assert parts is not None
    yield "look", retention.look(SPAN, rows=ROWS)
    for dry_run in (False, True):
        yield (
            f"delete, dry run {dry_run}",
            retention.delete(SPAN, upto=50_999, partitions={SOURCE: parts}, rows=ROWS, dry_run=dry_run),
        )
        yield f"letters, dry run {dry_run}", retention.delete_letters(SPAN, rows=ROWS, dry_run=dry_run)


def test_every_statement_reads_a_window_of_an_index_and_no_table(large: psycopg.Connection[Any]) -> None:
    """I10: with ten million rows it reads as many as with a hundred thousand."""
    for name, statement in asked(large):
        plan = explained(large, statement)

        scanned = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
        assert not {"workflow_status", "operation_outputs", "dead_letter"} & set(scanned), (name, scanned)
        assert visited(plan) < 12 * ROWS, name


def test_plans_stay_so_when_they_are_made_for_any_parameters(large: psycopg.Connection[Any]) -> None:
    """I10: connections prepare statements, and Postgres may stop planning for each call."""
    large.execute("SET plan_cache_mode = force_generic_plan")
    for name, statement in asked(large):
        plan = explained(large, statement)

        scanned = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
        assert not {"workflow_status", "operation_outputs", "dead_letter"} & set(scanned), (name, scanned)


def test_what_hangs_on_deleted_rows_is_found_by_its_index(large: psycopg.Connection[Any]) -> None:
    """I10: the trigger reads no table either, and leaves nothing behind."""
    parts = parts_of(SOURCE)
    assert parts is not None
    before = read_in_order(large)
    for upto in range(50_099, 52_000, 100):  # often enough for plans that are made once
        delete = retention.delete(SPAN, upto=upto, partitions={SOURCE: parts}, rows=ROWS)
        large.execute(rendered(delete, "dbos"), delete.parameters)

    assert read_in_order(large) == before
    ((orphans,),) = large.execute(
        "SELECT count(*) FROM dbos.operation_outputs AS o"
        " WHERE NOT EXISTS (SELECT FROM dbos.workflow_status AS w WHERE w.workflow_uuid = o.workflow_uuid)"
    ).fetchall()
    assert orphans == 0


def read_in_order(connection: psycopg.Connection[Any]) -> int:
    """Rows of `operation_outputs` that sequential scans have read."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    ((count,),) = connection.execute(
        "SELECT seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'dbos' AND relname = 'operation_outputs'"
    ).fetchall()
    return count


def test_a_message_to_nobody_is_refused_and_one_to_a_workflow_goes_with_it(large: psycopg.Connection[Any]) -> None:
    """Clients of DBOS tell by the foreign key that there is no such workflow."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        large.execute("INSERT INTO dbos.notifications (destination_uuid, message) VALUES ('nobody', '1')")
    large.execute("INSERT INTO dbos.notifications (destination_uuid, message) VALUES ('orders-0-7', '1')")

    large.execute("DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'orders-0-7'")

    assert large.execute("SELECT FROM dbos.notifications").fetchall() == []
    assert large.execute("SELECT FROM dbos.operation_outputs WHERE workflow_uuid = 'orders-0-7'").fetchall() == []
