"""`processor workflows`: list and inspect workflows, cancel, resume, fork, restart, delete them, one or many.

An act on many says of each what became of it, and `--dry-run` says which they would be. Every act is recorded with its
actor, and why. Exit code 1: some were refused.
"""

import argparse
import asyncio
import json
from datetime import datetime
from typing import Any

from engine import acts, forks, handles
from engine.acts import Acted
from engine.errors import ConfigurationError, WorkflowNotFoundError
from engine.handles import StepInfo, WorkflowInfo
from engine.inspection import StrandedRow, VersionRow, connected, list_stranded, list_versions
from engine.listing import LIST_MAX, WorkflowFilter, list_workflows
from engine.payloads import Payloads
from engine.settings import EngineSettings
from engine.shown import ShownPayloads
from engine.states import WorkflowStatus
from processor.cli import DONE, FAILED, add_act
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.numbers import number, number_in
from processor.cli.output import instant, print_one, print_rows
from processor.cli.progress_bar import ProgressBar
from processor.loading import load_settings
from processor.mass_acts import Act, act_on_workflows, fitting
from processor.wiring import engine_settings

HELP = "List and inspect workflows; cancel, resume, fork, restart or delete them"

_COLUMNS = ("id", "name", "status", "created_at", "updated_at", "version", "queue", "executor_id")
_STEP_COLUMNS = ("step", "name", "output", "error", "child", "started_at", "ended_at")
_STRANDED_COLUMNS = ("id", "name", "version", "instance", "created_at", "reason")
_VERSION_COLUMNS = ("name", "version", "first_at", "executors", "open")
_ACTED_COLUMNS = ("id", "done", "why", "new_id")

