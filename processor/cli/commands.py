"""Runs the user's own commands: Alembic, psql, what a project has.

They are shown as they are written, with `${NAME}`: what it stands for may be a secret. What a command prints itself is its own affair.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from engine.errors import ConfigurationError
from processor.cli import DONE, FAILED
from processor.config import Settings
from processor.secrecy import as_written
from processor.section import Command

DSN_VARIABLE = "PROCESSOR_POSTGRES_DSN"


def run_commands(commands: Sequence[Command], settings: Settings) -> int:
    """Run commands in order, each without a shell; the first that fails ends it.

    Returns:
        0, or 1 if one failed.

    Raises:
        ConfigurationError: A command cannot be found or started.
    """
    environment = os.environ | {DSN_VARIABLE: settings.postgres.dsn.get_secret_value()}
    for command in commands:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        shown = as_written(command) if isinstance(command, str) else shlex.join(map(as_written, command))
        print(f"$ {shown}", flush=True)
        try:
            ended = subprocess.run(words, env=environment, check=False)
        except OSError as error:
            raise ConfigurationError(f"{shown}: cannot be started: {error.strerror}") from None
        if ended.returncode:
            print(f"processor: {shown}: exit code {ended.returncode}; later commands did not run", file=sys.stderr)
            return FAILED
    return DONE
