"""Transactional steps of several workflows in one commit: who fails fails alone, nothing twice (I5, P7, P20, P24)."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any

import pytest
from psycopg import sql
from pydantic import BaseModel

from engine.settings import EngineSettings
from engine.telemetry import Flushed, TransactionsCommitted
from engine.transaction_members import Member
from processor import App, Retry, Topic, Transaction
from processor.testing import Bench, CrashPoint
from tests.fixtures.proxy import losing_proxy

MANY = 60


class Sale(BaseModel):
    n: int


sales = Topic("sales", Sale, key=lambda sale: str(sale.n))
mood: ContextVar[str] = ContextVar("mood", default="none")


def app_of(*transactions: Any, retry: Retry | None = None) -> App:
    """A workflow of these transactions, one after the other."""
    app = App("till")
    steps = [app.transaction(name=function.__name__)(function) for function in transactions]

    @app.workflow(on=sales, retry=retry or Retry(attempts=1), breaker=None)
    async def sell(sale: Sale) -> None:
        mood.set(f"mood of {sale.n}")
        for step in steps:
            await step(sale)

    return app


async def book(tx: Transaction, sale: Sale) -> None:
    await tx.execute("INSERT INTO booked (n, xid) VALUES (%s, pg_current_xact_id()::text)", [sale.n])


async def sold(bench: Bench, count: int = MANY) -> None:
    """Deliver that many at once, and wait until all have ended."""
    await bench.execute("CREATE TABLE booked (id bigint GENERATED ALWAYS AS IDENTITY, n int, xid text, note text)")
    for n in range(count):
        await bench.deliver(sales, Sale(n=n))
    await bench.settle()


async def booked(bench: Bench) -> Counter[int]:
    return Counter(n for (n,) in await bench.fetch_all("SELECT n FROM booked"))


async def test_workflows_at_the_same_step_share_commits(database: str) -> None:
    async with Bench(app_of(book), database) as bench:
        await sold(bench)

        assert await booked(bench) == dict.fromkeys(range(MANY), 1)
        [(commits,)] = await bench.fetch_all("SELECT count(DISTINCT xid) FROM booked")
        assert commits < MANY / 2
        [(checkpoints,)] = await bench.fetch_all(
            "SELECT count(*) FROM dbos.operation_outputs WHERE function_name = 'book' AND output = 'null'"
        )
        assert checkpoints == MANY


async def test_what_shares_a_commit_is_told_with_how_long_that_took(database: str) -> None:
    """Of steps' own commits, of the flushes of partitions and of the commons, and of a release."""
    app = app_of(book)

    @app.workflow()
    async def ask() -> None: ...

    async with Bench(app, database) as bench:
        await sold(bench)
        await (await ask.start()).result()
        await bench.release(bench.ref(sales))
        grouped = [event for event in bench.events if isinstance(event, TransactionsCommitted)]
        flushed = [event for event in bench.events if isinstance(event, Flushed)]

    assert sum(event.workflows for event in grouped) == MANY
    assert {event.step for event in grouped} == {"book"}
    assert max(event.workflows for event in grouped) > 1
    assert all(event.duration_s > 0 for event in [*grouped, *flushed])
    assert {event.kind for event in flushed} == {"journaled", "commons", "release"}
    assert max(event.works for event in flushed) > 1
    assert all((event.waited_s is None) == (event.checkpoints == 0) for event in flushed)


