"""Fused handlers on a real Postgres: effect, outcome and progress are one commit (I5; P19, P21, P23, P26, P27)."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from pydantic import BaseModel

from engine.telemetry import FlushRetried
from processor import App, Breaker, Record, Retry, SyncTransaction, Topic, Transaction
from processor.testing import Bench, CrashPoint
from tests.fixtures.proxy import losing_proxy


class Payment(BaseModel):
    account: str
    amount: int


payments = Topic("payments", Payment, key=lambda payment: payment.account)
TABLES = (
    "CREATE TABLE balance (account text PRIMARY KEY, n int NOT NULL)",
    "CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY, account text, amount int)",
)


async def prepare(bench: Bench) -> None:
    await bench.execute("CREATE TABLE balance (account text PRIMARY KEY, n int NOT NULL)")
    await bench.execute("INSERT INTO balance SELECT 'a' || g, 0 FROM generate_series(0, 9) AS g")
    await bench.execute("CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY, account text, amount int)")


def booking() -> App:
    app = App("bank")

    @app.transaction(on=payments)
    async def book(tx: Transaction, payment: Payment) -> None:
        if payment.amount < 0:
            raise ValueError("negative")
        await tx.execute("UPDATE balance SET n = n + %s WHERE account = %s", (payment.amount, payment.account))
        await tx.execute("INSERT INTO entry (account, amount) VALUES (%s, %s)", (payment.account, payment.amount))

    return app


def loading() -> App:
    app = App("bank")

    @app.batch(on=payments, size=50)
    async def book(tx: Transaction, batch: Sequence[Payment]) -> None:
        if any(payment.amount < 0 for payment in batch):
            raise ValueError("negative")
        await tx.execute(
            "UPDATE balance AS b SET n = b.n + t.n"
            "  FROM (SELECT account, sum(n) AS n FROM unnest(%s::text[], %s::int[]) AS t (account, n) GROUP BY 1) AS t"
            " WHERE b.account = t.account",
            ([p.account for p in batch], [p.amount for p in batch]),
        )
        await tx.execute(
            "INSERT INTO entry (account, amount) SELECT * FROM unnest(%s::text[], %s::int[])",
            ([p.account for p in batch], [p.amount for p in batch]),
        )

    return app


def booking_in_threads() -> App:
    app = App("bank")

    @app.transaction(on=payments)
    def book(tx: SyncTransaction, payment: Payment) -> None:
        if payment.amount < 0:
            raise ValueError("negative")
        tx.execute("UPDATE balance SET n = n + %s WHERE account = %s", (payment.amount, payment.account))
        row = tx.execute("SELECT count(*) FROM balance").fetchone()
        assert row == (10,)
        tx.execute("INSERT INTO entry (account, amount) VALUES (%s, %s)", (payment.account, payment.amount))

    return app


APPS = {"transaction": booking, "batch": loading, "sync transaction": booking_in_threads}


async def audit(bench: Bench, sent: Sequence[Payment]) -> None:
    """Every good payment once, in order of its account; the balance agrees."""
    good = [payment for payment in sent if payment.amount >= 0]
    entries = await bench.fetch_all("SELECT account, amount FROM entry ORDER BY id")
    for account in {payment.account for payment in sent}:
        assert [n for a, n in entries if a == account] == [p.amount for p in good if p.account == account]
    totals = Counter[str]()
    for payment in good:
        totals[payment.account] += payment.amount
    balances = dict(await bench.fetch_all("SELECT account, n FROM balance WHERE n <> 0"))
    assert balances == {account: n for account, n in totals.items() if n}
    counts = await bench.fetch_all(
        "SELECT count(*) FILTER (WHERE status = 'SUCCESS'), count(*) FILTER (WHERE status = 'ERROR') FROM dbos.workflow_status"
    )
    assert counts == [(len(good), len(sent) - len(good))]
    letters = await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter")
    assert letters == [(len(sent) - len(good),)]


@pytest.mark.parametrize("make", APPS.values(), ids=APPS)
async def test_poison_stands_alone_and_the_rest_goes_on(database: str, make: Callable[[], App]) -> None:
    """P19: bisected, retried as a workflow, buried; its key keeps its order."""
    async with Bench(make(), database) as bench:
        await prepare(bench)
        sent = [Payment(account=f"a{n % 7}", amount=-1 if n in (13, 14, 77) else n) for n in range(120)]
        for payment in sent:
            await bench.deliver(payments, payment)
        await bench.settle()

        await audit(bench, sent)


@pytest.mark.parametrize("make", APPS.values(), ids=APPS)
@pytest.mark.crash_points(
    CrashPoint.CLAIMED,
    CrashPoint.DELIVERED,
    CrashPoint.FUSED_CALLED,
    CrashPoint.FLUSH_BUILT,
    CrashPoint.FLUSH_SENT,
    CrashPoint.FLUSH_DURABLE,
)
async def test_a_crash_anywhere_leaves_every_effect_once(
    database: str, make: Callable[[], App], crash_point: CrashPoint | None
) -> None:
    """I5, P21: after a death the first records run as journaled workflows, with the same effect."""
    async with Bench(make(), database) as bench:
        await prepare(bench)
        sent = [Payment(account=f"a{n % 7}", amount=-1 if n == 40 else n) for n in range(80)]
        if crash_point is not CrashPoint.CLAIMED:
            await bench.claim(bench.ref(payments))
        bench.crash(at=crash_point)
        for payment in sent:
            await bench.deliver(payments, payment)
        await bench.settle()

        assert bench.crashes == (crash_point is not None)
        await audit(bench, sent)


@pytest.mark.parametrize("make", APPS.values(), ids=APPS)
@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_is_settled_by_reading(database: str, make: Callable[[], App], side: str) -> None:
    """P23: `n = n + 1` is not idempotent; a committed group is not run again, an uncommitted one is."""
    async with losing_proxy(database) as (proxy, dsn), Bench(make(), dsn) as bench:
        proxy.marker = b"fence_partitions"
        await prepare(bench)
        sent = [Payment(account=f"a{n % 7}", amount=n) for n in range(60)]
        for n, payment in enumerate(sent):
            if n in (10, 30):
                await bench.settle()
                proxy.lose_commits += side == "reply"
                proxy.lose_requests += side == "request"
            await bench.deliver(payments, payment)
        await bench.settle()

        assert proxy.lost == 2
        assert [e for e in bench.events if isinstance(e, FlushRetried) and e.reason == "unknown commit"]
        await audit(bench, sent)


async def test_a_fused_record_that_fails_for_a_while_is_retried_as_a_workflow(database: str) -> None:
    """P19, P28: `retry=` of the handler holds for the record that was taken out."""
    app = App("bank")
    failures = Counter[str]()

    @app.transaction(on=payments, retry=Retry(attempts=3, first_delay=timedelta(milliseconds=20)))
    async def book(tx: Transaction, payment: Record[Payment]) -> None:
        event = payment.event
        if event.amount == 5 and failures["5"] < 3:
            failures["5"] += 1
            raise ConnectionError("away")
        await tx.execute("INSERT INTO entry (account, amount) VALUES (%s, %s)", (event.account, event.amount))

    async with Bench(app, database) as bench:
        await prepare(bench)
        for n in range(10):
            await bench.deliver(payments, Payment(account="a", amount=n))
        await bench.settle()

        assert await bench.fetch_all("SELECT amount FROM entry ORDER BY id") == [(n,) for n in range(10)]
        assert failures["5"] == 3


async def test_the_breaker_counts_the_successes_of_groups(database: str) -> None:
    """One record in ten fails, over many windows: the failures alone would fill one (design section 7)."""
    app = App("bank")

    @app.transaction(on=payments, breaker=Breaker(window=10, ratio=0.5))
    async def book(tx: Transaction, payment: Payment) -> None:
        if payment.amount < 0:
            raise ValueError("negative")
        await tx.execute("INSERT INTO entry (account, amount) VALUES (%s, %s)", (payment.account, payment.amount))

    async with Bench(app, database) as bench:
        await prepare(bench)
        for n in range(150):
            await bench.deliver(payments, Payment(account=f"a{n}", amount=-1 if n % 10 == 9 else 1))
            if n % 10 == 9:
                await bench.settle()

        assert await bench.fetch_all("SELECT reason FROM dbos.hold") == []
        assert await bench.fetch_all("SELECT count(*) FROM entry") == [(135,)]
