"""Worker processes and files of a run, none of which outlives it.

    run ──pipe──▶ guard ──SIGKILL──▶ workers
      └─────starts, kills──────────────▲

Each child stands in a session of its own, so that Ctrl-C reaches the run only, which ends them. If the run itself
is killed, the guard of its directory ends them and removes it (`processor.scratch`).
"""

import asyncio
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from processor.scratch import Scratch

_POLL_S = 0.02


class Processes:
    """Child processes, and a directory for their files."""

    def __init__(self) -> None:
        self._scratch = Scratch("processor-demo-")
        self.home = self._scratch.home
        self._alive: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str | Path],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in the directory.

        Args:
            command: Program and arguments.
            log: File of the directory that its output is appended to.
            env: Its whole environment; as ours by default.
        """
        with (self.home / log).open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                env=env,
                pass_fds=[self._scratch.lock],
                start_new_session=True,
            )
        self._alive.append(process)
        self._tell_guard()
        return process

    async def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until a process has ended, and forget it."""
        while process.poll() is None:  # noqa: ASYNC110  # nothing else tells of a child's end without a thread
            await asyncio.sleep(_POLL_S)
        if process in self._alive:
            self._alive.remove(process)
        self._tell_guard()
        return process.returncode

    def log(self, name: str, characters: int = 3_000) -> str:
        """The end of a log."""
        path = self.home / name
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def close(self) -> None:
        """Kill every process and remove the directory. May be called again."""
        for process in self._alive:
            process.kill()
            process.wait()
        self._alive.clear()
        self._scratch.close()

    def _tell_guard(self) -> None:
        self._scratch.on_death("KILL", *(process.pid for process in self._alive))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now. Another process may take it before the caller does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
