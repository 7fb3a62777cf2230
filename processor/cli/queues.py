"""`processor queues`: what waits in which queue, and who takes from it; pauses and resumes them.

Every act is recorded with its actor, and why.
"""

import argparse
import asyncio
from typing import Any

from engine.inspection import connected
from engine.queue_acts import list_queues, pause, resume
from engine.settings import EngineSettings
from engine.store.queues import QueueDepth
from processor.cli import DONE, add_act, reason
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.output import instant, print_rows, say_done
from processor.loading import load_settings
from processor.wiring import engine_settings

HELP = "Show what waits in queues and who takes from them; pause and resume them"

_COLUMNS = ("queue", "ready", "oldest_at", "delayed", "places", "listeners", "state")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(
        acts,
        "list",
        "queues with how much waits, since when, how many have a place, and how many processes take from them;\n"
        "each number at most 10,000",
    )
    listing.add_argument("--queue", action="append", metavar="NAME", help="only of this name; may be repeated")
    listing.add_argument("--waiting", action="store_true", help="only those in which something waits")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    pausing = add_act(acts, "pause", "start nothing of a queue from now on; what has started goes on")
    resuming = add_act(acts, "resume", "let a paused queue go on")
    for changing in (pausing, resuming):
        changing.add_argument("queue", metavar="QUEUE", help="as `list` shows it")
        changing.add_argument("--note", type=reason, required=True, help="why; it is recorded")
        changing.add_argument("--json", action="store_true", help="one JSON object")
        add_actor_argument(changing)


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    settings = engine_settings(load_settings(arguments.config))
    return asyncio.run(_act(arguments, settings))


async def _act(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    schema = settings.schema
    async with connected(settings) as connection:
        match arguments.act:
            case "list":
                found = await list_queues(connection, schema)
                rows = [_row(each) for each in found if _passes(arguments, each)]
                print_rows(_COLUMNS, rows, as_json=arguments.json, nothing="there is no queue")
            case "pause":
                await pause(connection, schema, arguments.queue, note=arguments.note, actor=actor_of(arguments))
                text = f"queue {arguments.queue} is paused"
                say_done(text, as_json=arguments.json, queue=arguments.queue, paused=True)
            case _:
                await resume(connection, schema, arguments.queue, note=arguments.note, actor=actor_of(arguments))
                text = f"queue {arguments.queue} goes on"
                say_done(text, as_json=arguments.json, queue=arguments.queue, paused=False)
    return DONE


def _passes(arguments: argparse.Namespace, depth: QueueDepth) -> bool:
    return (not arguments.queue or depth.queue in arguments.queue) and (
        not arguments.waiting or bool(depth.ready or depth.delayed)
    )


def _row(depth: QueueDepth) -> dict[str, Any]:
    waits = depth.ready or depth.delayed
    state = "paused" if depth.is_paused else "nobody takes from it" if waits and not depth.listeners else "open"
    return {
        "queue": depth.queue,
        "ready": depth.ready,
        "oldest_at": instant(depth.oldest_at),
        "delayed": depth.delayed,
        "places": depth.places,
        "listeners": depth.listeners,
        "state": state,
    }
