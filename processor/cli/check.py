"""`processor check`: what an app would run, without running or contacting anything."""

import argparse
import json
import time
from itertools import islice
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter

from processor.app import App
from processor.cli import DONE
from processor.cli.apps import add_app_argument, load_app
from processor.cli.output import instant
from processor.codec import type_name
from processor.config import Settings
from processor.config_retention import FOR_EVER
from processor.formats import RegistryCodec
from processor.handlers import Registration
from processor.loading import load_settings
from processor.policies import NEVER, Retry
from processor.runtime import Runtime
from processor.schedules import Cron
from processor.triggers import Topic
from processor.units import spell_duration
from processor.wiring import group_name, keep_of

NEXT_SHOWN = 3
"""Next ticks of a schedule that are shown: enough to see what its expression means."""

HELP = "Show the handlers, topics, policies and schemas of an app, or say what is wrong with them"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_app_argument(parser)
    parser.add_argument("--schemas", action="store_true", help="also print the JSON Schema of each topic's events")
    parser.epilog = "Nothing is contacted: neither Kafka nor Postgres. Exit codes: 0 it would run; 2 it would not."


def run(arguments: argparse.Namespace) -> int:
    """Check, and print."""
    settings = load_settings(arguments.config)
    app = load_app(arguments.app)
    Runtime(app, settings)  # all that `run` would refuse before it contacts anybody
    print(describe(app, settings))
    if arguments.schemas:
        print(schemas(app))
    return DONE


def describe(app: App, settings: Settings) -> str:
    """An app in words."""
    lines = [f"app {app.name}"]
    if (key := settings.payloads.key) is not None:
        lines.append(f"  {'payloads':14}sealed with key {key!r}")
    if (url := settings.registry.url) is not None:
        lines.append(f"  {'registry':14}{url}")
    for registration in app.workflows.values():
        lines += ["", *_workflow(registration, app, settings)]
    if app.steps:
        lines += ["", "steps"]
        for step in app.steps.values():
            retry: Retry = getattr(step.step, "retry", NEVER)
            kind = type(step).__name__.removesuffix("Function").lower()
            lines.append(f"  {step.name}  ({kind}{', ' + _retry(retry) if retry != NEVER else ''})")
    return "\n".join(lines)


def schemas(app: App) -> str:
    """The JSON Schema of each topic's events, by topic."""
    topics = {r.topic.name: r.topic for r in app.workflows.values() if r.topic is not None}
    return "\n".join(f"\n{name}\n{_schema(topic)}" for name, topic in topics.items())


def _workflow(registration: Registration, app: App, settings: Settings) -> list[str]:
    topic = registration.topic
    lines = [f"{registration.kind.value} {registration.name}  (version {registration.code_version})"]
    if (cron := registration.cron) is not None:
        return [*lines, *_schedule(cron, registration, settings)]
    if topic is None:
        return [*lines, "  started by calls"]
    order = topic.ordering.value + (", by order_by" if topic.order_by else "")
    facts: dict[str, str] = {
        "topic": f"{topic.name}{' (a pattern)' if topic.is_pattern else ''}",
        "group": group_name(registration, app, settings),
        "event": type_name(topic.model) + (", as its record" if registration.wants_record else ""),
        "format": topic.codec.name if isinstance(topic.codec, RegistryCodec) else "",
        "order": order,
        "tombstones": "delivered" if topic.tombstone == "deliver" else "passed over",
        "filter": getattr(topic.where, "__qualname__", "yes") if topic.where else "",
        "headers": ", ".join(sorted(topic.headers)),
        "retry": _retry(registration.retry),
        "on failure": repr(registration.on_failure).removesuffix("()"),
        "breaker": repr(registration.breaker) if registration.breaker else "off",
        "batch": str(registration.batch_max) if registration.kind.value == "batch" else "",
        "persist first": "yes" if registration.persist_first else "",
        "kept": _kept(registration, settings),
    }
    return lines + [f"  {name:14}{value}" for name, value in facts.items() if value]


def _kept(registration: Registration, settings: Settings) -> str:
    keep = keep_of(settings, registration.name)
    times = {
        "success": keep.success,
        "error": keep.error,
        "cancelled": keep.cancelled,
        "dead letters": keep.dead_letters,
    }
    return ", ".join(f"{name} {FOR_EVER if time is None else spell_duration(time)}" for name, time in times.items())


def _schedule(cron: Cron, registration: Registration, settings: Settings) -> list[str]:
    now = int(time.time() * 1000)
    facts = {
        "cron": f"{cron.expression}, {cron.timezone}",
        "catch up": cron.catch_up.value,
        "next": ", ".join(str(instant(tick)) for tick in islice(cron.after(now), NEXT_SHOWN)),
        "retry": _retry(registration.retry),
        "kept": _kept(registration, settings),
    }
    return [f"  {name:14}{value}" for name, value in facts.items()]


def _retry(retry: Retry) -> str:
    if retry.attempts == 1:
        return "1 attempt"
    kinds = "" if retry.on == (Exception,) else f" on {', '.join(kind.__name__ for kind in retry.on)}"
    return f"{retry.attempts} attempts, {spell_duration(retry.first_delay)} x {retry.backoff:g}{kinds}"


def _schema(topic: Topic[Any]) -> str:
    if topic.model in (bytes, str):
        return f"  {type_name(topic.model)}, no schema"
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(topic.model)
    except PydanticSchemaGenerationError:
        return f"  {type_name(topic.model)}, which is no model of pydantic's: its schema is its own"
    return json.dumps(adapter.json_schema(), indent=2, ensure_ascii=False)
