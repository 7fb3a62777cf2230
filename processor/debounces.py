"""Debounce: a workflow that runs once it has been quiet for a while, with what was said last.

    await reindex.debounce("shop-7", wait=timedelta(seconds=30), max_wait=timedelta(minutes=5)).start("shop-7")

Every call under the key puts the workflow off by `wait` and replaces its inputs, from any process; it starts `max_wait` after the
first of these calls at the latest. A call that comes when it has started begins anew, with another workflow.
"""

import json
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from engine.children import child_id
from engine.debounce import DEBOUNCE, debounce_in_workflow, debounce_outside
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.queues import KEY_MAX, check_place, next_place
from engine.runner import Run
from engine.store.debounce import Call
from processor.blocking import from_thread
from processor.handles import SyncWorkflowHandle, WorkflowHandle
from processor.here import workflow_here
from processor.queues import INTERNAL_QUEUE, Queue

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
F_co = TypeVar("F_co", covariant=True)


class Debounced(Protocol):
    """A workflow that can be debounced: its name, its arguments as its row has them, its result."""

    name: str

    @property
    def engine(self) -> Callable[[], Engine]:
        """Where it runs."""
        ...

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The arguments as JSON text. Raises `TypeError` if they are none of the workflow."""
        ...

    def decode(self, output: str) -> Any:
        """Its result."""
        ...

    def refuse_id(self) -> None:
        """Raises `ConfigurationError` where the next workflow was given an ID."""
        ...


@dataclass(frozen=True, slots=True)
class DebounceOptions:
    """Of a key: see `WorkflowFunction.debounce`."""

    key: str
    wait: timedelta
    max_wait: timedelta | None
    queue: Queue | None
    timeout: timedelta | None

    def __post_init__(self) -> None:
        if not self.key or len(self.key) > KEY_MAX or "\x00" in self.key:
            raise ConfigurationError(
                f"debounce({self.key[:50]!r}): a key of 1 to {KEY_MAX} characters, none of them NUL"
            )
        if self.wait <= timedelta(0):
            raise ConfigurationError(f"debounce({self.key!r}): wait={self.wait}: longer than nothing")
        if self.max_wait is not None and self.max_wait < self.wait:
            raise ConfigurationError(
                f"debounce({self.key!r}): max_wait={self.max_wait} is shorter than wait={self.wait}: no call could put it off"
            )
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise ConfigurationError(f"debounce({self.key!r}): timeout={self.timeout}: longer than nothing, or None")
        if self.queue is not None:
            check_place(self.queue.spec)


class Debouncer(Generic[P, R_co]):
    """Calls of one workflow under one key.

    Attributes:
        fn: The function.
    """

    def __init__(self, fn: Callable[P, R_co], workflow: Debounced, options: DebounceOptions) -> None:
        self.fn = fn
        self._workflow = workflow
        self._options = options

    @overload
    def start(
        self: "Debouncer[P, Coroutine[Any, Any, T]]", *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, WorkflowHandle[T]]: ...
    @overload
    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, WorkflowHandle[R_co]]: ...
    def start(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        """Have the workflow run with these arguments, unless another call comes in time. Returns the handle of what waits.

        All calls that meet the same waiting workflow have the same handle, and the result of the last one's arguments.
        Outside of a workflow: returns when the call is durable. In a workflow: the same, and it is remembered.

        Raises:
            TypeError: These are no arguments of the workflow.
            ConfigurationError: The app does not run in this process; or it is within `workflow_id`.
        """
        self._workflow.refuse_id()
        run = workflow_here(f"{self._workflow.name}.debounce()")
        inputs = self._workflow.inputs(args, kwargs)
        if run is None:
            return self._outside(inputs)
        return self._inside(run, inputs, run.next_function_id(DEBOUNCE))

    @overload
    def start_sync(
        self: "Debouncer[P, Coroutine[Any, Any, T]]", *args: P.args, **kwargs: P.kwargs
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def start_sync(self, *args: P.args, **kwargs: P.kwargs) -> SyncWorkflowHandle[R_co]: ...
    def start_sync(self, *args: Any, **kwargs: Any) -> SyncWorkflowHandle[Any]:
        """`start` from a thread, as a sync workflow's."""
        self._workflow.refuse_id()
        handle: WorkflowHandle[Any] = from_thread(self._workflow.engine, lambda: self.start(*args, **kwargs))
        return SyncWorkflowHandle(handle, self._workflow.engine)

    async def _outside(self, inputs: str) -> WorkflowHandle[Any]:
        call = self._call(str(uuid.uuid4()), inputs, None)
        return self._handle(await debounce_outside(self._workflow.engine(), call))

    async def _inside(self, run: Run, inputs: str, function_id: int) -> WorkflowHandle[Any]:
        request = json.dumps({"parent": run.id, "function_id": function_id})
        call = self._call(child_id(run, function_id), inputs, request)
        return self._handle(await debounce_in_workflow(run, call, function_id))

    def _handle(self, workflow_id: str) -> WorkflowHandle[Any]:
        return WorkflowHandle(workflow_id, self._workflow.engine, self._workflow.decode)

    def _call(self, id: str, inputs: str, request: str | None) -> Call:
        options = self._options
        return Call(
            id=id,
            name=self._workflow.name,
            key=options.key,
            wait_ms=_ms(options.wait),
            max_wait_ms=None if options.max_wait is None else _ms(options.max_wait),
            queue=(options.queue or INTERNAL_QUEUE).name,
            inputs=inputs,
            request=request,
            timeout_ms=None if options.timeout is None else _ms(options.timeout),
            place=next_place(),
        )


def _ms(duration: timedelta) -> int:
    return max(1, int(duration / timedelta(milliseconds=1)))


__all__ = ["Debouncer"]
