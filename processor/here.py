"""Where a call stands: in a workflow's own code, in a step of it, in a transactional step, outside of all."""

from collections.abc import Callable

from engine.children import require_workflow_code
from engine.current import CurrentStep, CurrentTransaction, current_run, current_step
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.reach import Reach
from engine.runner import Run
from engine.transactional import NotInWorkflowError


def workflow_here(what: str, reach: Callable[[], Reach] | None = None) -> Run | None:
    """The workflow whose code calls; `None` outside, and in a step, whose calls are not remembered one by one.

    With `reach`, refuses a call on anything but the workflow's own engine: a client's would not be remembered.
    """
    run = current_run.get()
    if run is None or current_step.get() is not None:
        return None
    require_workflow_code(run, what)
    if reach is not None and reach() is not run.home.engine:
        raise ConfigurationError(
            f"workflow {run.id}: {what} of a client in a workflow's own code, where a replay would repeat it.\n"
            f"  Call it in a step, or, if the workflow is of this database, call the app's own."
        )
    return run


def talking(what: str, reach: Callable[[], Reach], *, instead: str = "") -> Run | None:
    """The same for what talks to other workflows: refuses a transactional step. `instead`: what would be part of it."""
    if (step := current_step.get()) is not None:
        plain(step, what, instead=instead)
    return workflow_here(what, reach)


def telling(what: str) -> Run:
    """The workflow whose code, or whose step, tells something of itself."""
    run = current_run.get()
    if run is None:
        raise NotInWorkflowError(f"{what} was called outside of a workflow, which alone can tell of itself")
    if current_step.get() is None:
        require_workflow_code(run, what)
    return run


def workflow_code(what: str) -> Run:
    """The workflow whose own code calls."""
    run = workflow_here(what)
    if run is None:
        raise NotInWorkflowError(f"{what} was called outside of a workflow's own code, where nothing would remember it")
    return run


def plain(step: CurrentStep, what: str, *, instead: str = "") -> CurrentStep:
    """Refuse in a transactional step: it would not be part of the transaction, and wait for a connection beside it."""
    if isinstance(step, CurrentTransaction):
        raise NotInWorkflowError(
            f"transaction {step.name!r}: {what} would not be part of it{'; ' * bool(instead)}{instead}.\n"
            f"  Or return what is to be told, and tell it from the workflow."
        )
    return step


def engine_here(what: str) -> Callable[[], Engine]:
    """The engine of the workflow or step that calls. `what`: a function that apps have as well."""

    def engine() -> Engine:
        if (run := current_run.get()) is not None:
            return run.home.engine
        raise ConfigurationError(
            f"{what}() was called outside of a workflow, where nothing says which app is meant: app.{what}(...)"
        )

    return engine


__all__ = ["engine_here", "plain", "talking", "telling", "workflow_code", "workflow_here"]
