"""Where the system tests happen: a topic on a real Kafka, a real Postgres, worker processes, a ledger, an audit.

    async with Field(kafka.bootstrap_servers, database, "fused") as field:
        worker = field.worker("one")
        field.produce(2_000)
        ...                                  the fault, with work in flight
        await field.finish()                 1,000 records and more after it; all settled; audit

Leases and sessions are short, so that what must wait for them does not take the day.
"""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Self

from psycopg import AsyncConnection

from consumers.feed import Feed
from processor.demo.audit import Audit
from processor.demo.books import Books, Standing
from processor.demo.ledger import Entry, Ledger, orders
from processor.demo.processes import Processes
from processor.demo.workers import APP, Worker
from tests.fixtures.kafka import unique

AFTER_FAULT_MIN = 1_000
"""Records that are finished after the last fault: it did not only survive, it goes on."""

PATIENCE_S = 90.0
"""Longest without any progress."""

CUSTOMERS = 500
PARTITIONS = 4

KINDS = ("transactional", "journaled", "fused", "batch")
MIXED = "mixed"
"""All of them in one app, a topic each; all orders of a customer go to one."""

SHORT = {
    "PROCESSOR_EXECUTOR_LEASE": "3s",
    "PROCESSOR_EXECUTOR_HEARTBEAT": "1s",
    "PROCESSOR_EXECUTOR_DRAIN": "5s",
    # After a death so many records of each partition run with caution, one by one: few, so that it soon is as before.
    "PROCESSOR_EXECUTOR_IN_FLIGHT_MAX": "50",
}


