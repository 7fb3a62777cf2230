"""`processor run --processes N`: one process that keeps N others running, and answers for all of them.

    supervisor ──starts, restarts, stops──▶ worker 0 … N-1: `processor run`, each with its own status server on loopback
       │    └──a pipe each: its other end closes with us, however we end; then the worker stops─▲
       └── one /metrics, /livez and /readyz: what the workers say, each series with a label `process`

Python runs on one core a process; Kafka spreads the partitions over the workers as over any members of a group. A worker
that ends without having been told to is started anew, after a pause that doubles while it does not last. One that could
not begin (exit code 2: settings, app, servers) ends all of them, as it would have ended alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from processor.cli import DONE, FAILED, MISTAKE
from processor.instruments import gauge_family
from processor.metric_table import METRICS

RESTART_FIRST_S = 0.5
RESTART_MAX_S = 30.0
"""Pause before a worker is started anew, doubled each time until one has lasted."""

LASTED_S = 60.0
"""Having run for so long, a worker begins with the shortest pause again."""

ANSWER_S = 2.0
"""Longest a worker may take to answer its supervisor."""

LOOK_S = 0.05
"""Between two looks at whether a worker has ended."""

STOP_MARGIN_S = 20.0
"""How much longer than `executor.drain` a worker may take to stop: connections are closed, the group is left."""

log = logging.getLogger("processor.supervisor")


@dataclass(slots=True)
class Worker:
    """One place for a worker process, whichever process has it now."""

    number: int
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    """Of its status server; 0 until it has said which."""
    restarts: int = 0
    pause_s: float = RESTART_FIRST_S
    started_at: float = 0.0
    was_ready: bool = False
    _life: int = -1
    _port_pipe: int = -1

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start a process in a session of its own, so that Ctrl-C in a terminal reaches the supervisor only."""
        life_read, life_write = os.pipe()
        port_read, port_write = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*self.command, "--worker", f"{life_read},{port_write}"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(life_read, port_write),
                start_new_session=True,
            )
        finally:
            os.close(life_read)
            os.close(port_write)
        self.port, self.was_ready = 0, False
        self.started_at = time.monotonic()
        os.set_blocking(port_read, False)
        self._life, self._port_pipe = life_write, port_read

    def look_for_port(self) -> None:
        """Read what port its status server has, if it has said so by now."""
        if self.port or self._port_pipe < 0:
            return
        try:
            said = os.read(self._port_pipe, 16)
        except BlockingIOError:
            return
        if said:
            self.port = int(said)

    def forget(self) -> None:
        """Its process has ended."""
        for end in (self._life, self._port_pipe):
            if end >= 0:
                os.close(end)
        self._life = self._port_pipe = -1
        self.port = 0

    def ask(self, path: str) -> tuple[int, str] | None:
        """Status and body of its answer; `None`: there is none."""
        if not self.port:
            return None
        try:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_S) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
        except (OSError, HTTPException):
            return None  # not there, too slow, or killed while it answered


