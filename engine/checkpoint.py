"""Runs a step, hands its record over, holds the next effect until it is durable.

A step is answered from the history where that has it; otherwise it runs, at least once, and what is recorded is its
final value or its final error (I4). Function IDs are given when the step is called, in call order, so that steps
gathered together keep their places in every replay.

Async steps are called from async workflows, sync steps from sync ones (which run in a thread of their own); a sync
function is called from an async workflow through `run_step`, which gives it a thread.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from engine import cut_off
from engine.crashpoints import CrashPoint, armed, reach
from engine.current import CurrentStep, current_run, current_step
from engine.errors import EngineError, StepFailedError, Suspended, UnfitResultError
from engine.execution_gates import gate_of
from engine.failures import UNRECORDED, decode_error, from_thread, summary
from engine.given_errors import record_error, record_error_from_thread
from engine.handlers import Step, TransactionStep
from engine.misfits import ended_by
from engine.own_thread import notice_plain
from engine.retries import TerminalError
from engine.runner import Run, now_ms
from engine.store.operation_outputs import Checkpoint, CheckpointRow
from engine.tasks import within


class MixedCallError(EngineError):
    """A step was called from code that cannot wait for it. The message says how to call it."""


def call_step(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a step from its workflow: an awaitable for an async step, the value for a sync one.

    Outside a workflow, and inside another step, it is a plain call.
    """
    run = current_run.get()
    if run is None or current_step.get() is not None:
        if run is None:
            notice_plain(step.name)
        return step.function(*args, **kwargs)
    function_id = run.next_function_id(step.name)
    if step.is_async:
        if not run.home.handler.is_async:
            require_loop(run, step.name)
        return _run_async(run, step, function_id, args, kwargs)
    require_thread(run, step.name)
    if step.timeout is not None or gate_of(run, function_id) is not None:
        return in_loop(run, _run_async(run, _threaded(step, run), function_id, args, kwargs))
    return _run_sync(run, step, function_id, args, kwargs)


