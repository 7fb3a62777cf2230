"""Progress mirrored to Kafka every few seconds: for lag tools, autoscalers, and so that the group does not expire.

It is never read back. Postgres knows better, and a rewound or expired offset in Kafka then means nothing (cases 28, 29,
41). The commit is asynchronous, because a synchronous one waits for 45 s when the coordinator is gone; and it is not
sent while a rebalance is under way, where its answer can cost the assignment.
"""

from collections.abc import Mapping

from consumers.handover import Place

TELL_ALL_EVERY = 12
"""After that many mirrorings everything is told again: some commits meet a rebalance and are refused."""


class Mirror:
    """What Kafka was told last. Pure: decides what there is to say."""

    def __init__(self) -> None:
        self._told: dict[Place, int] = {}
        self._times = 0

    def news(self, progress: Mapping[Place, int]) -> dict[Place, int]:
        """Of the partitions that are ours now, those whose progress Kafka has not been told."""
        self._times += 1
        if self._times % TELL_ALL_EVERY == 0:
            self._told = {}
        news = {place: offset for place, offset in progress.items() if self._told.get(place) != offset}
        self._told = dict(progress)
        return news
