"""User statements through libpq's buffer: cursors, errors, order and prepared statements are psycopg's (decision 0026)."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row

from engine.pool import connect
from engine.settings import EngineSettings
from engine.statement_queue import KNOWS_PSYCOPG, SENT_MAX, QueuedCursor
from engine.transaction import Transaction
from tests.fixtures.postgres import Databases

INSERT: LiteralString = "INSERT INTO thing (n, text) VALUES (%s, %s)"
COUNT: LiteralString = "SELECT count(*) FROM thing"
MANY = 3 * SENT_MAX


@dataclass
class Thing:
    """A row."""

    n: int
    text: str


@pytest.fixture(params=[True, False], ids=["prepared", "unprepared"])
def prepares(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def address(postgres_server: Databases) -> Generator[str]:
    """Of a database for all of these tests: they roll back what they do."""
    with postgres_server.fresh() as address, psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE thing (n integer PRIMARY KEY, text text)")
        yield address


@pytest_asyncio.fixture
async def connection(address: str, prepares: bool) -> AsyncGenerator[AsyncConnection[Any]]:
    async with await connect(EngineSettings(conninfo=address, prepare=prepares), "test") as connection:
        yield connection


@pytest_asyncio.fixture
async def tx(connection: AsyncConnection[Any]) -> AsyncGenerator[Transaction]:
    """A transaction that knows the statements above; it is rolled back, whatever has become of it."""
    try:
        async with connection.pipeline():
            await connection.execute("BEGIN")
            tx = Transaction(connection)
            for n in (-1, -2):
                await tx.execute(INSERT, (n, "known"))
                await (await tx.execute(COUNT)).fetchone()
            yield tx
    except psycopg.Error:
        pass  # of the pipeline's end: the test has seen it
    if not connection.closed:
        await connection.rollback()


async def of_queue(tx: Transaction, query: Any, params: Any = None, **more: Any) -> QueuedCursor:
    """Execute what psycopg knows already."""
    cursor = await tx.execute(query, params, **more)
    assert isinstance(cursor, QueuedCursor)
    return cursor


def test_the_locked_version_of_psycopg_is_one_whose_inside_is_known() -> None:
    """With another one everything works, at several times the price: look at engine/statement_queue.py."""
    assert KNOWS_PSYCOPG


async def test_a_statement_that_is_known_is_on_its_way_without_a_cursor(tx: Transaction) -> None:
    cursor = await of_queue(tx, INSERT, (1, "one"))

    assert isinstance(cursor, AsyncCursor)
    assert await (await of_queue(tx, "SELECT count(*) FROM thing")).fetchone() == (3,)
    assert (cursor.rowcount, cursor.statusmessage, cursor.description) == (1, "INSERT 0 1", None)


async def test_each_of_several_cursors_keeps_its_own_rows(tx: Transaction) -> None:
    query: LiteralString = "SELECT g AS n, 'x' || g AS text FROM generate_series(1, %s) AS g"
    await (await tx.execute(query, (1,))).fetchone()

    cursors = [await of_queue(tx, query, (n,)) for n in range(1, 6)]

    assert await cursors[4].fetchone() == (1, "x1")
    assert await cursors[0].fetchall() == [(1, "x1")]
    assert [row async for row in cursors[2]] == [(1, "x1"), (2, "x2"), (3, "x3")]
    assert await cursors[4].fetchmany(2) == [(2, "x2"), (3, "x3")]
    assert [cursor.rowcount for cursor in cursors] == [1, 2, 3, 4, 5]
    assert [column.name for column in cursors[1].description or ()] == ["n", "text"]
    assert (await cursors[3].fetchall(), cursors[3].rownumber) == ([(n, f"x{n}") for n in range(1, 5)], 4)
    assert cursors[4].statusmessage == "SELECT 5"


@pytest.mark.parametrize(
    "rows, row",
    [
        (dict_row, {"n": -1, "text": "known"}),
        (class_row(Thing), Thing(-1, "known")),
        (scalar_row, -1),
        (namedtuple_row, (-1, "known")),
    ],
    ids=["dict", "class", "scalar", "namedtuple"],
)
async def test_rows_are_made_by_the_factory_that_was_given(tx: Transaction, rows: Any, row: Any) -> None:
    query: LiteralString = "SELECT n, text FROM thing ORDER BY n DESC"
    await (await tx.execute(query, rows=rows)).fetchall()

    assert await (await of_queue(tx, query, rows=rows)).fetchone() == row


async def test_what_is_set_on_a_cursor_before_it_is_looked_at_counts(tx: Transaction) -> None:
    query: LiteralString = "SELECT n, text FROM thing ORDER BY n DESC"
    await (await tx.execute(query)).fetchall()
    cursor = await of_queue(tx, query)

    cursor.row_factory = dict_row
    cursor.arraysize = 2

    assert await cursor.fetchmany() == [{"n": -1, "text": "known"}, {"n": -2, "text": "known"}]
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = cursor.nothing_of_the_kind


async def test_a_cursor_can_be_executed_again(tx: Transaction) -> None:
    cursor = await of_queue(tx, COUNT)

    await cursor.execute("SELECT 5")

    assert await cursor.fetchone() == (5,)


STYLES: list[tuple[Any, Any, Any]] = [
    ("SELECT %s::integer + %s", (1, 2), (3,)),
    ("SELECT %(a)s::integer + %(b)s + %(a)s", {"a": 1, "b": 2}, (4,)),
    ("SELECT '100%%' || %s", ["x"], ("100%x",)),
    ("SELECT '100%'", None, ("100%",)),
    ("SELECT '100%%'", (), ("100%",)),
    (b"SELECT %b::integer, %t::text", (7, "t"), (7, "t")),
    (sql.SQL("SELECT {} || {}").format(sql.Literal("a"), sql.Placeholder()), ("b",), ("ab",)),
    (
        sql.SQL("SELECT count(*) FROM {} WHERE n < {}").format(sql.Identifier("thing"), sql.Placeholder("n")),
        {"n": 0},
        (2,),
    ),
    ("SELECT %s::integer[], %s::jsonb, %s::text", ([1, 2], '{"a": 1}', None), ([1, 2], {"a": 1}, None)),
    ("SELECT %s", (2**40,), (2**40,)),
]


@pytest.mark.parametrize("query, params, row", STYLES, ids=[str(query) for query, _, _ in STYLES])
async def test_every_style_of_parameters_means_what_it_means_to_psycopg(
    tx: Transaction, query: Any, params: Any, row: Any
) -> None:
    await tx.execute(query, params)

    assert await (await of_queue(tx, query, params)).fetchone() == row


async def test_values_of_other_types_are_other_statements_of_the_same_text(tx: Transaction) -> None:
    query: LiteralString = "SELECT pg_typeof(%s)::text"
    values: list[tuple[Any, str]] = [(1, "smallint"), (70_000, "integer"), (1.5, "double precision"), (True, "boolean")]

    for _ in range(2):
        for value, name in values:
            assert await (await tx.execute(query, (value,))).fetchone() == (name,)


@pytest.mark.parametrize(
    "params, error",
    [
        ((1,), psycopg.ProgrammingError),
        ((1, "a", 3), psycopg.ProgrammingError),
        ({"n": 1, "text": "a"}, TypeError),
        (1, TypeError),
        ((1, "a\x00b"), psycopg.DataError),
        ((1, object()), psycopg.ProgrammingError),
        ((1, "\ud800"), UnicodeEncodeError),
    ],
    ids=["too few", "too many", "named", "no sequence", "NUL", "no adapter", "half a character"],
)
async def test_what_cannot_be_sent_is_refused_at_its_execute_and_the_transaction_goes_on(
    tx: Transaction, params: Any, error: type[Exception]
) -> None:
    """The same as psycopg's own, of the same statement, and nobody is to blame for it later."""
    await of_queue(tx, INSERT, (1, "before"))

    with pytest.raises(error) as raised:
        await tx.execute(INSERT, params)

    if isinstance(raised.value, psycopg.Error):
        assert raised.value.__notes__ == [f"in the statement: {INSERT}"]
    await of_queue(tx, INSERT, (2, "behind"))
    assert await (await of_queue(tx, COUNT)).fetchone() == (4,)
    assert tx.failed_statement() is None


