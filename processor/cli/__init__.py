"""The `processor` command. One module a command; each has `HELP`, `configure` and `run`.

Exit codes: 0, done. 1, it ran, and failed. 2, it could not begin: a mistake in the command line, the settings, the app
or the set-up, or a server that does not answer; the message says what to do. None of these shows a stack trace
(`--traceback` does); what shows one unasked is a bug.
"""

import argparse
import importlib
import importlib.util
import os
import select
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

from engine.addresses import advice_about
from engine.errors import EngineError

__all__ = ["DONE", "FAILED", "MISTAKE", "add_act", "command_parser", "main"]

DONE: Final = 0
FAILED: Final = 1
MISTAKE: Final = 2

INTERRUPTED: Final = 130
"""As a shell says that Ctrl-C ended a program."""
UNREAD: Final = 141
"""As it says that SIGPIPE did: whoever read our output has ended (`| head`)."""

EXIT_CODES = "Exit codes: 0 done; 1 it ran and failed; 2 it could not begin, and the message says what to do"
"""Of every command that does not say its own."""

_COMMANDS = (
    "run",
    "migrate",
    "rollback",
    "check",
    "new",
    "dev",
    "demo",
    "workflows",
    "partitions",
    "dead-letters",
    "schedules",
    "queues",
    "outbox",
    "relay",
    "retention",
    "payloads",
    "lag",
    "executors",
    "verify",
    "doctor",
    "completion",
)
"""In the order of `--help`. A command whose package is not installed is left out."""


class Command(Protocol):
    """What a module of this package is."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Instead of those of the process.

    Returns:
        The exit code.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        return UNREAD


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # Which imports the commands: Ctrl-C may come already.
        parser = command_parser()
        if "_ARGCOMPLETE" in os.environ and arguments is None:
            importlib.import_module("processor.cli.completion").complete(parser)
        parsed = parser.parse_args(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    command: Command = parsed.command
    try:
        return command.run(parsed)
    except EngineError as error:
        if parsed.traceback:
            traceback.print_exc()
        print(f"processor: {error}", file=sys.stderr)
        return MISTAKE
    except Exception as error:
        # The driver's errors, by name: its module is the engine's to import. The server refused, or went away.
        if parsed.traceback or type(error).__module__.partition(".")[0] not in ("psycopg", "psycopg_pool"):
            raise
        print(f"processor: Postgres: {error}{advice_about(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _is_unread() -> bool:
    """Whether a pipe that broke is our output's. Then what is still buffered goes nowhere, so that nothing is said of it."""
    is_unread = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # asks for nothing: an end that is gone is told unasked
        if any(told & (select.POLLERR | select.POLLHUP) for _, told in poll.poll(0)):
            is_unread = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return is_unread


def add_common_arguments(parser: argparse.ArgumentParser, *, is_command: bool = False) -> None:
    """What every command takes, and every act of a command, so that it may stand at the end of a line."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        # An act's own default would overwrite what was given to its command.
        default=None if is_command else argparse.SUPPRESS,
        help="settings file; else what PROCESSOR_CONFIG names, else processor.yaml or processor.toml if there is one",
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=False if is_command else argparse.SUPPRESS,
        help="show where an error was raised",
    )


def reason(text: str) -> str:
    """Why something is done. For `type=` of an argument."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: say why; it is recorded")
    return text


def add_act(acts: Any, name: str, meaning: str) -> argparse.ArgumentParser:
    """An act of a command, as `list` of `partitions list`. `acts` is what `add_subparsers` returned."""
    parser: argparse.ArgumentParser = acts.add_parser(
        name, help=meaning, description=f"{meaning[:1].upper()}{meaning[1:]}."
    )
    add_common_arguments(parser)
    return parser


def command_parser() -> argparse.ArgumentParser:
    """The parser of every command: also what docs/reference/command.md is made from."""
    parser = argparse.ArgumentParser(
        prog="processor",
        description="Processes Kafka records exactly once, with durable workflows on Postgres.",
        epilog=f"{EXIT_CODES}; {INTERRUPTED} it was interrupted; {UNREAD} nobody reads its output any more (`| head`).",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        command = _command(name)
        if command is None:
            continue
        sub = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_common_arguments(sub, is_command=True)
        command.configure(sub)
        if "Exit codes:" not in (sub.epilog or ""):
            sub.epilog = "\n".join(filter(None, [sub.epilog, f"{EXIT_CODES}."]))
        sub.set_defaults(command=command)
    return parser


def _command(name: str) -> Command | None:
    module = f"processor.cli.{name.replace('-', '_')}"
    if importlib.util.find_spec(module) is None:
        return None
    return cast("Command", importlib.import_module(module))