@pytest.mark.parametrize("how", ["raises", "statement fails", "fails at commit", "cancelled by itself"])
async def test_who_fails_fails_alone(database: str, how: str) -> None:
    """The group is rolled back as a whole; the others are booked once, the culprit is a dead letter."""

    async def book_unless_bad(tx: Transaction, sale: Sale) -> None:
        await book(tx, sale)
        if sale.n % 20 != 7:
            return
        if how == "raises":
            raise ValueError("seven")
        if how == "statement fails":
            await tx.execute("SELECT 1 / 0")
        elif how == "fails at commit":
            await tx.execute("INSERT INTO whole (n) VALUES (%s)", [-sale.n])
        else:
            raise asyncio.CancelledError

    async with Bench(app_of(book_unless_bad), database) as bench:
        await bench.execute("CREATE TABLE parent (n int PRIMARY KEY)")
        await bench.execute("CREATE TABLE whole (n int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")

        await sold(bench)

        bad = {n for n in range(MANY) if n % 20 == 7}
        assert await booked(bench) == dict.fromkeys(set(range(MANY)) - bad, 1)
        letters = await bench.fetch_all("SELECT kafka_offset FROM dbos.dead_letter")
        assert {offset for (offset,) in letters} == bad


async def test_when_all_fail_each_fails_by_itself(database: str) -> None:
    async def never(tx: Transaction, sale: Sale) -> None:
        await tx.execute("SELECT 1 / %s", [sale.n * 0])

    async with Bench(app_of(never), database) as bench:
        await sold(bench, 20)

        errors = await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE error LIKE '%DivisionByZero%'")
        assert errors == [(20,)]


async def test_a_setting_of_one_is_not_the_next_ones(database: str) -> None:
    """What lasts until the commit has nobody behind it in the same one."""

    async def look(tx: Transaction, sale: Sale) -> None:
        cursor = await tx.execute("SELECT current_setting('my.tenant', true)")
        row = await cursor.fetchone()
        assert row is not None
        await tx.execute("INSERT INTO booked (n, note) VALUES (%s, %s)", [sale.n, row[0]])
        if sale.n % 3 == 0:
            await tx.execute("SET LOCAL my.tenant = 'mine'")
        elif sale.n % 3 == 1:
            await tx.execute(sql.SQL("SET LOCAL my.tenant = {}").format("mine"))
        else:
            await tx.execute("SELECT set_config('my.tenant', %s, true)", ["mine"])

    async with Bench(app_of(look), database) as bench:
        await sold(bench)

        notes = await bench.fetch_all("SELECT DISTINCT coalesce(note, '') FROM booked")
        assert notes == [("",)]


async def test_a_function_that_waits_goes_on_in_its_own_task_and_context(database: str) -> None:
    """Time-outs, context variables and the current task are the workflow's, before the first wait and after it."""
    seen: list[tuple[int, str, str, bool]] = []

    async def wait(tx: Transaction, sale: Sale) -> None:
        task, before = asyncio.current_task(), mood.get()
        token = mood.set("inside")
        async with asyncio.timeout(5):
            await book(tx, sale)
            cursor = await tx.execute("SELECT count(*) FROM booked WHERE n = %s", [sale.n])
            assert await cursor.fetchone() == (1,)
            await asyncio.sleep(0)
        mood.reset(token)
        seen.append((sale.n, before, mood.get(), task is asyncio.current_task()))

    async with Bench(app_of(wait), database) as bench:
        await sold(bench)

        assert await booked(bench) == dict.fromkeys(range(MANY), 1)
        assert sorted(set(seen)) == [(n, f"mood of {n}", f"mood of {n}", True) for n in range(MANY)]


async def test_a_time_out_inside_a_function_is_that_functions(database: str) -> None:
    async def hang(tx: Transaction, sale: Sale) -> None:
        await book(tx, sale)
        if sale.n == 3:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(30)

    async with Bench(app_of(hang), database) as bench:
        await sold(bench, 10)

        assert await booked(bench) == dict.fromkeys(set(range(10)) - {3}, 1)
        assert await bench.fetch_all("SELECT kafka_offset FROM dbos.dead_letter") == [(3,)]


