"""Savepoints and DDL in a handler's transaction, on connections that go on to serve others."""

from typing import LiteralString

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
