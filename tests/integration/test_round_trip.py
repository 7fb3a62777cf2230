"""One transaction in one round trip, on a real server: all of it or nothing, and a connection that knows where it is."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import psycopg
import pytest
import pytest_asyncio
from psycopg.rows import args_row

from engine.round_trip import RoundTrip
from engine.store.statement import Statement

MANY = 200_000


class Two(NamedTuple):
    """A row."""

    a: int
    b: str


def insert(n: int, text: str | None = None) -> Statement[Any]:
    return Statement("INSERT INTO thing (n, text) VALUES (%(n)s::integer, %(text)s)", {"n": n, "text": text})


COUNT: Statement[tuple[int]] = Statement("SELECT count(*) FROM thing", {})


@pytest_asyncio.fixture
async def connection(empty_database: str) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE thing (n integer PRIMARY KEY, text text)")
        yield connection


@pytest.fixture(params=[True, False], ids=["prepared", "unprepared"])
def trip(request: pytest.FixtureRequest, connection: psycopg.AsyncConnection[Any]) -> RoundTrip:
    return RoundTrip(connection, "public", prepare=request.param)


async def test_each_statement_gets_its_own_rows(trip: RoundTrip) -> None:
    rows: Statement[Two] = Statement(
        "SELECT t.n, '100%%' FROM unnest(%(ns)b::integer[]) AS t (n) WHERE t.n <> %(not)s::integer",
        {"ns": [1, 2, 3], "not": 2},
        args_row(Two),
    )

    for n in (0, 1):
        assert await trip.run([COUNT, insert(n, "x"), rows, COUNT]) == [
            [(n,)],
            [],
            [(1, "100%"), (3, "100%")],
            [(n + 1,)],
        ]


async def test_the_first_error_undoes_all_and_the_connection_goes_on(
    trip: RoundTrip, connection: psycopg.AsyncConnection[Any]
) -> None:
    """P5: a fence that raises turns the COMMIT behind it into a rollback."""
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        await trip.run([insert(1), insert(1), COUNT, Statement("SELECT 'only parsed behind the error'", {})])

    assert raised.value.diag.constraint_name == "thing_pkey"
    assert not connection.closed
    assert await trip.run([COUNT, Statement("SELECT 'only parsed behind the error'", {})]) == [
        [(0,)],
        [("only parsed behind the error",)],
    ]


async def test_an_error_at_the_commit_itself_is_raised(
    trip: RoundTrip, connection: psycopg.AsyncConnection[Any]
) -> None:
    await connection.execute("ALTER TABLE thing ADD other integer REFERENCES thing (n) DEFERRABLE INITIALLY DEFERRED")

    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await trip.run([Statement("INSERT INTO thing (n, other) VALUES (1, 2)", {})])

    assert await trip.run([COUNT]) == [[(0,)]]


async def test_statements_that_somebody_deallocated_are_prepared_again(
    trip: RoundTrip, connection: psycopg.AsyncConnection[Any]
) -> None:
    """psycopg deallocates all of a connection's after a rollback: a fused handler's group is halved so."""
    await trip.run([insert(1), COUNT])

    await connection.execute("DEALLOCATE ALL")

    assert await trip.run([insert(2), COUNT]) == [[], [(2,)]]


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"], ids=["NUL", "half a character"])
async def test_a_text_that_cannot_be_written_is_refused_before_anything_is_sent(trip: RoundTrip, text: str) -> None:
    """P27: it is its record's fault."""
    with pytest.raises(psycopg.DataError):
        await trip.run([insert(1), insert(2, text)])

    assert await trip.run([insert(1), COUNT]) == [[], [(1,)]]


async def test_more_than_the_socket_takes_goes_both_ways(trip: RoundTrip) -> None:
    """Neither side waits for the other to read first."""
    texts = ["x" * 100] * MANY
    echo: Statement[Any] = Statement("SELECT t FROM unnest(%(texts)b::text[]) AS t", {"texts": texts})

    first, second = await trip.run([echo, echo])

    assert len(first) == len(second) == MANY


async def test_a_connection_that_breaks_is_closed(trip: RoundTrip, connection: psycopg.AsyncConnection[Any]) -> None:
    """P23: nobody knows what was committed."""
    broken: Statement[Any] = Statement("SELECT pg_terminate_backend(pg_backend_pid())", {})

    with pytest.raises(psycopg.OperationalError):
        await trip.run([insert(1), broken])

    assert connection.closed


async def test_a_round_trip_that_is_cancelled_closes_its_connection(
    trip: RoundTrip, connection: psycopg.AsyncConnection[Any]
) -> None:
    going = asyncio.ensure_future(trip.run([Statement("SELECT pg_sleep(60)", {})]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    going.cancel()

    with pytest.raises(asyncio.CancelledError):
        await going
    assert connection.closed
