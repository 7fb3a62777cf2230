"""`processor run`: one process of an app, until it is told to stop or cannot go on.

SIGTERM, SIGINT    stop fetching, hand over partitions, wait for running steps up to executor.drain, exit 0
a second one       exit at once; nothing is lost: what was not durable is run again by whoever takes over
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from processor.cli import DONE, FAILED
from processor.cli.apps import add_app_argument, load_app

if TYPE_CHECKING:
    from processor.config import Settings
    from processor.runtime import Runtime

HELP = "Run an app's handlers"

log = logging.getLogger("processor")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_app_argument(parser)
    parser.epilog = (
        "SIGTERM and SIGINT stop it: partitions are handed over, running steps end within executor.drain.\n"
        "A second one ends it at once; nothing is lost.\n"
        "Exit codes: 0 stopped as asked; 1 it could not go on; 2 it could not start."
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until stopped."""
    from processor.loading import load_settings
    from processor.logs import setup_logging
    from processor.runtime import Runtime

    settings = load_settings(arguments.config)
    setup_logging(settings.logs.format, settings.logs.level)
    return run_until_stopped(Runtime(load_app(arguments.app), settings), settings)


def run_until_stopped(runtime: "Runtime", settings: "Settings") -> int:
    """Run in an event loop of this program's own. Returns the exit code."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_main(runtime, settings))
        # A step that outlived the drain still has its thread, and Python would wait for it at exit, for ever perhaps.
        if stuck := [thread.name for thread in threading.enumerate() if _outlives(thread)]:
            log.warning("steps still run in threads, leaving them", extra={"threads": len(stuck)})
            _exit_now(code)
    return code


async def _main(runtime: "Runtime", settings: "Settings") -> int:
    from processor.runtime import relax_garbage_collection

    stop = asyncio.Event()
    _on_signals(stop)
    runtime.metrics.read_at_scrape(runtime.gauges)
    with _status_server(runtime, settings):
        stopped = asyncio.ensure_future(stop.wait())
        try:
            if not await _before(asyncio.ensure_future(runtime.start()), stopped):
                return DONE
            relax_garbage_collection()
            log.info("started", extra={"app": runtime.app.name, "executor": runtime.engine.executor_id})
            failed = asyncio.ensure_future(runtime.failure())
            if not await _before(failed, stopped):
                return DONE
            error = failed.result()
            log.error("cannot go on", extra={"error": f"{type(error).__name__}: {error}"})
            return FAILED
        finally:
            stopped.cancel()
            log.info("stopping", extra={"drain_s": settings.executor.drain.total_seconds()})
            await runtime.stop()
            log.info("stopped")


async def _before(task: "asyncio.Future[Any]", stopped: "asyncio.Future[Any]") -> bool:
    """Wait for a task, or for the order to stop, which cancels it. Returns whether the task ended; raises its error."""
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.wait({task})
    return False


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("second signal, ending at once", extra={"signal": number.name})
            _exit_now(128 + number)
        log.info("signal received", extra={"signal": number.name})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)


def _status_server(runtime: "Runtime", settings: "Settings") -> AbstractContextManager[object]:
    from processor.http import StatusServer

    if not settings.http.enabled:
        return nullcontext()
    server = StatusServer(
        host=settings.http.host,
        port=settings.http.port,
        metrics=runtime.metrics,
        live=runtime.problems_of_life,
        ready=runtime.problems_of_readiness,
    )
    log.info("status server listens", extra={"host": settings.http.host, "port": server.port})
    return server


def _outlives(thread: threading.Thread) -> bool:
    return (
        thread is not threading.current_thread() and not thread.daemon and thread.name.startswith(("handler", "step"))
    )


def _exit_now(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not for this platform
        return asyncio.new_event_loop
    return uvloop.new_event_loop
