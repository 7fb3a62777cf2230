"""`processor migrate`: the system tables up to this release, then the user's own commands (`migrate:` in the settings)."""

import argparse
import asyncio

from engine.addresses import DIRECT_DSN, DSN
from engine.migrations import migrate
from processor.cli import DONE
from processor.cli.commands import run_commands
from processor.config import Settings
from processor.loading import load_settings

HELP = "Bring the database up to this release, then run the commands under migrate: of the settings"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument(
        "--phase",
        choices=("all", "pre", "post"),
        default="all",
        help="for a rolling upgrade: 'pre' before the new code, 'post' after it (default: all, with the old code stopped)",
    )
    parser.epilog = "Any number of processes may run it at once. The user's commands run with 'all' and 'pre'."


def run(arguments: argparse.Namespace) -> int:
    """Migrate."""
    settings = load_settings(arguments.config)
    direct = settings.postgres.direct_dsn is not None
    applied = asyncio.run(
        migrate(
            session_dsn(settings),
            settings.postgres.schema_name,
            phase=arguments.phase,
            report=print,
            setting=DIRECT_DSN if direct else DSN,
        )
    )
    if not applied:
        print(f"{settings.postgres.schema_name}: nothing to apply")
    if arguments.phase == "post":
        return DONE
    return run_commands(settings.migrate, settings)


def session_dsn(settings: Settings) -> str:
    """Where a session of one's own is to be had: around a pooler, if there is one."""
    return (settings.postgres.direct_dsn or settings.postgres.dsn).get_secret_value()
