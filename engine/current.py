"""What runs here: the run whose code is executing, and the step inside it. Context variables, copied by tasks and threads."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.runner import Run

current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
"""The workflow whose code runs in this task or thread; `None` outside."""

current_step: ContextVar[CurrentStep | None] = ContextVar("current_step", default=None)
"""The step whose function runs in this task or thread; `None` outside."""


@dataclass(slots=True)
class CurrentStep:
    """A step under way. Treated as immutable; not frozen, because freezing costs 1.6 µs a step.

    Attributes:
        workflow_id: Its workflow.
        function_id: Its place in the history, from 1.
        name: As recorded.
        attempt: Which try this is, from 1.
    """

    workflow_id: str
    function_id: int
    name: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt and every replay of this step, different for every other step."""
        return f"{self.workflow_id}:{self.function_id}"


class CurrentTransaction(CurrentStep):
    """A transactional step under way: what is done beside its transaction is not part of it."""

    __slots__ = ()
