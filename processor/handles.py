"""Handles: what one can do with a workflow whose ID one has, wherever it runs.

    WorkflowHandle        await handle.result(), .status(), .steps(), .cancel(), .resume(), .fork(), .restart(), .delete(),
                          .send(), .get_event(), .read_stream()
    SyncWorkflowHandle    the same, from a thread

In a workflow all of these are remembered: a replay gets what the first run got.
"""

import uuid
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from engine import acts, forks, handles
from engine.acts import Acted, Refusal, WorkflowActError, through_pool
from engine.checkpoint import run_step
from engine.children import place_of_result, result_in_workflow
from engine.current import current_step
from engine.handlers import Step
from engine.handles import StepInfo, WorkflowInfo
from engine.reach import Reach
from engine.results import value_of
from engine.runner import Run
from engine.unreadable import once_readable
from processor.blocking import from_thread
from processor.codec import Result, result_codec
from processor.here import workflow_here
from processor.messaging import StreamReader, SyncStreamReader, event_of, send_to, stream_of

M = TypeVar("M")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_INFO: Result[WorkflowInfo] = result_codec(WorkflowInfo)
_STEPS: Result[list[StepInfo]] = result_codec(list[StepInfo])
_FLAG: Result[bool] = result_codec(bool)
_TEXT: Result[str] = result_codec(str)


