"""`processor retention`: how long what has ended is kept, what is due now, deleting it, and a brake.

Every act is recorded with its actor.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from engine.errors import ConfigurationError
from engine.inspection import connected
from engine.keeping import Kind, PolicyRow
from engine.retention_acts import pause, read_policies, resume, sweep_now
from processor.cli import DONE, MISTAKE, add_act
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.output import print_rows, say_done
from processor.config import Settings
from processor.config_retention import FOR_EVER
from processor.loading import load_settings
from processor.units import spell_duration
from processor.wiring import engine_settings

HELP = "Show how long what has ended is kept; count or delete what is due; pause all deleting"

_KINDS = (Kind.SUCCESS, Kind.ERROR, Kind.CANCELLED, Kind.DEAD_LETTER)
"""That can differ: MAX_RECOVERY_ATTEMPTS_EXCEEDED is kept as ERROR is."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.epilog = "Exit codes: 0 done; 1 it ran and failed; 2 it could not begin, or nothing was deleted, since `run` wants --yes."
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    shown = add_act(acts, "show", "the policies in force, as the processes wrote them when they started")
    swept = add_act(acts, "run", "delete what is due now; counts it unless --yes is given")
    swept.add_argument("--yes", action="store_true", help="do it")
    for act in (shown, swept):
        act.add_argument("--json", action="store_true", help="one JSON object a line")
    paused = add_act(
        acts, "pause", "stop all deleting in this schema, by whatever process; a batch under way is finished"
    )
    paused.add_argument("--note", required=True, help="why; it is recorded")
    resumed = add_act(acts, "resume", "take the pause away")
    resumed.add_argument("--note", default="", help="why; it is recorded")
    for changing in (paused, resumed):
        changing.add_argument("--json", action="store_true", help="one JSON object")
    for act in (swept, paused, resumed):
        add_actor_argument(act)


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    return asyncio.run(_act(arguments, load_settings(arguments.config)))


async def _act(arguments: argparse.Namespace, settings: Settings) -> int:
    engine = engine_settings(settings)
    schema = engine.schema
    async with connected(engine) as connection:
        match arguments.act:
            case "show":
                policies = await read_policies(connection, schema)
                rows = [row | {"paused": policies.paused} for row in _policies(policies.rows)]
                columns = ("handler", *(kind.lower() for kind in _KINDS))
                nothing = "no process has said how long anything is kept: nothing is ever deleted"
                print_rows(columns, rows, as_json=arguments.json, nothing=nothing)
                if policies.paused is not None:
                    print(f"processor: deleting is paused: {policies.paused}", file=sys.stderr)
            case "pause":
                if not arguments.note.strip():
                    raise ConfigurationError("--note is empty: say why deleting is paused; it is recorded")
                placed = await pause(connection, schema, note=arguments.note, actor=actor_of(arguments))
                text = "retention: " + ("paused" if placed else "is paused already")
                say_done(text, as_json=arguments.json, paused=True, changed=placed)
            case "resume":
                lifted = await resume(connection, schema, note=arguments.note, actor=actor_of(arguments))
                text = "retention: " + ("resumed" if lifted else "was not paused")
                say_done(text, as_json=arguments.json, paused=False, changed=lifted)
            case _:
                return await _sweep(arguments, settings, connection, schema)
    return DONE


async def _sweep(arguments: argparse.Namespace, settings: Settings, connection: Any, schema: str) -> int:
    gone = await sweep_now(
        connection,
        schema,
        actor=actor_of(arguments),
        rows_max=settings.retention.batch_max,
        dry_run=not arguments.yes,
    )
    rows = [{"handler": handler, "kind": kind, "rows": count} for (handler, kind), count in sorted(gone.items())]
    print_rows(("handler", "kind", "rows"), rows, as_json=arguments.json, nothing="nothing is due")
    if arguments.yes or not rows:
        return DONE
    print("processor: nothing was deleted; with --yes it is", file=sys.stderr)
    return MISTAKE


def _policies(policies: Iterable[PolicyRow]) -> list[dict[str, Any]]:
    """One row for each handler."""
    found: dict[str, dict[str, Any]] = {}
    for policy in policies:
        if policy.kind in _KINDS:
            spelled = FOR_EVER if policy.keep_ms is None else spell_duration(timedelta(milliseconds=policy.keep_ms))
            found.setdefault(policy.handler, {"handler": policy.handler})[policy.kind.lower()] = spelled
    return list(found.values())
