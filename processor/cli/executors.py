"""`processor executors`: the processes of a database with their leases and what they have; ends one that is gone.

The act is recorded with its actor, and why.
"""

import argparse
import asyncio
from typing import Any

from engine.executors import State, end_executor, list_executors, state_of
from engine.inspection import connected
from engine.settings import EngineSettings
from engine.store.checkup import ExecutorRow
from processor.cli import DONE, add_act, reason
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.output import instant, print_rows, say_done
from processor.loading import load_settings
from processor.wiring import engine_settings

HELP = "List processes with their leases, partitions and workflows; end one that is gone"

_COLUMNS = (
    "id",
    "state",
    "name",
    "host",
    "pid",
    "version",
    "started_at",
    "lease_s",
    "partitions",
    "in_flight",
    "queues",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(
        acts, "list", "processes: those that live, that fell silent, and dead ones that still have something"
    )
    listing.add_argument("--all", action="store_true", help="every dead one too, of the last week")
    listing.add_argument("--state", choices=[state.value for state in State], help="only in this state")
    listing.add_argument("--host", help="only of this host")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    ending = add_act(
        acts, "end", "declare one dead whose lease is over: what it had goes on elsewhere; refused while its lease runs"
    )
    ending.add_argument("id", metavar="ID", help="as `list` shows it")
    ending.add_argument("--note", type=reason, required=True, help="why; it is recorded")
    ending.add_argument("--json", action="store_true", help="one JSON object")
    add_actor_argument(ending)


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    settings = engine_settings(load_settings(arguments.config))
    return asyncio.run(_act(arguments, settings))


async def _act(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    async with connected(settings) as connection:
        if arguments.act == "list":
            found = await list_executors(connection, settings.schema, all_of_them=arguments.all)
            rows = [
                _row(each)
                for each in found
                if arguments.state in (None, state_of(each)) and arguments.host in (None, each.hostname)
            ]
            print_rows(_COLUMNS, rows, as_json=arguments.json, nothing="no process has anything")
        else:
            who = actor_of(arguments)
            await end_executor(connection, settings.schema, arguments.id, note=arguments.note, actor=who)
            text = f"executor {arguments.id} is dead: what it had is taken over"
            say_done(text, as_json=arguments.json, id=arguments.id, state=str(State.DEAD))
    return DONE


def _row(row: ExecutorRow) -> dict[str, Any]:
    return {
        "id": row.executor_id,
        "state": str(state_of(row)),
        "name": row.name,
        "host": row.hostname,
        "pid": row.pid,
        "version": row.version,
        "claim_of": row.claim_of,
        "started_at": instant(row.started_at),
        "renewed_at": instant(row.renewed_at),
        "lease_s": None if row.died_at is not None else round(row.lease_ms / 1000, 1),
        "died_at": instant(row.died_at),
        "partitions": row.partitions,
        "in_flight": row.in_flight,
        "queues": row.queues or [],
    }
