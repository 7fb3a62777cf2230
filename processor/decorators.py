"""What the decorators of an `App` leave in the place of a function.

    step            callable as the function was; in a workflow its result is remembered
    transaction     callable without `tx`, in a workflow only
    workflow        callable: started, and waited for (processor/workflows.py)
    fused handler   not callable: records start it

Each keeps the function as it was under `fn`, for unit tests: `record.fn(tx, order)`.
"""

from collections.abc import Callable, Sequence
from functools import update_wrapper
from types import FunctionType, MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from engine.checkpoint import call_step
from engine.current import current_run
from engine.errors import ConfigurationError
from engine.handlers import Step, TransactionStep
from engine.procedures import ProcedureStep
from engine.transaction import SyncTransaction, Transaction
from engine.transactional import call_transaction
from processor.methods import is_method
from processor.records import Record

P = ParamSpec("P")
E = TypeVar("E")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
E_contra = TypeVar("E_contra", contravariant=True)
S = TypeVar("S")
Q = ParamSpec("Q")
T = TypeVar("T", Transaction, SyncTransaction)
"""`tx` of an async function, or of a sync one."""


class StepFunction(Generic[P, R]):
    """A step. Called in a workflow, it runs once and its result is remembered; elsewhere it is a plain call.

    The workflow is given the result as every replay reads it back. Its call is made in the workflow's own thread: another one
    that has the workflow's context is refused (`OtherThreadError`); one that has not, as those of a `ThreadPoolExecutor`,
    makes a plain call, with an `UnrecordedStepWarning`. `sync.gather` runs several beside each other.

    Attributes:
        fn: The function as it was written.
        name: In the history.
    """

    fn: Callable[P, R]
    bound: tuple[Any, ...] = ()
    """The object whose method it is, once it is taken from one."""

    def __init__(self, fn: Callable[P, R], step: Step) -> None:
        self.fn = fn
        self.step = step
        self.name = step.name
        update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns, or what the history says it returned."""
        result: R = call_step(self.step, (*self.bound, *args), kwargs)
        return result

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: "StepFunction[Concatenate[S, Q], R]", instance: S, owner: type | None = None
    ) -> "StepFunction[Q, R]": ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The step as a method of an object."""
        del owner
        if instance is None or not is_method(cast("FunctionType", self.fn)):
            return self
        method = StepFunction[..., Any](self.fn, self.step)
        method.fn, method.bound = MethodType(self.fn, instance), (instance,)
        return method

    def __repr__(self) -> str:
        return f"<step {self.name}>"


class TransactionFunction(Generic[T, P, R]):
    """A transactional step: its writes and its record are one commit. Called without `tx`, in a workflow.

    Attributes:
        fn: The function as it was written, with `tx`.
        name: In the history.
    """

    fn: Callable[Concatenate[T, P], R]
    bound: tuple[Any, ...] = ()
    """The object whose method it is, once it is taken from one."""

    def __init__(self, fn: Callable[Concatenate[T, P], R], step: TransactionStep) -> None:
        self.fn = fn
        self.step = step
        self.name = step.name
        update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns, or what the history says it returned.

        Raises:
            ConfigurationError: Outside of a workflow there is no transaction to run it in.
        """
        if current_run.get() is None:
            raise ConfigurationError(
                f"transaction {self.name!r}: called outside of a workflow, where nobody opens its transaction.\n"
                f"  In a test or a script, open one and call {self.name}.fn(tx, ...)."
            )
        result: R = call_transaction(self.step, (*self.bound, *args), kwargs)
        return result

    def __repr__(self) -> str:
        return f"<transaction {self.name}>"


class TransactionMethod(TransactionFunction[T, P, R], Generic[S, T, P, R]):
    """A transactional step that is a method: taken from an object, it is called without `tx`."""

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: S, owner: type | None = None) -> TransactionFunction[T, P, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The step as a method of an object."""
        del owner
        if instance is None:
            return self
        method = TransactionFunction[Any, ..., Any](self.fn, self.step)
        method.fn, method.bound = MethodType(self.fn, instance), (instance,)
        return method


class ProcedureFunction(Generic[P, R]):
    """A SQL function as a step: what it does and its record are one commit. Called in a workflow.

    Attributes:
        fn: The declaration.
        name: In the history.
    """

    fn: Callable[P, R]

    def __init__(self, fn: Callable[P, R], step: ProcedureStep) -> None:
        self.fn = fn
        self.step = step
        self.name = step.name
        update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the SQL function returns, or what the history says it returned.

        Raises:
            ConfigurationError: Outside of a workflow nobody opens its transaction.
        """
        if current_run.get() is None:
            raise ConfigurationError(
                f"procedure {self.name!r}: called outside of a workflow, where nobody opens its transaction.\n"
                f"  In a test or a script, call the SQL function itself."
            )
        result: R = call_transaction(self.step, args, kwargs)
        return result

    def __repr__(self) -> str:
        return f"<procedure {self.name}>"


class FusedFunction(Generic[P, R]):
    """A handler that is one transaction, of one record or of many. Records start it; it is not callable.

    Attributes:
        fn: The function as it was written, with `tx`.
        name: `workflow_status.name`.
    """

    fn: Callable[P, R]

    def __init__(self, fn: Callable[P, R], name: str) -> None:
        self.fn = fn
        self.name = name
        self.__doc__ = fn.__doc__

    def __repr__(self) -> str:
        return f"<fused handler {self.name}>"


class StepDecorator(Protocol):
    """Takes any function, sync or async, whose result can be written as JSON."""

    def __call__(self, fn: Callable[P, R], /) -> StepFunction[P, R]:
        """The step."""
        ...


class TransactionDecorator(Protocol):
    """Takes a function whose first argument is `tx`, and takes it off the caller's signature."""

    @overload
    def __call__(self, fn: Callable[Concatenate[S, T, P], R], /) -> TransactionMethod[S, T, P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[T, P], R], /) -> TransactionFunction[T, P, R]: ...


# The overload of the event stands last: pyright explains a mismatch by the last one.


class FusedDecorator(Protocol[E]):
    """Takes a function of `tx` and the topic's event, or its `Record`."""

    @overload
    def __call__(self, fn: Callable[[T, Record[E]], R], /) -> FusedFunction[[T, Record[E]], R]: ...
    @overload
    def __call__(self, fn: Callable[[T, E], R], /) -> FusedFunction[[T, E], R]: ...


class BatchDecorator(Protocol[E]):
    """Takes a function of `tx` and a sequence of the topic's events, or of their `Record`s."""

    @overload
    def __call__(self, fn: Callable[[T, Sequence[Record[E]]], R], /) -> FusedFunction[[T, Sequence[Record[E]]], R]: ...
    @overload
    def __call__(self, fn: Callable[[T, Sequence[E]], R], /) -> FusedFunction[[T, Sequence[E]], R]: ...