async def test_a_placeholder_that_is_none_is_refused_as_psycopg_does(tx: Transaction) -> None:
    for query in ("SELECT %", "SELECT %x", "SELECT %s, %(a)s"):
        with pytest.raises(psycopg.ProgrammingError):
            await tx.execute(query, (1,))
    with pytest.raises(psycopg.ProgrammingError, match="parameter missing: b"):
        await tx.execute("SELECT %(a)s, %(b)s", {"a": 1})


async def test_an_error_of_the_servers_surfaces_at_the_next_fetch_and_names_its_statement(tx: Transaction) -> None:
    await of_queue(tx, INSERT, (1, "one"))
    await of_queue(tx, INSERT, (1, "again"))
    behind = await of_queue(tx, COUNT)

    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        await behind.fetchone()

    assert raised.value.diag.constraint_name == "thing_pkey"
    assert tx.failed_statement() == INSERT


async def test_an_error_that_nobody_asks_for_surfaces_when_answers_are_read_or_at_the_end(
    connection: AsyncConnection[Any],
) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with connection.pipeline():
            await connection.execute("BEGIN")
            tx = Transaction(connection)
            for _ in range(3):
                await tx.execute(INSERT, (1, "same"))
    await connection.rollback()
    assert await (await connection.execute(COUNT)).fetchone() == (0,)