class WorkflowHandle(Generic[R_co]):
    """A workflow that was started, here or elsewhere, in this program or in another.

    Attributes:
        id: Its ID.
    """

    def __init__(self, workflow_id: str, engine: Callable[[], Reach], decode: Callable[[str], R_co]) -> None:
        self.id = workflow_id
        self._engine = engine
        self._decode = decode

    def result(self, *, timeout: timedelta | None = None) -> Coroutine[Any, Any, R_co]:
        """Wait for its result.

        In a workflow: remembered; it rests while it waits long, and `timeout` counts from the first call, whatever happens in
        between. Outside: the caller waits in memory.

        Args:
            timeout: Longest wait; the workflow goes on. `None`: until it has ended.

        Raises:
            Exception: What the workflow raised.
            WorkflowCancelledError: It was cancelled, by somebody or by its own time-out.
            WorkflowNotFoundError: There is no workflow of this ID. That of a record which Kafka has is waited for, two seconds.
            TimeoutError: It has not ended in time.
        """
        if (run := workflow_here("result()", self._engine)) is not None:
            place = place_of_result(run, timeout)
            return self._result_in(run, lambda: result_in_workflow(run, self.id, place))
        return self._result(timeout)

    async def _result_in(self, run: Run, awaited: Callable[[], Coroutine[Any, Any, str]]) -> R_co:
        del run
        return self._decode(await awaited())

    async def _result(self, timeout: timedelta | None) -> R_co:  # noqa: ASYNC109  # of the caller's wait
        timeout_s = None if timeout is None else timeout.total_seconds()
        outcome = await self._engine().results.outcome(self.id, timeout_s=timeout_s)
        return self._decode(value_of(self.id, outcome, self._engine().payloads))

    def status(self) -> Coroutine[Any, Any, WorkflowInfo]:
        """Its row as it is now.

        Raises:
            WorkflowNotFoundError: There is no workflow of this ID. That of a record which Kafka has is waited for, two seconds.
        """

        async def read() -> WorkflowInfo:
            engine = self._engine()
            await engine.results.look(self.id)
            return await handles.read(engine.pool.connection, engine.settings.schema, engine.payloads, self.id)

        return self._remembered("DBOS.getStatus", read, _INFO)

    def steps(self) -> Coroutine[Any, Any, list[StepInfo]]:
        """Its history so far, in order."""

        async def read() -> list[StepInfo]:
            engine = self._engine()
            return await handles.steps(engine.pool.connection, engine.settings.schema, engine.payloads, self.id)

        return self._remembered("DBOS.listSteps", read, _STEPS)

    def cancel(self, *, interrupt: bool = False) -> Coroutine[Any, Any, bool]:
        """Cancel it, unless it has ended; whether it was cancelled by this.

        It begins no further step; at rest it has ended with this. Its children go on.

        Args:
            interrupt: Also cancel its async steps, where they wait next. Otherwise they end by themselves; what they
                return is dropped either way.

        Raises:
            WorkflowNotFoundError: There is no workflow of this ID. That of a record which Kafka has is waited for, two seconds.
        """

        async def cancel() -> bool:
            engine = self._engine()
            await engine.results.look(self.id)
            return bool(await engine.cancels.cancel([self.id], interrupt=interrupt))

        return self._remembered("DBOS.cancelWorkflow", cancel, _FLAG)

    def resume(self, *, version: str | None = None) -> Coroutine[Any, Any, bool]:
        """Put it back to work if it was cancelled, failed or was given up; whether it was put back by this.

        It goes on under its ID, behind its last recorded step; the step that it failed by runs again. Its time-out begins
        anew. A record's workflow waits behind what was open of its key, and its dead letter counts as retried.

        Args:
            version: Of the code that is to go on with it; `None`: the one it had. A record's workflow goes on in the code of
                whoever has its partition.

        Raises:
            WorkflowActError: It has succeeded.
            WorkflowNotFoundError: There is no workflow of this ID.
        """

        async def resume() -> bool:
            engine = self._engine()
            await engine.results.look(self.id)
            acted = await through_pool(
                engine, lambda connection, schema: acts.resume(connection, schema, [self.id], version=version)
            )
            engine.look_for_rows()
            return _is_done(acted, self.id, but=Refusal.OPEN)

        return self._remembered("DBOS.resumeWorkflow", resume, _FLAG)

    def fork(
        self, *, from_step: int, id: str | None = None, version: str | None = None
    ) -> Coroutine[Any, Any, "WorkflowHandle[R_co]"]:
        """Begin it once more from a step on, under another ID, over the history below that step. This one is left as it is.

        What it did from that step on is not undone: the fork does it again. A fork has no source: of a record's workflow
        it gets the record, and waits for nobody of its key.

        Args:
            from_step: Function ID (`steps()` has them) of the first step that is not taken over.
            id: Of the fork: the same again is the same fork. A UUID by default; in a workflow, its ID with the place of the call.
            version: Of the code that is to run it; `None`: that of this one.

        Raises:
            WorkflowActError: It has no such step.
            WorkflowConflictError: The ID is another workflow's.
            ReservedIdError: The ID is one that the engine gives: of a record, of a schedule's run, of what a workflow starts.
            WorkflowNotFoundError: There is no workflow of this ID.
        """

        async def fork() -> str:
            engine = self._engine()
            await engine.results.look(self.id)
            new_id = _given_id(id, "DBOS.forkWorkflow")
            await through_pool(
                engine,
                lambda connection, schema: forks.fork(
                    connection,
                    schema,
                    self.id,
                    from_step=from_step,
                    new_id=new_id,
                    is_placed=id is None,
                    version=version,
                ),
            )
            engine.look_for_rows()
            return new_id

        return self._handle_of(self._remembered("DBOS.forkWorkflow", fork, _TEXT))

    def restart(
        self, *, id: str | None = None, version: str | None = None
    ) -> Coroutine[Any, Any, "WorkflowHandle[R_co]"]:
        """Begin it anew with the inputs it had, under another ID. This one is left as it is.

        Without a version it is run by the code of the process that started last. Otherwise as `fork` from the first step.
        """

        async def restart() -> str:
            engine = self._engine()
            await engine.results.look(self.id)
            new_id = _given_id(id, "DBOS.restartWorkflow")
            await through_pool(
                engine,
                lambda connection, schema: forks.restart(
                    connection, schema, self.id, new_id=new_id, is_placed=id is None, version=version
                ),
            )
            engine.look_for_rows()
            return new_id

        return self._handle_of(self._remembered("DBOS.restartWorkflow", restart, _TEXT))

    def delete(self, *, children: bool = False) -> Coroutine[Any, Any, bool]:
        """Delete it with its history, as if it had never been; whether there was anything to delete.

        Args:
            children: Also the workflows it started, and so on: all of them, or none.

        Raises:
            WorkflowActError: It, or one of those, has not ended, or a record started it: its row is what keeps that record
                from running again.
        """

        async def delete() -> bool:
            acted = await through_pool(
                self._engine(), lambda connection, schema: acts.delete(connection, schema, [self.id], children=children)
            )
            return _is_done(acted, self.id, but=Refusal.UNKNOWN)

        return self._remembered("DBOS.deleteWorkflow", delete, _FLAG)

    async def _handle_of(self, forked: Coroutine[Any, Any, str]) -> "WorkflowHandle[R_co]":
        return WorkflowHandle(await forked, self._engine, self._decode)

    def send(
        self, message: Any, topic: str | None = None, *, idempotency_key: str | None = None
    ) -> Coroutine[Any, Any, None]:
        """Send it a message. See `processor.send`; from outside, it is durable when this returns."""
        return send_to(self._engine, self.id, message, topic, idempotency_key)

    @overload
    def get_event(self, key: str, *, timeout: timedelta | None = None) -> Coroutine[Any, Any, Any]: ...
    @overload
    def get_event(
        self, key: str, *, model: type[M], timeout: timedelta | None = None
    ) -> Coroutine[Any, Any, M | None]: ...
    def get_event(self, key: str, *, model: Any = Any, timeout: timedelta | None = None) -> Coroutine[Any, Any, Any]:
        """One of its events, once it is set. See `processor.get_event`."""
        return event_of(self._engine, self.id, key, model, timeout)

    @overload
    def read_stream(self, key: str, *, offset: int = 0) -> StreamReader[Any]: ...
    @overload
    def read_stream(self, key: str, *, model: type[M], offset: int = 0) -> StreamReader[M]: ...
    def read_stream(self, key: str, *, model: Any = Any, offset: int = 0) -> StreamReader[Any]:
        """Read one of its streams. See `processor.read_stream`."""
        return stream_of(self._engine, self.id, key, model, offset)

    def _remembered(
        self, name: str, function: Callable[[], Coroutine[Any, Any, R]], codec: Result[R]
    ) -> Coroutine[Any, Any, R]:
        return remembered(name, function, codec, self._engine)

    def __repr__(self) -> str:
        return f"<workflow {self.id}>"