class Supervisor(Collector):
    """Keeps workers running until it is told to stop.

    Args:
        command: What a worker runs, without what says that it is one.
        environments: Of each worker, one after the other.
        drain_s: Longest a worker waits for its running steps when it stops.
    """

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]], *, drain_s: float) -> None:
        self.workers = [Worker(number, command, environment) for number, environment in enumerate(environments)]
        self._drain_s = drain_s
        self._stop = asyncio.Event()
        self._first_is_ready = asyncio.Event()
        self._is_stopping = False
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    async def run(self) -> int:
        """Run until `stop`. Returns the exit code."""
        # One first: what is wrong with the settings, the app or the servers is then said once.
        kept = [asyncio.ensure_future(self._keep(self.workers[0]))]
        asked = [asyncio.ensure_future(self._stop.wait()), asyncio.ensure_future(self._first_is_ready.wait())]
        await asyncio.wait([*kept, *asked], return_when=asyncio.FIRST_COMPLETED)
        if not kept[0].done() and not self._is_stopping:
            kept += [asyncio.ensure_future(self._keep(worker)) for worker in self.workers[1:]]
            await asyncio.wait([*kept, asked[0]], return_when=asyncio.FIRST_COMPLETED)
        for each in asked:
            each.cancel()
        self._is_stopping = True
        self._stop.set()
        for worker in self.workers:
            if worker.is_running and worker.process is not None:
                worker.process.terminate()
        return max(await asyncio.gather(*kept))

    def stop(self) -> None:
        """Stop every worker in order; the second time, at once."""
        if not self._is_stopping:
            self._is_stopping = True
            self._stop.set()
            return
        for worker in self.workers:
            if worker.is_running and worker.process is not None:
                worker.process.kill()

    async def _keep(self, worker: Worker) -> int:
        """One worker after the other in the same place. Returns the exit code of the last."""
        while not self._is_stopping:
            worker.start()
            assert worker.process is not None, "started just now"
            log.info("worker started", extra={"worker": worker.number, "pid": worker.process.pid})
            code = await self._ended(worker)
            worker.forget()
            if self._is_stopping:
                # A worker that had not come to listening for signals dies of this one.
                return DONE if code in (DONE, -signal.SIGTERM) else FAILED
            if code == MISTAKE and not worker.was_ready:
                log.error("worker could not begin", extra={"worker": worker.number})
                return MISTAKE
            if time.monotonic() - worker.started_at > LASTED_S:
                worker.pause_s = RESTART_FIRST_S
            log.warning(
                "worker ended, starting another",
                extra={"worker": worker.number, "exit_code": code, "pause_s": worker.pause_s},
            )
            worker.restarts += 1
            pause_s, worker.pause_s = worker.pause_s, min(worker.pause_s * 2, RESTART_MAX_S)
            try:
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
            except TimeoutError:
                continue
        return DONE

    async def _ended(self, worker: Worker) -> int:
        process = worker.process
        assert process is not None, "started"
        deadline: float | None = None
        while process.poll() is None:
            await asyncio.sleep(LOOK_S)
            worker.look_for_port()
            if not worker.was_ready and worker.port:
                answer = await asyncio.to_thread(worker.ask, "/readyz")
                worker.was_ready = answer is not None and answer[0] == HTTPStatus.OK
                if worker.was_ready:
                    self._first_is_ready.set()
            if self._is_stopping:
                deadline = deadline or time.monotonic() + self._drain_s + STOP_MARGIN_S
                if time.monotonic() > deadline:
                    log.error("worker does not stop, killing it", extra={"worker": worker.number})
                    process.kill()
        return process.returncode

    # -- the status server's, in its threads --

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body: the series of all workers, each with a label `process`."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def collect(self) -> list[Family]:
        """What every worker answers, by family."""
        families: dict[str, Family] = {}
        for worker in self.workers:
            answer = worker.ask("/metrics")
            if answer is None or answer[0] != HTTPStatus.OK:
                continue
            for found in text_string_to_metric_families(answer[1]):
                family = families.setdefault(found.name, Family(found.name, found.documentation, found.type))
                for sample in found.samples:
                    labels = {**sample.labels, "process": str(worker.number)}
                    family.samples.append(sample._replace(labels=labels))
        table = {metric.name: metric for metric in METRICS}
        ours = [
            gauge_family(table["process_up"], [((str(w.number),), int(w.is_running)) for w in self.workers]),
            gauge_family(table["process_restarts"], [((str(w.number),), w.restarts) for w in self.workers]),
        ]
        return [*(family for name, family in families.items() if name not in {f.name for f in ours}), *ours]

    def problems_of_life(self) -> list[str]:
        """What only a restart of all can mend: nothing here, but what a worker says of itself."""
        return [] if self._is_stopping else self._problems("/livez", unanswered_counts=False)

    def problems_of_readiness(self) -> list[str]:
        """Which workers are not ready."""
        return ["stopping"] if self._is_stopping else self._problems("/readyz", unanswered_counts=True)

    def _problems(self, path: str, *, unanswered_counts: bool) -> list[str]:
        problems: list[str] = []
        for worker in self.workers:
            answer = worker.ask(path)
            if answer is None:
                if unanswered_counts:
                    problems.append(f"process {worker.number}: {'starting' if worker.is_running else 'not running'}")
            elif answer[0] != HTTPStatus.OK:
                problems.append(f"process {worker.number}: {answer[1].strip()}")
        return problems


def environment_of(number: int, environ: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: a status server on loopback, and names that must be one process's only.

    Args:
        number: Of the worker.
        environ: The supervisor's.
        names: Variables of such names, with what is set for all.
    """
    own = {variable: f"{name}-{number}" for variable, name in names.items()}
    return {
        **environ,
        **own,
        "PROCESSOR_HTTP_ENABLED": "true",
        "PROCESSOR_HTTP_HOST": "127.0.0.1",
        "PROCESSOR_HTTP_PORT": "0",
    }


def worker_command(app: str, config: str | None, *, traceback: bool) -> list[str]:
    """What a worker runs."""
    command = [sys.executable, "-m", "processor", "run", app]
    if config is not None:
        command += ["--config", config]
    return [*command, "--traceback"] if traceback else command
