"""Takes rows of workflows without a source that nobody runs: due, left by a dead executor, or past their time (P22, P29).

    look (engine/scan.py) ─┬─ due at rest ────────────▶ take ────────┐
                           ├─ a dead executor's ──────▶ take over ───┴─▶ histories ─▶ commons
                           ├─ past their deadline ────▶ cancel
                           └─ cancelled by others ────▶ their runs here begin nothing more

Batches are bounded by the room there is, rows that another process is taking at the moment are skipped, and each batch is
one transaction with the database fence (P4). Should its reply be lost, the rows name this executor and have no run here:
the sweep hands them over, within two leases.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.crashpoints import CrashPoint, reach
from engine.ids import OwnerToken, WorkflowId, new_token
from engine.runner import Phase, Row, Standing
from engine.store import cancels, open_work, operation_outputs, waiting, workflow_status
from engine.store import commons as store
from engine.store.commons import TakenRow
from engine.store.look import Found
from engine.store.statement import Statement, send
from engine.telemetry import WorkflowsExpired, WorkflowsTaken
from engine.weather import through_weather

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.engine import Engine

BATCH_MAX = 500
"""Rows taken in one transaction: their inputs and histories are in memory together."""

BATCHES_MAX = 20
"""Batches after one look; then the next look comes at once."""

ASKED_MAX = 1_000
"""Workflows whose rows are looked at in one look; after some looks all had their turn."""

ASK_AFTER_S = 1.0
"""A workflow that runs longer has its row looked at: it may have been cancelled, and would hear of it at its next step only."""

SWEPT_MAX = 1_000
"""Rows without a run that are handed over at once."""


class Recovery:
    """The taking service of one process; the scan's loop calls it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._without_run: set[tuple[WorkflowId, OwnerToken]] = set()
        """Rows that named us at the last sweep and had no run here."""
        self._asked_before = 0

    def asked(self) -> list[str]:
        """Runs here that have been running for a while, and those at rest whose keys others wait for: the next few."""
        before = time.monotonic() - ASK_AFTER_S
        homes = [self._engine.commons.runs, *(source.inbox.runs for source in self._engine.sources.attached())]
        asked: list[str] = [
            run.id
            for runs in homes
            for run in runs.values()
            if run.entered_at < before
            and run.standing is Standing.ACTIVE
            and (
                (run.phase is Phase.RUNNING and run.row is Row.RUNNING)
                or (run.phase is Phase.WAITING and run.row is Row.REST and run.followers)
            )
        ]
        start = self._asked_before if self._asked_before < len(asked) else 0
        self._asked_before = start + ASKED_MAX
        return asked[start : start + ASKED_MAX]

    async def act(self, found: Found) -> bool:
        """Do what a look has found. Returns whether there may be more of it."""
        engine = self._engine
        commons = engine.commons
        for interrupt in (False, True):
            if ended := [workflow_id for workflow_id, interrupts in found.ended or () if interrupts is interrupt]:
                engine.cancels.heard(ended, interrupt=interrupt)
        if found.is_answered:
            await self._wake_answered()
        if found.next_deadline is not None:
            if found.next_deadline <= found.now:
                await self._expire()
            else:
                engine.scan.due_at(found.next_deadline)
        if not commons.is_open:
            return False
        more = False
        if found.dead:
            more = await self._take_all(found.dead)
        if found.next_due is not None:
            if found.next_due <= found.now:
                more = await self._take_all(None) or more
            else:
                engine.scan.due_at(found.next_due)
        return more

    async def _take_all(self, dead: list[str] | None) -> bool:
        """Take in batches until there is no room or nothing left. Returns whether there may be more, and room."""
        commons = self._engine.commons
        for _ in range(BATCHES_MAX):
            limit = min(BATCH_MAX, commons.room())
            if limit <= 0:
                commons.has_more = True
                return False
            if len(await self._take(dead, limit)) < limit:
                return False
        return True

    async def recover(self, executors: Sequence[str]) -> list[WorkflowId]:
        """Take over now what these executors ran and this one can run; returns which. The next look would find it as well.

        One that lives keeps what it runs: nothing of it is taken. What partitions own comes with their claims.
        """
        taken: list[WorkflowId] = []
        for _ in range(BATCHES_MAX):
            limit = min(BATCH_MAX, self._engine.commons.room())
            if limit <= 0:
                break
            batch = await self._take(list(executors), limit)
            taken += batch
            if len(batch) < limit:
                break
        return taken

    async def _take(self, dead: list[str] | None, limit: int) -> list[WorkflowId]:
        engine = self._engine
        commons = engine.commons
        token = new_token()
        common: dict[str, Any] = {
            "executor_id": engine.executor_id,
            "owner": token,
            "runnable": commons.runnable,
            "busy": list(commons.runs),
            "limit": limit,
        }
        taking = store.take_due(**common) if dead is None else store.take_over(**common, dead=dead)
        async with engine.pool.connection() as connection:
            async with connection.transaction():
                rows = await self._fenced(connection, taking)
                ids = [row.workflow_id for row in rows]
                histories: list[Any] = []
                if ids:
                    cursor = await send(connection, engine.settings.schema, operation_outputs.of_workflows(ids=ids))
                    histories = await cursor.fetchall()
            reach(CrashPoint.TAKEN)
        if rows:
            engine.telemetry.emit(WorkflowsTaken("dead" if dead is not None else "due", len(rows)))
            commons.take(rows, histories, token)
        return [row.workflow_id for row in rows]

    async def _fenced(self, connection: AsyncConnection[Any], statement: Statement[TakenRow]) -> list[TakenRow]:
        """A statement's rows, in a database that has not gone back (P4)."""
        database, schema = self._engine.database, self._engine.settings.schema
        async with connection.pipeline():
            fenced = await send(
                connection, schema, workflow_status.fence_database(timeline=database.timeline, lsn=database.lsn)
            )
            cursor = await send(connection, schema, statement)
            row = await fenced.fetchone()
            assert row is not None, "fence_database returns a row or raises"
            database.saw(row[0])
            return await cursor.fetchall()

    async def _expire(self) -> None:
        """Cancel what is past its deadline, whoever runs it, with what it started."""
        engine = self._engine
        async with engine.pool.connection() as connection:
            cursor = await send(connection, engine.settings.schema, cancels.expire(limit=BATCH_MAX))
            ids = [row[0] for row in await cursor.fetchall()]
        if ids:
            engine.telemetry.emit(WorkflowsExpired(len(ids)))
            engine.cancels.are_cancelled(ids, interrupt=False)
            engine.scan.hint()

    async def _wake_answered(self) -> None:
        engine = self._engine
        async with engine.pool.connection() as connection:
            cursor = await send(connection, engine.settings.schema, waiting.wake_polled(limit=BATCH_MAX))
            if await cursor.fetchall():
                engine.hints.rows()

    async def unsettled(self) -> list[str]:
        """Some rows that run here, or that the next look should take. For tests."""
        engine = self._engine
        commons = engine.commons
        asked = store.unsettled(executor_id=engine.executor_id, runnable=commons.runnable)

        async def read() -> list[str]:
            async with engine.pool.connection() as connection:
                return [row[0] for row in await (await send(connection, engine.settings.schema, asked)).fetchall()]

        return await through_weather(read)

    async def sweep(self) -> None:
        """Hand over rows that name this executor and have no run here: the reply to their taking was lost (P12)."""
        engine = self._engine
        schema = engine.settings.schema
        async with engine.pool.connection() as connection:
            cursor = await send(connection, schema, store.running_of(executor_id=engine.executor_id, limit=SWEPT_MAX))
            rows = await cursor.fetchall()
            # Twice in a row: one that is started at this moment has its row before its run.
            found = {(workflow_id, owner) for workflow_id, owner in rows if workflow_id not in engine.commons.runs}
            orphans = found & self._without_run
            self._without_run = found - orphans
            if not orphans:
                return
            await send(
                connection,
                schema,
                open_work.disown(ids=[i for i, _ in orphans], owners=[owner for _, owner in orphans]),
            )
        engine.hints.rows()
