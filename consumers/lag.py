"""How far the logs reach, for lag. Asked of the brokers every 15 s, all partitions in one request a broker.

Not from the client's cache: that one is as old as the last fetch, and a paused or halted partition, the very one whose
lag matters, is not fetched. `end` is what readers of committed records can reach; where the log goes on beyond it, a
producer holds a transaction open and nobody can go on (case 26).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from consumers.cluster import Cluster
from consumers.handover import Place


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a log ended when it was asked. `open_transactions`: offsets beyond `end` that no reader can reach yet."""

    end: int
    open_transactions: int

    def lag(self, progress: int) -> int:
        """Offsets not yet durably processed. Never negative: progress may be newer than this."""
        return max(self.end - progress, 0)


class LogEnds:
    """The last known ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ends: dict[Place, LogEnd] = {}

    async def refresh(self, places: Sequence[Place]) -> None:
        """Ask for the partitions that are ours now, and forget the others."""
        reachable = await self._cluster.ends(places, committed_only=True, partial=True)
        ends = await self._cluster.ends(places, partial=True)
        self._ends = {
            place: LogEnd(end, max(ends[place] - end, 0)) for place, end in reachable.items() if place in ends
        }

    def get(self, place: Place) -> LogEnd | None:
        """A partition's end, `None` while it is not known."""
        return self._ends.get(place)
