"""A proof of many partitions, for `processor verify` and for the admin API: which they are, what decides, what effects there are.

One partition is `Verification`'s; here are the partitions of a request, each group with a cluster of its own.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from consumers.errors import may_pass
from engine.completeness import Decide, Tally
from engine.errors import ConfigurationError
from engine.ids import parts_of
from engine.inspection import connected
from engine.partitions import Place, place_of
from engine.proof_of_effects import Proven, judge_effects
from engine.store import completeness as store
from engine.store.statement import send
from processor.config import Settings
from processor.verification import Verification, Verified, Wanted
from processor.wiring import engine_settings, group_name, group_settings

if TYPE_CHECKING:
    from consumers.cluster import Cluster
    from consumers.settings import GroupSettings
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
    """A partition without progress, though it has records, or left rows: nobody has claimed it yet, or its progress is gone.

    Attributes:
        place: Which.
        offsets: That its log has; `None`: not known.
        has_rows: Whether something of it stands here, so that it had progress.
    """

    place: Place
    offsets: int | None
    has_rows: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found: of each partition, and of effects if they were asked for. `unclaimed`: unless partitions were named."""

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
        ConfigurationError: There is no such partition, or none at all, or no offset in the range; the app has none of their
            handlers; the query does not run, or servers do not let us in.
        StoreUnavailableError: Postgres does not answer.
    """
    engine = engine_settings(settings)
    if isinstance(wanted.start, int) and isinstance(wanted.end, int) and wanted.start >= wanted.end:
        raise ConfigurationError(f"the range [{wanted.start}, {wanted.end}) has no offset: there is nothing to prove")
    deciders = {} if app is None else _deciders(app, settings)
    async with connected(engine) as connection:
        chosen = await _chosen(connection, engine.schema, group, keys)
        if app is not None:
            _check_handlers(app, deciders, chosen, is_named=bool(keys))
        registered = {} if keys else await _registered(connection, engine.schema, group)
        verified: list[Verified] = []
        beside: dict[Place, int] = {}
        for name in sorted({place.group for place, _ in chosen} | registered.keys()):
            of_group = [each for each in chosen if each[0].group == name]
            async with _cluster(settings, name) as (cluster, of_kafka):
                for place, handler in of_group:
                    with watch(str(place)) as bar:
                        verification = Verification(
                            connection, engine.schema, of_kafka, cluster, expect=bar.expect, judged=bar.advance
                        )
                        verified.append(await verification.verify(place, wanted, deciders.get((name, handler))))
                if not keys:
                    beside |= await _without_progress(cluster, name, of_group, registered.get(name, set()))
        if (wanted.start, wanted.end) != (None, None) and all(each.judged_nothing for each in verified):
            raise ConfigurationError(
                "no partition has an offset in that range and below its progress: nothing to prove"
            )
        unclaimed = () if keys else await _unclaimed(connection, engine.schema, group, beside)
        tally: Tally | None = None
        if effects is not None:
            tally = await judge_effects(
                connection,
                engine.schema,
                [_proven(each, wanted) for each in verified],
                query=effects.query,
                each=effects.each,
                name=effects.handler,
                is_whole=not keys and group is None and (wanted.start, wanted.end) == (None, None),
            )
    return Proof(verified, tally, unclaimed)


def _proven(verified: Verified, wanted: Wanted) -> Proven:
    # Where the log begins is nothing to effects: all rows that stand, unless a range was asked for.
    start = 0 if wanted.start is None else verified.range[0]
    is_at_rest = verified.lag == 0 or verified.standing.progress.released
    return Proven(verified.standing, (start, verified.range[1]), wanted.end is None and is_at_rest)


@asynccontextmanager
async def _cluster(settings: Settings, group: str) -> AsyncGenerator[tuple["Cluster", "GroupSettings"]]:
    from consumers.cluster import Cluster

    of_group = group_settings(settings, group)
    cluster = Cluster(of_group)
    await cluster.open(())
    try:
        yield cluster, of_group
    finally:
        cluster.close()


# -- partitions without progress --


async def _registered(connection: Any, schema: str, group: str | None) -> dict[str, set[str]]:
    """The topics that groups registered first, by group."""
    found: dict[str, set[str]] = {}
    for name, topic in await (await send(connection, schema, store.owned_topics(group=group))).fetchall():
        found.setdefault(name, set()).add(topic)
    return found


async def _without_progress(
    cluster: "Cluster", group: str, chosen: Sequence[tuple[Place, str]], registered: AbstractSet[str]
) -> dict[Place, int]:
    """Partitions of a group's topics that have records and no progress, and how many offsets those are.

    The first start of a topic gives all its partitions progress in one commit, so one beside others has lost its own, or is
    new. What brokers do not say is found of those that have progress.
    """
    known = [place.ref(handler) for place, handler in chosen]
    found: dict[Place, int] = {}
    for topic in sorted({ref.topic for ref in known} | registered):
        try:
            state = await cluster.topic(topic)
            numbers = set(state.partitions) - {ref.partition for ref in known if ref.topic == topic}
            places = [(topic, number) for number in sorted(numbers)]
            starts, ends = await cluster.starts(places), await cluster.ends(places, committed_only=True)
        except Exception as error:
            if not may_pass(error):
                raise
            continue
        for _, number in places:
            if (offsets := ends[topic, number] - starts[topic, number]) > 0:
                found[Place(group, f"{topic}-{number}")] = offsets
    return found


async def _unclaimed(
    connection: Any, schema: str, group: str | None, beside: Mapping[Place, int]
) -> Sequence[Unclaimed]:
    """Partitions without progress: of those that have records, and of those that left something here."""
    async with connection.transaction():
        await send(connection, schema, store.read_only())
        await send(connection, schema, store.without_time_out())
        # Both in one snapshot, behind the look at the log: what was claimed meanwhile has progress by now.
        stored = await (await send(connection, schema, store.partitions(group=group))).fetchall()
        traces = await (await send(connection, schema, store.traces(group=group))).fetchall()
    known = {Place(name, key) for name, key, _ in stored}
    left = {place_of(parts.service_name, parts.key) for (source,) in traces if (parts := parts_of(source)) is not None}
    missing = sorted((left | beside.keys()) - known)
    return [Unclaimed(place, beside.get(place), place in left) for place in missing]


# -- which partitions --


async def _chosen(connection: Any, schema: str, group: str | None, keys: Sequence[str]) -> list[tuple[Place, str]]:
    """Partitions and their handlers."""
    found = await (await send(connection, schema, store.partitions(group=group))).fetchall()
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


def _check_handlers(
    app: "App", deciders: Mapping[tuple[str, str], Decide], chosen: Sequence[tuple[Place, str]], *, is_named: bool
) -> None:
    """Refuse an app that cannot say what its filters pass over: none of the partitions is its own, or a named one is not."""
    strange = [(place, handler) for place, handler in chosen if (place.group, handler) not in deciders]
    if strange and (is_named or len(strange) == len(chosen)):
        place, handler = strange[0]
        raise ConfigurationError(
            f"app {app.name!r} has no handler {handler!r} in group {place.group!r}, whose partition {place.topic_partition} is.\n"
            f"  Give the app that handles the topic, or other partitions: its filters say which records have no workflow."
        )


def _deciders(app: "App", settings: Settings) -> dict[tuple[str, str], Decide]:
    """What decides about a handler's records, by group and handler, the handlers' former names too."""
    return {
        (group_name(registration, app, settings), name): registration.topic.decide
        for registration in app.workflows.values()
        if registration.topic is not None
        for name in (registration.name, registration.renamed_from)
        if name is not None
    }
