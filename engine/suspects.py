"""Suspects: workflows that were running when their process died twice or more (P22).

A suspect runs alone in its process, for at most `alone_max`, then beside others: no other workflow and no fused group
begins. That it starts alone is written before it runs and taken back when the time alone is over: a row that has died
alone three times is the killer, and its neighbours are never blamed for it.

A claim that is lost meanwhile is no death, since the process lives. Its row may be another's by then, so that is noted
in the row of the executor, which is ours; before somebody is buried, these notes are counted against the deaths.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import psycopg

from engine.faults import Fault, fault_of
from engine.ids import ExecutorId, WorkflowId
from engine.runner import Phase, Run, Standing
from engine.store import blame, executor
from engine.store.statement import send

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.source import Source


class Suspects:
    """Lets one suspect at a time run, and nobody beside it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: deque[Run] = deque()
        self._deferred: deque[Run] = deque()
        self._ended: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._groups = 0
        self._no_group = asyncio.Event()
        self._no_group.set()
        self.is_closed = False
        """Whether starts are deferred: a suspect runs alone, or waits for the others to end."""

    def put(self, run: Run) -> None:
        """Queue a suspect."""
        self._queue.append(run)
        self.is_closed = True
        if self._task is None or self._task.done():
            self._task = self._engine.spawn(self._one_by_one())

    def defer(self, run: Run) -> None:
        """Start a run when the suspects are through."""
        self._deferred.append(run)

    def ended(self, run: Run) -> None:
        """The suspect has ended, durably, or its source has."""
        run.is_alone = False
        self._ended.set()

    def group_begins(self) -> None:
        """A fused group's code runs."""
        self._groups += 1
        self._no_group.clear()

    def group_ended(self) -> None:
        """It does not any more."""
        self._groups -= 1
        if not self._groups:
            self._no_group.set()

    def survive(self, source: Source) -> None:
        """A claim was lost, not this process: whoever of it runs alone has killed nobody."""
        engine = self._engine
        if engine.is_aborted:
            return
        for run in source.inbox.runs.values():
            if run.is_alone:
                engine.spawn(self._survived(engine.executor_id, run.id))

    async def _survived(self, executor_id: ExecutorId, workflow_id: WorkflowId) -> None:
        note = executor.survived_alone(executor_id=executor_id, workflow_id=workflow_id)
        while not self._engine.is_aborted:
            try:
                async with self._engine.pool.connection() as connection:
                    await send(connection, self._engine.settings.schema, note)
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

    async def _is_killer(self, run: Run) -> bool:
        """Whether it has died alone often enough: starts alone, less those that its processes survived.

        A workflow without a source is given up by another count (P29).
        """
        if not run.home.has_source:
            return False
        deaths_max = self._engine.settings.deaths_alone_max
        while run.alone_deaths >= deaths_max and _may_start(run):
            try:
                async with self._engine.pool.connection() as connection:
                    counting = executor.survivals(workflow_id=run.id)
                    row = await (await send(connection, self._engine.settings.schema, counting)).fetchone()
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    raise
                await asyncio.sleep(0.2)
            else:
                return run.alone_deaths - (0 if row is None else row[0]) >= deaths_max
        return False

    async def _one_by_one(self) -> None:  # noqa: C901  # one suspect after the other, with its cases
        alone_s = self._engine.settings.alone_max.total_seconds()
        try:
            while self._queue:
                run = self._queue.popleft()
                if not _may_start(run):
                    continue
                if await self._is_killer(run):
                    if _may_start(run):
                        run.inbox.rows.bury(run)
                    continue
                if not await self._quiet(alone_s):
                    # Somebody runs on and on: beside it nobody can be judged.
                    run.is_alone = True
                    self._begin(run)
                    run.is_alone = False
                    continue
                if not await self._write(run, alone=True):
                    continue
                self._ended.clear()
                run.is_alone = True
                self._begin(run)
                if run.phase is Phase.WAITING:
                    # None of its code ran: it waits for its key, or for what its format needs.
                    run.is_alone = False
                    await self._write(run, alone=False)
                    continue
                try:
                    async with asyncio.timeout(alone_s):
                        await self._ended.wait()
                except TimeoutError:
                    run.is_alone = False
                    await self._write(run, alone=False)
        finally:
            self.is_closed = False
            deferred, self._deferred = self._deferred, deque()
            for run in deferred:
                if _may_start(run):
                    run.home.resume(run)
            for source in self._engine.sources.attached():
                if source.inbox.group:
                    source.wants(group=True)

    def _begin(self, run: Run) -> None:
        if _may_start(run):
            run.home.begin(run)

    async def _quiet(self, timeout_s: float) -> bool:
        """Wait until no code of any workflow or fused group runs."""
        try:
            async with asyncio.timeout(timeout_s):
                self._engine.turns.let_go()  # and none is kept, as long as starts are deferred
                while self._engine.tasks:
                    await asyncio.wait(self._engine.tasks)
                await self._engine.handler_threads.quiet()
                await self._no_group.wait()
        except TimeoutError:
            return False
        return True

    async def _write(self, run: Run, *, alone: bool) -> bool:
        build = blame.start_alone if alone else blame.forgive
        while _may_start(run) or not alone:
            try:
                async with self._engine.pool.connection() as connection:
                    await send(
                        connection,
                        self._engine.settings.schema,
                        build(workflow_id=run.id, owner=run.owner),
                    )
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    raise
                await asyncio.sleep(0.2)
            else:
                return True
        return False


def _may_start(run: Run) -> bool:
    return run.standing is Standing.ACTIVE and run.home.is_open and run.phase is not Phase.DONE
