"""`processor outbox`: what waits to be published, who relays it, and what halted it; acts on it.

Every act is recorded with its actor, and why.
"""

import argparse
import asyncio
import json
from typing import Any

from engine.errors import ConfigurationError
from engine.inspection import connected
from engine.outbox import COUNT_MAX, LIST_MAX, RelayState, discard, relay_state, rename, resume, waiting
from engine.settings import EngineSettings
from engine.store.outbox import OutboxRow
from processor.cli import DONE, add_act, reason
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.numbers import number, number_in
from processor.cli.output import headers, instant, payload, print_rows, say_done
from processor.loading import load_settings
from processor.wiring import engine_settings

HELP = "Show what waits to be published and who publishes it; resume the relay, discard events"

ID_MAX = 2**63 - 1

_COLUMNS = ("id", "topic", "key", "bytes", "created_at", "value")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    shown = add_act(acts, "status", "who relays, how far, how much waits, and why nothing is published if so")
    listing = add_act(acts, "list", "events that wait, oldest first")
    listing.add_argument("--topic", help="only of this topic")
    listing.add_argument(
        "--after", type=number_in("outbox list"), default=0, metavar="ID", help="the page behind this ID"
    )
    listing.add_argument(
        "--limit", type=number, default=100, metavar="N", help=f"rows, at most {LIST_MAX} (default: 100)"
    )
    for reading in (shown, listing):
        reading.add_argument("--json", action="store_true", help="one JSON object a line")
    resumed = add_act(
        acts,
        "resume",
        "let a halted relay go on from Kafka's position; every event that stands in the table is published, also one\n"
        "that was published before the database lost commits: discard those first",
    )
    discarded = add_act(acts, "discard", "give events up: they are not published, unless they are on their way already")
    discarded.add_argument("ids", nargs="+", type=number_in("outbox list"), metavar="ID", help="as `list` shows them")
    renamed = add_act(
        acts,
        "rename",
        "give the outbox of a copied database a name of its own in Kafka; what stands in it is published",
    )
    for changing in (resumed, discarded, renamed):
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
            case "status":
                _show(await relay_state(connection, schema), as_json=arguments.json)
            case "list":
                if not 0 <= arguments.after <= ID_MAX:
                    raise ConfigurationError(f"--after {arguments.after}: 0, or an ID as the page before has it last")
                if not 1 <= arguments.limit <= LIST_MAX:
                    raise ConfigurationError(f"--limit {arguments.limit}: 1 to {LIST_MAX}; --after has the next page")
                found = await waiting(
                    connection, schema, topic=arguments.topic, after=arguments.after, limit=arguments.limit
                )
                rows = [_row(each) for each in found]
                print_rows(_COLUMNS, rows, as_json=arguments.json, nothing="nothing waits to be published")
            case "resume":
                reason = await resume(connection, schema, note=arguments.note, actor=actor_of(arguments))
                text = f"resumed; it had halted because {reason}"
                say_done(text, as_json=arguments.json, resumed=True, halted_because=reason)
            case "rename":
                name = await rename(connection, schema, note=arguments.note, actor=actor_of(arguments))
                say_done(f"the outbox is {name} now", as_json=arguments.json, name=name)
            case _:
                for each in arguments.ids:
                    if not 0 < each <= ID_MAX:
                        raise ConfigurationError(
                            f"event {each}: no event has this ID; `processor outbox list` shows them"
                        )
                count = await discard(connection, schema, arguments.ids, note=arguments.note, actor=actor_of(arguments))
                say_done(f"{count} events discarded", as_json=arguments.json, discarded=count)
    return DONE


def _show(state: RelayState, *, as_json: bool) -> None:
    if as_json:
        facts: dict[str, Any] = {
            "name": state.name,
            "executor": state.executor_id,
            "alive": state.is_alive,
            "epoch": state.epoch,
            "batch": state.number,
            "halted": state.halted,
            "waiting": state.waiting,
            "oldest_at": instant(state.oldest_at),
        }
        print(json.dumps(facts, ensure_ascii=False))
        return
    if state.executor_id is None:
        who = "nobody: start `processor run` or `processor relay`"
    else:
        who = state.executor_id if state.is_alive else f"{state.executor_id} (dead)"
    count = f"{COUNT_MAX} or more" if state.waiting >= COUNT_MAX else str(state.waiting)
    print(f"outbox     {state.name}")
    print(f"relayed by {who}, epoch {state.epoch}")
    print(f"published  {state.number} batches" + (", the next is formed" if state.is_formed else ""))
    print(f"waiting    {count}" + (f", since {instant(state.oldest_at)}" if state.waiting else ""))
    if state.halted is not None:
        print(f"halted     {state.halted}")
        print("           `processor outbox resume --note WHY` goes on; see docs/guides/publishing.md first")
    elif state.adopts:
        print("resumed    the next relay takes Kafka's position over")


def _row(row: OutboxRow) -> dict[str, Any]:
    return {
        "id": row.outbox_id,
        "topic": row.topic,
        "key": payload(row.key),
        "bytes": len(row.key or b"") + len(row.value or b"") + len(row.headers or ""),
        "created_at": instant(row.created_at),
        "value": payload(row.value),
        "headers": headers(json.loads(row.headers) if row.headers else None),
    }
