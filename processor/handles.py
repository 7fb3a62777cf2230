"""Handles: what one can do with a workflow whose ID one has, wherever it runs.

    WorkflowHandle        await handle.result(), .status(), .steps(), .cancel(), .send(), .get_event(), .read_stream()
    SyncWorkflowHandle    the same, from a thread

In a workflow all of these are remembered: a replay gets what the first run got.
"""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from engine import handles
from engine.checkpoint import run_step
from engine.children import place_of_result, result_in_workflow
from engine.engine import Engine
from engine.handlers import Step
from engine.handles import StepInfo, WorkflowInfo
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


class WorkflowHandle(Generic[R_co]):
    """A workflow that was started, here or elsewhere, in this program or in another.

    Attributes:
        id: Its ID.
    """

    def __init__(self, workflow_id: str, engine: Callable[[], Engine], decode: Callable[[str], R_co]) -> None:
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
        if (run := workflow_here("result()")) is not None:
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
        if (run := workflow_here(name)) is None:
            return function()

        async def readable() -> R:
            return await once_readable(run, function)

        step = Step(name=name, function=readable, is_async=True, encode=codec.encode, decode=codec.decode)
        return run_step(step, (), {})

    def __repr__(self) -> str:
        return f"<workflow {self.id}>"


class SyncWorkflowHandle(Generic[R_co]):
    """`WorkflowHandle` for threads: sync workflows, and programs without a loop of their own.

    Attributes:
        id: Its ID.
    """

    def __init__(self, handle: WorkflowHandle[R_co], engine: Callable[[], Engine]) -> None:
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


__all__ = ["SyncWorkflowHandle", "WorkflowHandle"]
