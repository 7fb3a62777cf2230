"""Transactional and batch handlers: effect, outcome and progress in one commit, for many records (P19).

A group spans one partition, in offset order, and skips keys that are taken: it runs inside its flush, between BEGIN
and the fence, so nothing is written before and nothing survives if the partition is no longer ours. When a handler
fails the whole flush is rolled back and the group halved until the poison record stands alone; that one becomes a
journaled workflow (retry, then its failure policy), its key waits, the rest goes on. No savepoint a record: it would
cost every record for the sake of the few that fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection

from engine.crashpoints import CrashPoint, reach
from engine.current import current_run
from engine.errors import EngineError
from engine.failures import NO_FAILURES, from_thread, summary
from engine.faults import CONFLICT_ATTEMPTS, is_conflict, is_weather_error
from engine.flush import Flush, Part, Work
from engine.handlers import Handler, HandlerKind, TransactionStep
from engine.outgoing import Outgoing, Publications
from engine.runner import Encoded, Ending, Phase, Run
from engine.states import WorkflowStatus
from engine.transaction import SyncTransaction, Transaction, begin_user_transaction, name_statement
from engine.transactional import call_transaction

if TYPE_CHECKING:
    from engine.inbox import Inbox


SETBACKS_MAX = 3
"""Times that bad weather may meet the transaction of one record, after which it goes on without the committer (decision 0034)."""


class GroupFailedError(EngineError):
    """A fused handler raised; its `__cause__` is what. Everything of the group was rolled back."""

    def __init__(self, group: FusedGroup, error: BaseException) -> None:
        super().__init__(summary(error))
        self.group = group


class PostponedError(EngineError):
    """A suspect runs alone, or is about to: no group begins (P22). Nobody sees it; the records go back to the inbox."""


class FusedGroup:
    """Records of one partition that one transaction handles."""

    def __init__(self, inbox: Inbox, runs: list[Run], conflicts: int = 0, setbacks: int = 0) -> None:
        self.inbox = inbox
        self.runs = runs
        self._conflicts = conflicts
        self._setbacks = setbacks
        """Times that bad weather has met these runs."""
        self._transaction: Transaction | None = None
        for run in runs:
            run.phase = Phase.ENDED
            run.ending = Ending(WorkflowStatus.SUCCESS, output="null")

    # -- running --

    async def run(self, connection: AsyncConnection[Any]) -> None:
        """Run the handler over the group, in the open transaction."""
        engine = self.inbox.engine
        await engine.lease.wait_until_valid()
        if engine.suspects.is_closed:
            postponed = PostponedError("a suspect runs alone")
            raise GroupFailedError(self, postponed) from postponed
        await begin_user_transaction(connection, idle_ms=engine.settings.idle_ms)
        publications = Publications(
            bytes_max=engine.settings.event_bytes_max,
            schema=engine.settings.schema,
            seal=engine.payloads.seal,
            tracing=engine.tracing,
        )
        transaction = self._transaction = Transaction(connection, publications)
        engine.suspects.group_begins()
        try:
            await self._call(transaction)
        except NO_FAILURES:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            name_statement(error, transaction)
            raise GroupFailedError(self, error) from error
        finally:
            engine.suspects.group_ended()
            transaction.end()
        reach(CrashPoint.FUSED_CALLED)

    async def _call(self, transaction: Transaction) -> None:
        handler, tracing = self.inbox.handler, self.inbox.engine.tracing
        function = handler.function if tracing is None else tracing.grouped(self.runs, handler)
        if not handler.is_async:
            tx = SyncTransaction(transaction, self.inbox.loop)
            context = copy_context()
            try:
                call = partial(self._call_sync, handler, function, tx)
                threads = self.inbox.engine.fused_threads
                await self.inbox.loop.run_in_executor(threads, lambda: context.run(from_thread, call))
                await tx.send()
            finally:
                tx.end()
        elif handler.kind is HandlerKind.BATCH:
            await transaction.called(function(transaction, [run.argument for run in self.runs]))
        else:
            for run in self.runs:
                current_run.set(run)
                result = await transaction.called(function(transaction, run.argument))
                if result is not None:
                    _ending(run).output = handler.encode(result)
            current_run.set(None)

    def _call_sync(self, handler: Handler, function: Callable[..., Any], tx: SyncTransaction) -> None:
        if handler.kind is HandlerKind.BATCH:
            tx.called(partial(function, tx, [run.argument for run in self.runs]))
            return
        for run in self.runs:
            current_run.set(run)
            result = tx.called(partial(function, tx, run.argument))
            if result is not None:
                _ending(run).output = handler.encode(result)

    def published(self) -> Sequence[Outgoing]:
        """What the handler published, in order, once it has run."""
        return () if self._transaction is None else self._transaction.publications.events

    # -- failing --

    def left_out(self) -> list[Run]:
        """Runs whose key was taken since the group was formed: they wait behind its holder."""
        keys = self.inbox.keys
        out = [run for run in self.runs if keys.is_taken(run.key)]
        if out:
            self.runs = [run for run in self.runs if run not in out]
            for run in out:
                self.inbox.left_behind(run)
        return out

    def caused(self, error: BaseException) -> bool:
        """Whether an error of the flush is about the user's statements, which may surface after them."""
        if isinstance(error, GroupFailedError):
            return True
        transaction = self._transaction
        return transaction is not None and transaction.failed_statement() is not None

    def is_postponed(self, error: BaseException) -> bool:
        """Whether it did not begin: a suspect runs alone, or is about to (P22)."""
        return isinstance(error.__cause__, PostponedError)

    def put_back(self, flushes: Sequence[Flush]) -> None:
        """Let its records wait in the inbox, in front of what came later, and with them those of its other parts, all at once.

        One part that went on beside another that waits would overtake it (I7).
        """
        runs = [run for flush in flushes if flush.group is not None for run in flush.group.runs]
        mine = set(runs)
        for flush in flushes:
            flush.group = None
            flush.works = [work for work in flush.works if work.run not in mine]
        for run in reversed(runs):
            run.phase, run.ending, run.submitted = Phase.WAITING, None, False
            self.inbox.group.appendleft(run)

    def split(self, flush: Flush, error: BaseException) -> list[Flush]:
        """Halve the group, or let the record that stands alone become a workflow of its own."""
        if is_weather_error(error):
            return self.halved(flush)
        if is_conflict(error) and self._conflicts < CONFLICT_ATTEMPTS:
            return self._flushes(flush, self._halves(), conflicts=self._conflicts + 1)
        if len(self.runs) > 1:
            return self._flushes(flush, self._halves())
        return self._without(flush, self.runs[0])

    def halved(self, flush: Flush) -> list[Flush]:
        """Smaller groups after bad weather: a transaction that was too large may fit in two.

        Where it meets one record time after time, the record may make it: its workflow waits by itself, its key with it.
        """
        if len(self.runs) > 1:
            return self._flushes(flush, self._halves(), setbacks=1)
        if self._setbacks < SETBACKS_MAX:
            return self._flushes(flush, [self.runs], setbacks=self._setbacks + 1)
        return self._without(flush, self.runs[0])

    def cut(self, flush: Flush) -> list[Flush]:
        """Its connection broke and nothing was written: the same group as a whole (P23); halved when that was so before."""
        return self.halved(flush) if self._setbacks else self._flushes(flush, [self.runs], setbacks=1)

    def again(self, flush: Flush) -> list[Flush]:
        """The same group as a whole: nothing of it was written, for nothing that it did."""
        return self._flushes(flush, [self.runs], setbacks=self._setbacks)

    def _without(self, flush: Flush, poison: Run) -> list[Flush]:
        """The flush without the group, whose one record becomes a workflow of its own."""
        flush.group = None
        flush.works = [work for work in flush.works if work.run is not poison]
        self.inbox.poison(poison)
        return [flush]

    def _halves(self) -> list[list[Run]]:
        if len(self.runs) < 2:
            return [self.runs]
        middle = len(self.runs) // 2
        return [self.runs[:middle], self.runs[middle:]]

    def _flushes(
        self, flush: Flush, groups: Sequence[list[Run]], *, conflicts: int = 0, setbacks: int = 0
    ) -> list[Flush]:
        """One flush for each group; the first keeps the other works and the reads, the last a release."""
        mine = set(self.runs)
        others = [work for work in flush.works if work.run not in mine]
        made: list[Flush] = []
        for index, runs in enumerate(groups):
            new = Flush(flush.executor_id)
            part = Part(self.inbox.source)
            for old in flush.parts:
                if index == 0:
                    part.acquires, part.look_ups = old.acquires, old.look_ups
                if index == len(groups) - 1:
                    part.releases = old.releases
            new.parts = [part]
            new.group = FusedGroup(self.inbox, runs, conflicts, setbacks)
            new.works = (others if index == 0 else []) + [Work(run) for run in runs]
            made.append(new)
        return made


