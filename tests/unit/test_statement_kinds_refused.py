"""Statements that a shared connection, or a pipeline, has no place for; by how their text begins."""

import pytest

from engine.statement_kinds import kind_of


@pytest.mark.parametrize(
    "text",
    [
        "SET statement_timeout = 1",
        "/* c */ set session role bob",
        "SET TRANSACTION READ ONLY",
        "RESET ALL",
        "SELECT set_config('a.b', 'c', false)",
    ],
)
def test_what_would_hold_for_others_outlives(text: str) -> None:
    assert kind_of(text.encode()).outlives


@pytest.mark.parametrize("text", ["COPY t FROM STDIN", "copy (SELECT 1) TO STDOUT WITH (FORMAT csv)"])
def test_rows_that_are_streamed_are_copied(text: str) -> None:
    assert kind_of(text.encode()).copies


@pytest.mark.parametrize(
    "text",
    [
        "SET LOCAL statement_timeout = 1",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT set_config('a.b', %s, true)",
        "COPY t FROM '/srv/t.csv'",
        "INSERT INTO settings VALUES ('set x')",
        "UPDATE t SET x = 1",
    ],
)
def test_what_ends_with_its_transaction_is_sent(text: str) -> None:
    kind = kind_of(text.encode())
    assert (kind.outlives, kind.copies) == (False, False)
