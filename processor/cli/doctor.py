"""`processor doctor`: whether settings, Postgres and Kafka are such that this works, and what to do where they are not.

Everything is looked at, whatever was found before; nothing is written.
"""

import argparse
import asyncio
import json
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from engine import checkup as postgres
from engine.checkup import Check, Level, fine, problem
from engine.progress import Progress
from processor.cli import DONE, FAILED
from processor.cli.apps import load_app
from processor.config import Settings
from processor.loading import load_settings
from processor.policies import dead_letter_topic
from processor.wiring import engine_settings, group_name, group_settings

if TYPE_CHECKING:
    from processor.app import App

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
        print(f"{count[Level.PROBLEM]} problems, {count[Level.WARNING]} warnings, {count[Level.FINE]} fine")
    is_wrong = count[Level.PROBLEM] or (arguments.strict and count[Level.WARNING])
    return FAILED if is_wrong else DONE


async def examine(settings: Settings, app: "App | None") -> list[Check]:
    """Everything, in the order of what needs what."""
    from consumers import checkup as kafka

    checks = [_versions()]
    database = await postgres.examine(engine_settings(settings, app))
    checks += database.checks
    progress: dict[str, dict[tuple[str, int], Progress]] = {}
    for group, key, _, each in database.progress:
        topic, _, partition = key.rpartition("-")
        progress.setdefault(group, {})[topic, int(partition)] = each
    topics: dict[str, set[str]] = {group: set() for group in progress}
    for registration in () if app is None else app.workflows.values():
        if registration.topic is None:
            continue
        group = group_name(registration, app, settings) if app is not None else ""
        of_group = topics.setdefault(group, set())
        if not registration.topic.is_pattern:
            of_group.add(registration.topic.name)
        if (buried := dead_letter_topic(registration.on_failure)) is not None:
            of_group.add(buried)
    for group in sorted(topics) or [settings.kafka.group or "processor"]:
        checks += await kafka.examine(group_settings(settings, group), topics.get(group, ()), progress.get(group, {}))
    return checks


def _versions() -> Check:
    names = ("onceflow", "psycopg", "confluent-kafka", "pydantic")
    try:
        found = ", ".join(f"{name} {version(name)}" for name in names)
    except PackageNotFoundError as error:
        return problem("versions", f"package {error.name} is not installed", f"pip install {error.name}")
    return fine("versions", f"Python {sys.version.split()[0]}, {found}")


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