async def run_step(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a step from an async workflow; a sync function runs in a thread of its own."""
    run = current_run.get()
    if run is None or current_step.get() is not None:
        if step.is_async:
            return await step.function(*args, **kwargs)
        return await asyncio.to_thread(step.function, *args, **kwargs)
    return await run_step_at(run, step, run.next_function_id(step.name), args, kwargs)


def run_step_at(
    run: Run, step: Step, function_id: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Coroutine[Any, Any, Any]:
    """Call a step whose place in the history is given, on the loop."""
    return _run_async(run, step if step.is_async else _threaded(step, run), function_id, args, kwargs)


async def _run_async(  # noqa: C901  # a function less for every step
    run: Run, step: Step, function_id: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Answer from the history, or run the step and record it; its own retries are inside one checkpoint."""
    if run.callers is not None:
        await in_turn(run, step.name, function_id)
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            await cut_off.again(run, recorded)
        return answered(run, step, recorded)
    engine = run.home.engine
    if engine.gates and (gate := gate_of(run, function_id)) is not None:
        async with gate.passed(step.name, function_id):
            return await _run_async(run, gate.limited(step), function_id, args, kwargs)
    if run.durable < run.recorded or not run.is_ready():
        try:
            await run.ready()
        except asyncio.CancelledError:
            cut_off.record(run, step.name, function_id)
            raise
    if engine.tracing is not None:
        step = engine.tracing.step(step)
    run.running_steps += 1
    started_ms = now_ms()
    attempt = 1
    try:
        while True:
            token = current_step.set(CurrentStep(run.id, function_id, step.name, attempt))
            try:
                if step.timeout is None:
                    result = await step.function(*args, **kwargs)
                else:
                    result = await within(step.timeout, f"step {step.name!r}", step.function(*args, **kwargs))
                output, result = step.record(result)
            except UNRECORDED:
                raise
            except BaseException as error:  # noqa: BLE001  # the user's function: whatever it raises is recorded
                delay = step.retry.delay_after(attempt, error)
                if delay is None:
                    given = _final(run, step, attempt, error)
                    given = record_error(run, function_id, step.name, given, started_ms)
                    raise given from given.__cause__
            else:
                if armed:
                    reach(CrashPoint.STEP_CALLED)
                run.checkpoint(Checkpoint(run.id, function_id, step.name, output, None, started_ms, now_ms()))
                if armed:
                    reach(CrashPoint.CHECKPOINTED)
                return result
            finally:
                current_step.reset(token)
            await asyncio.sleep(delay.total_seconds())
            attempt += 1
            await run.ready()
    except asyncio.CancelledError:
        cut_off.record(run, step.name, function_id, started_ms)
        raise
    finally:
        run.step_ended()


async def in_turn(run: Run, name: str, function_id: int) -> None:
    """Tasks call in turn, in a replay as before: engine/races.py."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if run.history is None or function_id not in run.history:
            cut_off.record(run, name, function_id)
        raise


def answered(run: Run, step: Step | TransactionStep, recorded: CheckpointRow) -> Any:
    """What the history says of a step: its value, or its error, which is raised.

    Raises:
        UnfitResultError: The step cannot return any more what it has returned; ends the attempt.
    """
    if recorded.error is not None:
        run.error_given = True
        raise decode_error(recorded.error)
    try:
        return step.decode(recorded.output or "null")
    except Exception as error:  # the user's type: what it does not take, the step once returned
        raise ended_by(run, UnfitResultError(run.id, step=step.name, reason=summary(error))) from error


def _final(run: Run, step: Step, attempt: int, error: BaseException) -> BaseException:
    """The error the workflow gets: the step's own where there was to be one try, otherwise that its tries are used up.

    Raises `Suspended` where the end of the process has cut the step off: what it made of that is no answer (P11, I4).
    """
    if run.home.engine.stopping.is_set():
        run.was_suspended = True
        raise Suspended(run.id) from error
    if step.retry.attempts == 1 or isinstance(error, TerminalError) or attempt < step.retry.attempts:
        return error
    failed = StepFailedError(step.name, attempt, summary(error))
    failed.__cause__ = error
    return failed


# -- threads --


def in_loop(run: Run, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the loop for a sync workflow's thread, in its context, and wait (P14: a late thread ends)."""
    future = asyncio.run_coroutine_threadsafe(_in_context(coroutine, current_run.get()), run.home.loop)
    if (answer := future.result()) is _SUSPENDED:
        raise Suspended(run.id)
    return answer


_SUSPENDED = object()
"""What a thread is answered with whose workflow is to unwind; as the future's exception its traceback would lead back to the
future, a cycle for each that rests."""


async def _in_context(coroutine: Coroutine[Any, Any, Any], run: Run | None) -> Any:
    current_run.set(run)
    try:
        return await coroutine
    except Suspended:
        return _SUSPENDED


def _run_sync(run: Run, step: Step, function_id: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`_run_async` in the workflow's own thread: one hop to the loop a step, none to wait where nothing is pending."""
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        return answered(run, step, recorded)
    if (tracing := run.home.engine.tracing) is not None:
        step = tracing.step(step)
    started_ms = now_ms()
    attempt = 1
    while True:
        if not run.ready_in_thread():
            in_loop(run, run.ready())
        token = current_step.set(CurrentStep(run.id, function_id, step.name, attempt))
        try:
            result = step.function(*args, **kwargs)
            output, result = step.record(result)
        except UNRECORDED:
            raise
        except BaseException as error:  # noqa: BLE001  # the user's function: whatever it raises is recorded
            delay = step.retry.delay_after(attempt, error)
            if delay is None:
                given = _final(run, step, attempt, error)
                given = record_error_from_thread(run, function_id, step.name, given, started_ms)
                raise given from given.__cause__
        else:
            reach(CrashPoint.STEP_CALLED)
            run.checkpoint_from_thread(Checkpoint(run.id, function_id, step.name, output, None, started_ms, now_ms()))
            reach(CrashPoint.CHECKPOINTED)
            return result
        finally:
            current_step.reset(token)
        run.home.engine.stopping.wait(delay.total_seconds())
        attempt += 1


def _threaded(step: Step, run: Run) -> Step:
    """The same step with its function in a thread of the engine's, so that the loop can wait for it."""
    function: Callable[..., Any] = step.function

    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        context, call = copy_context(), functools.partial(function, *args, **kwargs)
        thread = run.home.loop.run_in_executor(run.home.engine.step_threads, lambda: context.run(from_thread, call))
        # P14: a cancelled wait (a time-out) does not end the thread; the run lasts until it returns.
        run.running_steps += 1
        thread.add_done_callback(lambda _: run.step_ended())
        return await asyncio.shield(thread)

    return replace(step, function=in_thread)


def require_loop(run: Run, name: str) -> None:
    """Async steps are awaited on the loop."""
    if not run.handler.is_async:
        raise MixedCallError(
            f"workflow {run.id}: step {name!r} is async and its workflow {run.handler.name!r} is not.\n"
            f"  Make the workflow `async def`, or the step `def`."
        )


def require_thread(run: Run, name: str) -> None:
    """Sync steps wait, and the loop must not."""
    if run.handler.is_async:
        raise MixedCallError(
            f"workflow {run.id}: step {name!r} is not async and would block its async workflow {run.handler.name!r}.\n"
            f"  Call it as `await app.run_step({name}, ...)`, which gives it a thread, or make it `async def`."
        )
