"""Patches: code that was changed while workflows were under way, both ways in one function.

    new workflow    patch('x') ─▶ True, remembered as a step of its own        runs the new code, in every replay
    under way       its history has another step at this place ─▶ False        runs the code it has begun with
    under way       it has not come to this place yet ─▶ True                  runs the new code from here on

A place is decided by the history alone, so that every replay decides alike. Once no workflow under way has passed the
place without the patch, the old code goes, and `deprecate_patch` stands for the remembered step; once none has that step
either, it goes as well.
"""

from engine.clock import now_ms
from engine.runner import Run
from engine.store.operation_outputs import Checkpoint


def patched(run: Run, name: str) -> bool:
    """Whether a workflow runs the code behind a patch. Takes a place in the history where it does."""
    if _is_next(run, name):
        run.next_function_id(_step(name))
        return True
    if run.is_replaying:
        return False
    function_id = run.next_function_id(_step(name))
    now = now_ms()
    record = run.checkpoint if run.handler.is_async else run.checkpoint_from_thread
    record(Checkpoint(run.id, function_id, _step(name), "true", None, now, now))
    return True


def pass_by(run: Run, name: str) -> None:
    """Pass by the step of a patch whose old code is gone, where the history has it."""
    if _is_next(run, name):
        run.next_function_id(_step(name))


def _is_next(run: Run, name: str) -> bool:
    recorded = None if run.history is None else run.history.get(run.function_id + 1)
    return recorded is not None and recorded.name == _step(name)


def _step(name: str) -> str:
    return f"DBOS.patch-{name}"
