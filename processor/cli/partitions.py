"""`processor partitions`: what is stored of every partition, whoever runs it; and lifting what holds one."""

import argparse
import asyncio
from typing import Any

from engine.errors import ConfigurationError
from engine.inspection import PartitionRow, connected, list_partitions, release_holds
from processor.cli import DONE, add_act
from processor.cli.output import instant, print_rows
from processor.loading import load_settings
from processor.wiring import engine_settings

HELP = "List partitions with progress, owner and holds; let a held one go on"

_COLUMNS = ("group", "partition", "handler", "next", "high", "epoch", "owner", "written_at", "dead_letters", "holds")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    acts = parser.add_subparsers(title="acts", metavar="ACT", required=True, dest="act")
    listing = add_act(acts, "list", "progress, owner and holds of every partition, as stored")
    listing.add_argument("--group", help="only of this consumer group")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    release = add_act(acts, "release", "lift every hold of a partition and its keys: it goes on within a second")
    release.add_argument("partition", metavar="TOPIC-PARTITION", help="as `list` shows it")
    release.add_argument("--group", required=True, help="its consumer group")


def run(arguments: argparse.Namespace) -> int:
    """List, or release."""
    settings = engine_settings(load_settings(arguments.config))

    async def act() -> int:
        async with connected(settings) as connection:
            if arguments.act == "list":
                found = await list_partitions(connection, settings.schema, group=arguments.group)
                print_rows(
                    _COLUMNS,
                    [_row(each) for each in found],
                    as_json=arguments.json,
                    nothing="no partition has progress",
                )
                return DONE
            known = await list_partitions(connection, settings.schema, group=arguments.group)
            if arguments.partition not in {each.topic_partition for each in known}:
                raise ConfigurationError(
                    f"group {arguments.group!r} has no partition {arguments.partition!r}: see `processor partitions list`"
                )
            count = await release_holds(
                connection, settings.schema, group=arguments.group, topic_partition=arguments.partition
            )
            print(
                f"{arguments.partition}: {count} holds lifted" if count else f"{arguments.partition}: nothing holds it"
            )
            return DONE

    return asyncio.run(act())


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
        "written_at": None if partition.written_at_s is None else instant(partition.written_at_s * 1000),
        "filtered": progress.filtered,
        "skipped": progress.skipped,
        "dead_letters": partition.dead_letters,
        "holds": list(partition.holds),
    }
