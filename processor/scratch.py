"""A directory for the files and the servers of one process: gone with it, however it ends.

    owner ──pipe──▶ guard (sh)      the pipe closes: kill what the owner named last, remove the directory
      └──── lock ─────┴── servers   an flock that the guard and the servers hold too

Orderly, `close` removes it. If the owner is killed, the guard does. If both are (the machine lost its power), the
directory stays until the next one under the same prefix is made: nobody holds its lock then.

    scratch = Scratch("onceflow-")
    server = subprocess.Popen(..., cwd=scratch.home, pass_fds=[scratch.lock], start_new_session=True)
    scratch.on_death("INT", server.pid)
"""

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

LOCK = "owner.lock"
"""File of each directory: locked while anybody who uses it lives. What has none is not ours, or is being made."""

# Of the guard; $0 is the directory. A line is a signal and whom it is for (a group, if negative); an empty one, nobody.
# At most 20 s for an orderly end.
_GUARD = """
while read -r line; do last=$line; done
set -- $last
if [ $# -gt 1 ]; then
    how=$1; shift
    kill "-$how" "$@"
    left=200
    while [ $left -gt 0 ] && kill -0 "$@"; do left=$((left - 1)); sleep 0.1; done
    kill -KILL "$@"
fi
rm -rf "$0" || { sleep 1; rm -rf "$0"; }
"""


class Scratch:
    """One directory. Made at once, with what others have left behind under the prefix removed first.

    Args:
        prefix: Of its name, in the directory for temporary files. Directories of users of other machines are safe as
            long as locks of that file system are seen here, which those of network file systems may not be.
    """

    def __init__(self, prefix: str) -> None:
        remove_abandoned(prefix)
        self.home = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            self.lock = _locked(self.home / LOCK)
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, self.home],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=[self.lock],
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        self._is_open = True

    def on_death(self, how: str, *pids: int) -> None:
        """Whom the guard sends which signal (`KILL`) if the owner is killed, until this is called again."""
        self._say(f"{how} {' '.join(map(str, pids))}" if pids else "")

    def close(self) -> None:
        """Remove it. Whatever ran in it has ended. May be called again."""
        if not self._is_open:
            return
        self._say("")  # their process IDs may be somebody else's by now
        self._guard.communicate()
        shutil.rmtree(self.home, ignore_errors=True)
        self._is_open = False
        os.close(self.lock)

    def _say(self, line: str) -> None:
        assert self._guard.stdin is not None, "it was given a pipe"
        with contextlib.suppress(BrokenPipeError):  # somebody killed the guard; the lock remains
            self._guard.stdin.write(f"{line}\n".encode())
            self._guard.stdin.flush()


def remove_abandoned(prefix: str) -> None:
    """Remove this user's directories under a prefix whose owner, guard and servers are all dead."""
    for home in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # not ours, in use, or just gone
            # NONBLOCK: somebody may have put a pipe there, which would wait for a writer.
            lock = os.open(home / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                found = os.fstat(lock)
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not home.is_symlink():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(home, ignore_errors=True)
            finally:
                os.close(lock)


def _locked(path: Path) -> int:
    """A file that is locked from its first moment on: it gets its name when it is. Returns the descriptor."""
    unnamed = path.with_suffix(".new")
    lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(path)
    return lock
