"""What a handler or step may ask about itself while it runs."""

import logging
from dataclasses import dataclass
from typing import Any, cast

from engine.current import CurrentStep, current_run
from engine.current import current_step as running_step
from engine.errors import ConfigurationError
from engine.identity import Identity, identity_of, origin_of
from engine.runner import Run
from processor.records import Record, view
from processor.routes import HttpRequest

log = logging.getLogger("processor.workflow")


@dataclass(frozen=True, slots=True)
class CurrentWorkflow:
    """The workflow whose code asks.

    Attributes:
        id: `topic-partition-offset` for one that a record started: the same in every attempt and replay.
        attempt: Which attempt of the workflow this is, from 1 (`retry=` of the workflow; not of its steps).
        logger: For the workflow's own lines. Silent while the code runs over recorded steps, so that a line is
            written once and not at every replay; `workflow` is among its fields.
    """

    id: str
    attempt: int
    logger: "WorkflowLogger"
    _run: Run

    @property
    def identity(self) -> Identity | None:
        """Whose it is: that of the request, of `acting_as`, or of the workflow that started it. `None`: nobody's."""
        return identity_of(self._run)

    @property
    def request(self) -> HttpRequest | None:
        """The HTTP request that started it; `None`: none did."""
        return HttpRequest.of(origin_of(self._run).request)

    @property
    def record(self) -> Record[Any]:
        """The record that started it, with the topic's allowed headers."""
        run = self._run
        if run.record is None:
            raise ConfigurationError(f"workflow {self.id}: no record started it")
        argument = run.argument
        if isinstance(argument, Record):
            return cast("Record[Any]", argument)
        return view(argument, run.record, run.handler.stored_headers)


class WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the workflow's ID to every line, and writes none during replay."""

    def __init__(self, run: Run) -> None:
        super().__init__(log, {"workflow": run.id, "handler": run.handler.name})
        self._run = run

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        """Whether a line of this level is written now."""
        return not self._run.is_replaying and super().isEnabledFor(level)


def current_workflow() -> CurrentWorkflow:
    """The workflow whose code, or whose step's code, is running here.

    Raises:
        ConfigurationError: There is none; in a unit test of `fn` too.
    """
    run = current_run.get()
    if run is None:
        raise ConfigurationError("current_workflow() was called outside of a workflow")
    return CurrentWorkflow(run.id, run.attempt + 1, WorkflowLogger(run), run)


def current_step() -> CurrentStep:
    """The step whose function is running here: `idempotency_key`, `attempt`, `name`.

    Raises:
        ConfigurationError: There is none: called outside of a workflow, or between the steps of one.
    """
    step = running_step.get()
    if step is None:
        raise ConfigurationError(
            "current_step() was called outside of a step. In a unit test, hand the idempotency key in as an argument."
        )
    return step