async def test_many_statements_are_in_order_and_read_along(tx: Transaction) -> None:
    first = await of_queue(tx, INSERT, (0, "0"))
    for n in range(1, MANY):
        await of_queue(tx, INSERT, (n, str(n)))

    await asyncio.sleep(0)
    rows = await (await tx.execute("SELECT n FROM thing WHERE n >= 0 ORDER BY ctid", rows=scalar_row)).fetchall()

    assert rows == list(range(MANY))
    assert first.is_answered


async def test_a_statement_is_sent_when_its_function_waits_for_anything(
    tx: Transaction, connection: AsyncConnection[Any], address: str
) -> None:
    """What it locks is locked while it waits, and not only when it goes on."""
    lock: LiteralString = "SELECT pg_advisory_xact_lock(%s)"
    await (await tx.execute(lock, (1,))).fetchone()

    await of_queue(tx, lock, (2,))
    await asyncio.sleep(0)

    async with await AsyncConnection.connect(address, autocommit=True) as other:
        locks: LiteralString = (
            "SELECT objid::integer FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = %s"
        )
        async with asyncio.timeout(10):
            while len(found := await (await other.execute(locks, (connection.info.backend_pid,))).fetchall()) < 2:
                await asyncio.sleep(0)
    assert sorted(found) == [(1,), (2,)]


async def test_more_than_the_socket_takes_goes_both_ways(tx: Transaction) -> None:
    """Neither side waits for the other to read first."""
    echo: LiteralString = "SELECT %s::text"
    long = "x" * 100_000
    await tx.execute(echo, (long,))

    cursors = [await of_queue(tx, echo, (long,)) for _ in range(MANY)]

    assert [await cursor.fetchone() for cursor in cursors] == [(long,)] * MANY


async def test_tasks_of_one_transaction_get_each_their_own_answers(tx: Transaction) -> None:
    """Nobody waits for an answer that was not asked to be sent."""
    query: LiteralString = "SELECT %s::integer"
    await (await tx.execute(query, (1,))).fetchone()

    async def ask(n: int) -> Any:
        await asyncio.sleep(0)
        return await (await tx.execute(query, (n,))).fetchone()

    async with asyncio.timeout(20):
        assert await asyncio.gather(*(ask(n) for n in range(50))) == [(n,) for n in range(50)]


async def test_own_cursors_of_psycopgs_and_sets_of_parameters_may_stand_between(
    tx: Transaction, connection: AsyncConnection[Any]
) -> None:
    first = await of_queue(tx, INSERT, (1, "one"))
    raw = await connection.execute("SELECT count(*) FROM thing WHERE n > 0")
    await tx.execute_many(INSERT, [(2, "two"), (3, "three")])
    async with connection.transaction():
        await tx.execute(INSERT, (4, "four"))
    await tx.execute_many(INSERT, [])
    last = await tx.execute(COUNT)

    assert await raw.fetchone() == (1,)
    assert await last.fetchone() == (6,)
    assert first.rowcount == 1
    assert tx.failed_statement() is None