class SyncWorkflowHandle(Generic[R_co]):
    """`WorkflowHandle` for threads: sync workflows, and programs without a loop of their own.

    Attributes:
        id: Its ID.
    """

    def __init__(self, handle: WorkflowHandle[R_co], engine: Callable[[], Reach]) -> None:
        self.id = handle.id
        self._handle = handle
        self._engine = engine

    def result(self, *, timeout: timedelta | None = None) -> R_co:
        """Wait for its result. See `WorkflowHandle.result`."""
        return self._wait(lambda: self._handle.result(timeout=timeout))

    def status(self) -> WorkflowInfo:
        """Its row as it is now. See `WorkflowHandle.status`."""
        return self._wait(self._handle.status)

    def steps(self) -> list[StepInfo]:
        """Its history so far. See `WorkflowHandle.steps`."""
        return self._wait(self._handle.steps)

    def cancel(self, *, interrupt: bool = False) -> bool:
        """Cancel it, unless it has ended. See `WorkflowHandle.cancel`."""
        return self._wait(lambda: self._handle.cancel(interrupt=interrupt))

    def resume(self, *, version: str | None = None) -> bool:
        """Put it back to work. See `WorkflowHandle.resume`."""
        return self._wait(lambda: self._handle.resume(version=version))

    def fork(self, *, from_step: int, id: str | None = None, version: str | None = None) -> "SyncWorkflowHandle[R_co]":
        """Begin it once more from a step on. See `WorkflowHandle.fork`."""
        forked = self._wait(lambda: self._handle.fork(from_step=from_step, id=id, version=version))
        return SyncWorkflowHandle(forked, self._engine)

    def restart(self, *, id: str | None = None, version: str | None = None) -> "SyncWorkflowHandle[R_co]":
        """Begin it anew. See `WorkflowHandle.restart`."""
        return SyncWorkflowHandle(self._wait(lambda: self._handle.restart(id=id, version=version)), self._engine)

    def delete(self, *, children: bool = False) -> bool:
        """Delete it with its history. See `WorkflowHandle.delete`."""
        return self._wait(lambda: self._handle.delete(children=children))

    def send(self, message: Any, topic: str | None = None, *, idempotency_key: str | None = None) -> None:
        """Send it a message. See `WorkflowHandle.send`."""
        self._wait(lambda: self._handle.send(message, topic, idempotency_key=idempotency_key))

    @overload
    def get_event(self, key: str, *, timeout: timedelta | None = None) -> Any: ...
    @overload
    def get_event(self, key: str, *, model: type[M], timeout: timedelta | None = None) -> M | None: ...
    def get_event(self, key: str, *, model: Any = Any, timeout: timedelta | None = None) -> Any:
        """One of its events, once it is set. See `processor.get_event`."""
        return self._wait(lambda: event_of(self._engine, self.id, key, model, timeout))

    @overload
    def read_stream(self, key: str, *, offset: int = 0) -> SyncStreamReader[Any]: ...
    @overload
    def read_stream(self, key: str, *, model: type[M], offset: int = 0) -> SyncStreamReader[M]: ...
    def read_stream(self, key: str, *, model: Any = Any, offset: int = 0) -> SyncStreamReader[Any]:
        """Read one of its streams: `for value in handle.read_stream(key)`. See `processor.read_stream`."""
        return SyncStreamReader(stream_of(self._engine, self.id, key, model, offset), self._engine)

    def _wait(self, call: Callable[[], Coroutine[Any, Any, R]]) -> R:
        return from_thread(self._engine, call)

    def __repr__(self) -> str:
        return f"<workflow {self.id}>"


def remembered(
    name: str, function: Callable[[], Coroutine[Any, Any, R]], codec: Result[R], engine: Callable[[], Reach]
) -> Coroutine[Any, Any, R]:
    """A call that a workflow's history remembers; elsewhere it is only made."""
    if (run := workflow_here(name, engine)) is None:
        return function()

    async def readable() -> R:
        return await once_readable(run, function)

    step = Step(name=name, function=readable, is_async=True, record=codec.record, decode=codec.decode)
    return run_step(step, (), {})


def _given_id(given: str | None, call: str) -> str:
    """The ID of a fork: where a workflow remembers the call, the same in every try of it."""
    if given is not None:
        return given
    step = current_step.get()
    if step is None or step.name != call:
        return str(uuid.uuid4())
    return f"{step.workflow_id}-{step.function_id}"


def _is_done(acted: Acted, workflow_id: str, *, but: Refusal) -> bool:
    """Whether an act was done; one refusal only says that there was nothing to do. Raises `WorkflowActError` for others."""
    others = {each: why for each, why in acted.refused.items() if each != workflow_id or why is not but}
    if others:
        culprit, why = next(iter(others.items()))
        raise WorkflowActError(workflow_id, why if culprit == workflow_id else f"its child {culprit}: {why}")
    return workflow_id in acted.done


__all__ = ["SyncWorkflowHandle", "WorkflowHandle", "remembered"]
