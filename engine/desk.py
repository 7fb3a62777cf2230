"""The desk: home of those runs of one function without a source that were taken together, under one token (P29).

Of what an owner wrote whose reply was lost, nothing meets a row that was taken again (decision 0007).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import NotYet
from engine.execution_gates import open_gate
from engine.execution_rows import is_of_execution
from engine.failures import encode_error
from engine.handlers import Handler, UndecodableError
from engine.ids import OwnerToken
from engine.rows import is_of_record, record_of
from engine.runner import Ending, Phase, Run, Standing
from engine.sealed_rows import opened_request
from engine.states import WorkflowStatus
from engine.telemetry import LateResultRefused

if TYPE_CHECKING:
    from engine.commons import Commons


class Inputs(str):
    """A run's inputs that nobody has looked into yet."""

    __slots__ = ()


class Desk:
    """The home of one function's runs under one token."""

    __slots__ = ("body", "commons", "engine", "handler", "is_fork", "loop", "request", "seal", "submit", "token")

    has_source = False
    has_place = False
    id_prefix = ""

    def __init__(self, commons: Commons, handler: Handler, token: OwnerToken) -> None:
        self.commons = commons
        self.engine = commons.engine
        self.loop = commons.engine.loop
        self.handler = handler
        self.token = token
        self.submit = commons.submit
        self.seal = commons.engine.payloads.seal
        self.request: str | None = None
        """Where a record started what its run is a fork of: its coordinates, key and headers."""
        self.is_fork = False
        """Whether its run is of an execution that was forked."""
        self.body: Callable[..., Any] = handler.function

    def bind(self, request: str | None, instance: str | None) -> None:
        """Have it run what a row asks for: the function, or the method of an object; of a record, if it is a fork of one."""
        if request is not None and is_of_record(request):
            self.request = request
            self.body = self.engine.body_of(self.handler)
        else:
            self.is_fork = request is not None and is_of_execution(request)
            self.body = self.commons.body_of(self.handler, instance)

    @property
    def is_open(self) -> bool:
        """Whether anything may still start here."""
        return self.commons.is_open

    def left(self) -> None:
        """A run of it is none any more."""

    def start(self, run: Run) -> None:
        """Start a run, unless a suspect runs alone or it is one itself (P22)."""
        suspects = self.engine.suspects
        if run.recovery_attempts >= 2 and not run.is_alone:
            suspects.put(run)
        elif suspects.is_closed and not run.is_alone:
            suspects.defer(run)
        else:
            self.begin(run)

    def resume(self, run: Run) -> None:
        """Start a run that waited for a suspect."""
        if run.phase is Phase.WAITING:
            self.start(run)

    def begin(self, run: Run) -> None:
        """Decode its inputs and run its code."""
        if isinstance(run.argument, Inputs):
            try:
                run.argument = self._decoded(run, run.argument)
            except NotYet as signal:
                self.engine.call_later(signal.again_in.total_seconds(), self._begin_again, run)
                return
            except Exception as error:  # noqa: BLE001  # a row of another program's, or of other code: its failure
                self.fail(run, error, "undecodable")
                return
        if self.handler.is_flow:
            open_gate(run, is_fork=self.is_fork)
        run.start()

    def open(self, where: str) -> None:
        """Open what its row says of a record. Raises `UnreadablePayloadError`."""
        if self.request is not None:
            self.request = opened_request(self.request, self.engine.payloads, where)

    def _begin_again(self, run: Run) -> None:
        if run.standing is Standing.ACTIVE and run.phase is Phase.WAITING:
            self.begin(run)

    def _decoded(self, run: Run, inputs: Inputs) -> Any:
        if self.request is not None:
            run.record = record_of(self.request, inputs)
            return self.handler.format.decode(run.record)
        if self.handler.arguments is None:
            raise UndecodableError(f"workflow {run.id}: only records start a {self.handler.name!r}")
        return self.handler.arguments.decode(inputs)

    def ended(self, run: Run, ending: Ending | None) -> None:
        """Its code has ended, and every step it called: an outcome, a rest, or handed on (P12)."""
        if run.is_alone and run.standing is not Standing.ACTIVE:
            self.engine.suspects.ended(run)
        if run.doom is not None:
            ending = run.doom
        if run.standing is Standing.ACTIVE and ending is None:
            self.refuse(run, "suspended")
        if run.standing in (Standing.ACTIVE, Standing.LATE):
            self.end(run, ending or handed_on(run))
        else:
            self.commons.forget(run)

    def end(self, run: Run, ending: Ending) -> None:
        """It has its ending: hand it to the committer. A failure is its row's; there is no record to bury."""
        run.phase = Phase.ENDED
        if ending.reason:
            ending.reason = ""
        run.ending = ending
        run.submit()

    def persisted(self, run: Run) -> None:
        """Never: its row comes before it."""

    def finished(self, run: Run) -> None:
        """Its outcome, or its rest, is durable."""
        ending = run.ending
        assert ending is not None, "finished with an ending"
        if run.is_alone:
            self.engine.suspects.ended(run)
        run.phase = Phase.DONE
        self.commons.forget(run)
        if ending.is_final:
            self.engine.results.ended(run.id, ending)
        elif ending.wake_at:
            self.engine.scan.due_at(ending.wake_at)
        else:
            self.engine.hints.rows()

    def refuse(self, run: Run, reason: str) -> None:
        """Its row is no longer PENDING under its token, or not what its code says: it writes nothing more (P7)."""
        if run.standing not in (Standing.ACTIVE, Standing.LATE):
            return
        self.engine.telemetry.emit(LateResultRefused(run.id, reason))
        run.standing = Standing.REFUSED
        run.unsent.clear()
        run.wake_waiters()
        if not (run.is_running and run.phase is Phase.RUNNING):
            self.commons.forget(run)

    def fail(self, run: Run, error: BaseException, reason: str = "unstorable") -> None:
        """What it has done cannot be written as it is: it fails alone (P27)."""
        run.unsent.clear()
        run.recorded = run.durable
        ending = Ending(WorkflowStatus.ERROR, error=encode_error(error), summary=reason)
        if run.phase is Phase.RUNNING and run.is_running:
            run.doom = ending
            run.wake_waiters()
        else:
            self.end(run, ending)


def handed_on(run: Run) -> Ending:
    """At rest, due at once, for whoever takes it."""
    return Ending(WorkflowStatus.PENDING, attempt=run.attempt, wake_at=0, asleep=True)


__all__ = ["Desk", "Inputs", "handed_on"]
