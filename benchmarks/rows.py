"""Which rows a run has: who takes part for the names that were asked for, with whom they are compared, at what size."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks import conditions, footprint, lasting, peer, several, workloads
from benchmarks.measure import Measured
from benchmarks.report import Against, Line, line
from benchmarks.restate_peer import RESTATE, restate
from benchmarks.servers import Servers
from benchmarks.workloads import DBOS, FLOORS, LATENCY, ONE_STEP, QUEUE, WORKLOADS, FloorVariant, Participant, Workload
from tests.fixtures.peers import CACHE, Peer

PROCESSES = tuple(several.name_of(count) for count in several.PROCESSES)
KEPT = (
    conditions.FEW_KEYS,
    conditions.HOT_KEY,
    conditions.NETWORK,
    conditions.SLOW_COMMIT,
    conditions.HISTORY,
    conditions.RETENTION,
)
"""Rows that are a ratio to the plain case, which then takes part as well."""

NAMES = (
    *(each.name for each in WORKLOADS),
    *KEPT,
    LATENCY,
    footprint.BACKLOG,
    footprint.IDLE,
    *PROCESSES,
    QUEUE,
    lasting.SLEEPERS,
    lasting.RECOVERY,
    DBOS,
    RESTATE,
)
NOT_QUICK = (*PROCESSES, QUEUE, lasting.SLEEPERS, lasting.RECOVERY)
"""What `--quick` leaves out unless it is asked for by name: a minute and a half, and no budget is about it."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything. With `--quick` less than a third; a rate of so few records is a rough one."""

    quick: bool

    def records(self, workload: Workload) -> int:
        """In a workload's topic."""
        return workload.records * 3 // 10 if self.quick else workload.records

    @property
    def plain(self) -> int:
        """In the topic of everything that is compared with the plain case."""
        return self.records(ONE_STEP)

    @property
    def few_keys(self) -> int:
        """Of which 100 run beside each other at most."""
        return self.plain // 3

    @property
    def hot_key(self) -> int:
        """Of which half run one after the other: as many seconds as others take tenths."""
        return self.plain // 10

    @property
    def latency_s(self) -> float:
        return 4 if self.quick else 10

    @property
    def queue(self) -> int:
        return workloads.QUEUE_WORKFLOWS * 3 // 10 if self.quick else workloads.QUEUE_WORKFLOWS

    @property
    def peer_s(self) -> float:
        """For how long another engine works from its first success."""
        return 6 if self.quick else 12

    @property
    def finished(self) -> int:
        return conditions.FINISHED // 20 if self.quick else conditions.FINISHED

    @property
    def backlog(self) -> int:
        return footprint.WAITING // 10 if self.quick else footprint.WAITING

    @property
    def idle_s(self) -> float:
        return 8 if self.quick else 20


def asked(only: Collection[str], *, quick: bool) -> frozenset[str]:
    """Names of the rows that a run is for."""
    return frozenset(only) or frozenset(NAMES) - frozenset(NOT_QUICK if quick else ())


def needed(names: Collection[str]) -> frozenset[str]:
    """Names of these rows, and of the plain cases that they are compared with."""
    more = set(names)
    if more.intersection(KEPT):
        more.add(ONE_STEP.name)
    if more.intersection(PROCESSES):
        more.add(PROCESSES[0])
    return frozenset(more)


def participants(
    servers: Servers, asked_for: Collection[str], sizes: Sizes, say: Callable[[str], None]
) -> list[Participant]:
    """Everybody who takes part, in the order of the table. Looks for the best floors first, and for the peers.

    A workload that takes part only because others are compared with it has no floor.
    """
    names = needed(asked_for)
    chosen = [replace(each, records=sizes.records(each)) for each in WORKLOADS if each.name in names]
    kinds = sorted({each.floor for each in chosen if each.name in asked_for})
    variants = _floor_variants(servers, kinds, sizes, say)
    rows = [workloads.floor(servers, variant, _floor_records(kind, sizes)) for kind, variant in variants.items()]
    rows += [workloads.ours(servers, each) for each in chosen]
    rows += [make() for name, make in _makers(servers, sizes, say).items() if name in names]
    rows += _peers(servers, names, sizes, say)
    return sorted(rows, key=_place)


def _makers(servers: Servers, sizes: Sizes, say: Callable[[str], None]) -> dict[str, Callable[[], Participant]]:
    """By name, everybody who is neither a workload with a floor nor a peer."""
    return {
        conditions.FEW_KEYS: lambda: conditions.few_keys(servers, sizes.few_keys),
        conditions.HOT_KEY: lambda: conditions.hot_key(servers, sizes.hot_key),
        conditions.NETWORK: lambda: conditions.network(servers, sizes.plain),
        conditions.SLOW_COMMIT: lambda: conditions.slow_commit(servers, sizes.plain),
        conditions.HISTORY: lambda: conditions.history(servers, sizes.plain, sizes.finished, say),
        conditions.RETENTION: lambda: conditions.retention(servers, sizes.plain),
        LATENCY: lambda: workloads.latency(servers, sizes.latency_s),
        footprint.BACKLOG: lambda: footprint.backlog(servers, sizes.backlog),
        footprint.IDLE: lambda: footprint.idle(servers, sizes.idle_s),
        **{
            several.name_of(count): partial(several.several, servers, sizes.plain, count) for count in several.PROCESSES
        },
        QUEUE: lambda: workloads.queue_drain(servers, sizes.queue),
        lasting.SLEEPERS: lambda: lasting.sleepers(servers, lasting.ASLEEP),
        lasting.RECOVERY: lambda: lasting.recovery(servers, lasting.OPEN),
    }


def _peers(
    servers: Servers, names: Collection[str], sizes: Sizes, say: Callable[[str], None]
) -> Generator[Participant]:
    """Those of them that can be had here; the others are left out, with the reason."""
    made: dict[str, tuple[Peer, Callable[[Sequence[str]], Participant]]] = {
        DBOS: (peer.DBOS, lambda command: workloads.dbos(servers, command[0], sizes.peer_s)),
        RESTATE: (peer.RESTATE, lambda command: restate(servers, command, sizes.peer_s)),
    }
    for name, (environment, make) in made.items():
        if name not in names:
            continue
        try:
            say(f"{name}: looking for its environment ({environment.name} in {CACHE})")
            yield make(environment.command())
        except peer.PeerMissingError as error:
            say(f"left out: {error}")


def _place(row: Participant) -> int:
    return NAMES.index(row.name) if row.name in NAMES else -1


def _floor_records(kind: str, sizes: Sizes) -> int:
    return sizes.records(next(each for each in WORKLOADS if each.name == FLOORS[kind]))


def _floor_variants(
    servers: Servers, kinds: Collection[str], sizes: Sizes, say: Callable[[str], None]
) -> dict[str, FloorVariant]:
    """The best variant of each kind; with `--quick` that of one kind counts for all."""
    found: dict[str, FloorVariant] = {}
    for kind in kinds:
        if sizes.quick and found:
            best = next(iter(found.values()))
            found[kind] = FloorVariant(kind, best.connections, best.batch)
        else:
            found[kind] = workloads.best_floor(servers, kind, _floor_records(kind, sizes), say)
    return found


def lines(rows: Collection[Participant], measured: Mapping[str, Sequence[Measured]]) -> list[Line]:
    """The table: floors first, peers last; without those that were left out on the way."""
    return [
        line(
            row.name,
            row.title,
            measured,
            Against(row.floor, row.plain, *((DBOS, RESTATE) if row.meets_peers else ("", ""))),
        )
        for row in rows
        if row.name in measured
    ]
