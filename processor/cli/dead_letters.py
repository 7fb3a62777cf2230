"""`processor dead-letters`: records and workflows given up: look at them, put them back to work, or let them go.

Every act is recorded with its actor, and why. Of those given by their IDs all are done or none; of those of a filter what
can be, in portions. Exit code 1: some were refused.
"""

import argparse
import asyncio
import json
from dataclasses import replace
from typing import Any

from engine.dead_letters import LIST_MAX, DeadLetterRow, list_dead_letters, opened, show
from engine.errors import ConfigurationError
from engine.inspection import connected
from engine.payloads import Payloads, UnreadablePayloadError
from engine.settings import EngineSettings
from processor.cli import DONE, FAILED, add_act
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.edits import configure_edit, edit_one
from processor.cli.numbers import number, number_in
from processor.cli.output import headers, instant, payload, print_one, print_rows
from processor.cli.progress_bar import ProgressBar
from processor.loading import load_settings
from processor.mass_acts import LetterAct, act_on_letters, open_letters
from processor.wiring import engine_settings

HELP = "List, show, retry, edit or discard records and workflows that were given up"

CHOSEN_MAX = 10_000
"""Dead letters of a filter that one command acts on, unless --limit says otherwise."""

PORTION = 200
"""Of a filter: in one transaction, whose locks keep a key's owner waiting."""

_COLUMNS = ("id", "workflow", "handler", "reason", "state", "created_at", "error")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.epilog = "Exit codes: 0 done; 1 one of those chosen was refused, and the row says why; 2 it could not begin, or `edit` changed nothing."
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(acts, "list", "oldest first, without their payloads")
    _add_filter(listing)
    listing.add_argument(
        "--state", choices=("open", "retried", "discarded", "all"), default="open", help="default: open"
    )
    listing.add_argument(
        "--after", type=number_in("dead-letters list"), default=0, metavar="ID", help="the page behind this ID"
    )
    listing.add_argument(
        "--limit", type=number, default=100, metavar="N", help=f"rows, at most {LIST_MAX} (default: 100)"
    )
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    shown = add_act(acts, "show", "one, with its record and error, as JSON")
    shown.add_argument("id", type=number_in("dead-letters list"), metavar="ID")
    shown.add_argument("--json", action="store_true", help="on one line")
    retried = add_act(
        acts, "retry", "put them back to work, behind what is open of their keys, with their recorded steps"
    )
    discarded = add_act(acts, "discard", "give them up for good; a key that one blocks goes on")
    discarded.add_argument("--note", required=True, help="why; it is recorded")
    retried.add_argument("--note", default="", help="why; it is recorded")
    for changing in (retried, discarded):
        changing.add_argument(
            "ids", nargs="*", type=number_in("dead-letters list"), metavar="ID", help="which; or those of a filter"
        )
        _add_filter(changing)
        changing.add_argument("--all", action="store_true", help="every open one, where no filter is given")
        changing.add_argument(
            "--limit",
            type=number,
            default=CHOSEN_MAX,
            metavar="N",
            help=f"of a filter: the oldest N (default: {CHOSEN_MAX})",
        )
        changing.add_argument("--dry-run", action="store_true", help="only say which they would be")
        changing.add_argument("--json", action="store_true", help="one JSON object a line")
        add_actor_argument(changing)
    configure_edit(
        add_act(acts, "edit", "put one back to work with another payload; without one given, in $VISUAL or $EDITOR")
    )


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    settings = engine_settings(load_settings(arguments.config))
    return asyncio.run(_act(arguments, settings))


