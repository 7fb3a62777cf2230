"""Transactional steps of journaled workflows: the user's writes and the checkpoint are one commit (I5, P20).

    row persisted through the committer
    BEGIN ─ user's statements ─ INSERT checkpoint ─ row fence ─ outbox ─ COMMIT     on a pool connection of its own

A step first tries it together with other workflows that are at the same step (`transaction_groups`). What is here runs
alone: steps with another isolation level or read-only, and whatever failed in a group, so that it is judged by itself.
The fence raises, so that COMMIT, sent in the same pipeline, becomes a rollback when the row is no longer ours (P7) or
the database went back (P4). A lost reply is settled by locking the row and reading the checkpoint (P24): the user's SQL
is not idempotent, that is the point.
"""

import asyncio
import functools
import random
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from engine import cut_off
from engine.checkpoint import answered, in_loop, in_turn, require_loop, require_thread
from engine.crashpoints import CrashPoint, reach
from engine.current import CurrentTransaction, current_run, current_step
from engine.errors import EngineError, NotYet, Suspended
from engine.execution_gates import gate_of
from engine.failures import UNRECORDED, from_thread, summary
from engine.faults import Fault, fault_of, is_conflict, is_weather_error
from engine.given_errors import record_error
from engine.handlers import TransactionStep
from engine.outgoing import Publications
from engine.procedures import ProcedureStep, call, call_and_record
from engine.runner import Run, now_ms
from engine.sealed_rows import sealed_checkpoint
from engine.store import blame, operation_outputs, outbox, workflow_status
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement, send
from engine.telemetry import FlushRetried, StepsFinished, TransactionsCommitted
from engine.transaction import SyncTransaction, Transaction, begin_user_transaction, name_statement
from engine.transaction_groups import NotCommittedError

WEATHER_WAIT_MAX_S = 5.0
"""Longest wait between two tries while Postgres is away."""


class NotInWorkflowError(EngineError):
    """Something was called where nothing could record it: outside of a workflow, in a step, in a transaction."""


