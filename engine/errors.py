"""What can go wrong in the engine, and who is to act on it.

EngineError
├── ConfigurationError       the developer or operator: settings, registration, schema, privileges
│   ├── SchemaMissingError       run the migrations
│   └── HandlerRenamedError      say `renamed_from=`
├── NondeterminismError      the developer: the code no longer matches its history
│   └── UnfitResultError         a recorded result is nothing that its step returns now
├── RacingStepsError         the developer: sequences of steps run beside each other
├── OtherThreadError         the developer: a workflow's call was made in a thread that is not its own
├── StepFailedError          the handler: a step used up its tries
├── RecordedError            the handler: a step's error whose class cannot be rebuilt from its record
├── WorkflowConflictError    the caller: the ID is another workflow's, or this one's with other inputs
├── DeduplicatedError        the caller: another workflow of the queue has the deduplication ID, and has not ended
├── WorkflowNotFoundError    the caller: there is no workflow of this ID
├── WorkflowCancelledError   who awaits the result: somebody, or a time-out, cancelled the workflow
├── StreamClosedError        the developer: a workflow wrote to a stream that it has closed
├── ClientClosedError        the developer: a client was used before it was opened, or after it was closed
├── EngineStoppedError       who waits: the app of this process stopped; the workflow goes on elsewhere, or later
├── RecoveryExceededError    the developer: the workflow was running at every death of too many executors
└── StoreUnavailableError    nobody: the engine retries until Postgres is back

NotYet                       nobody: something is on its way, and is waited for
Suspended (a BaseException)  nobody: ends a run that may begin no further effect
"""

from datetime import timedelta

from engine.ids import SourceRef, WorkflowId


class EngineError(Exception):
    """Any error of the engine."""


class ConfigurationError(EngineError):
    """The engine cannot start as it was set up. The message names what is wrong and what to do."""


class SchemaMissingError(ConfigurationError):
    """The database lacks migrations, or has newer ones than this version knows."""


class HandlerRenamedError(ConfigurationError):
    """A partition's progress belongs to another handler of the same group. Nothing runs until someone decides."""

    def __init__(self, source: SourceRef, *, stored: str) -> None:
        super().__init__(
            f"{source}: its progress belongs to handler {stored!r}, this app registers {source.handler!r}.\n"
            f"  If the handler was renamed, say so: renamed_from={stored!r}. If it is another handler, give it a\n"
            f"  consumer group of its own."
        )
        self.source = source
        self.stored = stored


class NondeterminismError(EngineError):
    """The history has another step at this place than the code called. Nothing ran there.

    The workflow fails, also where the code catches this: its next call of a step, or of anything else that is remembered,
    unwinds it as `Suspended` does.
    """

    def __init__(self, workflow_id: WorkflowId, recorded: str, called: str) -> None:
        super().__init__(workflow_id, recorded, called)
        self.workflow_id = workflow_id
        self.recorded = recorded
        self.called = called

    def __str__(self) -> str:
        return (
            f"workflow {self.workflow_id}: the history has step {self.recorded!r} here, the code called {self.called!r}.\n"
            f"  The code changed while this workflow was under way. Give the new step a name of its own,\n"
            f"  or keep the old one until no workflow needs it: docs/guides/changing-code.md"
        )


class UnfitResultError(NondeterminismError):
    """The history has a result that its step cannot return any more: its type changed. The workflow fails; the step stands."""

    def __init__(self, workflow_id: WorkflowId, step: str, reason: str) -> None:
        super().__init__(workflow_id, step, step)
        self.args = (workflow_id, step, reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"workflow {self.workflow_id}: the history has a result of step {self.recorded!r} that it cannot return now:\n"
            f"  {self.reason}\n"
            f"  Its type changed while this workflow was under way. Give the step a new name with the new type behind a patch,\n"
            f"  or have the type take both: docs/guides/changing-code.md"
        )


class RacingStepsError(EngineError):
    """Sequences of steps run beside each other in one workflow: a replay would mix up their results. The workflow fails,
    also where the code catches this.
    """

    def __init__(self, workflow_id: WorkflowId, called: str) -> None:
        super().__init__(workflow_id, called)
        self.workflow_id = workflow_id
        self.called = called

    def __str__(self) -> str:
        return (
            f"workflow {self.workflow_id}: {self.called!r} was called in a task, in the middle of a sequence of calls, while\n"
            f"  another task called as well. A replay would give them each other's results. Run one sequence after the other,\n"
            f"  or each in a child workflow. Single calls may be gathered: docs/guides/writing-handlers.md"
        )


class OtherThreadError(EngineError):
    """A call of a workflow was made in another thread than its own. Nothing was called, and nothing recorded.

    Places in the history are given in call order, which threads have none of.
    """

    def __init__(self, workflow_id: WorkflowId, *, called: str, is_async: bool) -> None:
        instead = "gather async steps, and sync ones by `app.run_step(...)`" if is_async else "`sync.gather(...)`"
        super().__init__(
            f"workflow {workflow_id}: {called!r} was called in a thread that is not the workflow's own.\n"
            f"  For steps beside each other: {instead}. For sequences of them: child workflows."
        )
        self.workflow_id = workflow_id