@pytest.mark.parametrize(
    "between",
    [
        "DEALLOCATE ALL",
        "DO $$ BEGIN EXECUTE 'SELECT 1'; END $$",
        "ALTER TABLE thing ADD other integer",
        "CREATE TEMPORARY TABLE other (n integer)",
        "SET LOCAL TimeZone = 'UTC'",
        "SAVEPOINT once",
    ],
)
async def test_statements_are_known_or_prepared_again_behind_what_changes_them(
    tx: Transaction, between: LiteralString
) -> None:
    await of_queue(tx, INSERT, (1, "é"))

    await tx.execute(between)

    for n in (2, 3):
        await tx.execute(INSERT, (n, "é"))
    texts = await (await tx.execute("SELECT text FROM thing WHERE n > 0", rows=scalar_row)).fetchall()
    assert texts == ["é"] * 3


async def test_a_savepoint_takes_back_what_was_sent_behind_it(tx: Transaction) -> None:
    await of_queue(tx, INSERT, (1, "stays"))
    await tx.execute("SAVEPOINT once")
    await tx.execute(INSERT, (2, "goes"))
    await tx.execute("ROLLBACK TO once")
    await tx.execute(INSERT, (3, "stays"))

    assert await (await tx.execute("SELECT n FROM thing WHERE n > 0", rows=scalar_row)).fetchall() == [1, 3]


async def test_more_statements_than_psycopg_keeps_are_deallocated_in_order(tx: Transaction) -> None:
    """One that is used all the time is none of them, and answers to what deallocates are nobody else's."""
    inserts: list[QueuedCursor] = []
    for n in range(1, 150):
        inserts.append(await of_queue(tx, INSERT, (n, "x")))
        cursor = await tx.execute(sql.SQL("SELECT {}, %s::integer").format(sql.Literal(n)), (n,))
        assert await cursor.fetchone() == (n, n)

    assert await (await tx.execute(COUNT)).fetchone() == (151,)
    prepared = await (await tx.execute("SELECT count(*) FROM pg_prepared_statements", rows=scalar_row)).fetchone()
    assert prepared is not None
    assert prepared <= 103
    assert {cursor.statusmessage for cursor in inserts} == {"INSERT 0 1"}


async def test_a_plan_whose_rows_have_changed_fails_once_and_is_made_anew(
    connection: AsyncConnection[Any], address: str
) -> None:
    """ "cached plan must not change result type": the transaction is rolled back, and the next one goes through."""
    failed = 0
    async with await AsyncConnection.connect(address, autocommit=True) as other:
        await other.execute("DROP TABLE IF EXISTS wide")
        await other.execute("CREATE TABLE wide AS SELECT 1 AS n")
        for columns in (1, 1, 2, 2, 2):
            if columns == 2 and not failed:
                await other.execute("ALTER TABLE wide ADD IF NOT EXISTS more integer")
            try:
                async with connection.pipeline():
                    await connection.execute("BEGIN")
                    cursor = await Transaction(connection).execute("SELECT * FROM wide WHERE n = %s", (1,))
                    row = await cursor.fetchone()
                    await connection.execute("COMMIT")
                assert row is not None
                assert len(row) == columns
            except psycopg.errors.FeatureNotSupported:
                failed += 1
                await connection.rollback()

    assert failed == (1 if connection.prepare_threshold is not None else 0)


async def test_what_has_been_sent_over_a_connection_that_broke_is_known_to_be_lost(tx: Transaction) -> None:
    """P25: weather, and never the statement's fault."""
    await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    cursor = await tx.execute(INSERT, (1, "one"))

    with pytest.raises(psycopg.OperationalError):
        await cursor.fetchall()
    with pytest.raises(psycopg.OperationalError):
        await (await tx.execute(INSERT, (2, "two"))).fetchall()
