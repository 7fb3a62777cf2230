"""`processor rollback`: the user's own commands (`rollback:` in the settings). System tables only go forward."""

import argparse

from engine.errors import ConfigurationError
from processor.cli.commands import run_commands
from processor.loading import load_settings

HELP = "Run the commands under rollback: of the settings; system tables only go forward"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.epilog = "The previous release runs on migrated system tables, so nothing of them has to go back."


def run(arguments: argparse.Namespace) -> int:
    """Roll back."""
    settings = load_settings(arguments.config)
    if not settings.rollback:
        raise ConfigurationError("there is nothing to run: the settings have no commands under rollback:")
    return run_commands(settings.rollback, settings)
