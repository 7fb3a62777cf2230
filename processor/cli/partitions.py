"""`processor partitions`: what is stored of every partition, whoever runs it; and acts on one.

Every act is recorded with its actor, and why.
"""

import argparse
import asyncio
import sys
from typing import Any

from engine.inspection import PartitionRow, connected, list_partitions
from engine.partitions import OF_FORMER_TOPICS, Place, cancel, pause, release, resume
from engine.seeks import Seek
from processor.cli import DONE, MISTAKE, add_act, reason
from processor.cli.actors import actor_of, add_actor_argument
from processor.cli.output import instant, print_rows, say_done
from processor.cli.targets import target
from processor.config import Settings
from processor.loading import load_settings
from processor.seeking import locate_by, move
from processor.wiring import engine_settings

HELP = "List partitions with progress, owner and holds; pause, resume, release or move one, cancel what is open"

_COLUMNS = (
    "group",
    "partition",
    "handler",
    "next",
    "high",
    "epoch",
    "owner",
    "written_at",
    "open",
    "former",
    "horizon",
    "dead_letters",
    "holds",
    "waits",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.epilog = "Exit codes: 0 done; 1 it ran and failed; 2 it could not begin, or nothing was changed, since `seek` and `cancel` want --yes."
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(acts, "list", "progress, owner and holds of every partition, as stored")
    listing.add_argument("--group", help="only of this consumer group")
    listing.add_argument("--topic", help="only of this topic")
    listing.add_argument(
        "--held", action="store_true", help="only those that something holds, or that wait for a schema"
    )
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    paused = add_act(acts, "pause", "stop a partition, whoever runs it, until it is resumed; running steps end")
    resumed = add_act(acts, "resume", "take a pause away; what else holds the partition stays")
    released = add_act(acts, "release", "lift every hold of a partition and its keys: it goes on within a second")
    moved = add_act(acts, "seek", "move a partition's progress; shows what it would do unless --yes is given")
    moved.add_argument(
        "--to",
        required=True,
        type=target,
        metavar="WHERE",
        help="an offset, 'earliest', 'latest', or a time with its zone (2026-01-31T08:00:00Z): the first record since",
    )
    moved.add_argument("--yes", action="store_true", help="do it")
    moved.add_argument(
        "--new-incarnation",
        action="store_true",
        help="from there on the log has other records than before (it was cut, or the topic was made anew): their "
        "workflows get IDs of their own",
    )
    moved.add_argument(
        "--force",
        action="store_true",
        help="also where rows were deleted already: those records run again; and where brokers tell an ID that the topic had formerly",
    )
    cancelled = add_act(acts, "cancel", "cancel open workflows; shows how many there are unless --yes is given")
    of = cancelled.add_mutually_exclusive_group(required=True)
    of.add_argument("--former", action="store_true", help=f"those {OF_FORMER_TOPICS}, which was made anew since")
    of.add_argument("--all", action="store_true", help="also those of the topic there is now")
    cancelled.add_argument("--yes", action="store_true", help="do it")
    for act in (paused, resumed, released):
        act.add_argument(
            "--yes", action="store_true", help="taken as `seek` and `cancel` take it; this is done without"
        )
    for act in (paused, resumed, released, moved, cancelled):
        act.add_argument("partition", metavar="TOPIC-PARTITION", help="as `list` shows it")
        act.add_argument("--group", required=True, help="its consumer group")
        act.add_argument("--json", action="store_true", help="one JSON object")
        if act in (paused, moved, cancelled):
            act.add_argument("--note", type=reason, required=True, help="why; it is recorded")
        else:
            act.add_argument("--note", default="", help="why; it is recorded")
        add_actor_argument(act)


def run(arguments: argparse.Namespace) -> int:
    """Do one of the acts."""
    return asyncio.run(_act(arguments, load_settings(arguments.config)))


async def _act(arguments: argparse.Namespace, settings: Settings) -> int:
    engine = engine_settings(settings)
    schema = engine.schema
    if arguments.act == "list":
        async with connected(engine) as connection:
            found = await list_partitions(connection, schema, group=arguments.group)
        rows = [
            _row(each)
            for each in found
            if arguments.topic in (None, each.topic_partition.rpartition("-")[0])
            and (not arguments.held or each.holds or each.progress.waits)
        ]
        print_rows(_COLUMNS, rows, as_json=arguments.json, nothing="no partition has progress")
        return DONE
    place = Place(arguments.group, arguments.partition)
    note, actor = arguments.note, actor_of(arguments)
    async with connected(engine) as connection:
        match arguments.act:
            case "pause":
                placed = await pause(connection, schema, place, note=note, actor=actor)
                _say(arguments, f"{'paused' if placed else 'is paused already'}", done=placed)
            case "resume":
                count = await resume(connection, schema, place, note=note, actor=actor)
                _say(arguments, f"{'resumed' if count else 'was not paused'}", done=count > 0)
            case "release":
                count = await release(connection, schema, place, note=note, actor=actor)
                _say(arguments, f"{count} holds lifted" if count else "nothing holds it", done=count > 0, holds=count)
            case "cancel":
                return await _cancel(arguments, schema, connection, place)
            case _:
                return await _seek(arguments, settings, connection, place)
    return DONE


async def _cancel(arguments: argparse.Namespace, schema: str, connection: Any, place: Place) -> int:
    count = await cancel(
        connection,
        schema,
        place,
        former_only=arguments.former,
        note=arguments.note,
        actor=actor_of(arguments),
        dry_run=not arguments.yes,
    )
    whose = f"{place.topic_partition} of group {place.group}"
    if arguments.json:
        _say(arguments, "", done=arguments.yes and count > 0, workflows=count)
        return DONE if arguments.yes or not count else _unchanged()
    if not count:
        print(f"{whose}: nothing is open there")
        return DONE
    what = f"{count} open workflows" + (f" {OF_FORMER_TOPICS}" if arguments.former else "")
    if arguments.yes:
        print(f"{whose}: {what} cancelled")
        return DONE
    print(f"{whose}: {what}")
    return _unchanged()


async def _seek(arguments: argparse.Namespace, settings: Settings, connection: Any, place: Place) -> int:
    done, partition = await move(
        connection,
        settings.postgres.schema_name,
        place,
        target=arguments.to,
        locate=locate_by(settings),
        note=arguments.note,
        actor=actor_of(arguments),
        new_incarnation=arguments.new_incarnation,
        force=arguments.force,
        dry_run=not arguments.yes,
    )
    if arguments.json:
        facts = {
            "next_before": done.before.next,
            "next_after": done.after.next,
            "epoch": done.epoch,
            "incarnation": done.after.incarnation,
            "gaps": [[start, end] for start, end in done.gaps],
            "taken_back": [[start, end] for start, end in done.taken_back],
            "horizon": done.horizon,
            "owner_alive": done.owner_alive,
            "open": partition.open,
        }
        _say(arguments, "", done=arguments.yes, **facts)
    else:
        print(_shown(place, done, partition))
    if arguments.yes:
        return DONE
    return _unchanged()


def _say(arguments: argparse.Namespace, text: str, **facts: Any) -> None:
    """What an act did, or would do."""
    where = {"group": arguments.group, "partition": arguments.partition}
    say_done(f"{arguments.partition}: {text}", as_json=arguments.json, **where, **facts)


def _unchanged() -> int:
    print("processor: nothing was changed; with --yes it is done", file=sys.stderr)
    return MISTAKE


def _shown(place: Place, done: Seek, partition: PartitionRow) -> str:
    """What a seek does, for people."""
    before, after = done.before.next, done.after.next
    lines = [f"{place.topic_partition} of group {place.group}: next {before} becomes {after}, epoch {done.epoch}"]
    if (incarnation := done.after.incarnation) != done.before.incarnation:
        prefix = place.ref("").id_prefix(owns_topic=True, incarnation=incarnation)
        lines.append(f"incarnation {incarnation} begins at {after}: workflows from there on are {prefix}…")
        lines += [
            f"what the log holds from {start} to {end - 1} counts as the former incarnation's: a recorded gap"
            for start, end in done.gaps
        ]
        if partition.open:
            lines.append(
                f"{partition.open} open workflows of the former one go on, each before the new ones of its key"
            )
        return "\n  ".join([*lines, *_standing(done, partition)])
    lines += [f"offsets {start} to {end - 1} are passed over: a recorded gap" for start, end in done.gaps]
    if after < before:
        lines.append(f"offsets {after} to {before - 1} are delivered again; what has a row does not run again")
    lines += [f"offsets {start} to {end - 1} were a gap, which is taken back" for start, end in done.taken_back]
    if done.horizon is not None and after < done.horizon:
        lines.append(f"rows below {done.horizon} were deleted: those records run again")
    return "\n  ".join([*lines, *_standing(done, partition)])


def _standing(done: Seek, partition: PartitionRow) -> list[str]:
    """Who has the partition, and what holds it."""
    lines = [f"it does not go on before it is released: {hold}" for hold in partition.holds[:1]]
    if done.owner_alive:
        lines.insert(0, f"executor {done.before.owner} has the claim: it is fenced, and it or another claims anew")
    return lines


def _row(partition: PartitionRow) -> dict[str, Any]:
    progress = partition.progress
    if progress.released:
        owner = "released"
    else:
        owner = f"{progress.owner}" if partition.owner_alive else f"{progress.owner} (dead)"
    return {
        "group": partition.group,
        "partition": partition.topic_partition,
        "handler": partition.handler,
        "next": progress.next,
        "high": progress.high,
        "epoch": partition.epoch,
        "incarnation": progress.incarnation,
        "owner": owner,
        "open": partition.open,
        "former": partition.former,
        "written_at": None if partition.written_at_s is None else instant(partition.written_at_s * 1000),
        "filtered": progress.filtered,
        "skipped": progress.skipped,
        "horizon": partition.horizon,
        "dead_letters": partition.dead_letters,
        "holds": list(partition.holds),
        "waits": progress.waits,
    }
