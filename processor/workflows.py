"""What `@app.workflow` leaves in the place of a function, and how it is started: by a call, from outside or from a workflow.

await fulfil.start(order)      a handle, at once
await fulfil.enqueue(order, queue=orders)     the same, when its turn comes
await fulfil(order)            start it, and wait for its result
with workflow_id("o-1"): …     the next workflow called or started inside has this ID
fulfil.fn(order)               the function itself, for unit tests
"""

import json
import uuid
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import update_wrapper
from inspect import getattr_static, iscoroutinefunction
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from engine.checkpoint import require_loop, require_thread
from engine.children import (
    DEDUPLICATE,
    child_id,
    decide_deduplicated,
    place_of_result,
    result_in_workflow,
    start_child,
    start_outside,
)
from engine.current import current_run
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.identity import Identity, NotAuthorizedError, acting, authorized, identity_of
from engine.ids import WorkflowId
from engine.queues import QueueSpec, check_place, enter
from engine.runner import Run
from engine.starts import Start as StartRow
from engine.starts import check_id
from engine.timers import Place
from processor.blocking import from_thread
from processor.debounces import DebounceOptions, Debouncer
from processor.enqueues import Enqueue, SyncEnqueue
from processor.handlers import Registration
from processor.handles import SyncWorkflowHandle, WorkflowHandle
from processor.here import workflow_here
from processor.methods import Instances
from processor.queues import PlaceOptions, Queue, checked
from processor.records import Record
from processor.starts import Start, SyncStart

P = ParamSpec("P")
E = TypeVar("E")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
Q = ParamSpec("Q")


@dataclass(slots=True)
class _Given:
    """An ID that waits for its workflow."""

    id: str | None


_given: ContextVar[_Given | None] = ContextVar("given_workflow_id", default=None)


@contextmanager
def workflow_id(id: str) -> Generator[None]:
    """The next workflow that is called or started inside gets this ID: its idempotency key.

    The same ID again is the first run, with its result, wherever and whenever that was.
    """
    check_id(id)
    token = _given.set(_Given(id))
    try:
        yield
    finally:
        _given.reset(token)


class WorkflowFunction(Generic[P, R_co]):
    """A workflow: records start it, or calls do.

    Attributes:
        fn: The function as it was written.
        name: `workflow_status.name`.
        start: Start it from async code, and have its handle: see `Start`.
        start_sync: The same from a thread, as a sync workflow's.
        enqueue, enqueue_sync: Have it run when its turn in a queue comes: see `Queue.enqueue`.
    """

    fn: Callable[P, R_co]

    def __init__(
        self,
        fn: Callable[P, R_co],
        registration: Registration,
        engine: Callable[[], Engine],
        instances: Instances,
        instance: str | None = None,
    ) -> None:
        self.fn = fn
        self.name = registration.name
        self.registration = registration
        self._engine = engine
        self._instances = instances
        starter = _Starter(registration, engine, instance)
        self.starter = starter
        self.start: Start[P, R_co] = Start(fn, starter)
        self.start_sync: SyncStart[P, R_co] = SyncStart(fn, starter)
        self.enqueue: Enqueue[P, R_co] = Enqueue(fn, starter)
        self.enqueue_sync: SyncEnqueue[P, R_co] = SyncEnqueue(fn, starter)
        update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Start it and wait for its result: in a workflow as a child, outside as a workflow of its own.

        Raises:
            WorkflowConflictError: The ID it was given is another workflow's, or this one's with other inputs.
            ConfigurationError: The app does not run in this process. A unit test calls `fn`.
        """
        return cast("R_co", self.starter.call(args, kwargs))

    def debounce(
        self,
        key: str,
        *,
        wait: timedelta,
        max_wait: timedelta | None = None,
        queue: Queue | None = None,
        timeout: timedelta | None = None,
    ) -> Debouncer[P, R_co]:
        """`workflow.debounce(key, wait=…).start(…)`: run once no call has come for `wait`, with the last one's arguments.

        The first call under a key decides on `max_wait`, `queue` and `timeout` for all that meet what waits, as in DBOS: theirs count
        when they begin anew. Their arguments and their `wait` replace those before.

        Args:
            key: Whose calls belong together: of this workflow, from whatever process.
            wait: Quiet after the last call.
            max_wait: After the first call it starts at the latest, however many follow. `None`: calls can put it off for ever.
            queue: Where it then waits for its turn, with whatever limits that has; still, until it has started, calls change
                its arguments. Neither partitioned, nor with a priority. `None`: it starts at once.
            timeout: From its start to its completion.

        Raises:
            ConfigurationError: An option is none.
        """
        if self.registration.instances is not None:
            raise ConfigurationError(f"workflow {self.name!r}: a method is not debounced; make it a function")
        if self.registration.roles:
            raise ConfigurationError(
                f"workflow {self.name!r} requires roles, and what many calls debounce to is nobody's: start it, or roles=()"
            )
        options = DebounceOptions(key, wait, max_wait, queue, timeout)
        return Debouncer(self.fn, self.starter, options)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: "WorkflowFunction[Concatenate[S, Q], R]", instance: S, owner: type | None = None
    ) -> "WorkflowFunction[Q, R]": ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The workflow as a method of an object that has a name (`App.instance`). Raises `ConfigurationError` if it has none."""
        del owner
        if instance is None or self.registration.instances is None:
            return self
        name = self._instances.name_of(instance, f"workflow {self.name!r}")
        method = MethodType(self.fn, instance)
        return WorkflowFunction[..., Any](method, self.registration, self._engine, self._instances, name)

    @overload
    def retrieve(self: "WorkflowFunction[P, Coroutine[Any, Any, R]]", id: str) -> WorkflowHandle[R]: ...
    @overload
    def retrieve(self, id: str) -> WorkflowHandle[R_co]: ...
    def retrieve(self, id: str) -> WorkflowHandle[Any]:
        """The handle of a run of this workflow, whoever started it; its result is read as this workflow's."""
        return WorkflowHandle(id, self._engine, self.registration.result.decode)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class CallableDecorator(Protocol):
    """Takes any function, sync or async, whose arguments and result can be written as JSON."""

    def __call__(self, fn: Callable[P, R], /) -> WorkflowFunction[P, R]:
        """The workflow."""
        ...


