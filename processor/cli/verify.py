"""`processor verify`: a proof that every record below the progress has its row, or a recorded reason why not.

Progress, rows and Kafka's own log are held against each other, partition by partition; nothing is locked or changed.
"""

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine import completeness
from engine.completeness import Decide, Finding, Kind, Standing, Tally
from engine.errors import ConfigurationError
from engine.inspection import connected
from engine.partitions import Place
from engine.ranges import Range
from engine.store.completeness import partitions
from engine.store.statement import send
from processor.cli import DONE, FAILED
from processor.cli.apps import load_app
from processor.cli.output import print_rows
from processor.cli.progress_bar import ProgressBar
from processor.cli.targets import target
from processor.config import Settings
from processor.loading import load_settings
from processor.verification import Verification, Verified, Wanted
from processor.wiring import engine_settings, group_name, group_settings

HELP = "Prove that every record below the progress has its workflow, or a recorded reason why not"

_COUNTS = (
    *("records", "succeeded", "failed", "cancelled", "open", "filtered", "tombstones", "gap", "deleted", "undecided"),
    *("aborted", "markers", "compacted", "below_log", "below_log_rows"),
)
_ALWAYS = ("group", "partition", "from", "to", "records", "succeeded", "failed", "open", "lag")
"""Columns of the table; the other counts are shown where they are not 0 everywhere."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument(
        "partitions", nargs="*", metavar="TOPIC-PARTITION", help="which, as `partitions list` shows them (default: all)"
    )
    parser.add_argument("--group", help="only of this consumer group")
    parser.add_argument(
        "--app",
        metavar="MODULE:app",
        help="whose filters say which records have no workflow; needed where there are any",
    )
    where = "an offset, 'earliest', 'latest' or a time with its zone"
    parser.add_argument(
        "--from", dest="start", type=target, metavar="WHERE", help=f"{where} (default: where Kafka's log begins)"
    )
    parser.add_argument(
        "--to",
        dest="end",
        type=target,
        metavar="WHERE",
        help=f"{where}, exclusive; never beyond the progress, the default",
    )
    parser.add_argument(
        "--finished", action="store_true", help="also a finding: workflows that have not ended, records not yet taken"
    )
    parser.add_argument(
        "--effects",
        metavar="SQL",
        help="a query whose rows are a workflow's ID and how often its effect is there, as "
        "'SELECT workflow_id, count(*) FROM sale GROUP BY 1'; runs read-only in the same database",
    )
    parser.add_argument(
        "--effects-each", type=int, default=1, metavar="N", help="effects of one workflow that succeeded (default: 1)"
    )
    parser.add_argument("--effects-handler", metavar="NAME", help="whose workflows have the effect (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: each partition, then the effects")
    parser.epilog = (
        "It may run beside everything, reads the log in windows, and keeps nothing of it.\n"
        "Exit codes: 0 proven; 1 something is missing, doubled, or could not be proven; 2 it could not begin."
    )


def run(arguments: argparse.Namespace) -> int:
    """Prove, and print."""
    return asyncio.run(_verify(arguments, load_settings(arguments.config)))


async def _verify(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.effects_each < 1:
        raise ConfigurationError(f"--effects-each {arguments.effects_each}: 1 or more")
    engine = engine_settings(settings)
    deciders = _deciders(arguments, settings)
    async with connected(engine) as connection:
        chosen = await _chosen(arguments, connection, engine.schema)
        verified: list[Verified] = []
        for group in sorted({place.group for place, _ in chosen}):
            of_group = [each for each in chosen if each[0].group == group]
            verified += await _group(arguments, settings, connection, of_group, deciders)
        effects = None
        if arguments.effects is not None:
            # Where the log begins is nothing to effects: all rows that stand, unless a range was asked for.
            ranges: Sequence[tuple[Standing, Range]] = [
                (each.standing, (0 if arguments.start is None else each.range[0], each.range[1])) for each in verified
            ]
            effects = await completeness.judge_effects(
                connection,
                engine.schema,
                ranges,
                query=arguments.effects,
                each=arguments.effects_each,
                name=arguments.effects_handler,
            )
    _print(arguments, verified, effects)
    is_proven = all(each.is_proven for each in verified) and not (effects and effects.findings)
    return DONE if is_proven else FAILED


async def _group(
    arguments: argparse.Namespace,
    settings: Settings,
    connection: Any,
    chosen: Sequence[tuple[Place, str]],
    deciders: Mapping[tuple[str, str], Decide],
) -> list[Verified]:
    from consumers.cluster import Cluster

    group = chosen[0][0].group
    wanted = Wanted(arguments.start, arguments.end, arguments.finished)
    of_group = group_settings(settings, group)
    cluster = Cluster(of_group)
    await cluster.open(())
    verified: list[Verified] = []
    try:
        for place, handler in chosen:
            with ProgressBar(str(place)) as bar:
                verification = Verification(
                    connection, settings.postgres.schema_name, of_group, cluster, expect=bar.expect, judged=bar.advance
                )
                verified.append(await verification.verify(place, wanted, deciders.get((group, handler))))
    finally:
        cluster.close()
    return verified


async def _chosen(arguments: argparse.Namespace, connection: Any, schema: str) -> list[tuple[Place, str]]:
    """Partitions and their handlers."""
    found = await (await send(connection, schema, partitions(group=arguments.group))).fetchall()
    known = [(Place(group, key), handler) for group, key, handler in found]
    if not arguments.partitions:
        if arguments.group and not known:
            raise ConfigurationError(f"no partition of group {arguments.group!r} has progress: see `partitions list`")
        return known
    wanted = dict.fromkeys(arguments.partitions)
    for key in wanted:
        if key not in {place.topic_partition for place, _ in known}:
            raise ConfigurationError(f"partition {key!r} has no progress: see `processor partitions list`")
    return [each for each in known if each[0].topic_partition in wanted]


def _deciders(arguments: argparse.Namespace, settings: Settings) -> dict[tuple[str, str], Decide]:
    """What decides about a handler's records, by group and handler, the handlers' former names too."""
    if arguments.app is None:
        return {}
    app = load_app(arguments.app)
    return {
        (group_name(registration, app, settings), name): registration.topic.decide
        for registration in app.workflows.values()
        if registration.topic is not None
        for name in (registration.name, registration.renamed_from)
        if name is not None
    }


# -- shown --


def _print(arguments: argparse.Namespace, verified: Sequence[Verified], effects: Tally | None) -> None:
    rows = [_row(each) for each in verified]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        if effects is not None:
            print(json.dumps({"effects": _shown(effects)}))
        return
    columns = [*_ALWAYS, *(name for name in _COUNTS if name not in _ALWAYS and any(row[name] for row in rows))]
    print_rows([*columns, "verdict"], rows, as_json=False, nothing="no partition has progress")
    for each in verified:
        _print_findings(str(each.standing.place), each.tally)
    if effects is not None:
        print("effects: " + ("not as they should be" if effects.findings else "each is there, and none twice"))
        _print_findings("effects", effects)


def _print_findings(subject: str, tally: Tally) -> None:
    for finding in tally.findings.values():
        examples = ", ".join(finding.examples)
        more = ", …" if finding.count > len(finding.examples) > 0 else ""
        where = f": {examples}{more}" if examples else ""
        count = f"{finding.count:,} " if finding.kind is not Kind.LOG else ""
        print(f"{subject}: {finding.kind}: {count}{finding.message}{where}")


def _row(verified: Verified) -> dict[str, Any]:
    standing, tally = verified.standing, verified.tally
    return {
        "group": standing.place.group,
        "partition": standing.place.topic_partition,
        "handler": standing.handler,
        "incarnation": standing.progress.incarnation,
        "from": verified.range[0],
        "to": verified.range[1],
        "next": standing.progress.next,
        "high": standing.progress.high,
        "horizon": standing.horizon or None,
        "lag": verified.lag,
        "holds": standing.holds,
        **{name: getattr(tally, name) for name in _COUNTS},
        "verdict": "proven" if verified.is_proven else ", ".join(tally.findings),
        "findings": _shown(tally),
    }


def _shown(tally: Tally) -> list[dict[str, Any]]:
    return [_finding(each) for each in tally.findings.values()]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "message": finding.message,
        "count": finding.count,
        "examples": finding.examples,
    }
