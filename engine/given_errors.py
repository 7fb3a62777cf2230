"""Errors that the code of a workflow is given: recorded with what it had called by then, for whoever resumes it (I4).

    charge (1) ✗ given, 1 called ─▶ raise                     resume forgets it: charge runs again
    charge (1) ✗ given, 1 called ─▶ set_event (2) ─▶ raise    it stands: 2 is what the code does about it
    gather(charge (1) ✗ given, 2 called; reserve (2)) ─▶ raise   resume forgets it: 2 was called before it was known

Places are given in call order, so this says whether the code went on without a look at a clock. What else was recorded as a part of
the call is forgotten with its error: the end of its time, the start whose verdict it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.clock import now_ms
from engine.effects import Placed, Rows, add
from engine.failures import as_recorded
from engine.signals import Signal
from engine.store import operation_outputs as store
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.runner import Run


@dataclass(frozen=True, slots=True)
class GivenError:
    """What had been called when an error was given, and the other place of its call, if it has one."""

    called: int
    beside: int | None = None
    touches: Sequence[str] = ()
    wakes: Sequence[Signal] = ()

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any]:
        """Notes behind the checkpoints. Errors are few: the others' INSERT has no column of theirs."""
        del engine
        given = [(each, each.effect) for each in placed if isinstance(each.effect, GivenError)]
        return store.note_errors(
            ids=[each.run.id for each, _ in given],
            function_ids=[each.function_id for each, _ in given],
            besides=[error.beside for _, error in given],
            called=[error.called for _, error in given],
        )

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """Nobody waits for it."""


def record_error(
    run: Run,
    function_id: int,
    name: str,
    error: BaseException,
    started_ms: int,
    *,
    child: str | None = None,
    beside: int | None = None,
) -> Exception:
    """Record the final error of a call; returns the one to raise, which is that of every replay. On the loop."""
    text, given = as_recorded(error)
    add(run, function_id, GivenError(run.function_id, beside))
    run.checkpoint(Checkpoint(run.id, function_id, name, None, text, started_ms, now_ms(), child))
    run.error_given = True
    return given


def record_error_from_thread(run: Run, function_id: int, name: str, error: BaseException, started_ms: int) -> Exception:
    """`record_error` for a sync workflow's thread."""
    text, given = as_recorded(error)
    run.home.engine.handler_threads.tell(add, run, function_id, GivenError(run.function_id))
    run.checkpoint_from_thread(Checkpoint(run.id, function_id, name, None, text, started_ms, now_ms()))
    run.error_given = True
    return given
