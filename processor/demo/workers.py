"""Worker processes of the demo: `processor run`, killed with SIGKILL and started anew."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import processor
from engine.errors import ConfigurationError
from processor.demo.processes import Processes, free_port

APP = "processor.demo.app:app"

_ANSWER_S = 5.0
"""Longest a worker may take to answer a scrape: more than a second where it shares two cores with others."""

_UNKNOWN_COMMITS = re.compile(
    r'^processor_flush_retries_total\{[^}]*reason="unknown commit"[^}]*\} ([0-9.e+-]+)$', re.MULTILINE
)
_SAMPLE = re.compile(r"^(processor_\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


class Worker:
    """One worker. A new process under the same name takes its predecessor's place at once.

    Args:
        processes: Where its processes belong.
        name: Of the executor.
        settings: Further variables of its environment.
        program: What to run instead of `processor run` on the demo's app.
    """

    def __init__(
        self, processes: Processes, name: str, settings: Mapping[str, str], *, program: tuple[str, ...] | None = None
    ) -> None:
        self.name = name
        self.log = f"{name}.log"
        self._processes = processes
        self._settings = settings
        self._program = program or ("-m", "processor", "run", APP)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.started_at = 0.0
        """When its process was started; of a monotonic clock."""
        self.worked_at: float | None = None
        """When that process was first seen to have finished something; `None` until it was."""

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """Its process, the newest."""
        assert self._process is not None, "started once"
        return self._process

    def start(self, **settings: str) -> None:
        """Start a process; `settings` are variables of this start only."""
        assert not self.is_running, f"{self.name} runs already"
        self._port = free_port()
        self.started_at, self.worked_at = time.monotonic(), None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PROCESSOR_")}
        roots = [str(Path(processor.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = self._processes.start(
            [sys.executable, *self._program],
            log=self.log,
            env={
                **kept,
                "PYTHONPATH": os.pathsep.join(roots),
                "PROCESSOR_EXECUTOR_NAME": self.name,
                "PROCESSOR_HTTP_HOST": "127.0.0.1",
                "PROCESSOR_HTTP_PORT": str(self._port),
                "PROCESSOR_LOGS_FORMAT": "console",
                **self._settings,
                **settings,
            },
        )

    async def kill(self) -> None:
        """SIGKILL, at once."""
        self.process.send_signal(signal.SIGKILL)
        await self._processes.ended(self.process)

    async def ended(self) -> int:
        """Wait until its process has ended; returns the exit code."""
        return await self._processes.ended(self.process)

    def check(self) -> None:
        """Raise `ConfigurationError` with the end of its log if it ended by itself."""
        if self._process is not None and self._process.poll() not in (None, -signal.SIGKILL):
            raise ConfigurationError(f"{self.name} ended by itself:\n{self._processes.log(self.log)}")

    async def in_flight(self) -> int:
        """Workflows it has taken and not finished; 0 while it does not answer."""
        return round((await self.metrics()).get("processor_in_flight", 0))

    async def metrics(self) -> dict[str, float]:
        """Its samples, those of one name added up; none while it does not answer."""
        if not self.is_running:
            return {}
        try:
            text = await asyncio.to_thread(self._scrape)
        except OSError:
            return {}
        found: dict[str, float] = {}
        for name, value in _SAMPLE.findall(text):
            found[name] = found.get(name, 0.0) + float(value)
        if self.worked_at is None and found.get("processor_workflows_finished_total"):
            self.worked_at = time.monotonic()
        return found

    async def unknown_commits(self) -> float:
        """Of how many commits it has not known whether they were, and asked; 0 while it does not answer."""
        try:
            text = await asyncio.to_thread(self._scrape)
        except OSError:
            return 0.0
        return sum(float(value) for value in _UNKNOWN_COMMITS.findall(text))

    def _scrape(self) -> str:
        """Raises `OSError` where it does not answer, also where it is killed in the middle of its answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=_ANSWER_S) as answer:
            try:
                text: str = answer.read().decode()
            except HTTPException as error:
                raise ConnectionResetError(f"half an answer: {error!r}") from error
            return text
