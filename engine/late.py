"""Late runs: code of a partition that has left, still running here (P12 to P14).

A run that outlives its release goes on to the end of its running steps; then, under the row fence, its checkpoints
and its outcome are written, or its row is handed over ownerless, and a hint is sent. A run whose claim was lost is
abandoned: its result is dropped. Either way its key runs nowhere in this process until it has ended, also when the
partition comes back (P13). Nor does it anywhere else while its row names this executor, cancelled or not: what was
refused is *let go* once its code has ended (P18).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncCursor

from engine.effects import extras_of, lock
from engine.faults import Fault, fault_of
from engine.flush import Flush, Work
from engine.ids import OwnerToken, SourceRef, WorkflowId
from engine.publishing import publishing
from engine.runner import Phase, Row, Run, Standing
from engine.sealed_rows import outcome
from engine.store import executor, open_work, operation_outputs, owned_rows, starts
from engine.store.statement import Statement, send
from engine.telemetry import HandedOver, LateResultRefused
from engine.transactional import WEATHER_WAIT_MAX_S, row_fence
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.engine import Engine

ROWS_CHANNEL = "processor_rows"
ORPHANS_MAX = 1_000


class LateRuns:
    """The late runs of this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runs: set[Run] = set()
        self._by_place: dict[tuple[SourceRef, object], set[Run]] = {}
        """By key, and by workflow ID: of a raw row the key may be known to one claim and not to the next."""
        self._waiting: dict[tuple[SourceRef, object], list[Run]] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._refused: list[tuple[WorkflowId, OwnerToken, str]] = []
        """Rows that name a run of ours which has ended, and nothing else will be written of."""

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """A run outlived its claim."""
        self._runs.add(run)
        for place in _places(run):
            self._by_place.setdefault(place, set()).add(run)
        self._empty.clear()

    def holds(self, run: Run) -> bool:
        """Whether an abandoned run here still has this run's key, or is of its record; then `run` goes on after it."""
        if not self._runs:
            return False
        for place in _places(run):
            if any(late.standing is Standing.ABANDONED for late in self._by_place.get(place, ())):
                self._waiting.setdefault(place, []).append(run)
                return True
        return False

    def ended(self, run: Run) -> None:
        """A late run's code has ended and its row is decided, or was never ours to decide."""
        if run in self._runs and run.standing is Standing.ABANDONED and run.row is Row.RUNNING:
            self.let_go(run.id, run.owner, run.inbox.source.name)
        self._runs.discard(run)
        if not self._runs:
            self._empty.set()
        for place in _places(run):
            late = self._by_place.get(place)
            if late is not None:
                late.discard(run)
            if not late:
                self._by_place.pop(place, None)
                for waiting in self._waiting.pop(place, []):
                    waiting.inbox.go(waiting)

    async def all_ended(self, timeout_s: float) -> bool:
        """Wait until none is left, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def hand_over(self, run: Run) -> None:
        """Write what a late run has done, and its outcome or nobody as its owner, under the row fence (P12)."""
        wait_s = 0.05
        while run.standing is Standing.LATE and not self._engine.is_aborted:
            try:
                await self._write(run)
                break
            except psycopg.Error as error:
                fault = fault_of(error)
                if fault is Fault.WEATHER:
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
                    wait_s = min(wait_s * 2, WEATHER_WAIT_MAX_S)
                    continue
                if fault is Fault.CONFLICT:
                    if await self._children_settled(run, error):
                        continue
                    break  # the reply of our own commit was lost: it stands (P24)
                if fault is Fault.WENT_BACK:
                    self._engine.went_back(str(error))
                self._engine.telemetry.emit(LateResultRefused(run.id, str(error).split("\n", 1)[0]))
                self.let_go(run.id, run.owner, run.inbox.source.name)
                break
        run.phase = Phase.DONE
        self.ended(run)

    async def _write(self, run: Run) -> None:
        engine = self._engine
        schema = engine.settings.schema
        work = Work(run)
        extras = extras_of(engine, [work])
        published = publishing([work] if _is_final(work) else [], extras)
        sent: dict[str, AsyncCursor[Any]] = {}
        try:
            async with engine.pool.connection() as connection, connection.pipeline(), connection.transaction():
                if extras is not None and (others := extras.touches()):
                    await send(connection, schema, lock([run.id], others))
                fenced = await send(
                    connection, schema, row_fence(run, timeline=engine.database.timeline, lsn=engine.database.lsn)
                )
                if work.checkpoints:
                    await send(connection, schema, operation_outputs.insert(work.checkpoints))
                for statement in _outcome(work):
                    await send(connection, schema, statement)
                if extras is not None:
                    sent = {name: await send(connection, schema, each) for name, each in extras.statements()}
                await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload=run.inbox.source.name))
                for statement in published:
                    await send(connection, schema, statement)
        except BaseException:
            run.unsent = work.checkpoints + run.unsent
            raise
        row = await fenced.fetchone()
        if row is not None:
            engine.database.saw(row[0])
        if extras is not None:
            extras.applied(
                {name: await cursor.fetchall() for name, cursor in sent.items() if cursor.description is not None}
            )
        if published:
            engine.outbox_hints.published()
        engine.telemetry.emit(HandedOver(run.inbox.source.ref, run.ending is not None))

    async def _children_settled(self, run: Run, error: psycopg.Error) -> bool:
        """Whether it was the ID of a child that stood already, and the run can be written now (P31)."""
        from engine import child_conflicts

        if not child_conflicts.is_of_a_row(error):
            return False

        async def standing(ids: Sequence[str]) -> dict[str, starts.ExistingRow]:
            async with self._engine.pool.connection() as connection:
                cursor = await send(connection, self._engine.settings.schema, starts.existing(ids=ids))
                return {row.workflow_id: row for row in await cursor.fetchall()}

        return await child_conflicts.settled_alone(run, lambda ids: through_weather(lambda: standing(ids)))

    def let_go(self, workflow_id: WorkflowId, owner: OwnerToken, source: str) -> None:
        """Its code has ended, and nothing was written of it: if it was cancelled, its row names nobody any more (P18)."""
        if self._engine.is_aborted:
            return
        self._refused.append((workflow_id, owner, source))
        if len(self._refused) == 1:
            self._engine.spawn(self._let_go())

    async def _let_go(self) -> None:
        engine = self._engine
        schema = engine.settings.schema
        rows, self._refused = self._refused, []
        # Should it fail: the sweep comes within a lease.
        async with engine.pool.connection() as connection:
            await send(
                connection,
                schema,
                open_work.let_go(ids=[row[0] for row in rows], owners=[row[1] for row in rows]),
            )
            for source in {source for _, _, source in rows}:
                await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload=source))

    async def sweep(self) -> None:
        """Hand over rows that name a superseded claim of ours and have no run here (P12)."""
        engine = self._engine
        schema = engine.settings.schema
        async with engine.pool.connection() as connection:
            cursor = await send(
                connection, schema, open_work.orphans_of(executor_id=engine.executor_id, limit=ORPHANS_MAX)
            )
            rows = await cursor.fetchall()
            # Read after the rows: a claim taken meanwhile is ours, and its rows are no orphans.
            tokens = {source.token for source in engine.sources.attached()}
            running = {run.id for run in self._runs}
            orphans = [
                (workflow_id, owner, source)
                for workflow_id, owner, source in rows
                if owner not in tokens and workflow_id not in running
            ]
            if not orphans:
                return
            await send(
                connection,
                schema,
                open_work.disown(
                    ids=[workflow_id for workflow_id, _, _ in orphans],
                    owners=[owner for _, owner, _ in orphans],
                ),
            )
            for source in {source for _, _, source in orphans}:
                await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload=source))


def _places(run: Run) -> tuple[tuple[SourceRef, object], ...]:
    ref = run.inbox.source.ref  # not its name: a topic made anew has the keys of the former one (P30)
    return ((ref, run.id),) if run.key is None else ((ref, run.id), (ref, run.key))


def _is_final(work: Work) -> bool:
    return work.run.ending is not None and work.run.ending.is_final


def _outcome(work: Work) -> list[Statement[Any]]:
    """How it ended, or that its row is free."""
    run, ending = work.run, work.run.ending
    if ending is None or not ending.is_final:
        rest = owned_rows.rest(
            ids=[run.id],
            owners=[run.owner],
            attempts=[ending.attempt if ending else None],
            wakes=[ending.wake_at if ending else None],
            ended=[True],
            asleep=[ending is not None and ending.asleep],
            keys=[run.key],
        )
        return [rest]
    output, error = outcome(ending, run.home.seal)
    made: list[Statement[Any]] = [
        owned_rows.finish(
            ids=[run.id],
            owners=[run.owner],
            statuses=[ending.status],
            results=[output],
            failures=[error],
        )
    ]
    if ending.reason:
        made.append(Flush.dead_letters([work]))
        if ending.hold is not None:
            made.append(Flush.holds([work]))
    return made
