"""python -m benchmarks [--quick] [--json FILE] [--only WORKLOAD ...]

Starts a Postgres and a Kafka, and measures in interleaved rounds on the same records: a floor written by hand, our
workloads, dbos. Absolute numbers are this machine's; the ratios are what counts. How: docs/performance.md.

Exit status: 0 measured, 1 a measurement failed, 2 a wrong argument or a machine that lacks something, 130 Ctrl-C.
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
from pathlib import Path
from types import FrameType

from benchmarks import lasting, peer, workloads
from benchmarks.lasting import RECOVERY, SLEEPERS
from benchmarks.measure import Measured, MeasurementError
from benchmarks.report import Line, line, table
from benchmarks.servers import Servers, started
from benchmarks.workloads import DBOS, FLOORS, LATENCY, QUEUE, WORKLOADS, FloorVariant, Participant, Workload

ROUNDS = 3
NAMES = (*(each.name for each in WORKLOADS), LATENCY, QUEUE, SLEEPERS, RECOVERY, DBOS)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Throughput and latency, as ratios.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE as well")
    parser.add_argument("--quick", action="store_true", help="one round on fewer records: three minutes, rough numbers")
    parser.add_argument("--rounds", type=int, default=None, help=f"rounds of interleaved measurements ({ROUNDS})")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="WORKLOAD", help=f"some of: {', '.join(NAMES)}")
    given = parser.parse_args()
    if given.json is not None and not given.json.parent.is_dir():
        parser.error(f"--json {given.json}: there is no directory {given.json.parent}")
    if given.rounds is not None and given.rounds < 1:
        parser.error("--rounds: at least 1")
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        say(f"load average at the start: {', '.join(f'{load:.2f}' for load in os.getloadavg())}")
        with started() as servers:
            say(f"{servers.postgres_is}; kafka: {servers.kafka_is}")
            rounds = given.rounds or (1 if given.quick else ROUNDS)
            lines = measure_all(servers, given.only or NAMES, rounds=rounds, quick=given.quick)
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
    return 0


def measure_all(servers: Servers, names: Sequence[str], *, rounds: int, quick: bool) -> list[Line]:
    """Everybody takes turns; who was first in one round is last in the next."""
    chosen = [shortened(each) if quick else each for each in WORKLOADS if each.name in names]
    sizes = {kind: _records(WORKLOADS, name, quick=quick) for kind, name in FLOORS.items()}
    variants = floor_variants(servers, sorted({each.floor for each in chosen}), sizes, quick=quick)
    participants: list[Participant] = [
        *(workloads.floor(servers, variant, sizes[kind]) for kind, variant in variants.items()),
        *(workloads.ours(servers, each) for each in chosen),
    ]
    if LATENCY in names:
        participants.append(workloads.latency(servers, seconds=4 if quick else 10))
    if QUEUE in names:
        count = workloads.QUEUE_WORKFLOWS
        participants.append(workloads.queue_drain(servers, count * 3 // 10 if quick else count))
    if SLEEPERS in names:
        participants.append(lasting.sleepers(servers, lasting.ASLEEP))
    if RECOVERY in names:
        participants.append(lasting.recovery(servers, lasting.OPEN))
    if DBOS in names:
        try:
            say(f"dbos {peer.VERSION}: looking for its environment ({peer.PLACE})")
            participants.append(workloads.dbos(servers, peer.python(), seconds=6 if quick else 12))
        except peer.PeerMissingError as error:
            say(f"left out: {error}")
    measured: dict[str, list[Measured]] = defaultdict(list)
    for number in range(rounds):
        ordered = participants if number % 2 == 0 else participants[::-1]
        for place, participant in enumerate(ordered, 1):
            result = participant.run()
            measured[participant.name].append(result)
            say(f"round {number + 1}/{rounds}, {place:>2}/{len(ordered)}: {participant.name:<12} {_said(result)}")
    return _lines(chosen, variants, measured)


def floor_variants(
    servers: Servers, kinds: Sequence[str], sizes: dict[str, int], *, quick: bool
) -> dict[str, FloorVariant]:
    """The best variant of each kind; with --quick that of one kind counts for all."""
    found: dict[str, FloorVariant] = {}
    for kind in kinds:
        if quick and found:
            best = next(iter(found.values()))
            found[kind] = FloorVariant(kind, best.connections, best.batch)
        else:
            found[kind] = workloads.best_floor(servers, kind, sizes[kind], say)
    return found


def shortened(workload: Workload) -> Workload:
    """A third of the records, for --quick."""
    return Workload(
        workload.name,
        workload.title,
        workload.app,
        workload.floor,
        _records((workload,), workload.name, quick=True),
        workload.steps,
        has_app_row=workload.has_app_row,
    )


def _records(among: Sequence[Workload], name: str, *, quick: bool) -> int:
    records = next(each.records for each in among if each.name == name)
    return records * 3 // 10 if quick else records


def _lines(
    chosen: Sequence[Workload], variants: dict[str, FloorVariant], measured: dict[str, list[Measured]]
) -> list[Line]:
    peer_name = DBOS if DBOS in measured else None
    lines = [
        line(f"floor-{kind}", f"floor {kind} ({variant})", measured, floor=None, peer=peer_name)
        for kind, variant in variants.items()
    ]
    lines += [line(each.name, each.title, measured, floor=f"floor-{each.floor}", peer=peer_name) for each in chosen]
    if LATENCY in measured:
        title = f"latency, {workloads.LATENCY_RATE:,} records/s offered"
        lines.append(line(LATENCY, title, measured, floor=None, peer=None))
    if QUEUE in measured:
        title = f"queue drain, {workloads.QUEUE_PROCESSES} processes, one async step"
        lines.append(line(QUEUE, title, measured, floor=None, peer=None))
    if SLEEPERS in measured:
        title = f"{lasting.ASLEEP:,} asleep, {lasting.WOKEN:,} due at once"
        lines.append(line(SLEEPERS, title, measured, floor=None, peer=None))
    if RECOVERY in measured:
        title = f"kill -9 to resumed, {lasting.OPEN:,} open, lease {lasting.LEASE_S} s"
        lines.append(line(RECOVERY, title, measured, floor=None, peer=None))
    if peer_name:
        lines.append(line(DBOS, f"dbos {peer.VERSION}, one async step", measured, floor=None, peer=None))
    return lines


def _said(result: Measured) -> str:
    rate = f"{result.records_per_s or 0:>9,.0f}/s"
    return rate if result.p50_ms is None else f"{rate}, p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms"


def say(text: str) -> None:
    """Progress, for people: not part of the output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
