"""Transactional steps of several workflows in one commit (P7, P20, P24; decision 0006).

    workflows' tasks                      one group, on a pool connection
    ────────────────                      ───────────────────────────────
    join ─▶ queue of the step ──────────▶ BEGIN
    turn: its function runs here,  ◀────  next in the queue, one after the other,
    its statements are pipelined  ─────▶  until the queue is empty, GROUP_S are over, or GROUP_MAX are in
                                          INSERT checkpoints ─ fence of all rows ─ outbox ─ COMMIT
    verdict ◀───────────────────────────  durable | again | alone

Nobody waits for company: the first to come opens a group, and whoever comes while a group is under way is in the next
one. A function that waits long has the group nearly for itself, since the others do not wait behind it for longer than
GROUP_S. When anything of a group fails, all of it is rolled back: who failed runs alone, in a transaction of its own
(`transactional`), which decides what the failure means; the others run again in smaller groups.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from engine import cut_off
from engine.crashpoints import CrashPoint, reach
from engine.eager import Begun
from engine.failures import UNRECORDED, summary
from engine.faults import Fault, fault_of, is_conflict, is_weather_error
from engine.ids import WorkflowId
from engine.one_commit import one_commit
from engine.outgoing import Publications
from engine.runner import Row, Run, now_ms
from engine.sealed_rows import sealed_checkpoint
from engine.statement_queue import StatementQueue
from engine.store import blame, operation_outputs, outbox, workflow_status
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import send
from engine.telemetry import FlushRetried, StepsFinished, TransactionsCommitted
from engine.transaction import Transaction, begin_user_transaction
from engine.transaction_members import Function, FunctionFailed, Member, NotCommittedError, Verdict, tell

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.handlers import TransactionStep

GROUP_S = 0.05
"""How long a group takes in others: how long a row lock of the first waits for the last."""

GROUP_MAX = 500
"""Most workflows of one commit."""

TRIES_MAX = 3
"""Failed groups after which a workflow runs alone, whoever failed."""

SLOW_S = 0.01
"""A function that takes longer has others start a group beside it."""

POOL_KEPT = 2
"""Connections of the pool that groups leave to claims, look-ups and transactions alone."""

WEATHER_WAIT_FIRST_S = 0.05
WEATHER_WAIT_MAX_S = 5.0
"""Wait between two tries while Postgres is away, doubled each time."""


class TransactionGroups:
    """The groups of one engine, a queue for each step."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.running = 0
        """Groups under way, of all steps."""
        self._queues: dict[int, _Queue] = {}

    @property
    def running_max(self) -> int:
        """Connections for groups."""
        return max(1, self.engine.settings.pool_max - POOL_KEPT)

    def ended(self) -> None:
        """A connection is free: for whichever step waits."""
        self.running -= 1
        for queue in self._queues.values():
            queue.start_another()

    async def call(self, run: Run, step: TransactionStep, function_id: int, function: Function) -> Any:
        """Run a function in a group and return its result once that is durable.

        Raises:
            NotCommittedError: It, or too many of its groups, failed: nothing was written.
            Suspended: The run may not go on here.
        """
        queue = self._queues.get(id(step))
        if queue is None:
            queue = self._queues[id(step)] = _Queue(self, step)
        return await queue.call(Member(run, function_id, function))


