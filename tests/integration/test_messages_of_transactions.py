"""Messages sent with a transaction: they come with its commit, or not at all (I4, I5)."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.settings import EngineSettings
from processor import (
    App,
    ConfigurationError,
    SyncTransaction,
    TerminalError,
    Topic,
    Transaction,
    WorkflowNotFoundError,
    recv,
    send,
    sync,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import RECORDS, STARTS, TRANSACTIONS
from tests.integration.talking import at_rest, left, started
from tests.integration.test_rest import until_status

# -- with a transaction


class Payment(BaseModel):
    n: int
    fails: bool = False


class Bank:
    """Payments that are booked, and tell a clerk in the commit that books them."""

    def __init__(self) -> None:
        self.app = app = App("bank")
        self.clerk_id = "clerk"
        self.runs: Counter[int] = Counter()

        @app.transaction()
        async def book(tx: Transaction, n: int) -> None:
            self.runs[n] += 1
            await tx.execute("INSERT INTO booked VALUES (%s)", (n,))
            await send(self.clerk_id, n, "booked", tx=tx)

        @app.transaction(isolation="serializable")
        def book_sync(tx: SyncTransaction, n: int) -> None:
            tx.execute("INSERT INTO booked VALUES (%s)", (n,))
            sync.send(self.clerk_id, n, "booked", tx=tx)

        @app.workflow()
        async def pay(n: int) -> None:
            await book(n)

        @app.workflow()
        def pay_sync(n: int) -> None:
            book_sync(n)

        @app.transaction(on=Topic("payments", Payment), breaker=None)
        async def fused(tx: Transaction, payment: Payment) -> None:
            await tx.execute("INSERT INTO booked VALUES (%s)", (payment.n,))
            await send(self.clerk_id, payment.n, "booked", tx=tx)
            if payment.fails:
                raise TerminalError("refused")

        @app.batch(on=Topic("batches", Payment))
        def batch(tx: SyncTransaction, payments: Sequence[Payment]) -> None:
            for payment in payments:
                sync.send(self.clerk_id, payment.n, "booked", tx=tx, idempotency_key=f"{payment.n}")

        @app.workflow()
        async def clerk(count: int) -> list[int]:
            return sorted([await recv("booked", model=int) for _ in range(count)])

        self.book, self.pay, self.pay_sync, self.clerk = book, pay, pay_sync, clerk
        self.topics = {each.topic.name: each.topic for each in app.workflows.values() if each.topic is not None}


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.mark.parametrize("rests", [False, True], ids=["in memory", "at rest"])
async def test_a_message_of_a_transaction_comes_with_its_commit(database: str, bank: Bank, *, rests: bool) -> None:
    """I5: in transactional steps, alone and in groups, in fused handlers and batches; not that of one that failed."""
    async with Bench(bank.app, database) as bench:
        await bench.execute("CREATE TABLE booked (n int)")
        handle = await bank.clerk.start(40, id="clerk")
        if rests:
            await at_rest(bench)
        for n in range(10):
            await bank.pay.start(n)
            await bank.pay_sync.start(10 + n)
            await bench.deliver(bank.topics["payments"], Payment(n=20 + n))
            await bench.deliver(bank.topics["payments"], Payment(n=100, fails=True))
            await bench.deliver(bank.topics["batches"], Payment(n=30 + n))
        await bench.settle()

        assert await handle.result() == list(range(40))
        assert await left(bench) == []
        assert await bench.fetch_all("SELECT count(*) FROM booked") == [(30,)]


@pytest.mark.crash_points(*RECORDS, *STARTS, *TRANSACTIONS, CrashPoint.FUSED_CALLED, CrashPoint.TAKEN)
async def test_a_crash_anywhere_sends_what_was_booked(
    database: str, bank: Bank, crash_point: CrashPoint | None
) -> None:
    """I5, P24: one message for each row, whatever crashes between them."""
    async with Bench(bank.app, database) as bench:
        await bench.execute("CREATE TABLE booked (n int)")
        await bank.clerk.start(10, id="clerk")
        await at_rest(bench)
        bench.crash(at=crash_point)
        for n in range(5):
            await started(bench, lambda n=n: bank.pay.start(n, id=f"p-{n}"))
            await bench.deliver(bank.topics["payments"], Payment(n=5 + n))
        await bench.settle()
        await until_status(bench, "SUCCESS", 11)

        assert await bank.clerk.retrieve("clerk").result() == list(range(10))
        assert await bench.fetch_all("SELECT count(*), count(DISTINCT n) FROM booked") == [(10, 10)]
        assert await left(bench) == []


async def test_a_transaction_that_sends_to_nobody_fails(database: str, bank: Bank) -> None:
    """An error that its function may catch; uncaught, nothing of it is written."""
    async with Bench(bank.app, database) as bench:
        await bench.execute("CREATE TABLE booked (n int)")
        with pytest.raises(WorkflowNotFoundError, match="'clerk'"):
            await (await bank.pay.start(1)).result()

        assert await bench.fetch_all("SELECT count(*) FROM booked") == [(0,)]


async def test_a_message_is_rolled_back_to_its_savepoint(database: str) -> None:
    app = App("bank")

    @app.transaction()
    async def book(tx: Transaction) -> None:
        await send("clerk", "kept", tx=tx)
        await tx.execute("SAVEPOINT here")
        await send("clerk", "lost", tx=tx)
        await tx.execute("ROLLBACK TO here")

    @app.transaction(read_only=True)
    async def look(tx: Transaction) -> None:
        await send("clerk", "never", tx=tx)

    @app.workflow()
    async def clerk() -> list[str | None]:
        await book()
        return [await recv(model=str), await recv(model=str, timeout=timedelta(0))]

    @app.workflow()
    async def reader() -> None:
        await look()

    # psycopg 3.3 deallocates what is prepared after a ROLLBACK TO, and goes on using it in a pipeline that was fetched from.
    async with Bench(app, database, settings=EngineSettings(conninfo="", prepare=False)):
        assert await (await clerk.start(id="clerk")).result() == ["kept", None]
        with pytest.raises(ConfigurationError, match="'look' is read-only"):
            await (await reader.start()).result()
