"""`processor run`, armed to kill itself at a crash point: `python -m tests.system.worker MODULE:app`; or `relay`.

CRASH_AT=flush-sent         SIGKILL at the first pass
CRASH_AT=flush-sent:20      at the twentieth
"""

import os
import signal
import sys
from collections.abc import Callable

from engine.crashpoints import CrashPoint, armed
from processor.cli import main


def kill_at_pass(passes: int) -> Callable[[CrashPoint], None]:
    """What a crash point calls: SIGKILL at its n-th pass."""
    left = passes

    def passed(_: CrashPoint) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return passed


if __name__ == "__main__":
    if where := os.environ.get("CRASH_AT"):
        point, _, passes = where.partition(":")
        armed[CrashPoint(point)] = kill_at_pass(int(passes or 1))
    sys.exit(main(["relay"] if sys.argv[1:] == ["relay"] else ["run", *sys.argv[1:]]))