class _Queue:
    """Who waits for a group of one step."""

    def __init__(self, groups: TransactionGroups, step: TransactionStep) -> None:
        self.step = step
        self.waiting: deque[Member] = deque()
        self.size_max = GROUP_MAX
        """Halved after a failure, grown by successes."""
        self._groups = groups
        self.engine = groups.engine
        self._gathering: set[_Group] = set()
        self._is_starting = False
        """Whether a group waits for its connection, and will take in who waits now."""
        self._running = 0
        self._running_max = float(groups.running_max)
        """Halved after a conflict, until groups of this step wait for each other no longer."""
        self._wait_s = WEATHER_WAIT_FIRST_S

    # -- in the workflow's task --

    async def call(self, member: Member) -> Any:
        run = member.run
        while True:
            if run.row is not Row.RUNNING:
                await run.persisted()
            if not run.is_ready():
                await run.ready()
            self.waiting.append(member)
            self.start_another()
            said = await self._until_verdict(member)
            if said is Verdict.DURABLE:
                return member.result
            if isinstance(member.error, UNRECORDED):
                raise member.error
            if said is Verdict.ALONE:
                raise NotCommittedError
            member.renew()

    async def _until_verdict(self, member: Member) -> Verdict:
        while True:
            said = member.said
            try:
                found = await said
                if isinstance(found, Verdict):
                    return found
                member.said = self.engine.loop.create_future()
                await found
            except BaseException:
                if said.done() and not said.cancelled() and isinstance(begun := said.result(), Begun):
                    begun.cancel()
                if member.ended is not None:
                    tell(member.ended, None)
                await self._until_decided(member)
                if member.verdict is Verdict.DURABLE and cut_off.is_own(member.run):
                    return Verdict.DURABLE  # it has committed: its caller hears that, and nothing of the cut
                raise
            finally:
                if member.ended is not None:
                    tell(member.ended, None)

    async def _until_decided(self, member: Member) -> None:
        """Cancelled: what its function has sent may be committed yet, and nothing follows before that is known (P17)."""
        while member.transaction is not None and member.verdict is None:
            member.said = self.engine.loop.create_future()
            with suppress(asyncio.CancelledError):
                await member.said

    # -- groups --

    def start_another(self) -> None:
        """Start a group if somebody waits whom none will take in soon."""
        if not self.waiting or self.engine.stopping.is_set() or self._groups.running >= self._groups.running_max:
            return
        if self._is_starting or self._running >= max(1, int(self._running_max)):
            return
        if self._gathering:
            now = time.monotonic()
            if any(now - group.turn_began < SLOW_S for group in self._gathering):
                return
        self._groups.running += 1
        self._running += 1
        self._is_starting = True
        self.engine.spawn(self._run())

    async def _run(self) -> None:
        """Groups, one after the other, until nobody waits."""
        try:
            while (
                self.waiting and not self.engine.stopping.is_set() and self._running <= max(1, int(self._running_max))
            ):
                await self._run_one()
        finally:
            self._is_starting = False
            self._running -= 1
            self._groups.ended()

    async def _run_one(self) -> None:
        group = _Group(self)
        look_again = self.engine.loop.call_later(SLOW_S, self.start_another)
        try:
            # Given back after every group: whoever waits for a connection has its turn in between.
            async with self.engine.pool.connection() as connection:
                self._is_starting = False
                self._gathering.add(group)
                began = time.perf_counter()
                lsn = await group.commit(connection)
                duration_s = time.perf_counter() - began
        except Exception as error:  # noqa: BLE001  # of the users' functions and of the database
            # Without the connection: settling wants one, and there may be no other.
            await self._failed(group, error)
        else:
            self._wait_s = WEATHER_WAIT_FIRST_S
            if group.members:
                self._durable(group.members, lsn)
                committed = TransactionsCommitted(self.step.name, duration_s, len(group.members))
                self.engine.telemetry.emit(committed)
                self.size_max = min(GROUP_MAX, self.size_max + 1 + self.size_max // 8)
                self._running_max = min(float(self._groups.running_max), self._running_max + 0.1)
        finally:
            look_again.cancel()
            self._gathering.discard(group)
            for member in group.members:
                if member.verdict is None:
                    member.hear(
                        Verdict.AGAIN
                    )  # the engine ends, or settling failed: a checkpoint that stands refuses it

    def sent(self, group: _Group) -> None:
        """A group takes nobody in any more."""
        self._gathering.discard(group)
        self.start_another()

    def _durable(self, members: Sequence[Member], lsn: str) -> None:
        reach(CrashPoint.TRANSACTION_DURABLE)
        engine = self.engine
        engine.database.saw(lsn)
        now = now_ms()
        durations: dict[str, list[float]] = {}
        published = False
        for member in members:
            run = member.run
            run.recovery_attempts = run.alone_deaths = 0
            run.was_recorded(member.function_id)
            durations.setdefault(run.handler.name, []).append((now - member.started_ms) / 1000)
            member.hear(Verdict.DURABLE)
            published = published or (member.transaction is not None and bool(member.transaction.publications.events))
        if published:
            engine.outbox_hints.published()
        for handler, seconds in durations.items():
            engine.telemetry.emit(StepsFinished(handler, self.step.name, "success", seconds))

    # -- failures --

    async def _failed(self, group: _Group, error: Exception) -> None:
        """Nothing of the group is durable, unless its COMMIT was sent and its reply lost (P24)."""
        members = group.members
        if group.is_cut or (is_weather_error(error) and not isinstance(error, FunctionFailed)):
            if group.is_sent:
                self.engine.telemetry.emit(FlushRetried("unknown commit", summary(error)))
                await self._settle(members)
            self._set_back(members)
            await self._wait_for_weather()
            return
        if fault_of(error) is Fault.WENT_BACK:
            self.engine.went_back(str(error))
        cause = error.__cause__ if isinstance(error, FunctionFailed) else error
        if cause is not None and is_conflict(cause):
            self._lost_a_conflict(members)
            return
        at_fault = group.at_fault(error)
        self.size_max = max(1, len(members) // 2)
        for member in members:
            member.tries += 1
            alone = member.run.id in at_fault or member.tries >= TRIES_MAX
            member.hear(Verdict.ALONE if alone else Verdict.AGAIN)

    def _set_back(self, members: Sequence[Member]) -> None:
        """Bad weather: again in smaller groups; whom it meets alone goes on alone, as it may have made it (decision 0034)."""
        self.size_max = max(1, min(self.size_max, len(members) // 2))
        for member in members:
            if member.verdict is None:
                member.hear(Verdict.ALONE if len(members) == 1 else Verdict.AGAIN)

    def _lost_a_conflict(self, members: Sequence[Member]) -> None:
        """Again, in fewer groups at once: within one, functions wait for nobody (P26)."""
        self._running_max = max(1.0, self._running_max / 2)
        for member in members:
            member.conflicts += 1
            given_up = member.conflicts >= self.step.conflict_attempts
            member.hear(Verdict.ALONE if given_up else Verdict.AGAIN)

    async def _settle(self, members: Sequence[Member]) -> None:
        """P24 for a group: lock the rows, which waits for our own lost transaction, and read what stands."""
        engine = self.engine
        ids = [member.run.id for member in members]
        while not engine.is_aborted:
            try:
                async with engine.pool.connection() as connection, connection.transaction():
                    await send(connection, engine.settings.schema, workflow_status.lock(ids=ids))
                    cursor = await send(connection, engine.settings.schema, operation_outputs.recorded(ids=ids))
                    recorded = set(await cursor.fetchall())
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    raise
                await self._wait_for_weather()
                continue
            self._durable([m for m in members if (m.run.id, m.function_id) in recorded], engine.database.lsn)
            return

    async def _wait_for_weather(self) -> None:
        await asyncio.sleep(self._wait_s * random.uniform(0.5, 1.5))
        self._wait_s = min(self._wait_s * 2, WEATHER_WAIT_MAX_S)


class _Group:
    """One BEGIN to COMMIT."""

    def __init__(self, queue: _Queue) -> None:
        self.is_cut = False
        """Whether its connection broke."""
        self.members: list[Member] = []
        self.is_sent = False
        self.turn_began = time.monotonic()
        self._queue = queue
        self.engine = queue.engine

    async def commit(self, connection: AsyncConnection[Any]) -> str:
        """Take in whoever waits, and commit. Returns the WAL position, as the fence saw it; '' if nobody had begun."""
        self.turn_began = time.monotonic()
        try:
            async with one_commit(connection):
                await begin_user_transaction(connection, idle_ms=self.engine.settings.idle_ms)
                await self._take_in(connection)
                if not self.members:
                    raise psycopg.Rollback
                self._queue.sent(self)
                fenced = await self._record(connection)
                reach(CrashPoint.TRANSACTION_WRITTEN)
                self.is_sent = True
        finally:
            self.is_cut = connection.closed
        if not self.members:
            return ""
        row = await fenced.fetchone()
        assert row is not None, "fence_rows returns a row or raises"
        return str(row[0])

    async def _take_in(self, connection: AsyncConnection[Any]) -> None:
        queue = self._queue
        waiting, members = queue.waiting, self.members
        statements = StatementQueue(connection)
        ends = time.monotonic() + GROUP_S
        while waiting and len(members) < queue.size_max:
            member = waiting.popleft()
            if member.said.done():
                continue  # cancelled while it waited
            if not member.run.is_ready():
                member.hear(Verdict.AGAIN)  # the wait has outlived the lease or the claim (P1)
                continue
            settings = self.engine.settings
            publications = Publications(
                bytes_max=settings.event_bytes_max,
                schema=settings.schema,
                seal=self.engine.payloads.seal,
                tracing=self.engine.tracing,
            )
            transaction = Transaction(connection, publications, statements)
            members.append(member)
            if (ended := member.begin(queue.step, transaction)) is not None:
                await ended
            if not member.has_returned:
                raise FunctionFailed from member.error
            now = self.turn_began = time.monotonic()
            if now >= ends or transaction.lingers:
                return

    async def _record(self, connection: AsyncConnection[Any]) -> Any:
        """The checkpoints, the fence of all rows (it raises, so that COMMIT becomes a rollback), what they publish."""
        engine, members = self.engine, self.members
        schema = engine.settings.schema
        now, name = now_ms(), self._queue.step.name
        made = [Checkpoint(m.run.id, m.function_id, name, m.output, None, m.started_ms, now) for m in members]
        if (seal := engine.payloads.seal) is not None:
            made = [sealed_checkpoint(checkpoint, seal) for checkpoint in made]
        await send(connection, schema, operation_outputs.insert(made))
        forgiven = [m.run for m in members if m.run.recovery_attempts or m.run.alone_deaths]
        if forgiven:
            await send(
                connection,
                schema,
                blame.reset_blame(ids=[r.id for r in forgiven], owners=[r.owner for r in forgiven]),
            )
        earlier = [(m.run.id, function_id) for m in members for function_id in m.run.durable_ids]
        fenced = await send(
            connection,
            schema,
            workflow_status.fence_rows(
                ids=[m.run.id for m in members],
                owners=[m.run.owner for m in members],
                checkpoint_ids=[i for i, _ in earlier],
                function_ids=[f for _, f in earlier],
                timeline=engine.database.timeline,
                lsn=engine.database.lsn,
            ),
        )
        events = [event for m in members if m.transaction is not None for event in m.transaction.publications.events]
        for statement in outbox.publishing(events):
            await send(connection, schema, statement)
        return fenced

    def at_fault(self, error: Exception) -> set[WorkflowId]:
        """Whose failure it was, as far as that can be told: a lost row, a failed statement, the last to have its turn."""
        if isinstance(error, psycopg.Error) and error.sqlstate == "KP002" and error.diag.message_detail:
            return set(json.loads(error.diag.message_detail))
        for member in self.members:
            if member.transaction is not None and member.transaction.failed_statement() is not None:
                return {member.run.id}
        return {self.members[-1].run.id} if isinstance(error, FunctionFailed) else set()
