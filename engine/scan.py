"""One combined look, about once a second, at what nobody tells us: the base under the hints.

- rows at rest that nobody here knows: an operator's retry, a client's resume, what a late run handed over, what slept;
- rows that another live executor's late run owned when we last looked (P12, P18);
- holds that operators placed or lifted;
- workflows without a source that are due, that a dead executor ran, whose time is over, or that were cancelled (P29);
- queues in which something is ready or due (engine/dispatcher.py takes it);
- the heartbeats of other executors (engine/deaths.py);
- once a lease, rows that name us and have no run here (P12);
- now and then, in one process, how many dead letters are open (engine/depths.py).

All but the last two are one statement. It also says when the next row is due, and the look comes then: timers are
precise without anybody who looks more often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from engine.clock import now_ms
from engine.failures import summary
from engine.faults import Fault, fault_of
from engine.ids import OrderingKey
from engine.runner import Phase, Row, Run
from engine.store import holds, look, workflow_status
from engine.store.statement import send
from engine.store.workflow_status import FoundRow
from engine.tasks import end
from engine.telemetry import StoreUnavailable

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.source import Source

ROWS_MAX = 500
"""Unknown rows taken in one look."""

DUE_MAX_S = 3_600.0
"""Longest timer for a row that is due; every look sets it anew."""


class Scan:
    """The looking service."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._foreign: set[Run] = set()
        self._hint = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._swept_at = time.monotonic()
        self._due_at: int | None = None
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin looking."""
        self._task = self._engine.loop.create_task(self._look_for_ever(), name="scan")

    async def stop(self) -> None:
        """End."""
        if self._due is not None:
            self._due.cancel()
        if self._task is not None:
            await end(self._task)

    def hint(self) -> None:
        """Look now: somebody said that a row changed."""
        self._hint.set()

    def due_at(self, at_ms: int) -> None:
        """Look at a time (epoch ms), if no look comes before."""
        if self._due_at is not None and self._due_at <= at_ms:
            return
        self._due_at = at_ms
        if self._due is not None:
            self._due.cancel()
        delay_s = min(max(at_ms - now_ms(), 0) / 1000, DUE_MAX_S)
        self._due = self._engine.loop.call_later(delay_s, self.hint)

    def watch_foreign(self, run: Run) -> None:
        """Try a row again at every look, until it can be acquired or has ended."""
        self._foreign.add(run)

    async def _look_for_ever(self) -> None:
        interval_s = self._engine.settings.scan.total_seconds()
        while True:
            try:
                async with asyncio.timeout(interval_s):
                    await self._hint.wait()
            except TimeoutError:
                pass
            self._hint.clear()
            self._try_foreign()
            try:
                await self._look()
                if time.monotonic() - self._swept_at > self._engine.settings.lease.total_seconds():
                    # Also without a partition: what it left may name it still (P12).
                    self._swept_at = time.monotonic()
                    await self._engine.late.sweep()
                    await self._engine.recovery.sweep()
                await self._engine.depths.look_if_due()
            except psycopg.Error as error:
                match fault_of(error):
                    case Fault.WEATHER:
                        self._engine.telemetry.emit(StoreUnavailable(summary(error), 0.0))
                    case Fault.WENT_BACK:
                        self._engine.went_back(str(error))
                    case _:
                        self._engine.failed(error)
                        raise
            except Exception as error:
                self._engine.failed(error)
                raise

    def _try_foreign(self) -> None:
        foreign, self._foreign = self._foreign, set()
        for run in foreign:
            if run.inbox.is_open and run.phase is Phase.WAITING and run.row is Row.FOREIGN:
                run.inbox.rows.examine(run)

    async def _look(self) -> None:
        engine = self._engine
        sources = self._by_name(source for source in engine.sources.attached() if source.held is None)
        watched = engine.sources.attached() + list(engine.sources.halted.values())
        if not watched and not engine.commons.handlers:
            return
        blocked_before = {source: set(source.inbox.keys.blocked) for source in sources.values()}
        for source in watched:
            source.inbox.rows.rested.clear()
        self._due_at = None
        asked = look.look(
            runnable=engine.commons.runnable,
            running=engine.recovery.asked(),
            sources=list(sources),
            services=[source.ref.service_name for source in watched],
            keys=[source.ref.key for source in watched],
            queues=engine.dispatcher.names,
            limit=ROWS_MAX,
        )
        async with engine.pool.connection() as connection:
            cursor = await send(connection, engine.settings.schema, asked)
            found = await cursor.fetchone()
            assert found is not None, "a look returns one row"
            engine.lease.saw((name, counter) for name, counter in found.executors or ())
            if found.rest:
                await self._take_rest(connection, sources, [(row[0], row[1]) for row in found.rest])
        self._compare_holds(watched, blocked_before, [holds.HoldRow(*row) for row in found.held or ()])
        for next_due in (found.next_due_of_sources, found.next_due_of_queues):
            if next_due is not None:
                self.due_at(next_due)
        if found.queues or found.dead:
            engine.dispatcher.found(found.queues or (), found.dead or ())
        if await engine.recovery.act(found):
            self.hint()

    async def _take_rest(
        self,
        connection: AsyncConnection[Any],
        sources: Mapping[str, Source],
        rows: Sequence[tuple[str, str]],
    ) -> None:
        """Hand rows of our partitions that nobody here knows to their inboxes."""
        schema = self._engine.settings.schema
        for name, workflow_id in rows:
            if (source := sources.get(name)) is not None and not source.is_gone:
                source.inbox.rows.is_due(workflow_id)
        unknown = self._unknown(rows)
        if not unknown and len(rows) == ROWS_MAX:
            known = [run_id for source in set(sources.values()) for run_id in source.inbox.rows.known()]
            rest = await send(
                connection, schema, workflow_status.rows_at_rest(sources=list(sources), known=known, limit=ROWS_MAX)
            )
            unknown = self._unknown(await rest.fetchall())
        if not unknown:
            return
        looked = await send(connection, schema, workflow_status.look_up(ids=[i for _, i in unknown]))
        by_source: dict[Source, list[FoundRow]] = {}
        for row in await looked.fetchall():
            if (source := sources.get(row.source or "")) is not None:
                by_source.setdefault(source, []).append(row)
        for source, mine in by_source.items():
            if source.is_gone:
                continue
            if source.inbox.rows.take_rows(mine) and len(rows) == ROWS_MAX:
                self.hint()  # there may be more

    def _compare_holds(
        self, watched: Sequence[Source], blocked_before: dict[Source, set[OrderingKey]], stored: Sequence[holds.HoldRow]
    ) -> None:
        engine = self._engine
        by_key: dict[tuple[str, str], list[holds.HoldRow]] = {}
        for hold in stored:
            by_key.setdefault((hold.service_name, hold.key), []).append(hold)
        for source in watched:
            mine = by_key.get((source.ref.service_name, source.ref.key), [])
            whole = [hold for hold in mine if hold.ordering_key is None]
            engine.sources.compare_hold(source, whole)
            if source in blocked_before and not source.is_gone:
                keys = {OrderingKey(hold.ordering_key) for hold in mine if hold.ordering_key is not None}
                source.inbox.keys.blocked |= keys
                source.inbox.unblock(blocked_before[source] - keys)

    def _unknown(self, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        sources = self._by_name(self._engine.sources.attached())
        return [
            (name, workflow_id)
            for name, workflow_id in rows
            if (source := sources.get(name)) is not None
            and not source.is_gone
            and not source.inbox.rows.knows(workflow_id)
        ]

    @staticmethod
    def _by_name(sources: Iterable[Source]) -> dict[str, Source]:
        """Sources by their names and those of the topics before them, whose rows are theirs as well (P30)."""
        return {name: source for source in sources for name in (source.name, *source.former_names)}
