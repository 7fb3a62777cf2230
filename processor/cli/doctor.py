"""`processor doctor`: whether settings, Postgres and Kafka are such that this works, and what to do where they are not.

Everything is looked at, whatever was found before; nothing is written.
"""

import argparse
import asyncio
import json
import re

from engine.checkup import Check, Level
from processor.cli import DONE, FAILED
from processor.cli.apps import load_app
from processor.examination import examine
from processor.loading import load_settings

HELP = "Examine settings, Postgres, Kafka, privileges, topics and clocks; say what to do about what is wrong"

_MARKS = {Level.FINE: "ok", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument(
        "app", nargs="?", metavar="MODULE:app", help="also its topics and groups; without, those that have progress"
    )
    parser.add_argument("--strict", action="store_true", help="a warning is a failure too")
    parser.add_argument("--quiet", action="store_true", help="only what is not as it should be")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: level, subject, message, advice")
    parser.epilog = "Exit codes: 0 nothing is wrong, though there may be warnings; 1 something is; 2 settings or app cannot be read."


def run(arguments: argparse.Namespace) -> int:
    """Examine, and print."""
    settings = load_settings(arguments.config)
    app = None if arguments.app is None else load_app(arguments.app)
    checks = asyncio.run(examine(settings, app))
    shown = [each for each in checks if not arguments.quiet or each.level is not Level.FINE]
    _print(shown, as_json=arguments.json)
    count = {level: sum(each.level is level for each in checks) for level in Level}
    if not arguments.json:
        told = [_counted(count[Level.PROBLEM], "problem"), _counted(count[Level.WARNING], "warning")]
        print(f"{', '.join(told)}, {count[Level.FINE]} fine")
    is_wrong = count[Level.PROBLEM] or (arguments.strict and count[Level.WARNING])
    return FAILED if is_wrong else DONE


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _print(checks: list[Check], *, as_json: bool) -> None:
    width = max((len(_MARKS[each.level]) for each in checks), default=0)
    for each in checks:
        if as_json:
            print(
                json.dumps(
                    {"level": each.level, "subject": each.subject, "message": each.message, "advice": each.advice}
                )
            )
            continue
        advice = f"  -> {each.advice}" if each.advice else ""
        line = f"{_MARKS[each.level]:<{width}}  {each.subject}: {each.message}{advice}"
        print(re.sub(r"\s*\n\s*", " ", line))
