"""What says that a history does not fit the code ends the attempt, whatever the code does with the error (I4).

    mismatch ─▶ the run's ending is decided ─▶ raised, once, as an error of the call
                                               caught? ─▶ the next call, of any task, unwinds the code (`Suspended`)

Not the error alone: it is an `Exception`, so that `except Exception: await refund()` would take it for the failure of its step,
and run a compensation over a history in which there is something else to compensate, or nothing. What was called before,
and has not begun, does not begin; what waits is unwound; steps that run end, and are recorded (P12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from engine.errors import EngineError, Suspended

if TYPE_CHECKING:
    from engine.runner import Run

Error = TypeVar("Error", bound=EngineError)


def ended_by(run: Run, error: Error) -> Error:
    """Decide that an attempt fails with an error, which the caller raises. On the loop or in the workflow's thread."""
    if run.doom is None and not run.was_suspended:
        run.error_given = True  # the next call looks
        run.doom = run.failed(error)
        # Not here: whoever is woken first could be the caller's own task group, in the middle of its call.
        run.home.loop.call_soon_threadsafe(run.wake_waiters)
    return error


def has_suspended(error: BaseException) -> bool:
    """Whether a task group of the user's gathered `Suspended` of one of its tasks."""
    if not isinstance(error, BaseExceptionGroup):
        return False
    return cast("BaseExceptionGroup[BaseException]", error).subgroup(Suspended) is not None
