"""Steps that are not registered: `await app.run_step(fn, *args, name=...)`; in sync workflows `sync.run_step`."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, cast

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from engine.checkpoint import MixedCallError, call_step, in_loop, require_thread, run_step_at
from engine.checkpoint import run_step as engine_run_step
from engine.current import current_run, current_step
from engine.errors import ConfigurationError
from engine.handlers import Step, TransactionStep
from engine.own_thread import require_own
from engine.runner import Run
from engine.transactional import call_transaction, run_transaction
from processor.codec import Result, UnencodableTypeError, problem_of, result_codec
from processor.decorators import ProcedureFunction, StepFunction, TransactionFunction
from processor.handlers import annotation_of
from processor.policies import Retry

_json_values: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
_read = _json_values.validate_json
_finite_values: TypeAdapter[JsonValue] = TypeAdapter(JsonValue, config=ConfigDict(allow_inf_nan=False))


def run_step(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    name: str | None,
    retry: Retry | None,
    timeout: timedelta | None,
) -> Coroutine[Any, Any, Any]:
    """`App.run_step`: any function as a step of the workflow that asks for it."""
    if (run := current_run.get()) is not None and current_step.get() is None and not run.handler.is_async:
        raise MixedCallError(
            f"workflow {run.id}: app.run_step(...) is awaited, and its workflow {run.handler.name!r} is not async.\n"
            f"  Call `sync.run_step(...)` (`from processor import sync`), or make the workflow `async def`."
        )
    return _run_step(fn, args, {"name": name, "retry": retry, "timeout": timeout})


async def _run_step(fn: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    step, args = _step_of(fn, args, options, asyncio.get_running_loop())
    if isinstance(step, TransactionStep):
        return await _run_transaction(step, args)
    return await engine_run_step(step, args, {})


def run_step_sync(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    name: str | None,
    retry: Retry | None,
    timeout: timedelta | None,
) -> Any:
    """`sync.run_step`: a sync function runs in the workflow's own thread, an async one on the loop, which is waited for."""
    run = current_run.get()
    if run is None or current_step.get() is not None:
        result = fn(*args)
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
    chosen = name or getattr(fn, "__name__", repr(fn))
    require_thread(run, chosen)
    require_own(run, chosen)
    options = {"name": name, "retry": retry, "timeout": timeout}
    step, args = _step_of(fn, args, options, run.home.loop)
    if isinstance(step, TransactionStep):
        return in_loop(run, _run_transaction(step, args))
    if step.is_async:
        return in_loop(run, engine_run_step(step, args, {}))
    return call_step(step, args, {})


def gather(calls: Sequence[Callable[[], Any]], *, return_exceptions: bool) -> list[Any]:
    """`sync.gather`: each call as a step, in a thread of its own or on the loop, at the place of the call."""
    run = current_run.get()
    if run is None or current_step.get() is not None:
        results = [_outcome(call) for call in calls]
    else:
        require_thread(run, "gather")
        called = [_called(call, run.home.loop) for call in calls]
        places = [run.next_function_id(each.step.name) for each in called]
        results = in_loop(run, _gathered(run, called, places))
    for result in results:
        if isinstance(result, BaseException) and not (return_exceptions and isinstance(result, Exception)):
            raise result
    return results