async def test_steps_gathered_by_one_workflow(database: str) -> None:
    app = App("till")
    step = app.transaction(name="book")(book)

    @app.workflow(on=sales)
    async def sell_thrice(sale: Sale) -> None:
        await asyncio.gather(step(sale), step(sale), step(sale))

    async with Bench(app, database) as bench:
        await sold(bench)

        assert await booked(bench) == dict.fromkeys(range(MANY), 3)


async def test_sync_functions_share_commits_too(database: str) -> None:
    app = App("till")

    @app.transaction()
    def book_sync(tx: Any, sale: Sale) -> None:
        tx.execute("INSERT INTO booked (n, xid) VALUES (%s, pg_current_xact_id()::text)", [sale.n])

    book_sync.fn.__annotations__["tx"] = Any

    @app.workflow(on=sales)
    def sell(sale: Sale) -> None:
        book_sync(sale)

    async with Bench(app, database) as bench:
        await sold(bench)

        assert await booked(bench) == dict.fromkeys(range(MANY), 1)


async def test_a_cancelled_workflow_leaves_its_group_and_the_others_commit(database: str) -> None:
    """P7: the fence names whose row is no longer PENDING."""
    cancelled: set[int] = set()

    async def book_after_cancel(tx: Transaction, sale: Sale) -> None:
        await book(tx, sale)
        if sale.n == 5 and not cancelled:
            cancelled.add(5)
            await bench.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE kafka_offset = 5")

    async with Bench(app_of(book_after_cancel), database) as bench:
        await sold(bench)

        assert await booked(bench) == dict.fromkeys(set(range(MANY)) - {5}, 1)


async def test_conflicts_between_groups_are_run_again(database: str) -> None:
    """P26: two rows taken in either order by many at once; deadlocks are nobody's failure."""

    async def cross(tx: Transaction, sale: Sale) -> None:
        for place in (0, 1) if sale.n % 2 else (1, 0):
            cursor = await tx.execute("UPDATE tally SET total = total + 1 WHERE place = %s RETURNING total", [place])
            await cursor.fetchone()

    async with Bench(app_of(cross), database) as bench:
        await bench.execute("CREATE TABLE tally (place int PRIMARY KEY, total int)")
        await bench.execute("INSERT INTO tally VALUES (0, 0), (1, 0)")

        await sold(bench)

        assert await bench.fetch_all("SELECT total FROM tally ORDER BY place") == [(MANY,), (MANY,)]


