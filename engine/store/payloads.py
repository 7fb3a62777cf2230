"""Statements that read and replace sealed columns: which keys are in use, and values sealed anew.

`TABLES` names every column of text that is of users; tests hold it against the schema, so that a new one is thought of.
A table is gone through block by block: whatever is in it, a batch is bounded, no index is needed, and nothing is sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, LiteralString, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS_ELSEWHERE


class Column(NamedTuple):
    """A column of text that is of users. `member`: only `"sealed"` of the JSON object that it has is."""

    name: LiteralString
    kind: Literal["text", "member"] = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with such columns."""

    name: LiteralString
    columns: tuple[Column, ...]


TABLES: Final = (
    Table("workflow_status", (Column("inputs"), Column("request", "member"), Column("output"), Column("error"))),
    Table("workflow_inputs", (Column("inputs"),)),
    Table("operation_outputs", (Column("output"), Column("error"))),
    Table("notifications", (Column("message"),)),
    Table("workflow_events", (Column("value"),)),
    Table("workflow_events_history", (Column("value"),)),
    Table("streams", (Column("value"),)),
    Table("execution", (Column("integration"), Column("external_events"), Column("last_failure_reason"))),
    Table("execution_event", (Column("data"),)),
)
"""Dead letters, whose bytes say it by their headers, have statements of their own."""


def counts(table: Table, column: Column) -> Statement[tuple[str | None, int]]:
    """How many values each key has sealed; without a key: are readable. Reads the whole table."""
    name = column.name
    pattern = '"sealed": "([^:"]+):' if column.kind == "member" else '^ {"sealed": "([^:"]+):'
    return Statement(
        f"""
        SELECT substring(t.{name} FROM %(pattern)s), count(*)
          FROM {{schema}}.{table.name} AS t
         WHERE t.{name} IS NOT NULL AND t.{name} NOT IN ('null', %(elsewhere)s)
         GROUP BY 1
        """,
        {"pattern": pattern, "elsewhere": INPUTS_ELSEWHERE},
    )


def blocks(table: LiteralString) -> Statement[tuple[int]]:
    """How many blocks a table has now."""
    return Statement(
        f"""
        SELECT pg_relation_size($name${{schema}}.{table}$name$::regclass) / current_setting('block_size')::bigint
        """,
        {},
    )


def rows(table: Table, *, first: int, end: int) -> Statement[tuple[Any, ...]]:
    """The rows of some blocks, locked: their place, then the columns. Those that somebody writes are passed over."""
    columns = ", ".join(["t." + column.name for column in table.columns])
    return Statement(
        f"""
        SELECT t.ctid::text, {columns}
          FROM {{schema}}.{table.name} AS t
         WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid
           FOR NO KEY UPDATE OF t SKIP LOCKED
        """,
        {"first": f"({first},0)", "end": f"({end},0)"},
    )


def replace(
    table: Table, changes: Sequence[tuple[str, Sequence[str | None]]], *, first: int, end: int
) -> Statement[Any]:
    """Other text for rows of these blocks that are locked, by place; `None` for a column that stays."""
    names: list[LiteralString] = [column.name for column in table.columns]
    sets = ", ".join([name + " = COALESCE(c." + name + ", t." + name + ")" for name in names])
    arrays = ", ".join(["%(" + name + ")b::text[]" for name in names])
    return Statement(
        f"""
        UPDATE {{schema}}.{table.name} AS t
           SET {sets}
          FROM unnest(%(places)b::text[], {arrays}) AS c (place, {", ".join(names)})
         WHERE t.ctid = c.place::tid
           AND t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid
        """,
        {
            "first": f"({first},0)",
            "end": f"({end},0)",
            "places": [place for place, _ in changes],
            **{name: [texts[at] for _, texts in changes] for at, name in enumerate(names)},
        },
    )


class StoredLetter(NamedTuple):
    """What of a dead letter is of users, as stored. `headers` is JSON text."""

    dead_letter_id: int
    key: bytes | None
    value: bytes | None
    headers: str | None
    error: str


def letter_counts() -> Statement[tuple[str | None, int]]:
    """How many dead letters each key has sealed."""
    return Statement(
        """
        SELECT CASE WHEN jsonb_typeof(d.record_headers) = 'object'
                    THEN split_part(d.record_headers ->> 'sealed', ':', 1) END, count(*)
          FROM {schema}.dead_letter AS d
         GROUP BY 1
        """,
        {},
    )


def letters(*, after: int, limit: int) -> Statement[StoredLetter]:
    """The next dead letters, locked."""
    return Statement(
        """
        SELECT d.dead_letter_id, d.record_key, d.record_value, d.record_headers::text, d.error
          FROM {schema}.dead_letter AS d
         WHERE d.dead_letter_id > %(after)s
         ORDER BY d.dead_letter_id
         LIMIT %(limit)s
           FOR NO KEY UPDATE OF d SKIP LOCKED
        """,
        {"after": after, "limit": limit},
        args_row(StoredLetter),
    )


def replace_letters(changes: Sequence[StoredLetter]) -> Statement[Any]:
    """Other contents for dead letters that are locked."""
    return Statement(
        """
        UPDATE {schema}.dead_letter AS d
           SET record_key = c.key, record_value = c.value, record_headers = c.headers::jsonb, error = c.error
          FROM unnest(%(ids)b::bigint[], %(keys)b::bytea[], %(values)b::bytea[], %(headers)b::text[], %(errors)b::text[])
                 AS c (id, key, value, headers, error)
         WHERE d.dead_letter_id = c.id
        """,
        {
            "ids": [letter.dead_letter_id for letter in changes],
            "keys": [letter.key for letter in changes],
            "values": [letter.value for letter in changes],
            "headers": [letter.headers for letter in changes],
            "errors": [letter.error for letter in changes],
        },
    )
