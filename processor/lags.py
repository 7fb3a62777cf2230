"""How far each partition's progress is behind its log, for `processor lag` and for the admin API: Postgres is asked, then Kafka."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from engine.inspection import connected
from engine.progress import Progress
from engine.store.checkup import progress as all_progress
from engine.store.statement import send
from processor.config import Settings
from processor.wiring import engine_settings, group_settings

TIMES_WITHIN_S = 10.0
"""How long the records at the progress may take to come; where one does not, its seconds are not known."""

Places = Mapping[tuple[str, int], tuple[str, Progress]]
"""Handler and progress by topic and partition."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far one partition is behind. `None`: it is not known.

    Attributes:
        group: Consumer group.
        partition: As `topic-partition`.
        handler: Whose progress it is.
        next: The first offset that was not processed.
        end: Behind the last offset that readers of committed records can reach.
        lag: Offsets between the two.
        lag_s: Age of the record at `next`.
        open_transactions: Offsets beyond `end`, of transactions that are still open.
    """

    group: str
    partition: str
    handler: str
    next: int
    end: int | None
    lag: int | None
    lag_s: float | None
    open_transactions: int | None


async def lags(settings: Settings, *, group: str | None = None, topic: str | None = None) -> list[PartitionLag]:
    """Of every partition that has progress, by group and name.

    Args:
        settings: Of Postgres and Kafka.
        group: Only of this consumer group.
        topic: Only of this topic.

    Raises:
        ConfigurationError: Postgres or the brokers do not let us in; the message says what to do.
        StoreUnavailableError: Postgres does not answer.
    """
    engine = engine_settings(settings)
    async with connected(engine) as connection:
        stored = await (await send(connection, engine.schema, all_progress())).fetchall()
    groups: dict[str, dict[tuple[str, int], tuple[str, Progress]]] = {}
    for name, key, handler, value in stored:
        of_topic, _, partition = key.rpartition("-")
        if group in (None, name) and topic in (None, of_topic):
            groups.setdefault(name, {})[of_topic, int(partition)] = (handler, Progress.decode(value, f"{name}, {key}"))
    return [each for name, places in groups.items() for each in await _of_group(settings, name, places)]


async def _of_group(settings: Settings, group: str, places: Places) -> list[PartitionLag]:
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
    measured: list[PartitionLag] = []
    for place, (handler, progress) in places.items():
        end = found[place]
        lag_s: float | None = None
        if end is not None and place not in behind:
            lag_s = 0.0
        elif place in times:
            lag_s = round(max(time.time() - times[place] / 1000, 0.0), 1)
        measured.append(
            PartitionLag(
                group=group,
                partition=f"{place[0]}-{place[1]}",
                handler=handler,
                next=progress.next,
                end=None if end is None else end.end,
                lag=None if end is None else end.lag(progress.next),
                lag_s=lag_s,
                open_transactions=None if end is None else end.open_transactions,
            )
        )
    return measured
