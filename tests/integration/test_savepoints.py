"""Savepoints and DDL in a handler's transaction, on connections that go on to serve others."""

from typing import LiteralString

import psycopg
import pytest

from engine.transaction import TransactionEndedError
from processor import App, Topic, Transaction
from processor.testing import Bench

numbers = Topic("numbers", int, key=str)


BACK: list[LiteralString] = ["ROLLBACK TO once", "/* not so */ rollback work to SAVEPOINT once"]


@pytest.mark.parametrize("back", BACK)
async def test_what_is_behind_a_savepoint_is_undone_and_the_connection_serves_on(
    database: str, back: LiteralString
) -> None:
    """psycopg deallocates what it prepared at the tag of a ROLLBACK: nothing may be prepared in between."""
    app = App("savepoints")

    @app.transaction()
    async def change(tx: Transaction, n: int) -> int:
        for _ in range(8):  # often enough to be prepared
            await tx.execute("INSERT INTO seen (n) VALUES (%s)", (n,))
        for _ in range(3):
            await tx.execute("SAVEPOINT once")
            await tx.execute("INSERT INTO seen (n) VALUES (%s)", (-n,))
            await tx.execute(back)
            for _ in range(8):
                rows = await tx.execute("SELECT count(*) FROM seen WHERE n = %s", (n,))
                assert await rows.fetchone() == (8,)
        return n

    @app.workflow(on=numbers)
    async def handle(n: int) -> None:
        await change(n)
        await change(n + 1_000)

    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE seen (n integer)")
        for n in range(1, 21):
            await bench.deliver(numbers, n)
        await bench.settle()
        rows = await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1")
        assert rows == [("SUCCESS", 20)]
        assert await bench.fetch_all("SELECT n, count(*) FROM seen GROUP BY 1 ORDER BY 1") == [
            (n, 8) for n in [*range(1, 21), *range(1_001, 1_021)]
        ]


async def test_a_transaction_may_drop_and_create(database: str) -> None:
    app = App("ddl")

    @app.transaction(on=numbers)
    async def handle(tx: Transaction, n: int) -> None:
        for _ in range(8):
            await tx.execute("SELECT %s::integer", (n,))
        await tx.execute("DROP TABLE IF EXISTS scratch")
        await tx.execute("CREATE TABLE scratch AS SELECT %s::integer AS n", (n,))
        for _ in range(8):
            rows = await tx.execute("SELECT n FROM scratch WHERE n = %s", (n,))
            assert await rows.fetchone() == (n,)

    async with Bench(app, database) as bench:
        for n in range(1, 11):
            await bench.deliver(numbers, n)
        await bench.settle()
        assert await bench.fetch_all("SELECT n FROM scratch") == [(10,)]
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("SUCCESS",)]


async def test_a_statement_that_would_end_the_transaction_is_refused_behind_comments_too(database: str) -> None:
    app = App("ends")
    statements: list[LiteralString] = ["-- done\nCOMMIT", "/* a */ /* b */ ROLLBACK", "ROLLBACK AND CHAIN", "abort"]
    errors: list[str] = []

    @app.transaction(on=numbers)
    async def handle(tx: Transaction, n: int) -> None:
        for statement in statements:
            for attempt in (tx.execute(statement), tx.execute_many(statement, [()])):
                with pytest.raises(TransactionEndedError, match="commits with the record of its step"):
                    await attempt
                errors.append(statement)

    async with Bench(app, database) as bench:
        await bench.deliver(numbers, 1)
        await bench.settle()
        assert errors == [each for each in statements for _ in range(2)]
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",)]


@pytest.mark.parametrize("fetches", [True, False], ids=["fetched", "not fetched"])
async def test_what_fails_behind_a_savepoint_is_undone_by_going_back_to_it(database: str, *, fetches: bool) -> None:
    """Whether or not its error was read: the transaction goes on, and nothing is to blame for it."""
    app = App("again")
    caught: list[str] = []

    async def part(tx: Transaction, n: int) -> None:
        await tx.execute("INSERT INTO seen (n) VALUES (%s)", (n,))
        await tx.execute("SAVEPOINT once")
        try:
            cursor = await tx.execute("INSERT INTO seen (n) VALUES (%s) RETURNING n", (n,))
            if fetches:
                await cursor.fetchone()
        except psycopg.errors.UniqueViolation as error:
            caught.append(type(error).__name__)
        await tx.execute("ROLLBACK TO once")
        await tx.execute("INSERT INTO seen (n) VALUES (%s)", (n + 1_000,))

    @app.transaction(on=numbers)
    async def handle(tx: Transaction, n: int) -> None:
        await part(tx, n)

    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE seen (n integer PRIMARY KEY)")
        for n in (1, 2, 3):
            await bench.deliver(numbers, n)
        await bench.settle()
        assert await bench.fetch_all("SELECT n FROM seen ORDER BY n") == [
            (1,),
            (2,),
            (3,),
            (1_001,),
            (1_002,),
            (1_003,),
        ]
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("SUCCESS",)]
    assert bool(caught) is fetches


async def test_an_error_before_a_savepoint_is_not_undone_by_it(database: str) -> None:
    """What is raised is that error, and not the rollback's."""
    app = App("before")

    @app.transaction(on=numbers)
    async def handle(tx: Transaction, n: int) -> None:
        await tx.execute("SELECT 1 / %s", (n * 0,))
        await tx.execute("SAVEPOINT once")
        await tx.execute("ROLLBACK TO once")

    async with Bench(app, database) as bench:
        await bench.deliver(numbers, 1)
        await bench.settle()
        [(error,)] = await bench.fetch_all("SELECT error FROM dbos.workflow_status WHERE status = 'ERROR'")
        assert "DivisionByZero" in error


@pytest.mark.parametrize("kind", ["fused", "step"])
async def test_a_function_that_keeps_an_error_to_itself_fails_and_is_not_run_for_ever(database: str, kind: str) -> None:
    """P26: psycopg calls what stands behind an error an operational error; it is the function's, and no weather (P25)."""
    app = App("keeps")

    async def keep(tx: Transaction, n: int) -> None:
        try:
            await (await tx.execute("SELECT 1 / %s", (n % 2,))).fetchone()
        except psycopg.errors.DivisionByZero:
            await (await tx.execute("SELECT 1")).fetchone()

    if kind == "fused":
        app.transaction(on=numbers)(keep)
    else:
        step = app.transaction()(keep)

        @app.workflow(on=numbers)
        async def handle(n: int) -> None:
            await step(n)

    async with Bench(app, database) as bench:
        for n in range(1, 6):
            await bench.deliver(numbers, n)
        await bench.settle()
        statuses = await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1 ORDER BY 1")
        assert statuses == [("ERROR", 2), ("SUCCESS", 3)]
