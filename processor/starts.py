"""`workflow.start(...)`: typed by the workflow's own arguments, with `id=` and `timeout=` beside them.

A `ParamSpec` takes no keyword beside its own, so there is an overload for every number of positional arguments up to three;
with more, or with keyword arguments of the workflow's, give the ID by `with workflow_id("…"):`.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from processor.handles import SyncWorkflowHandle, WorkflowHandle

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Starter(Protocol):
    """What starts a workflow for `start` and `start_sync`."""

    def start(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, id: str | None, timeout: timedelta | None
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        """Begin now: the ID and the place in the caller's history are given at the call."""
        ...

    def start_sync(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, id: str | None, timeout: timedelta | None
    ) -> SyncWorkflowHandle[Any]:
        """Start, from a thread."""
        ...


class _Of(Protocol[F_co]):
    """What starts a function that can be called so: optional parameters may be left out, which generics do not know."""

    @property
    def fn(self) -> F_co:
        """The function."""
        ...


class Start(Generic[P, R_co]):
    """`await workflow.start(*args, id=…, timeout=…)`: start it, and return its handle.

    Outside of a workflow: returns when its row is durable, whoever runs it. In a workflow: it is a child, whose row comes in the
    commit of the checkpoint that says so; the caller goes on at once.

    Args:
        *args, **kwargs: The workflow's own.
        id: Its idempotency key. The same ID again is the first run, with its handle and result. A UUID by default, and the
            parent's ID with the place of the call for a child.
        timeout: From when somebody runs it to its completion, whatever happens in between; then it is cancelled, with its
            children.

    Raises:
        WorkflowConflictError: The ID is another workflow's, or this one's with other inputs.
        TypeError: These are no arguments of the workflow.
        ConfigurationError: The app does not run in this process.
    """

    def __init__(self, fn: Callable[P, R_co], starter: Starter) -> None:
        self._fn = fn
        self._starter = starter

    @property
    def fn(self) -> Callable[P, R_co]:
        """The workflow's function."""
        return self._fn

    @overload
    async def __call__(
        self: "Start[P, Coroutine[Any, Any, T]]", *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[], Coroutine[Any, Any, T]]]", *, id: str | None = None, timeout: timedelta | None = None
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A], Coroutine[Any, Any, T]]]",
        a: A,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B], Coroutine[Any, Any, T]]]",
        a: A,
        b: B,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B, C], Coroutine[Any, Any, T]]]",
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R_co]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[], T]]", *, id: str | None = None, timeout: timedelta | None = None
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A], T]]", a: A, /, *, id: str | None = None, timeout: timedelta | None = None
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B], T]]", a: A, b: B, /, *, id: str | None = None, timeout: timedelta | None = None
    ) -> WorkflowHandle[T]: ...
    @overload
    async def __call__(
        self: "_Of[Callable[[A, B, C], T]]",
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> WorkflowHandle[T]: ...
    def __call__(self, *args: Any, id: str | None = None, timeout: timedelta | None = None, **kwargs: Any) -> Any:
        """See the class."""
        return self._starter.start(args, kwargs, id=id, timeout=timeout)


class SyncStart(Generic[P, R_co]):
    """`workflow.start_sync(*args, id=…, timeout=…)`: `start` from a thread, as a sync workflow's. See `Start`."""

    def __init__(self, fn: Callable[P, R_co], starter: Starter) -> None:
        self._fn = fn
        self._starter = starter

    @property
    def fn(self) -> Callable[P, R_co]:
        """The workflow's function."""
        return self._fn

    @overload
    def __call__(
        self: "SyncStart[P, Coroutine[Any, Any, T]]", *args: P.args, **kwargs: P.kwargs
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[], Coroutine[Any, Any, T]]]", *, id: str | None = None, timeout: timedelta | None = None
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A], Coroutine[Any, Any, T]]]",
        a: A,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B], Coroutine[Any, Any, T]]]",
        a: A,
        b: B,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B, C], Coroutine[Any, Any, T]]]",
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> SyncWorkflowHandle[R_co]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[], T]]", *, id: str | None = None, timeout: timedelta | None = None
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A], T]]", a: A, /, *, id: str | None = None, timeout: timedelta | None = None
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B], T]]", a: A, b: B, /, *, id: str | None = None, timeout: timedelta | None = None
    ) -> SyncWorkflowHandle[T]: ...
    @overload
    def __call__(
        self: "_Of[Callable[[A, B, C], T]]",
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str | None = None,
        timeout: timedelta | None = None,
    ) -> SyncWorkflowHandle[T]: ...
    def __call__(self, *args: Any, id: str | None = None, timeout: timedelta | None = None, **kwargs: Any) -> Any:
        """See the class."""
        return self._starter.start_sync(args, kwargs, id=id, timeout=timeout)
