"""`processor lag`: how far each partition's progress is behind its log, in offsets and in seconds, whoever runs it."""

import argparse
import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from engine.errors import ConfigurationError
from engine.inspection import connected
from engine.progress import Progress
from engine.store.checkup import progress as all_progress
from engine.store.statement import send
from processor.cli import DONE, FAILED
from processor.cli.output import print_rows
from processor.config import Settings
from processor.loading import load_settings
from processor.units import duration
from processor.wiring import engine_settings, group_settings

HELP = "Show by how many offsets and seconds each partition is behind Kafka"

_COLUMNS = ("group", "partition", "handler", "next", "end", "lag", "lag_s", "open_transactions")

TIMES_WITHIN_S = 10.0
"""How long the records at the progress may take to come; where one does not, its seconds are not known."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--group", help="only of this consumer group")
    parser.add_argument("--topic", help="only of this topic")
    parser.add_argument("--behind", action="store_true", help="only those that are behind")
    parser.add_argument("--offsets-max", type=int, metavar="N", help="exit with 1 if one is further behind")
    parser.add_argument("--age-max", metavar="DURATION", help="exit with 1 if one is longer behind, as 30s or 5m")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.epilog = (
        "Offsets are those that readers of committed records can reach; those beyond belong to transactions still open.\n"
        "Seconds are the age of the first record that was not processed.\n"
        "Exit codes: 0 shown; 1 one is further behind than --offsets-max or --age-max; 2 it could not begin."
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask both, and print."""
    age_max_s = None if arguments.age_max is None else _seconds(arguments.age_max)
    rows = asyncio.run(_rows(arguments, load_settings(arguments.config)))
    shown = [row for row in rows if not arguments.behind or row["lag"] != 0]
    print_rows(_COLUMNS, shown, as_json=arguments.json, nothing="no partition is behind" if rows else "no progress")
    # What is not known is no smaller than what was allowed.
    is_late = any(
        (arguments.offsets_max is not None and (row["lag"] is None or row["lag"] > arguments.offsets_max))
        or (age_max_s is not None and (row["lag_s"] is None or row["lag_s"] > age_max_s))
        for row in rows
    )
    return FAILED if is_late else DONE


async def _rows(arguments: argparse.Namespace, settings: Settings) -> list[dict[str, Any]]:
    engine = engine_settings(settings)
    async with connected(engine) as connection:
        stored = await (await send(connection, engine.schema, all_progress())).fetchall()
    groups: dict[str, dict[tuple[str, int], tuple[str, Progress]]] = {}
    for group, key, handler, value in stored:
        topic, _, partition = key.rpartition("-")
        if arguments.group in (None, group) and arguments.topic in (None, topic):
            groups.setdefault(group, {})[topic, int(partition)] = (handler, Progress.decode(value))
    return [row for group, places in groups.items() for row in await _group(settings, group, places)]


async def _group(
    settings: Settings, group: str, places: Mapping[tuple[str, int], tuple[str, Progress]]
) -> list[dict[str, Any]]:
    from consumers.cluster import Cluster
    from consumers.lag import LogEnds
    from consumers.reading import times_at

    of_group = group_settings(settings, group)
    cluster = Cluster(of_group)
    await cluster.open(())
    try:
        ends = LogEnds(cluster)
        await ends.refresh(list(places))
    finally:
        cluster.close()
    found = {place: ends.get(place) for place in places}
    behind = {
        place: progress.next
        for place, (_, progress) in places.items()
        if (end := found[place]) is not None and end.lag(progress.next)
    }
    times = await asyncio.to_thread(times_at, of_group, behind, within_s=TIMES_WITHIN_S) if behind else {}
    rows: list[dict[str, Any]] = []
    for place, (handler, progress) in places.items():
        end = found[place]
        lag_s: float | None = None
        if end is not None and place not in behind:
            lag_s = 0.0
        elif place in times:
            lag_s = round(max(time.time() - times[place] / 1000, 0.0), 1)
        rows.append(
            {
                "group": group,
                "partition": f"{place[0]}-{place[1]}",
                "handler": handler,
                "next": progress.next,
                "end": None if end is None else end.end,
                "lag": None if end is None else end.lag(progress.next),
                "lag_s": lag_s,
                "open_transactions": None if end is None else end.open_transactions,
            }
        )
    return rows


def _seconds(text: str) -> float:
    try:
        parsed = duration(text)
    except ValueError as error:
        raise ConfigurationError(f"--age-max {text!r}: {error}") from None
    if not isinstance(parsed, timedelta):
        raise ConfigurationError(f"--age-max {text!r}: a duration, as 30s or 5m")
    return parsed.total_seconds()
