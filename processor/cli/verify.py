"""`processor verify`: a proof that every record below the progress has its row, or a recorded reason why not.

Progress, rows and Kafka's own log are held against each other, partition by partition; nothing is locked or changed.
"""

import argparse
import asyncio
import json
from typing import Any

from engine.completeness import Finding, Kind, Tally
from engine.errors import ConfigurationError
from processor.cli import DONE, FAILED
from processor.cli.apps import load_app
from processor.cli.numbers import number
from processor.cli.output import print_rows
from processor.cli.progress_bar import ProgressBar
from processor.cli.targets import target
from processor.config import Settings
from processor.loading import load_settings
from processor.proofs import Effects, Proof, Unclaimed, prove
from processor.verification import Verified, Wanted

HELP = "Prove that every record below the progress has its workflow, or a recorded reason why not"

_COUNTS = (
    *("records", "succeeded", "failed", "cancelled", "open", "filtered", "tombstones", "gap", "deleted", "undecided"),
    *("aborted", "markers", "compacted", "below_log", "below_log_rows"),
)
UNCLAIMED = "unclaimed"
"""The verdict about a partition that nobody has claimed."""

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
        "--finished",
        action="store_true",
        help="also a finding: workflows that have not ended, and records not yet taken",
    )
    parser.add_argument(
        "--effects",
        metavar="SQL",
        help="a query whose rows are a workflow's ID and how often its effect is there, as "
        "'SELECT workflow_id, count(*) FROM sale GROUP BY 1'; runs read-only in the same database",
    )
    parser.add_argument(
        "--effects-each",
        type=number,
        default=1,
        metavar="N",
        help="effects of one workflow that succeeded (default: 1)",
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
    effects = None
    if arguments.effects is not None:
        effects = Effects(query=arguments.effects, each=arguments.effects_each, handler=arguments.effects_handler)
    proof = await prove(
        settings,
        Wanted(arguments.start, arguments.end, arguments.finished),
        app=None if arguments.app is None else load_app(arguments.app),
        group=arguments.group,
        keys=arguments.partitions,
        effects=effects,
        watch=ProgressBar,
    )
    _print(arguments, proof)
    return DONE if proof.is_whole else FAILED


# -- shown --


def _print(arguments: argparse.Namespace, proof: Proof) -> None:
    verified, effects = proof.partitions, proof.effects
    rows = [_row(each) for each in verified]
    if arguments.json:
        for row in rows + [_unclaimed(each) for each in proof.unclaimed]:
            print(json.dumps(row))
        if effects is not None:
            print(json.dumps({"effects": _shown(effects)}))
        return
    columns = [*_ALWAYS, *(name for name in _COUNTS if name not in _ALWAYS and any(row[name] for row in rows))]
    print_rows([*columns, "verdict"], rows, as_json=False, nothing="no partition has progress")
    for each in verified:
        _print_findings(str(each.standing.place), each.tally)
    for each in proof.unclaimed:
        print(f"{each.place}: {UNCLAIMED}: {_why(each)}")
    if effects is not None:
        print("effects: " + ("not as they should be" if effects.findings else "each is there, and none twice"))
        _print_findings("effects", effects)


def _why(unclaimed: Unclaimed) -> str:
    if unclaimed.has_rows:
        return "rows of it stand, or were deleted, and it has no progress: that was lost"
    return f"it has {unclaimed.offsets:,} offsets and no progress: nobody has claimed it yet, or its progress was lost"


def _unclaimed(unclaimed: Unclaimed) -> dict[str, Any]:
    place = unclaimed.place
    return {
        "group": place.group,
        "partition": place.topic_partition,
        "next": None,
        "lag": unclaimed.offsets,
        "has_rows": unclaimed.has_rows,
        "verdict": UNCLAIMED,
    }


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
