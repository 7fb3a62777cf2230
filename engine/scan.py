"""One combined look, about once a second, at what nobody tells us: the base under the hints.

- rows at rest that nobody here knows: an operator's retry, a client's resume, what a late run handed over;
- rows that another live executor's late run owned when we last looked (P12, P18);
- holds that operators placed or lifted;
- once a lease, rows that name a superseded claim of ours and have no run here (P12);
- now and then, in one process, how many dead letters are open (engine/depths.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg

from engine.failures import summary
from engine.faults import Fault, fault_of
from engine.ids import OrderingKey
from engine.runner import Phase, Row, Run
from engine.store import holds, workflow_status
from engine.store.statement import send
from engine.store.workflow_status import FoundRow
from engine.tasks import end
from engine.telemetry import StoreUnavailable

if TYPE_CHECKING:
    from engine.engine import Engine

ROWS_MAX = 500
"""Unknown rows taken in one look."""


class Scan:
    """The looking service."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._foreign: set[Run] = set()
        self._hint = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._swept_at = time.monotonic()

    def start(self) -> None:
        """Begin looking."""
        self._task = self._engine.loop.create_task(self._look_for_ever(), name="scan")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await end(self._task)

    def hint(self) -> None:
        """Look now: somebody said that a row changed."""
        self._hint.set()

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
                await self._engine.depths.look_if_due()
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    self._engine.failed(error)
                    raise
                self._engine.telemetry.emit(StoreUnavailable(summary(error), 0.0))
            except Exception as error:
                self._engine.failed(error)
                raise

    def _try_foreign(self) -> None:
        foreign, self._foreign = self._foreign, set()
        for run in foreign:
            if run.inbox.is_open and run.phase is Phase.WAITING and run.row is Row.FOREIGN:
                run.inbox.rows.examine(run)

    async def _look(self) -> None:  # one look at three things
        engine = self._engine
        sources = {source.name: source for source in engine.sources.attached() if source.held is None}
        watched = engine.sources.attached() + list(engine.sources.halted.values())
        if not watched:
            return
        blocked_before = {name: set(source.inbox.keys.blocked) for name, source in sources.items()}
        schema = engine.settings.schema
        async with engine.pool.connection() as connection, connection.pipeline():
            held = await send(
                connection,
                schema,
                holds.read(
                    services=[source.ref.service_name for source in watched],
                    keys=[source.ref.key for source in watched],
                ),
            )
            rest = await send(
                connection, schema, workflow_status.rows_at_rest(sources=list(sources), known=[], limit=ROWS_MAX)
            )
            rows = await rest.fetchall()
            unknown = self._unknown(rows)
            if not unknown and len(rows) == ROWS_MAX:
                known = [run_id for source in sources.values() for run_id in source.inbox.rows.known()]
                rest = await send(
                    connection,
                    schema,
                    workflow_status.rows_at_rest(sources=list(sources), known=known, limit=ROWS_MAX),
                )
                unknown = self._unknown(await rest.fetchall())
            if unknown:
                found = await send(connection, schema, workflow_status.look_up(ids=[i for _, i in unknown]))
                by_source: dict[str, list[FoundRow]] = {}
                for row in await found.fetchall():
                    by_source.setdefault(row.source or "", []).append(row)
                for name, mine in by_source.items():
                    if (source := sources.get(name)) is not None and not source.is_gone:
                        source.inbox.rows.take_rows(mine)
            stored = await held.fetchall()
        by_key: dict[tuple[str, str], list[holds.HoldRow]] = {}
        for hold in stored:
            by_key.setdefault((hold.service_name, hold.key), []).append(hold)
        for source in watched:
            mine = by_key.get((source.ref.service_name, source.ref.key), [])
            whole = [hold for hold in mine if hold.ordering_key is None]
            engine.sources.compare_hold(source, whole)
            if source.name in blocked_before and not source.is_gone:
                keys = {OrderingKey(hold.ordering_key) for hold in mine if hold.ordering_key is not None}
                source.inbox.keys.blocked |= keys
                source.inbox.unblock(blocked_before[source.name] - keys)

    def _unknown(self, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        sources = {source.name: source for source in self._engine.sources.attached()}
        return [
            (name, workflow_id)
            for name, workflow_id in rows
            if (source := sources.get(name)) is not None
            and not source.is_gone
            and not source.inbox.rows.knows(workflow_id)
        ]