def call_transaction(step: TransactionStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a transactional step from its workflow: an awaitable for an async one, the value for a sync one."""
    run = current_run.get()
    if run is None or current_step.get() is not None:
        raise NotInWorkflowError(
            f"transaction {step.name!r} was called outside a workflow, where nothing records it.\n"
            f"  Call it from a workflow; in a unit test call {step.name}.fn(tx, ...) with a transaction of yours."
        )
    function_id = run.next_function_id(step.name)
    if step.is_async:
        require_loop(run, step.name)
        return run_transaction(run, step, function_id, args, kwargs)
    require_thread(run, step.name)
    return in_loop(run, run_transaction(run, step, function_id, args, kwargs))


async def run_transaction(
    run: Run,
    step: TransactionStep,
    function_id: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    alone: bool = False,
) -> Any:
    """Answer from the history, or run the transaction until it is decided. `alone`: never in a group."""
    if run.callers is not None:
        await in_turn(run, step.name, function_id)
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            await cut_off.again(run, recorded)
        return answered(run, step, recorded)
    if run.home.engine.gates and (gate := gate_of(run, function_id)) is not None:
        async with gate.passed(step.name, function_id):
            limited = gate.limited_transaction(step)
            return await run_transaction(run, limited, function_id, args, kwargs, alone=gate.limits_time)
    if not run.is_ready():
        try:
            await run.ready()
        except asyncio.CancelledError:
            cut_off.record(run, step.name, function_id)
            raise
    started_ms = now_ms()
    run.running_steps += 1
    tracing = run.home.engine.tracing
    try:
        if tracing is None:
            return await _committed(run, step, function_id, args, kwargs, alone=alone)
        with tracing.transaction(run, step.name, function_id):
            return await _committed(run, step, function_id, args, kwargs, alone=alone)
    except asyncio.CancelledError:
        cut_off.record(run, step.name, function_id, started_ms)  # known by now to have come to nothing
        raise
    finally:
        run.step_ended()


async def _committed(
    run: Run, step: TransactionStep, function_id: int, args: tuple[Any, ...], kwargs: dict[str, Any], *, alone: bool
) -> Any:
    """In one commit with others where that may be and works, else in one of its own."""
    alone = alone or step.read_only or step.isolation != "read committed" or isinstance(step, ProcedureStep)
    if not alone:
        with suppress(NotCommittedError):
            return await _grouped(run, step, function_id, args, kwargs)
    return await _decided(run, step, function_id, args, kwargs)


async def _grouped(
    run: Run, step: TransactionStep, function_id: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """In one commit with other workflows that are at the same step. Raises `NotCommittedError` if that does not work."""

    async def function(transaction: Transaction) -> Any:
        return await call_function(run, step, transaction, args, kwargs)

    return await run.home.engine.transaction_groups.call(run, step, function_id, function)


async def _decided(
    run: Run, step: TransactionStep, function_id: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    started_ms = now_ms()
    conflicts = 0
    wait_s = 0.05
    while True:
        await run.persisted()
        await run.ready()
        token = current_step.set(CurrentTransaction(run.id, function_id, step.name, 1))
        attempt = _Attempt(run, step, function_id, started_ms)
        try:
            return await attempt.run(args, kwargs)
        except UNRECORDED as cut:
            return await attempt.cut_off(cut)
        except BaseException as error:  # noqa: BLE001  # the user's function, and its database
            if attempt.is_ours(error):
                await attempt.refused(error)
            # Of a step that may only read it is no server that takes no writes for a while.
            is_own = step.read_only and isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
            if is_weather_error(error) and not is_own:
                reason = "unknown commit" if attempt.commit_sent else "weather"
                told = f"transaction {step.name!r} of workflow {run.id}: {summary(error)}"
                run.home.engine.telemetry.emit(FlushRetried(reason, told))
                if attempt.commit_sent and (stands := await _settled(run, function_id)) is not None:
                    return step.decode(stands)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
                wait_s = min(wait_s * 2, WEATHER_WAIT_MAX_S)
                continue
            if isinstance(error, NotYet):
                await asyncio.sleep(error.again_in.total_seconds())
                continue
            conflicts += 1
            if is_conflict(error) and conflicts < step.conflict_attempts:
                await asyncio.sleep(0.01 * conflicts * random.random())
                continue
            given = record_error(run, function_id, step.name, error, started_ms)
            raise given from given.__cause__
        finally:
            current_step.reset(token)


class _Attempt:
    """One BEGIN to COMMIT."""

    def __init__(self, run: Run, step: TransactionStep, function_id: int, started_ms: int) -> None:
        self._run = run
        self._step = step
        self._function_id = function_id
        self._started_ms = started_ms
        self._in_user_code = False
        self._recorded: AsyncCursor[Any] | None = None
        """Of a procedure: its record, sent with its call."""
        self.commit_sent = False

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run, step, engine = self._run, self._step, self._run.home.engine
        async with engine.pool.connection() as connection:
            # The wait for a connection may have outlived the lease or the claim.
            await run.ready()
            transaction = Transaction(connection, self._publications())
            began = time.perf_counter()
            try:
                async with connection.pipeline(), connection.transaction():
                    await begin_user_transaction(
                        connection,
                        isolation=step.isolation,
                        read_only=step.read_only,
                        idle_ms=engine.settings.idle_ms,
                    )
                    self._in_user_code = True
                    result, output = await self._called(connection, transaction, args, kwargs)
                    transaction.end()
                    self._in_user_code = False
                    reach(CrashPoint.TRANSACTION_OPEN)
                    if step.read_only:
                        fenced = None
                    else:
                        if self._recorded is None:
                            await self._record(connection, output)
                        if run.recovery_attempts or run.alone_deaths:
                            forgiven = blame.reset_blame(ids=[run.id], owners=[run.owner])
                            await send(connection, engine.settings.schema, forgiven)
                        fenced = await send(connection, engine.settings.schema, self._fence())
                        for statement in outbox.publishing(transaction.publications.events):
                            await send(connection, engine.settings.schema, statement)
                    reach(CrashPoint.TRANSACTION_WRITTEN)
                    self.commit_sent = not step.read_only
            except Exception as error:
                name_statement(error, transaction)
                raise
            finally:
                transaction.end()
        reach(CrashPoint.TRANSACTION_DURABLE)
        engine.telemetry.emit(TransactionsCommitted(step.name, time.perf_counter() - began, 1))
        if transaction.publications.events:
            engine.outbox_hints.published()
        if fenced is None:
            run.checkpoint(Checkpoint(run.id, self._function_id, step.name, output, None, self._started_ms, now_ms()))
        else:
            row = await fenced.fetchone()
            assert row is not None, "fence_row returns a row or raises"
            engine.database.saw(row[0])
            run.recovery_attempts = run.alone_deaths = 0
            run.was_recorded(self._function_id)
            seconds = (now_ms() - self._started_ms) / 1000
            engine.telemetry.emit(StepsFinished(run.handler.name, step.name, "success", [seconds]))
        return result if self._recorded is None else await self._answer(self._recorded)

    async def _called(
        self, connection: AsyncConnection[Any], transaction: Transaction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, str]:
        """The step's result, and that as JSON text; of a procedure that records itself neither is known before the commit."""
        run, step = self._run, self._step
        if not isinstance(step, ProcedureStep):
            result = await call_function(run, step, transaction, args, kwargs)
            output, result = step.record(result)
            return result, output
        arguments = step.arguments(args, kwargs)
        if run.home.seal is not None:
            output = await call(step, connection, arguments)
            return step.decode(output), output
        place = (run.id, self._function_id, self._started_ms)
        self._recorded = await call_and_record(step, connection, arguments, place, run.home.engine.settings.schema)
        return None, ""

    async def _answer(self, recorded: AsyncCursor[Any]) -> Any:
        """What a procedure that recorded itself has returned."""
        row = await recorded.fetchone()
        assert row is not None, "a plain INSERT returns its row or raises"
        return self._step.decode(row[0])

    async def _record(self, connection: AsyncConnection[Any], output: str) -> None:
        run = self._run
        checkpoint = Checkpoint(run.id, self._function_id, self._step.name, output, None, self._started_ms, now_ms())
        if (seal := run.home.seal) is not None:
            checkpoint = sealed_checkpoint(checkpoint, seal)
        await send(connection, run.home.engine.settings.schema, operation_outputs.insert([checkpoint]))

    def _publications(self) -> Publications:
        reason = f"transaction {self._step.name!r} is read-only" if self._step.read_only else None
        engine = self._run.home.engine
        return Publications(
            bytes_max=engine.settings.event_bytes_max,
            schema=engine.settings.schema,
            seal=engine.payloads.seal,
            refused_because=reason,
            tracing=engine.tracing,
        )

    def _fence(self) -> Statement[Any]:
        database = self._run.home.engine.database
        return row_fence(self._run, timeline=database.timeline, lsn=database.lsn)

    def is_ours(self, error: BaseException) -> bool:
        """Whether an error is about our fence or our checkpoint, not about the user's statements."""
        if isinstance(error, psycopg.Error) and error.sqlstate in ("KP002", "KP003"):
            return True
        return (
            isinstance(error, psycopg.errors.UniqueViolation)
            and error.diag.constraint_name == "operation_outputs_pkey"
            and error.diag.schema_name == self._run.home.engine.settings.schema
        )

    async def cut_off(self, cut: BaseException) -> Any:
        """The result, if it has committed before the workflow's code cut it off (decision 0031). Raises the cut otherwise."""
        if self.commit_sent and isinstance(cut, asyncio.CancelledError) and cut_off.is_own(self._run):
            stands = await cut_off.known(self._run, _settled(self._run, self._function_id))
            if stands is not None:
                return self._step.decode(stands)
        raise cut

    async def refused(self, error: BaseException) -> None:
        """The row is no longer ours, or the database is not where it was: nothing of this was written."""
        if fault_of(error) is Fault.WENT_BACK:
            self._run.home.engine.went_back(str(error))
        self._run.home.refuse(self._run, "row fence")
        self._run.was_suspended = True
        raise Suspended(self._run.id) from error


def row_fence(run: Run, *, timeline: str, lsn: str) -> Statement[Any]:
    """P7 and P4 for one row: raises KP002 or KP003; returns the WAL position."""
    return Statement(
        "SELECT {schema}.fence_row(%(id)s, %(owner)s, %(checkpoints)s::integer[], %(timeline)s, %(lsn)s::pg_lsn)::text",
        {
            "id": run.id,
            "owner": run.owner,
            "checkpoints": run.durable_ids,
            "timeline": timeline,
            "lsn": lsn,
        },
    )


async def call_function(
    run: Run, step: TransactionStep, transaction: Transaction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call the user's function; a sync one in a thread."""
    if step.is_async:
        return await transaction.called(step.function(transaction, *args, **kwargs))
    return await _in_thread(run, step.function, transaction, args, kwargs)


async def _in_thread(
    run: Run, function: Callable[..., Any], transaction: Transaction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a sync function with its transaction in a thread, and send what it gathered."""
    loop = run.home.loop
    tx = SyncTransaction(transaction, loop)
    context = copy_context()
    call = functools.partial(tx.called, functools.partial(function, tx, *args, **kwargs))
    thread = loop.run_in_executor(run.home.engine.step_threads, lambda: context.run(from_thread, call))
    run.running_steps += 1
    thread.add_done_callback(lambda _: (tx.end(), run.step_ended()))
    result = await asyncio.shield(thread)
    await tx.send()
    return result


async def _settled(run: Run, function_id: int) -> str | None:
    """P24: lock the row, which waits for our own lost transaction, and read whether the checkpoint stands."""
    engine = run.home.engine
    wait_s = 0.1
    while True:
        try:
            async with engine.pool.connection() as connection, connection.transaction():
                await send(connection, engine.settings.schema, workflow_status.lock(ids=[run.id]))
                cursor = await send(connection, engine.settings.schema, operation_outputs.of_workflows(ids=[run.id]))
                for recorded in await cursor.fetchall():
                    if recorded.function_id == function_id:
                        run.was_recorded(function_id)
                        return engine.payloads.open(recorded.output or "null", f"workflow {run.id}: step {function_id}")
                return None
        except psycopg.Error as error:
            if fault_of(error) is not Fault.WEATHER:
                raise
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
            wait_s = min(wait_s * 2, WEATHER_WAIT_MAX_S)
