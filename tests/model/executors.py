"""Two executors over one log and one Postgres, driven step by step: what `test_executors.py` runs at random.

    log (two partitions) ─▶ seat 0: Engine ─┐
                         └▶ seat 1: Engine ─┴─ each through a proxy of its own ─▶ Postgres

A *seat* is a place for an executor: its engine crashes and is replaced, stalls, loses replies. A partition is assigned
to one seat at a time, with a generation that grows at every move, as Kafka does it; the seat claims it, opens it, and
is given the log from the stored progress.

A run's handler is journaled (step, transaction, step) or fused (one transaction, with outcome and progress in its commit).

Checked after every event, in one snapshot of the database, and after which events not:

- I1, I3: every offset below the stored `next` has a row; `next` and the epoch never go back (a restore sets both anew);
- I1: a dead letter is there for each row that failed, once, and for no other, and those are of records that fail;
- I2: an offset of a partition has one row;
- I4: a step, or a fused handler, that was seen recorded is never called again (a restore forgets what it took away);
- I5: the effect table, which has no unique constraint, has each effect once, and exactly those whose checkpoint, or
  fused outcome, is recorded: half a commit shows;
- I6: a row's owner is a claim of its partition by the executor it names, and no row comes under, or goes over to, a claim
  that was superseded at the last look already (a restore begins that anew). That an earlier owner writes no checkpoint to
  a row it keeps is not told from a late run's right to (P12); that it runs nothing beside the next owner is I7;
- I7: two workflows of a key never run a step at once, cancelled or not (not within a lease of a restore: what was begun
  before it cannot be called back); effects come in order of their key.

Checked at rest only: I1 and I8, every record has a row in a terminal status, the right one, and nothing is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, LiteralString

import psycopg

from engine.engine import Engine
from engine.ids import SourceRef
from engine.progress import Progress
from engine.records import Record
from engine.settings import EngineSettings
from engine.source import Source
from engine.sources import Busy, Start
from engine.telemetry import Telemetry
from tests.fixtures.proxy import LosingProxy, losing_proxy
from tests.model.claims import Claims
from tests.model.handlers import EFFECT, LEASE_S, OUTCOME, Ledger, Order, fused, journaled

QUIET_S = 30
"""Longest the system may take to come to rest once nothing disturbs it."""

TABLES: tuple[LiteralString, ...] = (
    "dbos.workflow_status",
    "dbos.operation_outputs",
    "dbos.event_dispatch_kv",
    "dbos.dead_letter",
    "dbos.hold",
    "dbos.executor",
    "dbos.claim_request",
    "effect",
)


class Seat:
    """A place for an executor."""

    def __init__(self, system: System, number: int, proxy: LosingProxy, dsn: str) -> None:
        self.system = system
        self.number = number
        self.proxy = proxy
        self.settings = EngineSettings(
            conninfo=dsn,
            lease=timedelta(seconds=LEASE_S),
            heartbeat=timedelta(seconds=LEASE_S / 6),
            scan=timedelta(milliseconds=50),
            pool_max=4,
            in_flight_max=20,
        )
        self.sources: dict[int, Source] = {}
        self.attaching: dict[int, asyncio.Task[None]] = {}
        self.releasing: set[asyncio.Task[None]] = set()
        self.engine = self._new_engine()

    def _new_engine(self) -> Engine:
        handlers = {each.name: each.handler() for each in self.system.app.workflows.values()}
        return Engine(self.settings, handlers, Telemetry(()))

    def dropped(self, source: Source, reason: str) -> None:
        """The engine gave a claim up: claim again, if the partition is still assigned here (SourceListener)."""
        del reason
        partition = source.ref.partition
        if self.sources.get(partition) is source:
            del self.sources[partition]
        if self.system.assigned[partition] == self.number and not self.engine.is_aborted:
            self.attach(partition)

    def attach(self, partition: int) -> None:
        """Claim a partition in the background, until it is attached or assigned elsewhere."""
        if partition not in self.attaching or self.attaching[partition].done():
            self.attaching[partition] = asyncio.create_task(self._attach(partition))

    async def _attach(self, partition: int) -> None:
        ref, engine = self.system.refs[partition], self.engine
        while self.system.assigned[partition] == self.number and not engine.is_aborted:
            try:
                claimed = await engine.sources.claim(ref, generation=self.system.generation)
                if isinstance(claimed, Busy):
                    await asyncio.sleep(claimed.retry_s / 5)
                    continue
                self.system.claims.saw(claimed.token, partition, claimed.progress.owner)
                if self.system.assigned[partition] != self.number:
                    await claimed.release()
                    continue  # it may have come back meanwhile, and `attach` saw this task at work
                await claimed.open(self)
            except psycopg.Error:
                await asyncio.sleep(0.05)
                continue
            if claimed.is_gone:
                continue
            self.sources[partition] = claimed
            if self.system.assigned[partition] != self.number:
                self.detach(partition)
                return
            claimed.deliver([_copy(r) for r in self.system.log[partition] if r.offset >= claimed.progress.next])
            return

    def detach(self, partition: int) -> None:
        """Kafka took the partition away: release in the background."""
        source = self.sources.pop(partition, None)
        if source is not None:
            task = asyncio.create_task(source.release())
            self.releasing.add(task)
            task.add_done_callback(self.releasing.discard)

    async def crash(self) -> None:
        """End as a crash does, and start another executor."""
        await self.engine.abort()
        for task in (*self.attaching.values(), *self.releasing):
            task.cancel()
        await asyncio.gather(*self.attaching.values(), *self.releasing, return_exceptions=True)
        self.attaching.clear()
        self.sources.clear()
        self.proxy.lose_commits = self.proxy.lose_requests = 0
        self.engine = self._new_engine()
        await self.engine.start()
        for partition, seat in enumerate(self.system.assigned):
            if seat == self.number:
                self.attach(partition)

    def describe(self, partition: int) -> str:
        """Why a partition may not be attached here."""
        engine, task = self.engine, self.attaching.get(partition)
        state = "no claim" if task is None else repr(task.exception()) if task.done() else "claiming"
        return (
            f"{state}; executor {engine.executor_id}, lease valid: {engine.lease.is_valid()}, "
            f"alive: {engine.is_alive_as(engine.executor_id)}, late runs: {len(engine.late)}, "
            f"current: {[str(ref) for ref in engine.sources.current]}"
        )

    async def stop(self) -> None:
        """End in good order."""
        for task in self.attaching.values():
            task.cancel()
        await asyncio.gather(*self.attaching.values(), return_exceptions=True)
        await self.engine.stop(timedelta(seconds=5))


class System:
    """Everything, and what is checked of it.

    Args:
        dsn: A migrated database.
        is_fused: Which of the handlers.
        partitions: How many.
    """

    def __init__(self, dsn: str, *, is_fused: bool = False, partitions: int = 2) -> None:
        self.dsn = dsn
        self.ledger = Ledger()
        self.claims = Claims()
        self.is_fused = is_fused
        self.app = fused(self.ledger) if is_fused else journaled(self.ledger)
        name = next(iter(self.app.workflows))
        self.refs = [SourceRef("model", name, "orders", partition) for partition in range(partitions)]
        self.log: list[list[Record]] = [[] for _ in range(partitions)]
        self.kinds: dict[tuple[int, int], str] = {}
        self.assigned: list[int] = [0] * partitions
        self.generation = 1
        self.seats: list[Seat] = []
        self.has_snapshot = False
        self._progress: dict[str, tuple[int, int, int]] = {}
        self._stack = AsyncExitStack()
        self._connection: psycopg.AsyncConnection[Any]

    async def start(self) -> None:
        """Start both executors and assign everything to the first."""
        self._connection = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        await self._connection.execute(
            'CREATE TABLE effect (id bigint GENERATED BY DEFAULT AS IDENTITY, part int, "offset" bigint, key text)'
        )
        for number in range(2):
            proxy, dsn = await self._stack.enter_async_context(losing_proxy(self.dsn))
            seat = Seat(self, number, proxy, dsn)
            await seat.engine.start()
            self.seats.append(seat)
        first = self.seats[0].engine
        await first.sources.first_start(
            "model", self.refs[0].handler, "orders", {ref.partition: Start(0) for ref in self.refs}
        )
        for partition in range(len(self.refs)):
            self.seats[0].attach(partition)

    async def stop(self) -> None:
        """End everything."""
        for seat in self.seats:
            await seat.stop()
        await self._connection.close()
        await self._stack.aclose()

    # -- what happens --

    def produce(self, partition: int, key: str, kind: str) -> None:
        """Append a record; the seat that has the partition is given it."""
        offset = len(self.log[partition])
        self.kinds[partition, offset] = kind
        value = Order(key=key, n=offset, partition=partition, kind=kind).model_dump_json().encode()
        record = Record("orders", partition, offset, key.encode(), value, timestamp_ms=1_000 + offset)
        self.log[partition].append(record)
        seat = self.seats[self.assigned[partition]]
        if (source := seat.sources.get(partition)) is not None:
            source.deliver([_copy(record)])

    def move(self, partition: int) -> None:
        """Assign a partition to the other seat."""
        before = self.assigned[partition]
        self.generation += 1
        self.assigned[partition] = 1 - before
        self.seats[before].detach(partition)
        self.seats[1 - before].attach(partition)

    async def cancel(self, choice: int) -> None:
        """Cancel an open workflow, as a client does."""
        rows = await self._read(
            "SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'PENDING' ORDER BY kafka_source, kafka_offset"
        )
        if rows:
            await self._connection.execute(
                "UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = %s AND status = 'PENDING'",
                [rows[choice % len(rows)][0]],
            )

    async def take_snapshot(self) -> None:
        """Copy every table at one moment: a backup."""
        async with self._connection.transaction():
            await self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await self._connection.execute("DROP SCHEMA IF EXISTS backup CASCADE")
            await self._connection.execute("CREATE SCHEMA backup")
            self._see_claims(await self._progress_rows())
            for table in TABLES:
                name = table.rpartition(".")[2]
                await self._connection.execute(f'CREATE TABLE backup."{name}" AS TABLE {table}')
        self.has_snapshot = True

    async def restore(self) -> None:
        """Bring every table back in one transaction: what a restored backup does to those who use it (P4).

        Not a restored server: its WAL position goes on, so what notices is the compared value (P6, P1) and the
        checkpoints the row fence requires (P7). The one with a server of its own is in tests/integration/test_weather.
        """
        while True:
            try:
                await self._restore()
                break
            except psycopg.errors.DeadlockDetected:
                continue  # it takes every table for itself, against transactions under way
        self.ledger.recorded = set()
        self.ledger.restored_at = time.monotonic()
        self.claims.restored()
        self._progress.clear()

    async def _restore(self) -> None:
        async with self._connection.transaction():
            await self._connection.execute("TRUNCATE " + ", ".join(TABLES) + " CASCADE")  # type: ignore[operator]
            for table in TABLES:
                name = table.rpartition(".")[2]
                await self._connection.execute(
                    f'INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM backup."{name}"'
                )

    # -- what must hold --

    async def check(self) -> None:
        """Whatever must hold at any moment."""
        self.claims.look()
        async with self._connection.transaction():
            await self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            stored = await self._progress_rows()
            rows = await self._read(
                "SELECT workflow_uuid, kafka_source, kafka_offset, status, owner_xid, executor_id FROM dbos.workflow_status"
            )
            effects = await self._read('SELECT part, "offset", key FROM effect ORDER BY id')
            letters = Counter(await self._read("SELECT partition, kafka_offset FROM dbos.dead_letter"))
            recorded = await self._recorded()
        if time.monotonic() - self.ledger.restored_at > 2 * LEASE_S:
            # Until every executor has noticed a restore, what it took away may still be called.
            self.ledger.recorded = recorded
        offsets: dict[str, set[int]] = defaultdict(set)
        for workflow, source, offset, *_ in rows:
            key = source.rpartition("|")[2]
            assert offset not in offsets[key], f"I2: {workflow} is a second row of {key} {offset}"
            offsets[key].add(offset)
        for key, epoch, value in stored:
            progress = Progress.decode(value)
            seen = (epoch, progress.next, progress.flush)
            assert set(range(progress.next)) <= offsets[key], (
                f"I1, I3: {key}: a record below {progress.next} has no row"
            )
            assert seen >= self._progress.get(key, seen), f"I3: {key} went back to {seen} from {self._progress[key]}"
            assert progress.next >= self._progress.get(key, seen)[1], f"I3: {key} went back to {progress.next}"
            self._progress[key] = seen
        failed = Counter((_partition(source), offset) for _, source, offset, status, *_ in rows if status == "ERROR")
        assert letters == failed, f"I1: dead letters {letters}, failed {failed}"
        assert all(self.kinds[place] == "poison" for place in failed), f"I1: {failed} failed, of {self.kinds}"
        assert len(set(effects)) == len(effects), f"I5: an effect twice: {Counter(effects).most_common(1)}"
        function = OUTCOME if self.is_fused else EFFECT
        committed = {workflow for workflow, number in recorded if number == function}
        found = {f"orders-{part}-{offset}" for part, offset, _ in effects}
        assert found == committed, (
            f"I5: half a commit: effects {found - committed}, recorded {committed - found}: "
            f"{'fused' if self.is_fused else 'journaled'}, {[row for row in rows if row[0] in found ^ committed]}, "
            f"{[each for each in recorded if each[0] in found ^ committed]}"
        )
        current = self._see_claims(stored)
        self.claims.check(current, [(row[0], _partition(row[1]), row[4], row[5]) for row in rows])
        for part, key in {(part, key) for part, _, key in effects}:
            order = [offset for p, offset, k in effects if (p, k) == (part, key)]
            assert order == sorted(order), f"I7: effects of key {key} of {part} in order {order}"
        assert not self.ledger.violations, self.ledger.violations
        for seat in self.seats:
            assert not seat.engine.failure.done(), f"engine of seat {seat.number}: {seat.engine.failure.result()!r}"

    async def settle(self) -> None:
        """Stop disturbing, and wait until all is at rest (I8); then look at everything."""
        for seat in self.seats:
            seat.engine.lease.is_held_back = False
            seat.proxy.lose_commits = seat.proxy.lose_requests = 0
        deadline = time.monotonic() + QUIET_S
        while left := await self._left():
            assert time.monotonic() < deadline, f"I8: does not come to rest: {left}"
            await asyncio.sleep(0.05)
        await self.check()
        rows = await self._read("SELECT kafka_source, kafka_offset, status FROM dbos.workflow_status")
        effects = Counter(await self._read('SELECT part, "offset" FROM effect'))
        for source, offset, status in rows:
            part = _partition(source)
            poison = self.kinds[part, offset] == "poison"
            assert status in {"CANCELLED", "ERROR" if poison else "SUCCESS"}, f"{source} {offset}: {status}"
            assert effects[part, offset] == 1 or status != "SUCCESS", f"I5: {source} {offset} has no effect"
        for seat in self.seats:
            assert seat.engine.in_flight == 0, f"seat {seat.number}: {seat.engine.in_flight} counted in flight at rest"
            assert seat.engine.backlog_bytes == 0

    async def _left(self) -> list[str]:
        rows = await self._read(
            "SELECT kafka_source, count(*), count(*) FILTER (WHERE status IN ('PENDING', 'ENQUEUED')) FROM dbos.workflow_status GROUP BY 1"
        )
        counts = {source: (count, still) for source, count, still in rows}
        left: list[str] = []
        for ref, log in zip(self.refs, self.log, strict=True):
            count, still = counts.get(ref.name(1), (0, 0))
            source = self.seats[self.assigned[ref.partition]].sources.get(ref.partition)
            if source is None or source.is_gone:
                left.append(
                    f"{ref} is not attached: {self.seats[self.assigned[ref.partition]].describe(ref.partition)}"
                )
            elif count < len(log) or still or source.progress.next < len(log) or source.has_work:
                left.append(f"{ref}: {count} rows of {len(log)}, {still} open, next {source.progress.next}")
        late = sum(len(seat.engine.late) for seat in self.seats)
        if late:
            left.append(f"{late} late runs")
        return left

    async def _recorded(self) -> set[tuple[str, int]]:
        if self.is_fused:
            # One that was taken out of its group runs as a transaction with a checkpoint; its outcome follows.
            return set(
                await self._read(
                    """SELECT workflow_uuid, 0 FROM dbos.workflow_status WHERE status = 'SUCCESS'
                       UNION SELECT workflow_uuid, 0 FROM dbos.operation_outputs WHERE error IS NULL"""
                )
            )
        return set(
            await self._read("SELECT workflow_uuid, function_id FROM dbos.operation_outputs WHERE error IS NULL")
        )

    async def _progress_rows(self) -> list[tuple[Any, ...]]:
        return await self._read("SELECT key, update_seq::bigint, value FROM dbos.event_dispatch_kv")

    def _see_claims(self, stored: list[tuple[Any, ...]]) -> set[str]:
        current: set[str] = set()
        for key, _, value in stored:
            progress = Progress.decode(value)
            self.claims.saw(progress.token, _partition(key), progress.owner)
            current.add(progress.token)
        return current

    async def _read(self, query: LiteralString) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(query)
        return await cursor.fetchall()


def _partition(name: str) -> int:
    """Of a source's name, or a progress row's key."""
    return int(name.rpartition("-")[2])


def _copy(record: Record) -> Record:
    return Record(
        record.topic, record.partition, record.offset, record.key, record.value, timestamp_ms=record.timestamp_ms
    )


async def pause(seconds: float) -> None:
    """Let the executors run for a moment."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(seconds)
