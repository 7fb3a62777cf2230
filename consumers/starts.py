"""Where partitions without progress begin (K5).

A start such as `latest` is worth something only once: evaluated again after a crash, the records in between would never
be read. So the first member that meets a topic without any progress resolves *all* its partitions to absolute offsets
and stores them in one commit, before anybody fetches. A partition that appears later belongs to a topic that is being
consumed: it starts at the earliest, or what was produced before its discovery would be skipped.
"""

import asyncio
from collections.abc import Collection, Mapping

from consumers.cluster import Cluster
from consumers.handover import Place
from consumers.settings import StartAt, StartAtTime, Subscription
from engine.errors import ConfigurationError
from engine.ids import SourceRef
from engine.sources import Sources, Start


class Starts:
    """Makes sure that partitions have progress before they are claimed."""

    def __init__(self, sources: Sources, cluster: Cluster) -> None:
        self._sources = sources
        self._cluster = cluster
        self._ready: set[tuple[str, int]] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, ref: SourceRef, subscription: Subscription) -> None:
        """Give the partition progress if it has none, with all others of its topic. Once a partition per process.

        Raises:
            ConfigurationError: The start policy cannot be followed.
        """
        place = (ref.topic, ref.partition)
        async with self._locks.setdefault(ref.topic, asyncio.Lock()):
            if place in self._ready:
                return
            await self._sources.register(ref.group, ref.topic)
            stored = await self._sources.stored(ref.group, ref.topic)
            if ref.partition not in stored:
                starts = await self._resolve(ref, subscription, known=stored.keys())
                await self._sources.first_start(ref.group, ref.handler, ref.topic, starts)
                self._ready.update((ref.topic, partition) for partition in starts)
            self._ready.update((ref.topic, partition) for partition in stored)

    async def _resolve(
        self, ref: SourceRef, subscription: Subscription, *, known: Collection[int]
    ) -> Mapping[int, Start]:
        topic = await self._cluster.topic(ref.topic)
        partitions = set(topic.partitions) | {ref.partition}
        missing = sorted(partitions - set(known))
        policy = StartAt.EARLIEST if known else subscription.start
        offsets = await self._offsets(ref, policy, missing)
        logs: Mapping[Place, int] = {}
        if policy is not StartAt.EARLIEST:
            # What lies below is never asked for, and is recorded as that: nobody could tell it from what was lost.
            logs = await self._cluster.starts([(ref.topic, partition) for partition in missing])
        return {
            partition: Start(offsets[partition], topic.topic_id, passed_over=logs.get((ref.topic, partition)))
            for partition in missing
        }

    async def _offsets(self, ref: SourceRef, policy: StartAt | StartAtTime, partitions: list[int]) -> dict[int, int]:
        places = [(ref.topic, partition) for partition in partitions]
        match policy:
            case StartAtTime(at):
                found = await self._cluster.at_time(places, int(at.timestamp() * 1000))
            case StartAt.LATEST:
                found = await self._cluster.ends(places, committed_only=True)
            case StartAt.EARLIEST:
                found = await self._cluster.starts(places)
            case StartAt.COMMITTED:
                return await self._committed(ref, partitions)
        return {partition: offset for (_, partition), offset in found.items()}

    async def _committed(self, ref: SourceRef, partitions: list[int]) -> dict[int, int]:
        committed = await self._cluster.committed(ref.group, ref.topic)
        if not committed:
            raise ConfigurationError(
                f"start=COMMITTED: group {ref.group!r} has no committed offsets for topic {ref.topic!r}.\n"
                f"  They may have expired, or the group may have another name. Choose EARLIEST, LATEST or a time."
            )
        without = [(ref.topic, partition) for partition in partitions if partition not in committed]
        starts = await self._cluster.starts(without)
        return {partition: offset for (_, partition), offset in starts.items()} | {
            partition: offset for partition, offset in committed.items() if partition in partitions
        }
