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

from engine.addresses import check_address
from processor.cli import DONE, FAILED
from processor.cli.apps import add_app_argument, load_app

if TYPE_CHECKING:
    from processor.config import Settings
    from processor.http import Check, Exposes
    from processor.runtime import Runtime

PROCESSES_MAX = 256

HELP = "Run an app's handlers"

log = logging.getLogger("processor")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_app_argument(parser)
    parser.add_argument(
        "--processes",
        type=_count_of_processes,
        default=1,
        metavar="N",
        help="worker processes, kept running by this one, with one endpoint for all; 'auto': one for each core",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # what a supervisor tells a worker: two open files
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
    if arguments.processes > 1:
        return _supervise(arguments, settings)
    said_port = _obey_supervisor(arguments.worker) if arguments.worker else None
    runtime = Runtime(load_app(arguments.app), settings, shares_ports=said_port is not None)
    return run_until_stopped(runtime, settings, said_port=said_port)


def _count_of_processes(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= PROCESSES_MAX):
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 1 to {PROCESSES_MAX}, or auto")
    return int(text)


def _supervise(arguments: argparse.Namespace, settings: "Settings") -> int:
    from processor.supervisor import Supervisor, environment_of, worker_command

    names = {
        "PROCESSOR_EXECUTOR_NAME": settings.executor.name,
        "PROCESSOR_KAFKA_GROUP_INSTANCE_ID": settings.kafka.group_instance_id,
    }
    own = {variable: name for variable, name in names.items() if name is not None}
    command = worker_command(arguments.app, arguments.config, traceback=arguments.traceback)
    environments = [environment_of(number, os.environ, own) for number in range(arguments.processes)]

    check_address(settings.postgres.dsn.get_secret_value())  # before the port: the settings come first

    async def supervise() -> int:
        supervisor = Supervisor(command, environments, drain_s=settings.executor.drain.total_seconds())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        server = _status_server(
            settings, supervisor, live=supervisor.problems_of_life, ready=supervisor.problems_of_readiness
        )
        with server:
            return await supervisor.run()

    return asyncio.run(supervise())


def _obey_supervisor(files: str) -> Callable[[int], None]:
    """End in order when the supervisor has ended. Returns what to tell it the status server's port with."""
    life, port = (int(number) for number in files.split(","))

    def watch() -> None:
        os.read(life, 1)  # nothing is ever written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()

    def say(number: int) -> None:
        os.write(port, str(number).encode())
        os.close(port)

    return say


def run_until_stopped(
    runtime: "Runtime",
    settings: "Settings",
    *,
    said_port: Callable[[int], None] | None = None,
    started: Callable[[], None] | None = None,
) -> int:
    """Run in an event loop of this program's own. Returns the exit code.

    `said_port` is told the status server's port; `started` is called when everything has started, and not before.
    """
    check_address(settings.postgres.dsn.get_secret_value())  # before the port: the settings come first
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_main(runtime, settings, said_port, started))
        # A step that outlived the drain still has its thread, and Python would wait for it at exit, for ever perhaps.
        if stuck := [thread.name for thread in threading.enumerate() if _outlives(thread)]:
            log.warning("steps still run in threads, leaving them", extra={"threads": len(stuck)})
            _exit_now(code)
    return code


async def _main(
    runtime: "Runtime",
    settings: "Settings",
    said_port: Callable[[int], None] | None,
    started: Callable[[], None] | None,
) -> int:
    from processor.runtime import relax_garbage_collection

    stop = asyncio.Event()
    _on_signals(stop)
    runtime.metrics.read_at_scrape(runtime.gauges)
    server = _status_server(
        settings,
        runtime.metrics,
        live=runtime.problems_of_life,
        ready=runtime.problems_of_readiness,
        said_port=said_port,
    )
    level = logging.DEBUG  # nothing was begun: what is wrong with the set-up is said alone
    with server:
        stopped = asyncio.ensure_future(stop.wait())
        try:
            has_started = await _before(asyncio.ensure_future(runtime.start()), stopped)
            level = logging.INFO
            if not has_started:
                return DONE
            relax_garbage_collection()
            log.info("started", extra={"app": runtime.app.name, "executor": runtime.engine.executor_id})
            if started is not None:
                started()
            failed = asyncio.ensure_future(runtime.failure())
            if not await _before(failed, stopped):
                return DONE
            error = failed.result()
            log.error("cannot go on", extra={"error": f"{type(error).__name__}: {error}"})
            return FAILED
        finally:
            stopped.cancel()
            log.log(level, "stopping", extra={"drain_s": settings.executor.drain.total_seconds()})
            await runtime.stop()
            log.log(level, "stopped")


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


def _status_server(
    settings: "Settings",
    metrics: "Exposes",
    *,
    live: "Check",
    ready: "Check",
    said_port: Callable[[int], None] | None = None,
) -> AbstractContextManager[object]:
    from processor.http import StatusServer

    if not settings.http.enabled:
        return nullcontext()
    server = StatusServer(host=settings.http.host, port=settings.http.port, metrics=metrics, live=live, ready=ready)
    if said_port is not None:
        said_port(server.port)
    else:
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
