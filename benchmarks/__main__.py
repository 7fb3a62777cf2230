"""python -m benchmarks [--quick] [--check] [--json FILE] [--only ROW ...]

Starts a Postgres and a Kafka, and measures in interleaved rounds on the same records: a floor written by hand, our
workloads, the same under adverse conditions, other engines. Absolute numbers are this machine's; the ratios are what
counts. How: docs/performance.md.

Exit status: 0 measured, 1 a measurement failed, or with --check a number is below what must be reached, 2 a wrong
argument or a machine that lacks something, 130 Ctrl-C.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from benchmarks import budgets, rows
from benchmarks.measure import Measured, MeasurementError
from benchmarks.report import Line, table, verdicts_table
from benchmarks.servers import started
from benchmarks.workloads import Participant

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Arguments:
    """What was asked for. `rounds` is at least 1; `only` empty: every row."""

    json: Path | None
    quick: bool
    check: bool
    rounds: int
    only: tuple[str, ...]


def arguments(given: Sequence[str] | None = None) -> Arguments:
    """Read the command line; a wrong one ends the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Throughput and latency, as ratios.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE as well")
    parser.add_argument("--quick", action="store_true", help="one round on fewer records: three minutes, rough numbers")
    parser.add_argument("--check", action="store_true", help="print each budget; exit 1 if one that must be is not met")
    parser.add_argument("--rounds", type=int, default=None, help=f"rounds of interleaved measurements ({ROUNDS})")
    parser.add_argument("--only", nargs="+", choices=rows.NAMES, metavar="ROW", help=f"of {', '.join(rows.NAMES)}")
    read = parser.parse_args(given)
    if read.json is not None and not read.json.parent.is_dir():
        parser.error(f"--json {read.json}: there is no directory {read.json.parent}")
    if read.rounds is not None and read.rounds < 1:
        parser.error("--rounds: at least 1")
    rounds = read.rounds or (1 if read.quick else ROUNDS)
    return Arguments(read.json, read.quick, read.check, rounds, tuple(read.only or ()))


def main() -> int:
    """Measure and print."""
    given = arguments()
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        lines = measure_all(given)
    except MeasurementError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except LookupError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted; nothing is left running", file=sys.stderr)
        return 130
    print(table(lines))
    if given.json is not None:
        given.json.write_text(json.dumps({each.name: each.as_json() for each in lines}, indent=2) + "\n")
    if not given.check:
        return 0
    verdicts = budgets.judge({each.name: each.numbers() for each in lines})
    print(f"\n{verdicts_table(verdicts)}\n\n{budgets.summary(verdicts)}")
    return 0 if budgets.is_met(verdicts) else 1


def measure_all(given: Arguments) -> list[Line]:
    """Start the servers, and let everybody take turns."""
    names = rows.asked(given.only, quick=given.quick)
    say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    say(f"load average at the start: {', '.join(f'{load:.2f}' for load in os.getloadavg())}")
    if given.quick and not given.only:
        say(f"left out, since they are not quick: {', '.join(rows.NOT_QUICK)}")
    with started() as servers:
        say(f"{servers.postgres_is}; kafka: {servers.kafka_is}")
        taking_part = rows.participants(servers, names, rows.Sizes(quick=given.quick), say)
        return rows.lines(taking_part, take_turns(taking_part, given.rounds))


def take_turns(taking_part: Sequence[Participant], rounds: int) -> dict[str, list[Measured]]:
    """Measure everybody in every round; who was first in one round is last in the next.

    A peer that fails once is left out of the whole run: ratios are of the same rounds.
    """
    measured: dict[str, list[Measured]] = defaultdict(list)
    left_out: set[str] = set()
    for number in range(rounds):
        ordered = taking_part if number % 2 == 0 else taking_part[::-1]
        for place, participant in enumerate(ordered, 1):
            name = participant.name
            if name in left_out:
                continue
            try:
                result = participant.run()
            except MeasurementError as error:
                if not participant.is_peer:
                    raise
                say(f"left out: {name}: {error}")
                left_out.add(name)
                measured.pop(name, None)
                continue
            measured[name].append(result)
            say(f"round {number + 1}/{rounds}, {place:>2}/{len(ordered)}: {name:<12} {_said(result)}")
    return measured


def _said(result: Measured) -> str:
    numbers = [
        (result.records_per_s, f"{result.records_per_s or 0:>9,.0f}/s"),
        (result.p50_ms, f"p50 {result.p50_ms or 0:.1f} ms, p99 {result.p99_ms or 0:.1f} ms"),
        (result.rss_mib, f"{result.rss_mib or 0:.0f} MiB"),
        (result.core_percent, f"{result.core_percent or 0:.1f} % of a core"),
        (result.queries_per_s, f"{result.queries_per_s or 0:.1f} queries/s"),
        (result.deleted_ratio, f"{result.deleted_ratio or 0:.2f} deleted a record"),
    ]
    return ", ".join(text for value, text in numbers if value is not None)


def say(text: str) -> None:
    """Progress, for people: not part of the output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