@pytest.mark.parametrize("reply", [True, False], ids=["reply lost", "request lost"])
async def test_a_group_whose_commit_was_lost_counts_once(database: str, *, reply: bool) -> None:
    """P24: what is not idempotent is settled by reading."""

    async def count(tx: Transaction, sale: Sale) -> None:
        await tx.execute("UPDATE tally SET total = total + 1 WHERE place = %s", [sale.n % 4])

    async with AsyncExitStack() as stack:
        proxy, through = await stack.enter_async_context(losing_proxy(database))
        proxy.marker = b"fence_rows"
        bench = await stack.enter_async_context(Bench(app_of(count), through))
        await bench.execute("CREATE TABLE tally (place int PRIMARY KEY, total int)")
        await bench.execute("INSERT INTO tally SELECT n, 0 FROM generate_series(0, 3) AS n")
        await bench.claim(bench.ref(sales))
        if reply:
            proxy.lose_commits = 1
        else:
            proxy.lose_requests = 1

        await sold(bench)

        assert proxy.lose_commits == proxy.lose_requests == 0
        assert await bench.fetch_all("SELECT total FROM tally ORDER BY place") == [(MANY // 4,)] * 4


@pytest.mark.parametrize(
    "point", [CrashPoint.TRANSACTION_OPEN, CrashPoint.TRANSACTION_WRITTEN, CrashPoint.TRANSACTION_DURABLE]
)
async def test_a_crash_of_a_group_books_each_once(database: str, point: CrashPoint) -> None:
    async with Bench(app_of(book), database) as bench:
        bench.crash(at=point)
        await sold(bench)

        assert bench.crashes == 1
        assert await booked(bench) == dict.fromkeys(range(MANY), 1)


async def test_more_steps_than_connections(database: str) -> None:
    """A step that finds every connection taken is served when one is free again."""

    def slow(n: int) -> Any:
        async def book_slowly(tx: Transaction, sale: Sale) -> None:
            await book(tx, sale)
            await asyncio.sleep(0.02)

        book_slowly.__name__ = f"book_{n}"
        return book_slowly

    app = App("till")
    steps = [app.transaction(name=f"book_{n}")(slow(n)) for n in range(12)]

    @app.workflow(on=sales)
    async def sell(sale: Sale) -> None:
        await steps[sale.n % 12](sale)

    async with Bench(app, database) as bench:
        await sold(bench)

        assert await booked(bench) == dict.fromkeys(range(MANY), 1)


async def test_a_step_cancelled_before_its_function_began_is_not_recorded_as_done(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: its task was told to call the function, and is cancelled before it can; no checkpoint says that it ran."""
    app = App("till")
    step = app.transaction(name="book")(book)
    begin = Member.begin

    def told_and_cancelled(self: Member, *arguments: Any) -> asyncio.Future[None] | None:
        if self.run.offset != 3 or self.function_id != 1:
            return begin(self, *arguments)
        self.context = None  # as for tasks of a gather on Python 3.11: all of it is the task's
        ended = begin(self, *arguments)
        self.task.cancel()
        return ended

    @app.workflow(on=sales)
    async def sell(sale: Sale) -> None:
        await asyncio.wait([asyncio.ensure_future(step(sale)) for _ in range(2)])

    monkeypatch.setattr(Member, "begin", told_and_cancelled)
    async with Bench(app, database) as bench:
        await sold(bench, 6)

        assert await booked(bench) == {n: 1 if n == 3 else 2 for n in range(6)}
        recorded = await bench.fetch_all(
            "SELECT function_id FROM dbos.operation_outputs WHERE workflow_uuid = 'sales-0-3' AND error IS NULL"
        )
        assert recorded == [(2,)]


async def test_nothing_follows_a_cancelled_step_before_its_commit_is_known(database: str) -> None:
    """P17: a time-out that meets the commit waits for it; what the next step sees is what stands."""
    seen: list[int] = []
    committing = asyncio.Event()

    app = App("till")

    @app.transaction()
    async def book_it(tx: Transaction, sale: Sale) -> None:
        await book(tx, sale)
        await tx.execute("SELECT pg_sleep(0.4)")
        committing.set()

    @app.step()
    async def look(sale: Sale) -> int:
        rows = await bench.fetch_all("SELECT count(*) FROM booked WHERE n = %s", [sale.n])
        seen.append(rows[0][0])
        return rows[0][0]

    @app.workflow(on=sales)
    async def sell(sale: Sale) -> None:
        booking = asyncio.ensure_future(book_it(sale))
        await committing.wait()
        await asyncio.sleep(0.1)
        booking.cancel()
        await asyncio.wait([booking])
        await look(sale)

    async with Bench(app, database) as bench:
        await sold(bench, 1)

        assert seen == [1]
        assert await booked(bench) == {0: 1}


async def test_a_lost_commit_is_settled_with_the_only_connection_there_is(database: str) -> None:
    """P24, with `pool_max` 1: the group gives its connection back before it settles."""
    async with AsyncExitStack() as stack:
        proxy, through = await stack.enter_async_context(losing_proxy(database))
        proxy.marker = b"fence_rows"
        settings = EngineSettings(conninfo="", pool_max=1)
        bench = await stack.enter_async_context(Bench(app_of(book), through, settings=settings))
        await bench.claim(bench.ref(sales))
        proxy.lose_commits = 1
        await sold(bench)

        assert proxy.lose_commits == 0
        assert await booked(bench) == dict.fromkeys(range(MANY), 1)
