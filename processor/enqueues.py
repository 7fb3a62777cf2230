"""`workflow.enqueue(..., queue=…)`: typed by the workflow's own arguments, with the options of its place beside them.

Overloads for up to three positional arguments, as `workflow.start` has them (processor/starts.py); with more, or with keyword
arguments of the workflow's: `queue.enqueue(workflow, …)`, which takes any.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, Required, TypeVar, Unpack, overload

from engine.queues import QueueSpec
from processor.handles import SyncWorkflowHandle, WorkflowHandle
from processor.queues import PlaceOptions, Queue

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class EnqueueOptions(PlaceOptions):
    """How a workflow waits, and in which queue."""

    queue: Required[Queue]


class Enqueuer(Protocol):
    """What enqueues a workflow for `enqueue` and `enqueue_sync`."""

    def enqueue(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], queue: QueueSpec, options: PlaceOptions
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        """Begin now: the ID and the place in the caller's history are given at the call."""
        ...

    def enqueue_sync(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], queue: QueueSpec, options: PlaceOptions
    ) -> SyncWorkflowHandle[Any]:
        """Enqueue, from a thread."""
        ...


class _Of(Protocol[F_co]):
    """What enqueues a function that can be called so: optional parameters may be left out, which generics do not know."""

    @property
    def fn(self) -> F_co:
        """The function."""
        ...


class Enqueue(Generic[P, R_co]):
    """`await workflow.enqueue(*args, queue=…, priority=…)`: see `Queue.enqueue`, and `PlaceOptions` for the options."""

    def __init__(self, fn: Callable[P, R_co], enqueuer: Enqueuer) -> None:
        self._fn = fn
        self._enqueuer = enqueuer

    @property
    def fn(self) -> Callable[P, R_co]:
        """The workflow's function."""
        return self._fn

    @overload
    async def __call__(
        self: "_Of[Callable[[], Coroutine[Any, Any, T]]]", **options: Unpack[EnqueueOptions]
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A], Coroutine[Any, Any, T]]]", a: A, /, **options: Unpack[EnqueueOptions]
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B], Coroutine[Any, Any, T]]]", a: A, b: B, /, **options: Unpack[EnqueueOptions]
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B, C], Coroutine[Any, Any, T]]]", a: A, b: B, c: C, /, **options: Unpack[EnqueueOptions]
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(self: "_Of[Callable[[], T]]", **options: Unpack[EnqueueOptions]) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A], T]]", a: A, /, **options: Unpack[EnqueueOptions]
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B], T]]", a: A, b: B, /, **options: Unpack[EnqueueOptions]
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B, C], T]]", a: A, b: B, c: C, /, **options: Unpack[EnqueueOptions]
    ) -> WorkflowHandle[T]: ...
    def __call__(self, *args: Any, queue: Queue, **options: Any) -> Any:
        """See the class."""
        having, kwargs = _parted(options)
        return self._enqueuer.enqueue(args, kwargs, queue.spec, having)


class SyncEnqueue(Generic[P, R_co]):
    """`workflow.enqueue_sync(*args, queue=…)`: `enqueue` from a thread, as a sync workflow's."""

    def __init__(self, fn: Callable[P, R_co], enqueuer: Enqueuer) -> None:
        self._fn = fn
        self._enqueuer = enqueuer

    @property
    def fn(self) -> Callable[P, R_co]:
        """The workflow's function."""
        return self._fn

    @overload
    def __call__(
        self: "_Of[Callable[[], Coroutine[Any, Any, T]]]", **options: Unpack[EnqueueOptions]
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A], Coroutine[Any, Any, T]]]", a: A, /, **options: Unpack[EnqueueOptions]
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B], Coroutine[Any, Any, T]]]", a: A, b: B, /, **options: Unpack[EnqueueOptions]
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B, C], Coroutine[Any, Any, T]]]", a: A, b: B, c: C, /, **options: Unpack[EnqueueOptions]
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(self: "_Of[Callable[[], T]]", **options: Unpack[EnqueueOptions]) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A], T]]", a: A, /, **options: Unpack[EnqueueOptions]
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B], T]]", a: A, b: B, /, **options: Unpack[EnqueueOptions]
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B, C], T]]", a: A, b: B, c: C, /, **options: Unpack[EnqueueOptions]
    ) -> SyncWorkflowHandle[T]: ...
    def __call__(self, *args: Any, queue: Queue, **options: Any) -> Any:
        """See the class."""
        having, kwargs = _parted(options)
        return self._enqueuer.enqueue_sync(args, kwargs, queue.spec, having)


def _parted(options: dict[str, Any]) -> tuple[PlaceOptions, dict[str, Any]]:
    """The options of the place, and keyword arguments of the workflow's."""
    names = PlaceOptions.__annotations__
    having = PlaceOptions(**{name: value for name, value in options.items() if name in names})
    return having, {name: value for name, value in options.items() if name not in names}
