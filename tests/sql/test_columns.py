"""What `packed` sends, a server takes apart again."""

from typing import Any

import psycopg
import pytest

from engine.store.columns import packed
from tests.fixtures.postgres import Databases

TAKEN_APART = """
    SELECT t.id, COALESCE(t.text, %(one_texts)s), COALESCE(t.number, %(one_numbers)s::bigint)
      FROM unnest(string_to_array(%(ids)s, %(separator)s, %(null)s),
                  string_to_array(%(texts)s, %(separator)s, %(null)s),
                  %(numbers)s::bigint[]) AS t (id, text, number)
"""

ROWS: dict[str, list[tuple[str, str | None, int | None]]] = {
    "one row": [("a-0", "x", 1)],
    "one row with an empty text": [("a-0", "", 1)],
    "one row of nothing": [("a-0", None, None)],
    "rows": [("a-0", "x", 1), ("a-1", "y", -(2**63))],
    "rows with holes": [("a-0", None, 1), ("a-1", "y", None), ("a-2", "", 3)],
    "one value for all": [("a-0", "x", 1), ("a-1", "x", 1)],
    "separators in values": [("a-0", "x\x1ey", 1), ("a-1", "\x1d", 1), ("a-2", None, 2)],
    "quotes, braces and backslashes": [("a-0", '{"a": "\\\\", "b": \'c\'}', 1), ("a-1", "{NULL,None}", 2)],
    "the words for nothing": [("a-0", "NULL", 1), ("a-1", "None", None)],
    "not ASCII": [("a-0", "Zürich", 1), ("a-1", "東京 😀", 2)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_every_value_arrives_as_it_was(each_version: Databases, rows: list[tuple[Any, ...]]) -> None:
    ids, texts, numbers = (list(column) for column in zip(*rows, strict=True))

    with psycopg.connect(each_version.server, autocommit=True) as connection:
        found = connection.execute(TAKEN_APART, packed(ids, {"texts": texts}, {"numbers": numbers})).fetchall()

    assert found == rows
