"""Async calls made from threads: in a sync workflow, or in a program that runs the app on a loop in another thread."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from engine.checkpoint import in_loop
from engine.current import current_run, current_step
from engine.errors import ConfigurationError
from engine.own_thread import require_own
from engine.reach import Reach

R = TypeVar("R")


def from_thread(reach: Callable[[], Reach], call: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Make a call on the loop of an engine, in the caller's workflow and step if it has one, or of a client; wait for what it returns.

    Raises:
        ConfigurationError: Called on a loop, which would wait for itself.
        OtherThreadError: Of a workflow, in another thread than its own.
    """
    _require_thread()
    run, step = current_run.get(), current_step.get()

    async def called() -> R:
        current_step.set(step)
        return await call()

    if run is not None and step is None:
        require_own(run, "a sync call")
    goal = reach()
    if run is not None and run.home.engine is goal:
        result: R = in_loop(run, called())
        return result
    return asyncio.run_coroutine_threadsafe(called(), goal.loop).result()


def _require_thread() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError("a sync call on an event loop, which it would block: call the async one, and await it")
