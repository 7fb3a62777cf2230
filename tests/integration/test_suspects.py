"""Alone is alone: nobody's code runs beside a suspect, and a lease that is lost is no death of its (P22)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from engine.telemetry import ExecutorStarted, SuspectStarted
from processor import App, Retry, Topic, Transaction
from processor.testing import Bench
from tests.integration.protocol import FAST, Order, Shop, statuses, until, until_row

LONG = replace(FAST, alone_max=timedelta(minutes=1))
"""Alone for as long as the test likes."""

entries = Topic("entries", Order, key=lambda order: order.key)


class Ledger(Shop):
    """A shop that also books entries, in one transaction for many."""

    def __init__(self, *, retry: Retry | None = None) -> None:
        super().__init__(retry=retry)
        self.booked: list[int] = []
        self.book_shut = False
        self.book_fails = -1

        @self.app.transaction(on=entries)
        async def book(tx: Transaction, entry: Order) -> None:
            self.booked.append(entry.n)
            while self.book_shut:
                await asyncio.sleep(0.005)
            if entry.n == self.book_fails:
                raise ValueError(entry.n)
            await tx.execute("INSERT INTO entry VALUES (%s)", (entry.n,))


async def suspect(bench: Bench, shop: Shop) -> None:
    """Record 0 was running when its process died, twice; it waits at its first step, alone."""
    shop.shut = {"first 0"}
    await bench.deliver(shop.topic, Order(key="a", n=0))
    await until_row(bench, "workflow_uuid = 'orders-0-0'")
    for deaths in (1, 2):
        await bench.crash_now()
        await until_row(bench, f"workflow_uuid = 'orders-0-0' AND recovery_attempts = {deaths}")
        await until(lambda deaths=deaths: shop.began.count("first 0") == deaths + 1)


def is_alone(bench: Bench) -> bool:
    return any(isinstance(event, SuspectStarted) and event.alone for event in bench.events)


async def test_no_fused_group_begins_beside_a_suspect(database: str) -> None:
    """P22: or one of its records would be the killer, and the suspect be blamed. They go on when it has ended."""
    shop = Ledger()
    async with Bench(shop.app, database, settings=LONG) as bench:
        await bench.execute("CREATE TABLE entry (n int)")
        await bench.deliver(entries, Order(key="x", n=100))
        await bench.settle()
        await suspect(bench, shop)
        assert is_alone(bench)
        await bench.release(bench.ref(entries))  # after a death they would not be a group
        await bench.claim(bench.ref(entries))

        for n in range(101, 110):
            await bench.deliver(entries, Order(key="x", n=n))
        await asyncio.sleep(0.3)
        assert shop.booked == [100]
        shop.shut.clear()
        await bench.settle()

        assert shop.booked == list(range(100, 110))
        assert await bench.fetch_all("SELECT count(*) FROM entry") == [(10,)]


async def test_a_suspect_waits_for_a_fused_group_that_runs(database: str) -> None:
    """P22: it begins when that has ended, also where the group fails meanwhile and is halved."""
    shop = Ledger(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    async with Bench(shop.app, database, settings=LONG) as bench:
        await bench.execute("CREATE TABLE entry (n int)")
        shop.fails["first 0"] = 1
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        await bench.release(bench.ref(shop.topic))
        # As if it had been running when its process died for the second time.
        await bench.execute(
            "UPDATE dbos.workflow_status SET recovery_attempts = 1, kafka_wake_at = NULL, owner_xid = 'x', executor_id = 'x'"
        )
        await bench.execute("DELETE FROM dbos.operation_outputs")
        shop.book_shut = True
        for n in range(100, 104):
            await bench.deliver(entries, Order(key="x", n=n))
        await until(lambda: shop.booked)
        shop.book_fails = 103

        await bench.claim(bench.ref(shop.topic))
        await until(lambda: is_alone(bench))
        await asyncio.sleep(0.3)
        began = shop.began.count("first 0")
        shop.book_shut = False
        await until(lambda: shop.began.count("first 0") == 2)
        await bench.settle()

        assert began == 1
        assert await bench.fetch_all("SELECT n FROM entry ORDER BY n") == [(100,), (101,), (102,)]


async def test_a_group_that_is_put_off_goes_on_though_the_suspect_has_ended_meanwhile(database: str) -> None:
    """P22, I8: it was taken before the suspect came, and is back in its inbox after that has ended."""
    shop = Ledger()
    async with Bench(shop.app, database, settings=LONG) as bench:
        await bench.execute("CREATE TABLE entry (n int)")
        suspects, lease = bench.engine.suspects, bench.engine.lease
        put_off: list[bool] = []

        async def come_and_go() -> None:
            if not put_off:
                put_off.append(True)
                suspects.is_closed = True
                bench.engine.loop.call_soon(setattr, suspects, "is_closed", False)

        lease.wait_until_valid = come_and_go  # type: ignore[method-assign]
        await bench.deliver(entries, Order(key="x", n=1))
        await until(lambda: shop.booked)
        await bench.settle()

        assert put_off
        assert await bench.fetch_all("SELECT n FROM entry") == [(1,)]


class Turnstile:
    """An app of one step, each call of which waits until so many calls may end."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.topic = Topic("orders", Order, key=lambda order: order.key)
        self.calls = self.may_end = 0

        @self.app.step()
        async def pass_through(order: Order) -> None:
            self.calls += 1
            call = self.calls
            while self.may_end < call:
                await asyncio.sleep(0.005)

        @self.app.workflow(on=self.topic)
        async def fulfil(order: Order) -> None:
            await pass_through(order)

    async def suspected(self, bench: Bench) -> None:
        """Its record was running when its process died, twice; it runs alone."""
        await bench.deliver(self.topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")
        for deaths in (1, 2):
            await bench.crash_now()
            await until(lambda deaths=deaths: self.calls == deaths + 1)
        await until_row(bench, "kafka_alone = 1")

    async def lease_lost(self, bench: Bench) -> None:
        """The process lives, is said to be dead, and registers anew; what it ran ends, and counts for nothing."""
        await until(lambda: self.calls > self.may_end)  # it is in its step, and not on the way there
        before, calls = len(started(bench)), self.calls
        bench.engine.died("as if marked dead")
        self.may_end = calls
        await until(lambda: len(started(bench)) > before)


async def test_a_lease_that_is_lost_while_a_suspect_runs_alone_is_no_death_of_its(database: str) -> None:
    """P22, P2: the process lives, so it was not killed; however often that happens, nobody is buried for it."""
    shop = Turnstile()
    async with Bench(shop.app, database, settings=LONG) as bench:
        await shop.suspected(bench)
        for times in range(1, 5):
            await shop.lease_lost(bench)
            await until_row(bench, f"kafka_alone = {times + 1}")
        shop.may_end = shop.calls + 1
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS")]


async def test_a_death_alone_is_counted_beside_leases_that_were_lost(database: str) -> None:
    """P22: three deaths alone, and two leases lost in between: it is buried after the third death, not before."""
    shop = Turnstile()
    async with Bench(shop.app, database, settings=LONG) as bench:
        await shop.suspected(bench)
        for alone, ends in enumerate(("lease", "death", "lease", "death", "death"), 2):
            if ends == "lease":
                await shop.lease_lost(bench)
            else:
                await bench.crash_now()
            if alone < 6:
                await until_row(bench, f"status = 'PENDING' AND kafka_alone = {alone}")
        await until_row(bench, "status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'")
        shop.may_end = 100
        await bench.settle()

        assert await bench.fetch_all("SELECT reason FROM dbos.dead_letter") == [("killed its process",)]


def started(bench: Bench) -> list[object]:
    """Registrations anew."""
    return [event for event in bench.events if isinstance(event, ExecutorStarted) and "anew" in event.name]
