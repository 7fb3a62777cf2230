"""Statements of messages, events and streams: no wake-up is lost, nobody is told twice, and indexes do the work (P29, P31)."""

import threading
from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from engine.store import notifications, owned_rows, streams, waiting, workflow_status
from engine.store.statement import Statement, rendered

FOREVER = 1 << 53
MESSAGE: dict[str, Any] = {"kinds": ["message"], "targets": ["w"], "names": ["t"], "places": [0]}
INSERT = "INSERT INTO dbos.notifications (destination_uuid, topic, message) VALUES ('w', 't', '1')"


def run(connection: Connection[Any], statement: Statement[Any]) -> list[Any]:
    cursor = connection.execute(rendered(statement, "dbos"), statement.parameters)
    return cursor.fetchall() if cursor.description else []


@pytest.fixture
def two(database: str) -> Generator[tuple[Connection[Any], Connection[Any]]]:
    """Two connections, and a workflow `w` that runs."""
    with psycopg.connect(database) as one, psycopg.connect(database) as other:
        one.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, owner_xid) VALUES ('w', 'PENDING', 'n', 'o')"
        )
        one.commit()
        yield one, other
        for connection in (one, other):
            connection.rollback()


def rest(connection: Connection[Any]) -> None:
    """What a flush does that puts `w` to rest until a message comes; COMMIT is the caller's."""
    run(connection, workflow_status.lock(ids=["w"]))
    run(
        connection,
        owned_rows.rest(
            ids=["w"], owners=["o"], attempts=[0], wakes=[FOREVER], ended=[True], asleep=[True], keys=[None]
        ),
    )
    run(connection, waiting.rest(ids=["w"], **MESSAGE))
    run(connection, waiting.wake_answered(ids=["w"], **MESSAGE))


def wake_at(connection: Connection[Any]) -> int | None:
    row = connection.execute("SELECT kafka_wake_at FROM dbos.workflow_status WHERE workflow_uuid = 'w'").fetchone()
    assert row is not None
    return row[0]


def test_a_message_before_the_rest_commits_wakes_behind_it(two: tuple[Connection[Any], Connection[Any]]) -> None:
    """The sender's COMMIT waits for the row, and then sees who rests there."""
    resting, sending = two
    rest(resting)
    sending.execute(INSERT)
    committing = threading.Thread(target=sending.commit)
    committing.start()
    committing.join(0.2)
    assert committing.is_alive()
    resting.commit()
    committing.join()

    assert wake_at(resting) == 0


def test_a_message_whose_commit_comes_first_is_seen_by_the_rest(two: tuple[Connection[Any], Connection[Any]]) -> None:
    resting, sending = two
    run(sending, workflow_status.lock(ids=["w"]))
    sending.execute(INSERT)
    committing = threading.Thread(target=rest, args=(resting,))
    committing.start()
    committing.join(0.2)
    assert committing.is_alive()
    sending.commit()
    committing.join()
    resting.commit()

    assert wake_at(resting) == 0


@pytest.mark.parametrize("how", ["ours", "of another program"])
def test_who_notifies(two: tuple[Connection[Any], Connection[Any]], how: str) -> None:
    """Ours are quiet, in their own transaction only: the next of the same session notifies again."""
    one, other = two
    other.autocommit = True
    other.execute("LISTEN dbos_notifications_channel")
    if how == "ours":
        run(one, notifications.send_one(destination="w", topic="t", message="1", key=None))
    else:
        one.execute(INSERT)
    one.commit()
    one.execute("INSERT INTO dbos.notifications (destination_uuid, topic, message) VALUES ('w', 'last', '2')")
    one.commit()

    heard = [hint.payload for hint in other.notifies(timeout=10, stop_after=1 if how == "ours" else 2)]
    assert heard == (["w::last"] if how == "ours" else ["w::t", "w::last"])


def test_an_event_of_another_program_notifies(two: tuple[Connection[Any], Connection[Any]]) -> None:
    """On DBOS's channel, in DBOS's words."""
    one, other = two
    other.autocommit = True
    other.execute("LISTEN dbos_workflow_events_channel")
    one.execute("INSERT INTO dbos.workflow_events (workflow_uuid, key, value) VALUES ('w', 'state', '1')")
    one.commit()

    assert [hint.payload for hint in other.notifies(timeout=10, stop_after=1)] == ["w::state"]


def test_the_oldest_message_is_the_first_row_of_an_index(two: tuple[Connection[Any], Connection[Any]]) -> None:
    """However many wait, and whatever clocks say: no sort."""
    one, _ = two
    one.execute(
        "INSERT INTO dbos.notifications (destination_uuid, topic, message, created_at_epoch_ms)"
        " SELECT 'w', 't' || n % 3, n::text, 1000000 - n FROM generate_series(1, 9000) AS n"
    )
    one.execute("ANALYZE dbos.notifications")
    asked = notifications.oldest(destinations=["w", "w", "x"], topics=["t0", "t1", "t1"])

    assert [(row.number, row.message) for row in _rows(one, asked)] == [(1, "3"), (2, "1")]
    plan = "\n".join(row[0] for row in one.execute(b"EXPLAIN " + rendered(asked, "dbos"), asked.parameters).fetchall())
    assert "idx_workflow_topic" in plan
    assert "Sort" not in plan


def test_a_key_sends_one_message_for_each_destination(two: tuple[Connection[Any], Connection[Any]]) -> None:
    """Also behind the one that was received; its keys go with the workflow."""
    one, _ = two
    for _ in range(2):
        run(one, notifications.send_one(destination="w", topic="t", message="1", key="k"))
    run(one, notifications.send_one(destination="w", topic="t", message="2", key="other"))
    ((is_known, _),) = run(one, notifications.send_one(destination="nobody", topic="t", message="3", key="k"))
    assert not is_known

    assert one.execute("SELECT message FROM dbos.notifications ORDER BY kafka_place").fetchall() == [("1",), ("2",)]
    one.execute("DELETE FROM dbos.workflow_status")
    assert one.execute("SELECT count(*) FROM dbos.message_key").fetchone() == (0,)


def test_values_of_a_stream_get_the_next_offsets(two: tuple[Connection[Any], Connection[Any]]) -> None:
    one, _ = two
    for n in range(3):
        run(one, streams.write_in_step(workflow_id="w", function_id=1, key="k", value=f"{n}"))

    read = _rows(one, streams.read(workflow_id="w", key="k", offset=1, limit=10, bytes_max=100))
    assert [(row.offset, row.value) for row in read] == [(1, "1"), (2, "2")]
    assert len(_rows(one, streams.read(workflow_id="w", key="k", offset=0, limit=10, bytes_max=2))) == 2
    assert _rows(one, streams.read(workflow_id="w", key="k", offset=3, limit=10, bytes_max=2))[0].offset is None
    assert _rows(one, streams.read(workflow_id="x", key="k", offset=0, limit=10, bytes_max=2)) == []


def _rows(connection: Connection[Any], statement: Statement[Any]) -> list[Any]:
    cursor = connection.cursor(row_factory=statement.rows)
    cursor.execute(rendered(statement, "dbos"), statement.parameters)
    return cursor.fetchall()
