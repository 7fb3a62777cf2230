"""Whether settings, Postgres and Kafka are such that this works, for `processor doctor` and for the admin API.

Everything is looked at, whatever was found before; nothing is written.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from engine import checkup as postgres
from engine.checkup import Check, fine, problem
from engine.progress import Progress
from processor.config import Settings
from processor.policies import dead_letter_topic
from processor.wiring import engine_settings, group_name, group_settings

if TYPE_CHECKING:
    from processor.app import App


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