# The overload of the event stands last: pyright explains a mismatch by the last one.


class HandlerDecorator(Protocol[E]):
    """Takes a function of the topic's event, or of its `Record`."""

    @overload
    def __call__(self, fn: Callable[[Record[E]], R], /) -> WorkflowFunction[[Record[E]], R]: ...
    @overload
    def __call__(self, fn: Callable[[E], R], /) -> WorkflowFunction[[E], R]: ...


class _Starter:
    """Starts one workflow."""

    def __init__(self, registration: Registration, engine: Callable[[], Engine], instance: str | None) -> None:
        self.name = registration.name
        self._registration = registration
        self._instance = instance
        self._engine = engine
        self._is_async = iscoroutinefunction(registration.function)

    # -- start --

    def start(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, id: str | None, timeout: timedelta | None
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        run = workflow_here(f"{self._registration.name}.start()")
        inputs, given = self._inputs(args, kwargs), _taken(id)
        if run is None:
            return self._start_outside(inputs, given, timeout)
        return self._start_child(run, self._child(run, inputs, given, timeout))

    def start_sync(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, id: str | None, timeout: timedelta | None
    ) -> SyncWorkflowHandle[Any]:
        given = _taken(id)
        handle = from_thread(self._engine, lambda: self.start(args, kwargs, id=given, timeout=timeout))
        return SyncWorkflowHandle(handle, self._engine)

    # -- debounce --

    @property
    def engine(self) -> Callable[[], Engine]:
        return self._engine

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        return self._inputs(args, kwargs)

    def refuse_id(self) -> None:
        given = _given.get()
        if given is not None and given.id is not None:
            raise ConfigurationError(
                f"workflow {self._registration.name!r}: workflow_id({given.id!r}) around debounce(): the first of many calls has"
                f" said which workflow it is.\n  Call it outside of the block; the handle has the ID."
            )

    def decode(self, output: str) -> Any:
        return self._registration.result.decode(output)

    # -- enqueue --

    def enqueue(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], queue: QueueSpec, options: PlaceOptions
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        placed: dict[str, Any] = {**checked(queue, options)}
        id, timeout = placed.pop("id", None), placed.pop("timeout", None)
        check_place(queue, **placed)
        run = workflow_here(f"{self._registration.name}.enqueue()")
        inputs, given = self._inputs(args, kwargs), _taken(id)
        if run is None:
            start = self._outside(inputs, given, timeout)
            enter(start, queue, **placed)
            return self._enqueue_outside(start)
        child = self._child(run, inputs, given, timeout)
        enter(child.start, queue, **placed)
        if child.start.deduplication_id is None:
            return self._start_child(run, child)
        # Both places in the history are taken now: gathered calls keep theirs in every replay.
        verdict_id = run.next_function_id(DEDUPLICATE)
        return self._enqueue_deduplicated(run, child, verdict_id)

    def enqueue_sync(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], queue: QueueSpec, options: PlaceOptions
    ) -> SyncWorkflowHandle[Any]:
        taken: PlaceOptions = {**options, "id": _taken(options.get("id"))}
        handle = from_thread(self._engine, lambda: self.enqueue(args, kwargs, queue, taken))
        return SyncWorkflowHandle(handle, self._engine)

    async def _enqueue_outside(self, start: StartRow) -> WorkflowHandle[Any]:
        await start_outside(self._engine(), start)
        return WorkflowHandle(start.id, self._engine, self._registration.result.decode)

    async def _enqueue_deduplicated(self, run: Run, child: "_Child", verdict_id: int) -> WorkflowHandle[Any]:
        await child.begin(run)
        await decide_deduplicated(run, child.start, start_id=child.function_id, verdict_id=verdict_id)
        return WorkflowHandle(child.start.id, self._engine, self._registration.result.decode)

    # -- call --

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        run = workflow_here(f"a call of {self._registration.name}()")
        if not self._is_async:
            if run is not None:
                require_thread(run, self._registration.name)
            given = _taken(None)
            return from_thread(self._engine, lambda: self._call(args, kwargs, given))
        if run is not None:
            require_loop(run, self._registration.name)
        return self._call(args, kwargs, _taken(None))

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any], given: str | None) -> Coroutine[Any, Any, Any]:
        run = workflow_here(self._registration.name)
        inputs = self._inputs(args, kwargs)
        if run is None:
            return self._call_outside(inputs, given)
        # Both places in the history are taken now: gathered calls keep theirs in every replay.
        child = self._child(run, inputs, given, None)
        return self._call_child(run, child, place_of_result(run, None))

    async def _call_child(self, run: Run, child: "_Child", place: Place) -> Any:
        await child.begin(run)
        return self._registration.result.decode(await result_in_workflow(run, child.start.id, place))

    async def _call_outside(self, inputs: str, given: str | None) -> Any:
        handle = await self._start_outside(inputs, given, None)
        return await handle.result()

    # -- inside --

    async def _start_child(self, run: Run, child: "_Child") -> WorkflowHandle[Any]:
        await child.begin(run)
        return WorkflowHandle(child.start.id, self._engine, self._registration.result.decode)

    def _child(self, run: Run, inputs: str, given: str | None, timeout: timedelta | None) -> "_Child":
        function_id = run.next_function_id(self._registration.name)
        start = self._row(run.home.engine, child_id(run, function_id) if given is None else given, inputs, timeout)
        start.request = json.dumps({"parent": run.id, "function_id": function_id})
        refused: NotAuthorizedError | None = None
        try:
            start.belongs_to(authorized(start.name, identity_of(run), self._registration.roles))
        except NotAuthorizedError as error:
            refused = error
        return _Child(start, function_id, given is not None, refused)

    async def _start_outside(self, inputs: str, given: str | None, timeout: timedelta | None) -> WorkflowHandle[Any]:  # noqa: ASYNC109  # of the workflow
        start = self._outside(inputs, given, timeout)
        await start_outside(self._engine(), start)
        return WorkflowHandle(start.id, self._engine, self._registration.result.decode)

    def _outside(self, inputs: str, given: str | None, timeout: timedelta | None) -> StartRow:
        identity = authorized(self._registration.name, identity_here(), self._registration.roles)
        start = self._row(self._engine(), str(uuid.uuid4()) if given is None else given, inputs, timeout)
        start.belongs_to(identity)
        return start

    def _row(self, engine: Engine, id: str, inputs: str, timeout: timedelta | None) -> StartRow:
        return row_of(self._registration, engine, id, inputs, instance=self._instance, timeout=timeout)

    def _inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        if self._registration.instances is not None and self._instance is None:
            raise ConfigurationError(
                f"workflow {self._registration.name!r}: a method, called without its object.\n"
                f"  Call it on one that has a name: app.instance('name', {self._registration.class_name}(...))"
            )
        arguments = self._registration.arguments or self._registration.call_arguments()  # which says why not
        return arguments.encode(args, kwargs)