def group_of(inbox: Inbox) -> FusedGroup | None:
    """Take the next group out of an inbox: up to the handler's size, without taken keys; none beside a suspect (P22)."""
    if inbox.engine.suspects.is_closed:
        return None
    runs: list[Run] = []
    while inbox.group and len(runs) < inbox.handler.batch_max:
        run = inbox.group.popleft()
        if inbox.keys.is_taken(run.key):
            inbox.left_behind(run)
        else:
            runs.append(run)
    return FusedGroup(inbox, runs) if runs else None


def journaled(handler: Handler) -> Callable[..., Any]:
    """A fused handler as the body of a workflow with one transactional step: for poison and after a death (P21)."""
    function = handler.function
    if handler.kind is HandlerKind.BATCH:
        function = _batch_of_one(handler)

    def recorded(result: Any) -> tuple[str, Any]:
        output = handler.encode(result)
        return output, Encoded(output)

    step = TransactionStep(
        name=handler.name,
        function=function,
        is_async=handler.is_async,
        record=recorded,
        decode=Encoded,
    )
    if handler.is_async:

        async def body(argument: Any) -> Any:
            return await call_transaction(step, (argument,), {})

        return body

    def sync_body(argument: Any) -> Any:
        return call_transaction(step, (argument,), {})

    return sync_body


def _batch_of_one(handler: Handler) -> Callable[..., Any]:
    if handler.is_async:

        async def one(tx: Any, argument: Any) -> None:
            await handler.function(tx, [argument])

        return one

    def sync_one(tx: Any, argument: Any) -> None:
        handler.function(tx, [argument])

    return sync_one


def _is_cancelled() -> bool:
    """Whether it is the committer that is to end, and not a task of the handler's that was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _ending(run: Run) -> Ending:
    assert run.ending is not None, "a grouped run has its ending from the start"
    return run.ending
