"""`processor schedules`: what runs when, what has run last; pause, resume, run once, make up a range.

Every act is recorded with its actor.
"""

import argparse
import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from engine.errors import ConfigurationError
from engine.inspection import connected
from engine.schedules import Schedule, backfill, list_schedules, pause, resume, trigger
from engine.settings import EngineSettings
from processor.cli import DONE, add_act
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.output import instant, print_rows
from processor.loading import load_settings
from processor.wiring import engine_settings

HELP = "List schedules, pause and resume them, run one now, make up a range"

_COLUMNS = ("name", "cron", "timezone", "catch_up", "state", "last_tick", "next_tick", "due_since", "note")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(acts, "list", "every schedule, with its last tick and its next one")
    paused = add_act(acts, "pause", "start no tick from now on; what was started runs on")
    resumed = add_act(acts, "resume", "start ticks again, from now on; those of the pause are passed over")
    triggered = add_act(acts, "trigger", "run it once now, beside its ticks, also while it is paused")
    filled = add_act(
        acts,
        "backfill",
        "start the ticks of a past range that have not run, by the schedule as it is now; may be repeated",
    )
    for named in (paused, resumed, triggered, filled):
        named.add_argument("name", metavar="NAME", help="of the schedule, which is its workflow's")
        add_actor_argument(named)
    for noted in (paused, resumed):
        noted.add_argument("--note", required=True, help="why; it is recorded")
    for may_say in (triggered, filled):
        may_say.add_argument("--note", help="why; it is recorded")
    filled.add_argument(
        "--from", dest="start", type=_time, required=True, metavar="TIME", help="as 2026-01-31T00:00Z, or a date (UTC)"
    )
    filled.add_argument("--to", dest="end", type=_time, metavar="TIME", help="not in the range itself (default: now)")
    listing.add_argument("--name", help="only of this name")
    listing.add_argument(
        "--state", choices=("active", "paused", "absent"), help="only in this state; absent: no process has it"
    )
    for each in (listing, paused, resumed, triggered, filled):
        each.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    settings = engine_settings(load_settings(arguments.config))
    return asyncio.run(_act(arguments, settings))


async def _act(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    schema, name = settings.schema, getattr(arguments, "name", "")
    note: str | None = getattr(arguments, "note", None)
    if note is not None and not note.strip():
        raise ConfigurationError("--note is empty: say why; it is recorded")
    async with connected(settings) as connection:
        match arguments.act:
            case "list":
                found = await list_schedules(connection, schema)
                rows = [
                    _row(each)
                    for each in found
                    if arguments.name in (None, each.name) and arguments.state in (None, each.state)
                ]
                print_rows(_COLUMNS, rows, as_json=arguments.json, nothing="no schedules")
            case "pause":
                await pause(connection, schema, name, note=arguments.note, actor=actor_of(arguments))
                _say(arguments, f"{name} is paused", paused=True)
            case "resume":
                since = await resume(connection, schema, name, note=arguments.note, actor=actor_of(arguments))
                at = instant(since)
                _say(
                    arguments,
                    f"{name} goes on from now; for what it has not run since {at}:\n"
                    f"  processor schedules backfill {name} --from {at}",
                    paused=False,
                    paused_since=at,
                )
            case "trigger":
                workflow_id = await trigger(connection, schema, name, note=note or "", actor=actor_of(arguments))
                _say(arguments, workflow_id, workflow=workflow_id)
            case _:
                end = arguments.end or datetime.now(UTC)
                done = await backfill(
                    connection, schema, name, arguments.start, end, note=note or "", actor=actor_of(arguments)
                )
                _say(
                    arguments,
                    f"{done.started} ticks started, {done.stood} had their workflows already",
                    started=done.started,
                    stood=done.stood,
                )
    return DONE


def _say(arguments: argparse.Namespace, text: str, **facts: Any) -> None:
    """What was done, for people or for programs."""
    print(json.dumps({"name": arguments.name, **facts}, ensure_ascii=False) if arguments.json else text)


def _time(text: str) -> datetime:
    """A time of the command line. Without a zone only a date is clear: nobody knows whose time it would be."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it as 2026-01-31T00:00Z") from None
    if found.tzinfo is not None:
        return found
    if "T" in text or " " in text:
        raise argparse.ArgumentTypeError(f"{text!r} has no zone: write {text}Z, or as {text}+02:00")
    return found.replace(tzinfo=UTC)


def _row(schedule: Schedule) -> dict[str, Any]:
    return {
        "name": schedule.name,
        "cron": schedule.expression,
        "timezone": schedule.timezone,
        "catch_up": schedule.catch_up,
        "state": schedule.state,
        "last_tick": instant(schedule.last_tick_at),
        "last_started": instant(schedule.last_started_at),
        "next_tick": instant(schedule.next_at) if schedule.state == "active" else None,
        "due_since": instant(schedule.due_since),
        "version": schedule.version,
        "executors": schedule.executors,
        "registered_at": instant(schedule.registered_at),
        "changed_at": instant(schedule.changed_at),
        "decided_until": instant(schedule.decided_until),
        "paused_at": instant(schedule.paused_at),
        "paused_by": schedule.paused_by,
        "note": schedule.note,
    }