def row_of(
    registration: Registration,
    engine: Engine,
    id: str,
    inputs: str,
    *,
    instance: str | None = None,
    timeout: timedelta | None = None,
) -> StartRow:
    """The row of a workflow that is to be started, as the code here would run it."""
    handler = engine.commons.handlers.get(registration.name)
    start = StartRow(
        id=WorkflowId(id),
        name=registration.name,
        version=registration.code_version if handler is None else handler.version,
        class_name=registration.class_name,
        config_name=instance,
        inputs=inputs,
    )
    start.lasts(timeout)
    return start


def workflows_of(instance: object) -> Iterator[Registration]:
    """The workflows that are methods of an object."""
    for name in dir(type(instance)):
        found = getattr_static(type(instance), name, None)
        if isinstance(found, WorkflowFunction):
            registration = cast("WorkflowFunction[..., Any]", found).registration
            if registration.instances is not None:
                yield registration


@dataclass(frozen=True, slots=True)
class _Child:
    """A child on its way: its row, its place in the parent's history, whether it was given its ID, why it may not be."""

    start: StartRow
    function_id: int
    has_own_id: bool
    refused: NotAuthorizedError | None

    async def begin(self, run: Run) -> None:
        await start_child(
            run, self.start, function_id=self.function_id, has_own_id=self.has_own_id, refused=self.refused
        )


def identity_here() -> Identity | None:
    """Whose identity what is started here gets: in a step, that of its workflow."""
    run = current_run.get()
    return acting.get() if run is None else identity_of(run)


def _taken(id: str | None) -> str | None:
    """The ID that was given, by argument or by `workflow_id`: once."""
    if id is not None:
        return id
    given = _given.get()
    if given is None:
        return None
    id, given.id = given.id, None
    return id


__all__ = ["WorkflowFunction", "workflow_id"]