class StepFailedError(EngineError):
    """A step used up its tries. The last error is its `__cause__`."""

    def __init__(self, step: str, attempts: int, last: str) -> None:
        super().__init__(step, attempts, last)
        self.step = step
        self.attempts = attempts
        self.last = last

    def __str__(self) -> str:
        return f"step {self.step!r} failed {self.attempts} times, last with {self.last}"


class RecordedError(EngineError):
    """An error whose class cannot be rebuilt from its record; given to the workflow the first time as in every replay."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class WorkflowConflictError(EngineError):
    """A workflow ID is taken by another workflow, or by the same one with other inputs. Nothing was started."""

    def __init__(self, workflow_id: str, reason: str) -> None:
        super().__init__(workflow_id, reason)
        self.workflow_id = workflow_id
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"workflow {self.workflow_id} stands already, and {self.reason}.\n"
            f"  The ID is the idempotency key: one workflow with one set of inputs. Give this one an ID of its own."
        )


class DeduplicatedError(EngineError):
    """Another workflow of the queue has this deduplication ID, and had not ended. Nothing was enqueued.

    Attributes:
        queue, deduplication_id: What was asked for.
        workflow_id: Who has it. `None`: it ended before it could be asked for its ID.
    """

    def __init__(self, queue: str, deduplication_id: str, workflow_id: str | None) -> None:
        super().__init__(queue, deduplication_id, workflow_id)
        self.queue = queue
        self.deduplication_id = deduplication_id
        self.workflow_id = workflow_id

    def __str__(self) -> str:
        who = f"workflow {self.workflow_id}" if self.workflow_id else "a workflow that ended just now"
        return f"queue {self.queue!r}: {who} has the deduplication ID {self.deduplication_id!r}; nothing was enqueued"


class WorkflowNotFoundError(EngineError):
    """No workflow has this ID; one of a record that Kafka has was waited for, for two seconds."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id)
        self.workflow_id = workflow_id

    def __str__(self) -> str:
        return f"there is no workflow {self.workflow_id!r}"


class WorkflowCancelledError(EngineError):
    """The workflow whose result is asked for was cancelled, by somebody or by its time-out: there is no result."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id)
        self.workflow_id = workflow_id

    def __str__(self) -> str:
        return f"workflow {self.workflow_id} was cancelled"


class StreamClosedError(EngineError):
    """A workflow wrote to a stream, or closed it, after it had closed it: nobody would read that."""

    def __init__(self, workflow_id: str, key: str) -> None:
        super().__init__(workflow_id, key)
        self.workflow_id = workflow_id
        self.key = key

    def __str__(self) -> str:
        return f"workflow {self.workflow_id}: it has closed its stream {self.key!r}"


class EngineStoppedError(EngineError):
    """The app does not run in this process, or stopped while somebody waited. Workflows that were started go on elsewhere,
    or when an app with their code runs again; ask again with their IDs.
    """

    def __init__(self) -> None:
        super().__init__("the app does not run in this process (any more)")


class ClientClosedError(EngineError):
    """A client is not open, or was closed while somebody waited. What it had written stands."""

    def __init__(self) -> None:
        super().__init__("the client is not open (any more): `async with Client(dsn) as client:` around the calls")


class RecoveryExceededError(EngineError):
    """A workflow was running when its executor died, too many times without a new checkpoint: it is not tried again."""

    def __init__(self, workflow_id: str, deaths: int) -> None:
        super().__init__(workflow_id, deaths)
        self.workflow_id = workflow_id
        self.deaths = deaths

    def __str__(self) -> str:
        return f"workflow {self.workflow_id} was running at {self.deaths} deaths of its executors, without a checkpoint"


class StoreUnavailableError(EngineError):
    """Postgres cannot be reached. The engine retries by itself once it runs; at start it is an error."""


class NotYet(Exception):  # noqa: N818  # a signal: nothing is wrong with the record
    """What is needed to decode a record (or to encode an event) is not here yet, and is on its way.

    The record waits where it is, and its partition with it (I7); nothing of it is written, so nothing is lost. Raised in a
    transactional step, it has the step rolled back and run again, and is no attempt.

    Args:
        reason: Why, for operators; `None` while there is no trouble: it was only just asked for.
        again_in: After which time to try again.
    """

    def __init__(self, reason: str | None, *, again_in: timedelta) -> None:
        super().__init__(reason or "asked for just now")
        self.reason = reason
        self.again_in = again_in


class Suspended(BaseException):
    """Unwinds a run that may begin no further effect: released, cancelled, abandoned, or its process lost its lease.

    Not an `Exception`, so that a handler's `except Exception` does not take it for a failure of its own. What a
    run does after catching it anyway is refused again, and its outcome is not written.
    """