async def _act(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    schema, payloads = settings.schema, Payloads(settings.payload_keys)
    async with connected(settings) as connection:
        match arguments.act:
            case "list":
                if not 1 <= arguments.limit <= LIST_MAX:
                    raise ConfigurationError(
                        f"--limit {arguments.limit}: 1 to {LIST_MAX}; --after ID shows the next page"
                    )
                state = None if arguments.state == "all" else arguments.state.upper()
                found = await list_dead_letters(
                    connection, schema, state=state, after=arguments.after, limit=arguments.limit, **_filter(arguments)
                )
                rows = [_row(_opened(letter, payloads)) for letter in found]
                print_rows(_COLUMNS, rows, as_json=arguments.json, nothing="no dead letters")
            case "show":
                letter = opened(await show(connection, schema, arguments.id), payloads)
                print_one(_row(letter) | _record(letter), as_json=arguments.json)
            case "edit":
                return await edit_one(arguments, settings, connection)
            case _:
                if arguments.act == "discard" and not arguments.note.strip():
                    raise ConfigurationError("--note is empty: say why they are given up; it is recorded")
                return await _change(arguments, connection, schema)
    return DONE


async def _change(arguments: argparse.Namespace, connection: Any, schema: str) -> int:
    """Retry or discard: those given all or none, those of a filter in portions."""
    ids = await _chosen(arguments, connection, schema)
    refused: dict[int, str] = {}
    if not arguments.dry_run:
        portions = [ids] if arguments.ids else [ids[at : at + PORTION] for at in range(0, len(ids), PORTION)]
        with ProgressBar(arguments.act, len(ids)) as bar:
            for portion in portions:
                refused |= await act_on_letters(
                    connection,
                    schema,
                    LetterAct(arguments.act),
                    portion,
                    actor=actor_of(arguments),
                    note=arguments.note,
                    all_or_none=bool(arguments.ids),
                )
                bar.advance(len(portion))
    _say(arguments, ids, refused)
    return FAILED if refused else DONE


def _say(arguments: argparse.Namespace, ids: list[int], refused: dict[int, str]) -> None:
    """What became of each, to programs; to people those of a dry run, those refused, and how many."""
    is_dry = arguments.dry_run
    rows: list[dict[str, Any]] = [
        {"id": each, "done": not is_dry and each not in refused, "why": "dry run" if is_dry else refused.get(each)}
        for each in ids
    ]
    shown = rows if arguments.json or is_dry else [row for row in rows if not row["done"]]
    if shown:
        print_rows(("id", "done", "why"), shown, as_json=arguments.json, nothing="")
    if not arguments.json:
        done = "back to work" if arguments.act == "retry" else "discarded"
        said = f"{len(ids) - len(refused)} {'would be ' if is_dry else ''}{done}"
        print(said + (f", {len(refused)} refused" if refused else ""))


async def _chosen(arguments: argparse.Namespace, connection: Any, schema: str) -> list[int]:
    """The IDs given, or those of every open dead letter that the filter passes."""
    chosen = {name: value for name, value in _filter(arguments).items() if value is not None}
    if arguments.ids:
        if chosen or arguments.all:
            raise ConfigurationError("give IDs or a filter, not both")
        return list(arguments.ids)
    if not chosen and not arguments.all:
        raise ConfigurationError("give IDs, or a filter (--group, --topic, --handler, --reason), or --all")
    if arguments.limit < 1:
        raise ConfigurationError(f"--limit {arguments.limit}: 1 or more")
    return await open_letters(connection, schema, chosen, limit=arguments.limit)


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", help="only of this consumer group")
    parser.add_argument("--topic", help="only of this topic")
    parser.add_argument("--handler", help="only of this handler")
    parser.add_argument("--reason", help="only with this reason")


def _filter(arguments: argparse.Namespace) -> dict[str, str | None]:
    return {
        "group": arguments.group,
        "topic": arguments.topic,
        "handler": arguments.handler,
        "reason": arguments.reason,
    }


def _row(letter: DeadLetterRow) -> dict[str, Any]:
    return {
        "id": letter.dead_letter_id,
        "workflow": letter.workflow_uuid,
        "handler": letter.handler,
        "group": letter.service_name.removeprefix("kafka:"),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.kafka_offset,
        "reason": letter.reason,
        "state": letter.state,
        "created_at": instant(letter.created_at),
        "resolved_at": instant(letter.resolved_at),
        "note": letter.note,
        "error": _error(letter.error),
    }


def _opened(letter: DeadLetterRow, payloads: Payloads) -> DeadLetterRow:
    """For a list, which one that cannot be opened does not end: it says why in the place of its error."""
    try:
        return opened(letter, payloads)
    except UnreadablePayloadError as error:
        return replace(letter, error=f"{error}")


def _record(letter: DeadLetterRow) -> dict[str, Any]:
    return {
        "record_key": payload(letter.record_key),
        "record_value": payload(letter.record_value),
        "record_headers": headers(letter.record_headers),
        "record_timestamp": instant(letter.record_timestamp),
    }


def _error(stored: str) -> str:
    """The stored error as one line."""
    try:
        error: dict[str, Any] = json.loads(stored)
        return f"{str(error['type']).rpartition(':')[2]}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return stored
