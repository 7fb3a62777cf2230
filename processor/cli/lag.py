"""`processor lag`: how far each partition's progress is behind its log, in offsets and in seconds, whoever runs it."""

import argparse
import asyncio
import sys
from dataclasses import asdict
from datetime import timedelta

from engine.errors import ConfigurationError
from processor.cli import DONE, FAILED
from processor.cli.numbers import number
from processor.cli.output import print_rows
from processor.lags import lags
from processor.loading import load_settings
from processor.units import duration

HELP = "Show by how many offsets and seconds each partition is behind Kafka"

_COLUMNS = ("group", "partition", "handler", "next", "end", "lag", "lag_s", "open_transactions")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--group", help="only of this consumer group")
    parser.add_argument("--topic", help="only of this topic")
    parser.add_argument("--behind", action="store_true", help="only those that are behind")
    parser.add_argument("--offsets-max", type=number, metavar="N", help="exit with 1 if one is further behind")
    parser.add_argument("--age-max", metavar="DURATION", help="exit with 1 if one is longer behind, as 30s or 5m")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.epilog = (
        "Offsets are those that readers of committed records can reach; those beyond belong to transactions still open.\n"
        "Seconds are the age of the first record that was not processed.\n"
        "Exit codes: 0 shown; 1 one is further behind than --offsets-max or --age-max, or that is not known; 2 it could not begin."
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask both, and print."""
    age_max_s = None if arguments.age_max is None else _seconds(arguments.age_max)
    if arguments.offsets_max is not None and arguments.offsets_max < 0:
        raise ConfigurationError(f"--offsets-max {arguments.offsets_max}: 0 or more")
    settings = load_settings(arguments.config)
    found = asyncio.run(lags(settings, group=arguments.group, topic=arguments.topic))
    shown = [asdict(each) for each in found if not arguments.behind or each.lag != 0]
    print_rows(_COLUMNS, shown, as_json=arguments.json, nothing="no partition is behind" if found else "no progress")
    if not found and (arguments.offsets_max is not None or age_max_s is not None):
        print(
            "processor: no partition that fits has progress: whether one is further behind is not known",
            file=sys.stderr,
        )
        return FAILED
    # What is not known is no smaller than what was allowed.
    is_late = any(
        (arguments.offsets_max is not None and (each.lag is None or each.lag > arguments.offsets_max))
        or (age_max_s is not None and (each.lag_s is None or each.lag_s > age_max_s))
        for each in found
    )
    return FAILED if is_late else DONE


def _seconds(text: str) -> float:
    try:
        parsed = duration(text)
    except ValueError as error:
        raise ConfigurationError(f"--age-max {text!r}: {error}") from None
    if not isinstance(parsed, timedelta):
        raise ConfigurationError(f"--age-max {text!r}: a duration, as 30s or 5m")
    if parsed < timedelta(0):
        raise ConfigurationError(f"--age-max {text!r}: must not be less than nothing")
    return parsed.total_seconds()
