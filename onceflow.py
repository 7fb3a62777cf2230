"""What the command `processor` begins with: Ctrl-C ends it without a word while it is still being imported.

That takes a second or more, in which Python would answer with a traceback from the middle of some library. Nothing has
begun by then that would have to be ended in order, so the signal may simply end the process, as it does a program in C.
This module stands outside of the packages because importing one of theirs imports most of them.
"""

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """The `processor` command (`processor.cli.main`). Returns the exit code."""
    # Not if it is ignored, as of a job in the background.
    if waits := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from processor.cli import main as command

    if waits:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()


if __name__ == "__main__":
    sys.exit(main())
