"""Who takes part in a group of transactional steps, and what it is told of it (engine/transaction_groups.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from engine.crashpoints import CrashPoint, reach
from engine.current import CurrentTransaction, current_step
from engine.eager import Begun, begin, context_of
from engine.runner import Run, now_ms
from engine.transaction import Transaction

if TYPE_CHECKING:
    from engine.handlers import TransactionStep

Function = Callable[[Transaction], Awaitable[Any]]


class Verdict(Enum):
    """What became of a member's group."""

    DURABLE = "durable"
    AGAIN = "again"
    """Nothing was written, and nothing is known against it."""
    ALONE = "alone"
    """Nothing was written; a transaction of its own decides."""


class NotCommittedError(Exception):
    """The group came to nothing, and a transaction of the step's own is to decide."""


class FunctionFailed(Exception):  # noqa: N818  # never leaves the groups
    """A member's function raised; its `__cause__` is what."""


class Member:
    """One call of a transactional step."""

    __slots__ = (
        "conflicts",
        "context",
        "ended",
        "error",
        "function",
        "function_id",
        "has_returned",
        "output",
        "result",
        "run",
        "said",
        "started_ms",
        "task",
        "transaction",
        "tries",
        "verdict",
    )

    def __init__(self, run: Run, function_id: int, function: Function) -> None:
        task = asyncio.current_task()
        assert task is not None, "called in a workflow"
        self.run = run
        self.function_id = function_id
        self.function = function
        self.task = task
        self.context = run.context if task is run.task else context_of(task)
        self.started_ms = now_ms()
        self.tries = 0
        self.conflicts = 0
        self.renew()

    def renew(self) -> None:
        """Before it joins a queue, again or for the first time."""
        loop = self.run.home.loop
        self.error: BaseException | None = None
        self.has_returned = False
        """Its function has: neither raised, nor was cancelled before it was begun."""
        self.transaction: Transaction | None = None
        """Once its function was called: what it has sent counts if the group commits."""
        self.verdict: Verdict | None = None
        self.result: Any = None
        self.output = ""
        self.said: asyncio.Future[Begun | Verdict] = loop.create_future()
        """What its task is told: to go on with the function that was begun, or the verdict."""
        self.ended: asyncio.Future[None] | None = None
        """The function, which its task goes on with, has returned or raised."""

    def hear(self, verdict: Verdict) -> None:
        """What became of its group, whether or not its task still waits."""
        self.verdict = verdict
        tell(self.said, verdict)

    def begin(self, step: TransactionStep, transaction: Transaction) -> asyncio.Future[None] | None:
        """Call the function, in the context and on behalf of its own task. Returns what to wait for, if it waits.

        Most functions only send statements, which waits for nothing: a turn of the loop for each would cost more than
        the statement.
        """
        self.transaction = transaction
        begun = begin(self._call(step, transaction), on_behalf_of=self.task, context=self.context)
        if begun is None:
            return None
        self.ended = self.run.home.loop.create_future()
        tell(self.said, begun)
        return self.ended

    async def _call(self, step: TransactionStep, transaction: Transaction) -> None:
        token = current_step.set(CurrentTransaction(self.run.id, self.function_id, step.name, 1))
        try:
            self.output, self.result = step.record(await self.function(transaction))
            reach(CrashPoint.TRANSACTION_OPEN)
            self.has_returned = True
        except BaseException as error:  # noqa: BLE001  # the group rolls back; what it means is decided alone
            self.error = error
        finally:
            transaction.end()
            current_step.reset(token)


def tell(future: asyncio.Future[Any], value: Any) -> None:
    """Set a result, unless who waits has been cancelled."""
    if not future.done():
        future.set_result(value)