@dataclass(frozen=True, slots=True)
class _Call:
    step: Step | TransactionStep
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _called(call: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> _Call:
    """The step that a call is of: a registered one, alone or in a `partial`, or a function."""
    function: Any = call
    given: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(call, partial):
        of = cast("partial[Any]", call)
        called: Any = of.func
        if isinstance(called, StepFunction | TransactionFunction | ProcedureFunction):
            function, given, kwargs = of.func, of.args, of.keywords
    step, args = _step_of(function, given, {"name": None}, loop)
    return _Call(step, args, kwargs)


async def _gathered(run: Run, calls: Sequence[_Call], places: Sequence[int]) -> list[Any]:
    """Results and errors, once all have ended."""
    return await asyncio.gather(
        *(
            run_transaction(run, call.step, place, call.args, call.kwargs)
            if isinstance(call.step, TransactionStep)
            else run_step_at(run, call.step, place, call.args, call.kwargs)
            for call, place in zip(calls, places, strict=True)
        ),
        return_exceptions=True,
    )


def _outcome(call: Callable[[], Any]) -> Any:
    """What a plain call returns or raises."""
    try:
        result = call()
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
    except Exception as error:  # noqa: BLE001  # the caller's, to raise or to have
        return error


def _step_of(
    fn: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], loop: asyncio.AbstractEventLoop
) -> tuple[Step | TransactionStep, tuple[Any, ...]]:
    """What the engine calls for a function, and with which arguments."""
    name = options["name"]
    if isinstance(fn, TransactionFunction):
        transaction = cast("TransactionFunction[Any, ..., Any]", fn)
        step_of = transaction.step if name is None else replace(transaction.step, name=name)
        return step_of, (*transaction.bound, *args)
    if isinstance(fn, ProcedureFunction):
        procedure = cast("ProcedureFunction[..., Any]", fn).step
        return (procedure if name is None else replace(procedure, name=name)), args
    if isinstance(fn, StepFunction):
        registered = cast("StepFunction[..., Any]", fn)
        step, args = registered.step, (*registered.bound, *args)
    else:
        step = _inline_step(fn, name, loop)
    return replace(step, **{key: value for key, value in options.items() if value is not None}), args


def _inline_step(fn: Callable[..., Any], name: str | None, loop: asyncio.AbstractEventLoop) -> Step:
    """A step of a function nobody has seen before. Its result is read by its annotation; without one it is JSON."""
    function: Any = fn
    if isinstance(fn, partial):
        fn = cast("partial[Any]", fn)
        function = fn.func
    chosen = name or getattr(function, "__name__", "")
    if chosen in ("", "<lambda>"):
        raise ConfigurationError(f"run_step({fn!r}): say name=, by which the history knows this step")
    result = _result(function, chosen)
    is_async = inspect.iscoroutinefunction(fn)
    return Step(
        name=chosen,
        function=fn if is_async else partial(_in_thread, fn, loop),
        is_async=is_async,
        record=result.record,
        decode=result.decode,
    )


async def _run_transaction(step: TransactionStep, args: tuple[Any, ...]) -> Any:
    """Call a transaction, sync or async, on the loop."""
    run = current_run.get()
    if run is None or current_step.get() is not None:
        return call_transaction(step, args, {})  # which says why not
    return await run_transaction(run, step, run.next_function_id(step.name), args, {})


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _in_thread(fn: Callable[..., Any], loop: asyncio.AbstractEventLoop, *args: Any) -> Any:
    """Call a sync function in the thread it was given. What it began on the loop (`lambda: charge(o)`) is awaited."""
    result = fn(*args)
    if inspect.iscoroutine(result):
        return asyncio.run_coroutine_threadsafe(result, loop).result()
    return result


def _result(function: Any, name: str) -> Result[Any]:
    annotations: dict[str, Any] = getattr(function, "__annotations__", {})
    if "return" not in annotations or not inspect.isfunction(function):
        return _plain(name)
    annotation = annotations["return"]
    if isinstance(annotation, str):
        annotation = annotation_of(function, "return", "step")
    try:
        return _of_annotation(annotation, name)
    except UnencodableTypeError as error:
        raise ConfigurationError(f"step {name!r}: its result cannot be recorded: {error}") from None


@lru_cache(maxsize=1_000)  # an adapter takes a tenth of a millisecond to build, an inline step is built at every call
def _of_annotation(annotation: Any, name: str) -> Result[Any]:
    return result_codec(annotation, f"step {name!r}: the result")


@lru_cache(maxsize=1_000)
def _plain(name: str) -> Result[Any]:
    """JSON, and only what comes back equal: no tuple, which would be a list, and no NaN, which would be null."""

    def record(value: Any) -> tuple[str, Any]:
        try:
            text = _json_values.dump_json(_finite_values.validate_python(value, strict=True))
        except (ValidationError, PydanticSerializationError) as error:
            problem = problem_of(error, "JSON")
        else:
            return text.decode(), _read(text)
        raise TypeError(
            f"step {name!r}: the result would not come back as it is, {problem}.\n  Annotate what the function returns."
        )

    return Result(record, _read, _read)


__all__ = ["gather", "run_step", "run_step_sync"]
