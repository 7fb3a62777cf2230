"""A proof of many partitions, for `processor verify` and for the admin API: which they are, what decides, what effects there are.

One partition is `Verification`'s; here are the partitions of a request, each group with a cluster of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from consumers.errors import may_pass
from engine import completeness
from engine.completeness import Decide, Standing, Tally
from engine.errors import ConfigurationError
from engine.inspection import connected
from engine.partitions import Place
from engine.ranges import Range
from engine.store.completeness import partitions
from engine.store.statement import send
from processor.config import Settings
from processor.verification import Verification, Verified, Wanted
from processor.wiring import engine_settings, group_name, group_settings

if TYPE_CHECKING:
    from consumers.cluster import Cluster
    from processor.app import App


class Progressing(Protocol):
    """Is told how many offsets there are to judge, and how many were."""

    def expect(self, count: int, /) -> None:
        """So many more."""
        ...

    def advance(self, count: int, /) -> None:
        """So many of them were judged."""
        ...


class _Nobody:
    """Looks at no progress."""

    def expect(self, count: int, /) -> None: ...

    def advance(self, count: int, /) -> None: ...


def _unwatched(_: str) -> AbstractContextManager[Progressing]:
    return nullcontext(_Nobody())


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What to compare the workflows of the ranges with.

    Attributes:
        query: Its rows are a workflow's ID and how often its effect is there. It runs read-only in the same database.
        each: Effects of one workflow that succeeded.
        handler: Whose workflows have the effect; `None`: all.
    """

    query: str
    each: int = 1
    handler: str | None = None


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """A partition that has records, beside others of its topic, and no progress: nobody has claimed it, or its row is gone."""

    place: Place
    offsets: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found: of each partition, and of effects if they were asked for.

    `unclaimed`: looked for where all partitions are to be finished.
    """

    partitions: Sequence[Verified]
    effects: Tally | None
    unclaimed: Sequence[Unclaimed] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found."""
        found = bool(self.unclaimed) or bool(self.effects and self.effects.findings)
        return all(each.is_proven for each in self.partitions) and not found


async def prove(
    settings: Settings,
    wanted: Wanted,
    *,
    app: "App | None" = None,
    group: str | None = None,
    keys: Sequence[str] = (),
    effects: Effects | None = None,
    watch: Callable[[str], AbstractContextManager[Progressing]] = _unwatched,
) -> Proof:
    """Hold progress, rows and Kafka's log against each other. Nothing is locked or changed.

    Args:
        settings: Of Postgres and Kafka.
        wanted: Which offsets.
        app: Whose filters say which records have no workflow.
        group: Only of this consumer group.
        keys: Which partitions, as `topic-partition`; all, if there are none.
        effects: What else to compare.
        watch: Who looks at the progress of a partition.

    Raises:
        ConfigurationError: There is no such partition, or none at all; the query does not run, or servers do not let us in.
        StoreUnavailableError: Postgres does not answer.
    """
    engine = engine_settings(settings)
    if isinstance(wanted.start, int) and isinstance(wanted.end, int) and wanted.start >= wanted.end:
        raise ConfigurationError(f"the range [{wanted.start}, {wanted.end}) has no offset: there is nothing to prove")
    deciders = {} if app is None else _deciders(app, settings)
    async with connected(engine) as connection:
        chosen = await _chosen(connection, engine.schema, group, keys)
        verified: list[Verified] = []
        unclaimed: list[Unclaimed] = []
        for name in sorted({place.group for place, _ in chosen}):
            of_group = [each for each in chosen if each[0].group == name]
            beside = unclaimed if wanted.finished and not keys else None
            verified += await _of_group(settings, connection, of_group, wanted, deciders, watch, beside)
        if (wanted.start, wanted.end) != (None, None) and all(each.judged_nothing for each in verified):
            raise ConfigurationError(
                "no partition has an offset in that range and below its progress: nothing to prove"
            )
        tally: Tally | None = None
        if effects is not None:
            # Where the log begins is nothing to effects: all rows that stand, unless a range was asked for.
            ranges: Sequence[tuple[Standing, Range]] = [
                (each.standing, (0 if wanted.start is None else each.range[0], each.range[1])) for each in verified
            ]
            tally = await completeness.judge_effects(
                connection, engine.schema, ranges, query=effects.query, each=effects.each, name=effects.handler
            )
    return Proof(verified, tally, unclaimed)


async def _of_group(  # noqa: PLR0917  # of one caller
    settings: Settings,
    connection: Any,
    chosen: Sequence[tuple[Place, str]],
    wanted: Wanted,
    deciders: Mapping[tuple[str, str], Decide],
    watch: Callable[[str], AbstractContextManager[Progressing]],
    unclaimed: list[Unclaimed] | None,
) -> list[Verified]:
    from consumers.cluster import Cluster

    group = chosen[0][0].group
    of_group = group_settings(settings, group)
    cluster = Cluster(of_group)
    await cluster.open(())
    verified: list[Verified] = []
    try:
        for place, handler in chosen:
            with watch(str(place)) as bar:
                verification = Verification(
                    connection, settings.postgres.schema_name, of_group, cluster, expect=bar.expect, judged=bar.advance
                )
                verified.append(await verification.verify(place, wanted, deciders.get((group, handler))))
        if unclaimed is not None:
            unclaimed += await _without_progress(cluster, chosen)
    finally:
        cluster.close()
    return verified


async def _without_progress(cluster: "Cluster", chosen: Sequence[tuple[Place, str]]) -> list[Unclaimed]:
    """Partitions of these topics that have records and no progress. What brokers do not say is found of those that have."""
    known = [place.ref(handler) for place, handler in chosen]
    group = chosen[0][0].group
    found: list[Unclaimed] = []
    for topic in sorted({ref.topic for ref in known}):
        try:
            state = await cluster.topic(topic)
            numbers = set(state.partitions) - {ref.partition for ref in known if ref.topic == topic}
            places = [(topic, number) for number in sorted(numbers)]
            starts, ends = await cluster.starts(places), await cluster.ends(places, committed_only=True)
        except Exception as error:
            if not may_pass(error):
                raise
            continue
        found += [
            Unclaimed(Place(group, f"{topic}-{number}"), ends[topic, number] - starts[topic, number])
            for _, number in places
            if ends[topic, number] > starts[topic, number]
        ]
    return found


async def _chosen(connection: Any, schema: str, group: str | None, keys: Sequence[str]) -> list[tuple[Place, str]]:
    """Partitions and their handlers."""
    found = await (await send(connection, schema, partitions(group=group))).fetchall()
    known = [(Place(name, key), handler) for name, key, handler in found]
    if not known and not group and not keys:
        raise ConfigurationError(
            f"no partition has progress in schema {schema!r}: there is nothing to prove. Is it the right database?"
        )
    if not keys:
        if group and not known:
            raise ConfigurationError(f"no partition of group {group!r} has progress: see `partitions list`")
        return known
    wanted = dict.fromkeys(keys)
    for key in wanted:
        if key not in {place.topic_partition for place, _ in known}:
            raise ConfigurationError(f"partition {key!r} has no progress: see `processor partitions list`")
    return [each for each in known if each[0].topic_partition in wanted]


def _deciders(app: "App", settings: Settings) -> dict[tuple[str, str], Decide]:
    """What decides about a handler's records, by group and handler, the handlers' former names too."""
    return {
        (group_name(registration, app, settings), name): registration.topic.decide
        for registration in app.workflows.values()
        if registration.topic is not None
        for name in (registration.name, registration.renamed_from)
        if name is not None
    }
