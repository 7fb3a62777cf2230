"""What a record's failure means for those behind it: a hold of its key, of its partition, or nothing (design section 7)."""

from __future__ import annotations

from collections import deque

from engine.handlers import REFUSED, Handler
from engine.ids import OrderingKey
from engine.policies import BlockKey, HaltPartition
from engine.runner import Ending, Run
from engine.states import WorkflowStatus


class Outcomes:
    """The last outcomes of a partition's records, for the breaker, and the failure policy."""

    def __init__(self, handler: Handler, *, shows_errors: bool = True) -> None:
        """`shows_errors`: whether a hold's reason may have what an error says, or its class only (decision 0012)."""
        self._handler = handler
        self._shows_errors = shows_errors
        self._last: deque[bool] = deque(maxlen=handler.breaker.window if handler.breaker else 1)
        """Whether each failed."""

    def succeeded(self) -> None:
        """A record ended well."""
        if self._handler.breaker is not None:
            self._last.append(False)

    def hold_for(self, run: Run, ending: Ending) -> tuple[str, OrderingKey | None, str] | None:
        """The hold (kind, key, reason) to be written with a run's ending, by policy or breaker."""
        if not ending.is_final or ending.status is WorkflowStatus.SUCCESS:
            return None
        breaker = self._handler.breaker
        if breaker is not None:
            self._last.append(True)
            if len(self._last) == breaker.window:
                share = sum(self._last) / breaker.window
                if share > breaker.ratio:
                    return "halt", None, f"breaker: {share:.0%} of the last {breaker.window} records failed"
        if ending.reason in REFUSED:
            return None
        policy = self._handler.on_failure
        if isinstance(policy, HaltPartition):
            return "halt", None, f"{run.id} failed: {self._said(ending)}"
        if isinstance(policy, BlockKey) and run.key is not None:
            return "block", run.key, f"{run.id} failed: {self._said(ending)}"
        return None

    def _said(self, ending: Ending) -> str:
        return ending.summary if self._shows_errors else ending.summary.partition(":")[0]
