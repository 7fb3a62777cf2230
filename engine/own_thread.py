"""A workflow's code is of one thread: that of its loop, or the one that runs a sync workflow (decision 0033).

    in another thread, with its context     refused: the order of its calls would be nobody's       `require_own`
    in another thread, without it           nobody can tell it from a plain call: said once, where
                                            it may have been meant otherwise                         `notice_plain`

`asyncio.to_thread` hands the context on; a `ThreadPoolExecutor` and `loop.run_in_executor` do not, unless Python itself does
(`sys.flags.thread_inherit_context`, the default of free-threaded builds from 3.14 on): what they run is then refused too.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from typing import TYPE_CHECKING
from weakref import WeakSet

from engine.errors import OtherThreadError

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.runner import Run

_engines: WeakSet[Engine] = WeakSet()
"""Of this process."""

_looking = threading.Lock()
"""Held by who adds one, and by who looks through them."""


class UnrecordedStepWarning(RuntimeWarning):
    """A step was called as a plain function, in a thread beside workflows that run: nothing remembers that call."""


def require_own(run: Run, what: str) -> None:
    """Refuse a call from another thread than the workflow's. On the loop a sync workflow's calls are at home as well.

    Raises:
        OtherThreadError: It is another one. Nothing was called.
    """
    if threading.get_ident() != run.thread and not _is_on(run.home.loop):
        raise OtherThreadError(run.id, called=what, is_async=run.handler.is_async)


def _is_on(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def know(engine: Engine) -> None:
    """Remember that this process runs workflows."""
    with _looking:
        _engines.add(engine)


def notice_plain(name: str) -> None:
    """Warn of a step that is called outside of every workflow, if one may have meant to call it: `UnrecordedStepWarning`.

    In a thread that is neither the main one nor a loop's, while workflows run here. Steps called from there on purpose lose
    nothing by being called as `step.fn`.
    """
    if threading.current_thread() is threading.main_thread():
        return
    with _looking:
        engines = [engine for engine in _engines if engine.in_flight and not engine.stopping.is_set()]
    if not engines or any(_is_on(engine.loop) for engine in engines):
        return
    warnings.warn(
        # Without the thread's name: one that differs each time would be said each time.
        f"step {name!r} was called in a thread that no workflow runs in: a plain call, which nothing remembers.\n"
        f"  If a workflow meant to call it, a replay will call it again: `sync.gather(...)` runs steps beside each other,"
        f" and child workflows run sequences of them. Otherwise say so: `{name}.fn(...)`.",
        UnrecordedStepWarning,
        stacklevel=4,
    )


__all__ = ["UnrecordedStepWarning", "know", "notice_plain", "require_own"]
