"""What a flush writes of earlier rows: only where they are ours, in one answer, and found by their IDs (P5, P7, I6)."""

import asyncio
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from engine.ids import ExecutorId, OwnerToken, WorkflowId
from engine.migrations import migrate
from engine.store import blame, owned_rows, plans, workflow_status
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement, rendered
from tests.fixtures.postgres import Databases

IDS = [WorkflowId(f"orders-0-{n}") for n in range(4)]
OURS = IDS[:2]


def run(connection: Connection[Any], statement: Statement[Any]) -> Any:
    """The one answer of a statement."""
    ((answer,),) = connection.execute(rendered(statement, "dbos"), statement.parameters).fetchall()
    return answer


def checkpoints(ids: list[WorkflowId]) -> list[Checkpoint]:
    return [Checkpoint(each, 1, "charge", f'"{each}"', None, 5, 6) for each in ids]


def every_statement(ids: list[WorkflowId]) -> dict[str, Statement[Any]]:
    """Each of the four, about these rows, by its name."""
    owners = ["o"] * len(ids)
    ends: dict[str, Any] = {
        "owners": owners,
        "statuses": ["SUCCESS"] * len(ids),
        "results": [f'"{each}"' for each in ids],
        "failures": [None] * len(ids),
    }
    return {
        "record": owned_rows.record(checkpoints(ids), owners=owners),
        "finish_recorded": owned_rows.finish_recorded(checkpoints(ids), **ends),
        "finish": owned_rows.finish(ids=ids, **ends),
        "rest": owned_rows.rest(
            ids=ids,
            owners=owners,
            attempts=[1] * len(ids),
            wakes=[7] * len(ids),
            ended=[True] * len(ids),
            asleep=[False] * len(ids),
            keys=[None] * len(ids),
        ),
    }


@pytest.fixture
def rows(database: str) -> Generator[Connection[Any]]:
    """Two rows of owner `o`, one that was cancelled meanwhile, one of another owner."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.cursor().executemany(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, owner_xid) VALUES (%s, %s, 'fulfil', %s)",
            [(IDS[0], "PENDING", "o"), (IDS[1], "PENDING", "o"), (IDS[2], "CANCELLED", "o"), (IDS[3], "PENDING", "p")],
        )
        yield connection


@pytest.mark.parametrize("name", every_statement(IDS))
def test_where_all_rows_are_ours_the_answer_names_nobody(rows: Connection[Any], name: str) -> None:
    assert run(rows, every_statement(OURS)[name]) is None


@pytest.mark.parametrize("name", every_statement(IDS))
def test_a_row_that_is_no_longer_ours_is_not_written_and_the_answer_says_whose_were(
    rows: Connection[Any], name: str
) -> None:
    """P7: cancelled, or another owner's; in the same statement as rows that are still ours."""
    before = rows.execute("SELECT * FROM dbos.workflow_status WHERE workflow_uuid = ANY (%s)", (IDS[2:],)).fetchall()

    assert sorted(run(rows, every_statement(IDS)[name])) == OURS
    after = rows.execute("SELECT * FROM dbos.workflow_status WHERE workflow_uuid = ANY (%s)", (IDS[2:],)).fetchall()
    assert after == before
    recorded = rows.execute("SELECT workflow_uuid FROM dbos.operation_outputs ORDER BY 1").fetchall()
    assert recorded == ([(each,) for each in OURS] if name in ("record", "finish_recorded") else [])


@pytest.mark.parametrize("name", every_statement(IDS))
def test_where_no_row_is_ours_the_answer_is_empty_and_not_nothing(rows: Connection[Any], name: str) -> None:
    """NULL would say that all were written."""
    assert run(rows, every_statement(IDS[2:])[name]) == []


def test_an_outcome_comes_with_its_checkpoint(rows: Connection[Any]) -> None:
    run(rows, every_statement(OURS)["finish_recorded"])

    found = rows.execute(
        """
        SELECT w.workflow_uuid, w.status, w.output, w.error, w.owner_xid, o.function_id, o.function_name, o.output,
               o.error, o.started_at_epoch_ms, o.completed_at_epoch_ms, o.child_workflow_id
          FROM dbos.workflow_status AS w JOIN dbos.operation_outputs AS o USING (workflow_uuid)
         ORDER BY 1
        """
    ).fetchall()
    assert found == [
        (each, "SUCCESS", f'"{each}"', None, None, 1, "charge", f'"{each}"', None, 5, 6, None) for each in OURS
    ]


# -- plans --


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for node in plan.get("Plans", ()):
        yield from nodes(node)


def looks(connection: Connection[Any], statement: Statement[Any]) -> set[str]:
    """How a statement of a flush gets at the rows of `workflow_status`: scans, and indexes."""
    asked = replace(statement, text="EXPLAIN (FORMAT JSON) " + statement.text)
    with connection.transaction(force_rollback=True):
        connection.execute(rendered(plans.by_id(), "dbos"))
        (((whole,),),) = connection.execute(rendered(asked, "dbos"), asked.parameters).fetchall()
    return {
        node.get("Index Name", node["Node Type"])
        for node in nodes(whole["Plan"])
        if node.get("Relation Name") == "workflow_status" and node["Node Type"] != "ModifyTable"
    }


def test_rows_are_found_by_their_ids_whatever_the_size_of_the_table_or_its_statistics(each_version: Databases) -> None:
    """I10: a plan that is made once a connection reads neither the table nor all that is open, however both grow."""
    owners = [OwnerToken("o")] * len(IDS)
    woken = {
        "acquire": workflow_status.acquire(
            executor_id=ExecutorId("e"), ids=IDS, owners=owners, rested=[False] * len(IDS)
        ),
        "reset_blame": blame.reset_blame(ids=IDS, owners=owners),
    }
    with each_version.fresh() as address:
        asyncio.run(migrate(address))
        with psycopg.connect(address, autocommit=True) as connection:
            for filling in (
                "SELECT",  # nothing there, nothing known
                "ANALYZE",  # nothing there, and known
                """
                INSERT INTO dbos.workflow_status (workflow_uuid, status, name, owner_xid)
                SELECT 'orders-0-' || n, 'PENDING', 'fulfil', 'o' FROM generate_series(1, 20000) AS n
                """,
                "ANALYZE",  # all of it is open
                "UPDATE dbos.workflow_status SET status = 'SUCCESS'",
                "ANALYZE",  # nothing is
            ):
                connection.execute(filling)
                for name, statement in {**every_statement(IDS), **woken}.items():
                    assert looks(connection, statement) == {"workflow_status_pkey"}, (name, filling)