class Field:
    """One topic with its tables and workers.

    Args:
        kafka: Brokers.
        dsn: A database of this test's own, as the test reaches it.
        kind: Of handler: see `processor.demo.app.build`. Several, with `+` between them; `MIXED`: all of them.
        through: The database as workers reach it, through a proxy; as `dsn` if not given.
        protocol: Of the group.
        app: What workers run instead of the demo's.
        is_migrated: Whether the database has its system tables, of whatever version, already.
    """

    def __init__(
        self,
        kafka: str,
        dsn: str,
        kind: str,
        *,
        through: str | None = None,
        protocol: str = "classic",
        app: str = APP,
        settings: Mapping[str, str] | None = None,
        seed: int = 0,
        is_migrated: bool = False,
    ) -> None:
        self.books = Books(dsn, "dbos")
        self.workers: dict[str, Worker] = {}
        self.topic = unique("orders")
        """Of the one kind; of several, what their topics' names begin with, and the group."""
        self.kind = kind
        kinds = KINDS if kind == MIXED else kind.split("+")
        self.topics = {each: f"{self.topic}-{each}" for each in kinds} if len(kinds) > 1 else {kind: self.topic}
        self._kafka = kafka
        self._through = through or dsn
        self._protocol = protocol
        self._app = app
        self._settings = dict(settings or {})
        self._random = Random(seed)
        self._is_migrated = is_migrated

    async def __aenter__(self) -> Self:
        self._processes = Processes()
        self._feed = Feed(self._kafka)
        self.ledger = Ledger(Path(self._processes.home) / "ledger")
        for topic in self.topics.values():
            await asyncio.to_thread(self._feed.create_topic, topic, PARTITIONS)
        await (self.books.make_table() if self._is_migrated else self.books.open())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.ledger.close()
        self._feed.__exit__(None, None, None)
        await asyncio.to_thread(self._processes.close)

    def worker(self, name: str, *, app: str | None = None, **settings: str) -> Worker:
        """Start a worker, or start it anew. `settings` are variables of this start only; `app`: of this worker alone."""
        worker = self.workers.get(name)
        if worker is None:
            classic = {"PROCESSOR_KAFKA_SESSION_TIMEOUT": "2s"} if self._protocol == "classic" else {}
            worker = self.workers[name] = Worker(
                self._processes,
                name,
                SHORT
                | classic
                | {
                    "DEMO_HANDLERS": ",".join(f"{kind}={topic}" for kind, topic in self.topics.items()),
                    "DEMO_TOPIC": self.topic,
                    "DEMO_TABLE": self.books.table,
                    "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": self._kafka,
                    "PROCESSOR_KAFKA_GROUP": self.topic,
                    "PROCESSOR_KAFKA_GROUP_PROTOCOL": self._protocol,
                    "PROCESSOR_POSTGRES_DSN": self._through,
                }
                | self._settings,
                program=("-m", "tests.system.worker", app or self._app),
            )
        worker.start(**settings)
        return worker

    def produce(self, count: int) -> None:
        """Enter orders in the ledger and hand them to the client."""
        for entry in orders(count, CUSTOMERS, self._random, first=self.ledger.count):
            self.ledger.write(entry)
            self._feed.produce(self._topic_of(entry), entry.customer, entry.value())

    async def delivered(self) -> None:
        """Wait until Kafka has everything."""
        assert await asyncio.to_thread(self._feed.flush, timedelta(seconds=60)), "Kafka does not take the orders"

    async def feed_until(self, happened: "asyncio.Future[Any]", rate: int = 200) -> None:
        """Produce at a rate until something has happened."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened.done():
            assert time.monotonic() < deadline, f"it never happened\n{self.logs()}"
            self.produce(rate // 10)
            await asyncio.wait({happened}, timeout=0.1)

    async def until(self, condition: Callable[[Standing], bool]) -> Standing:
        """Wait for a standing. Fails when nothing moves for long, with the workers' logs."""
        moved_at, last = time.monotonic(), -1
        while True:
            standing = await self.books.standing()
            if condition(standing):
                return standing
            if standing.done != last:
                moved_at, last = time.monotonic(), standing.done
            if time.monotonic() - moved_at > PATIENCE_S or standing.holds:
                raise AssertionError(f"{self.ledger.count} produced, {standing}\n{self.logs()}")
            await asyncio.sleep(0.1)

    async def until_done(self, count: int) -> Standing:
        """Wait until so many records are finished."""
        return await self.until(lambda standing: standing.done >= count)

    async def at_work(self, worker: Worker) -> None:
        """Wait for a moment in which a worker has work in flight."""
        deadline = time.monotonic() + PATIENCE_S
        while not await worker.in_flight():
            assert time.monotonic() < deadline, f"{worker.name} has nothing to do\n{self.logs()}"
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def held_at_effects(self) -> AsyncGenerator[None]:
        """Hold handlers where they write to the table of effects. Entered when one waits there, so that what is under
        way is certain to be so for the length of the block. Workers must have been at work."""
        connection = await AsyncConnection.connect(self.books.dsn)
        try:
            await connection.execute(f"LOCK TABLE {self.books.table} IN SHARE MODE".encode())
            await self.feed_until(asyncio.ensure_future(self._handler_waits()))
            yield
        finally:
            await connection.close()

    async def _handler_waits(self) -> None:
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
        while not (await self.books.query(waiting, self.books.table))[0][0]:
            await asyncio.sleep(0.02)

    async def freeze_at_work(self, worker: Worker) -> int:
        """Stop a process (SIGSTOP) with work in flight; returns how many workflows of its own are not at their end.

        What it had sent before it was stopped is through by then: no session of a worker does anything any more.
        """
        await self.feed_until(asyncio.ensure_future(self.at_work(worker)))
        async with self.held_at_effects():
            await self.feed_until(asyncio.ensure_future(self._begun()))
            worker.process.send_signal(signal.SIGSTOP)
        active = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        while (await self.books.query(active))[0][0]:
            await asyncio.sleep(0.01)
        return await self._begun()

    async def _begun(self) -> int:
        """Wait for workflows that their owner has begun and not ended; returns how many."""
        begun = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING' AND owner_xid IS NOT NULL"
        while not (count := int((await self.books.query(begun))[0][0])):
            await asyncio.sleep(0.01)
        return count

    async def finish(self) -> Audit:
        """After the last fault: go on for `AFTER_FAULT_MIN` records and more, settle, audit."""
        before = (await self.books.standing()).done
        self.produce(max(0, before + AFTER_FAULT_MIN + 100 - self.ledger.count))
        await self.delivered()
        count = self.ledger.count
        standing = await self.until(lambda standing: standing.next == count and not standing.open)
        assert standing.done - before >= AFTER_FAULT_MIN
        audit = await self.books.audit(self.ledger.entries(), steps_of=self.topics.get("journaled"))
        assert audit.is_clean, f"{audit}\n{self.logs()}"
        return audit

    def _topic_of(self, entry: Entry) -> str:
        topics = [*self.topics.values()]
        return topics[int(entry.customer.rpartition("-")[2]) % len(topics)]

    def logs(self) -> str:
        """The ends of the workers' logs."""
        return "\n".join(f"--- {name}\n{self._processes.log(worker.log)}" for name, worker in self.workers.items())
