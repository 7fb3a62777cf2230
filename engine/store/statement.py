"""A statement is a value: SQL, parameters, row type. Building it does no I/O, so a test can EXPLAIN it.

`{schema}` in the SQL is replaced once by the quoted schema name; nothing else is ever formatted into a statement.
Parameters marked `b` travel in binary: psycopg escapes text arrays element by element, half as fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, LiteralString, TypeVar

from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.rows import BaseRowFactory, tuple_row

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Statement(Generic[Row]):
    """What to send, and what comes back.

    Attributes:
        text: SQL with `{schema}` for the schema.
        parameters: By name.
        rows: Makes a row.
    """

    text: LiteralString
    parameters: Mapping[str, Any]
    rows: BaseRowFactory[Row] = tuple_row  # pyright: ignore[reportAssignmentType]  # no default is generic


@lru_cache(maxsize=1024)
def _rendered(text: LiteralString, schema: str) -> bytes:
    return text.replace("{schema}", sql.Identifier(schema).as_string()).encode()


async def send(connection: AsyncConnection[Any], schema: str, statement: Statement[Row]) -> AsyncCursor[Row]:
    """Execute a statement; inside a pipeline it returns when sent, and fetching waits for the result."""
    cursor = connection.cursor(row_factory=statement.rows)
    return await cursor.execute(_rendered(statement.text, schema), statement.parameters)


def rendered(statement: Statement[Any], schema: str) -> bytes:
    """The SQL as sent, for synchronous connections and for tests."""
    return _rendered(statement.text, schema)
