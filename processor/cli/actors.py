"""Who acts: every act that changes what runs is recorded with its actor."""

import argparse
import getpass


def add_actor_argument(parser: argparse.ArgumentParser) -> None:
    """`--actor`."""
    parser.add_argument("--actor", default=None, help="who does it, for the record (default: the system user)")


def actor_of(arguments: argparse.Namespace) -> str:
    """Who is named, or who is logged in."""
    if arguments.actor:
        return str(arguments.actor)
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "operator"