PORTION = 500
"""Workflows between two steps of the progress bar: as many as are one transaction."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.epilog = "Exit codes: 0 done; 1 one of those chosen was refused, and the row says why; 2 it could not begin."
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(acts, "list", "newest first, without their payloads")
    _add_filter(listing)
    listing.add_argument("--oldest-first", action="store_true", help="the other way round")
    listing.add_argument("--limit", type=number, default=100, metavar="N", help=f"at most {LIST_MAX} (default: 100)")
    listing.add_argument("--offset", type=number, default=0, metavar="N", help="pass over so many before")
    shown = add_act(acts, "show", "one, with its inputs and its outcome, as JSON")
    shown.add_argument("id", metavar="ID")
    steps = add_act(acts, "steps", "the history of one")
    steps.add_argument("id", metavar="ID")
    stranded = add_act(acts, "stranded", "those that no live process can run, and why")
    versions = add_act(acts, "versions", "versions of the code, who has them, and how many are under way in each")
    versions.add_argument("--name", help="of this function")
    for limited in (stranded, versions):
        limited.add_argument("--limit", type=number, default=1_000, metavar="N", help="rows (default: 1000)")
    for reading in (listing, steps, stranded, versions):
        reading.add_argument("--json", action="store_true", help="one JSON object a line")
    shown.add_argument("--json", action="store_true", help="on one line")
    cancelled = add_act(acts, "cancel", "let them begin no further step")
    cancelled.add_argument("--interrupt", action="store_true", help="also cancel async steps that run, where they wait")
    resumed = add_act(acts, "resume", "put those that were cancelled, failed or given up back to work, as they were")
    restarted = add_act(acts, "restart", "begin them anew under other IDs, by the newest code")
    deleted = add_act(acts, "delete", "delete those that have ended, with their histories; not those of records")
    forked = add_act(acts, "fork", "begin one once more from a step on, under another ID")
    forked.add_argument("id", metavar="ID")
    forked.add_argument(
        "--from-step",
        type=number_in("workflows steps", "STEP"),
        required=True,
        metavar="N",
        help="the first step that is not taken over, as `steps` says",
    )
    forked.add_argument("--new-id", metavar="ID", help="of the fork (default: a UUID); the same again is the same fork")
    for moving in (resumed, restarted, forked):
        moving.add_argument("--to-version", metavar="V", help="of the code that is to go on with them")
    for following in (cancelled, deleted):
        following.add_argument("--children", action="store_true", help="also what they started, and so on")
    for changing in (cancelled, resumed, restarted, deleted):
        changing.add_argument("ids", nargs="*", metavar="ID", help="which; or those of a filter")
        _add_filter(changing)
        changing.add_argument("--all", action="store_true", help="every one that fits, where no filter is given")
        changing.add_argument(
            "--limit",
            type=number,
            default=LIST_MAX,
            metavar="N",
            help=f"of a filter: the oldest N (default: {LIST_MAX})",
        )
        changing.add_argument("--dry-run", action="store_true", help="only say which they would be")
    for changing in (cancelled, resumed, restarted, deleted, forked):
        changing.add_argument("--note", default="", help="why; it is recorded")
        changing.add_argument("--json", action="store_true", help="one JSON object a line")
        add_actor_argument(changing)


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    settings = engine_settings(load_settings(arguments.config))
    return asyncio.run(_act(arguments, settings))


async def _act(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    schema, payloads = settings.schema, ShownPayloads(Payloads(settings.payload_keys))
    async with connected(settings) as connection:
        match arguments.act:
            case "list":
                found = await list_workflows(
                    connection,
                    schema,
                    _filter(arguments),
                    limit=arguments.limit,
                    offset=arguments.offset,
                    newest_first=not arguments.oldest_first,
                    payloads=None,
                )
                print_rows(_COLUMNS, [_row(info) for info in found], as_json=arguments.json, nothing="no workflows")
            case "show":
                info = await _one(connection, schema, arguments.id, payloads)
                print_one(_row(info) | _payloads(info), as_json=arguments.json)
            case "steps":
                await _one(connection, schema, arguments.id, None)
                history = await handles.steps_of(connection, schema, payloads, arguments.id)
                rows = [_step(step) for step in history]
                print_rows(_STEP_COLUMNS, rows, as_json=arguments.json, nothing="no steps")
            case "stranded":
                rows = [_stranded(row) for row in await list_stranded(connection, schema, limit=arguments.limit)]
                print_rows(_STRANDED_COLUMNS, rows, as_json=arguments.json, nothing="no workflow is stranded")
            case "versions":
                known = await list_versions(connection, schema, name=arguments.name, limit=arguments.limit)
                rows = [_version(row) for row in known]
                print_rows(_VERSION_COLUMNS, rows, as_json=arguments.json, nothing="no versions")
            case "fork":
                new_id = await forks.fork(
                    connection,
                    schema,
                    arguments.id,
                    from_step=arguments.from_step,
                    new_id=arguments.new_id,
                    version=arguments.to_version,
                    actor=actor_of(arguments),
                    note=arguments.note,
                )
                _say(arguments, Acted([arguments.id]), {arguments.id: new_id})
            case _:
                return await _change(arguments, connection, schema)
    return DONE


async def _change(arguments: argparse.Namespace, connection: Any, schema: str) -> int:
    ids = await _chosen(arguments, connection, schema)
    new_ids: dict[str, str] = {}
    if arguments.dry_run:
        acted = Acted(ids)
    else:
        if arguments.act == "cancel" and arguments.children and ids:
            ids = await acts.family(connection, schema, ids)
        acted, done = Acted(), set[str]()
        with ProgressBar(arguments.act, len(ids)) as bar:
            for at in range(0, len(ids), PORTION):
                # Without those that went with a parent before them (`delete --children`).
                portion = [each for each in ids[at : at + PORTION] if each not in done]
                of_portion, of_new = await act_on_workflows(
                    connection,
                    schema,
                    Act(arguments.act),
                    portion,
                    actor=actor_of(arguments),
                    note=arguments.note,
                    interrupt=getattr(arguments, "interrupt", False),
                    children=getattr(arguments, "children", False),
                    version=getattr(arguments, "to_version", None),
                )
                new_ids.update(of_new)
                done.update(of_portion.done)
                acted.done.extend(of_portion.done)
                acted.refused.update(of_portion.refused)
                bar.advance(PORTION)
    _say(arguments, acted, new_ids)
    return FAILED if acted.refused else DONE


def _say(arguments: argparse.Namespace, acted: Acted, new_ids: dict[str, str]) -> None:
    """What became of each, and how many there were, for people."""
    is_dry = getattr(arguments, "dry_run", False)
    rows: list[dict[str, Any]] = [
        {"id": each, "done": not is_dry, "why": "dry run" if is_dry else None, "new_id": new_ids.get(each)}
        for each in acted.done
    ]
    rows += [{"id": each, "done": False, "why": str(why), "new_id": None} for each, why in acted.refused.items()]
    columns = _ACTED_COLUMNS if new_ids else _ACTED_COLUMNS[:-1]
    print_rows(columns, rows, as_json=arguments.json, nothing="no workflows fit")
    if rows and not arguments.json:
        word = {"cancel": "cancelled", "resume": "back to work", "delete": "deleted", "fork": "forked"}
        done = word.get(arguments.act, "restarted")
        print(f"{len(acted.done)} {'would be ' if is_dry else ''}{done}, {len(acted.refused)} refused")


async def _chosen(arguments: argparse.Namespace, connection: Any, schema: str) -> list[str]:
    """The IDs given, or those that the filter passes and the act is for."""
    given = _filter(arguments).given()
    if arguments.ids:
        if given or arguments.all:
            raise ConfigurationError("give IDs or a filter, not both")
        return list(arguments.ids)
    if not given and not arguments.all:
        raise ConfigurationError("give IDs, or a filter (--name, --status, ...), or --all")
    return await fitting(connection, schema, Act(arguments.act), _filter(arguments), limit=arguments.limit)


async def _one(connection: Any, schema: str, workflow_id: str, payloads: Payloads | None) -> WorkflowInfo:
    found = await list_workflows(connection, schema, WorkflowFilter(ids=[workflow_id]), payloads=payloads)
    if not found:
        raise WorkflowNotFoundError(workflow_id)
    return found[0]


def _add_filter(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("filter", "what passes all that is given; those of * may be repeated")
    for name, meaning in (
        ("status", f"in this state: {', '.join(WorkflowStatus)} *"),
        ("name", "of this function *"),
        ("version", "of this version of its code *"),
        ("queue", "of this queue *"),
        ("executor", "that this executor runs, or ran last *"),
    ):
        which.add_argument(f"--{name}", action="append", help=meaning)
    which.add_argument("--user", help="with this identity")
    which.add_argument("--prefix", metavar="ID", help="whose IDs begin so")
    which.add_argument("--forked-from", metavar="ID", help="forks of this one")
    which.add_argument("--parent", metavar="ID", help="started by this one")
    which.add_argument("--since", metavar="TIME", help="created then or later, as 2026-01-31T12:00:00Z")
    which.add_argument("--before", metavar="TIME", help="created before then")


def _filter(arguments: argparse.Namespace) -> WorkflowFilter:
    return WorkflowFilter(
        status=arguments.status and [status.upper() for status in arguments.status],
        name=arguments.name,
        version=arguments.version,
        queue=arguments.queue,
        executor=arguments.executor,
        user=arguments.user,
        prefix=arguments.prefix,
        forked_from=arguments.forked_from,
        parent=arguments.parent,
        created_from=_instant(arguments.since, "--since"),
        created_before=_instant(arguments.before, "--before"),
    )


def _instant(text: str | None, argument: str) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ConfigurationError(f"{argument} {text!r}: a time with its zone, as 2026-01-31T12:00:00Z")
    return at


# -- shown --


def _row(info: WorkflowInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "name": info.name,
        "status": str(info.status),
        "version": info.version,
        "created_at": _shown(info.created_at),
        "updated_at": _shown(info.updated_at),
        "started_at": _shown(info.started_at),
        "wake_at": _shown(info.wake_at),
        "deadline": _shown(info.deadline),
        "class_name": info.class_name,
        "instance": info.instance,
        "executor_id": info.executor_id,
        "recovery_attempts": info.recovery_attempts,
        "source": info.source,
        "queue": info.queue,
        "priority": info.priority,
        "partition_key": info.partition_key,
        "deduplication_id": info.deduplication_id,
        "forked_from": info.forked_from,
        "user": info.user,
        "role": info.role,
    }


def _payloads(info: WorkflowInfo) -> dict[str, Any]:
    return {name: _json(getattr(info, name)) for name in ("request", "inputs", "output", "error")}


def _step(step: StepInfo) -> dict[str, Any]:
    return {
        "step": step.function_id,
        "name": step.name,
        "output": step.output,
        "error": step.error,
        "child": step.child,
        "started_at": _shown(step.started_at),
        "ended_at": _shown(step.ended_at),
    }


def _stranded(row: StrandedRow) -> dict[str, Any]:
    return {
        "id": row.workflow_id,
        "name": row.name,
        "version": row.version,
        "instance": row.instance,
        "created_at": instant(row.created_at_ms),
        "reason": row.reason,
    }


def _version(row: VersionRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version,
        "first_at": instant(row.first_at_ms),
        "executors": row.executors,
        "open": row.open,
    }


def _json(stored: str | None) -> Any:
    """What is stored as JSON text, as it is where it is not."""
    try:
        return None if stored is None else json.loads(stored)
    except ValueError:
        return stored


def _shown(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
