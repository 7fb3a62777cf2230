"""The group flush: what workflows without a source have done becomes durable together, each behind its own row (P7).

    BEGIN
      fence_group             rows locked in the order of their IDs; database fence (P4); newest checkpoints there (P7)
      checkpoints             plain INSERT, joined to rows that are still ours; returns which
      outcomes, rests         likewise
      new workflows           of `start`: an ID that stands is left as it is
      effects                 joined to their checkpoints (P31)
      who is woken            by outcomes and effects
      ledger                  of queues whose members have ended
    COMMIT                    in the same pipeline

It is the committer's flush with another fence, and another settlement: nothing of it raises for a row that is no
longer ours, since nothing but that row's own writes depends on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.clock import now_ms
from engine.committer import Committer
from engine.effects import Extras, Named
from engine.flush import Flush, Written
from engine.ids import new_token
from engine.row_settlement import RowSettlement
from engine.runner import Standing
from engine.sealed_rows import sealed_starts
from engine.starts import Start
from engine.states import WorkflowStatus
from engine.store import commons as store
from engine.store import queues
from engine.store.starts import start

if TYPE_CHECKING:
    from engine.commons import Commons


@dataclass(slots=True)
class Starting:
    """A workflow on its way to its row; `inserted` tells whether it is new."""

    start: Start
    inserted: asyncio.Future[bool]

    def tell(self, inserted: bool) -> None:
        """It has a row: this one, or one that stood already."""
        if not self.inserted.done():
            self.inserted.set_result(inserted)

    def fail(self, error: BaseException) -> None:
        """It has none, and will have none."""
        if not self.inserted.done():
            self.inserted.set_exception(error)


class RowFlush(Flush):
    """Works of the commons, and new workflows. Its parts stay empty."""

    def __init__(self, commons: Commons) -> None:
        super().__init__(commons.engine.executor_id)
        self.commons = commons
        self.starting: list[Starting] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left to write."""
        return not (self.works or self.starting)

    @property
    def new_ids(self) -> list[str]:
        """Of those that calls start."""
        return [each.start.id for each in self.starting]

    def prune(self) -> None:
        """Leave out who was abandoned meanwhile, and decide who of the new ones runs here."""
        self.works = [work for work in self.works if work.run.standing is not Standing.ABANDONED]
        self.executor_id = self.commons.engine.executor_id
        own(self.commons, [each.start for each in self.starting])
        self.gather_extras()

    def gather_extras(self) -> None:
        """Note what its works bring beside checkpoints and outcomes."""
        extras = Extras(self.commons.engine, self.works)
        self.extras = None if extras.is_empty else extras

    def fences(self) -> list[Named]:
        """The rows, and the database."""
        database = self.commons.engine.database
        works = self.works
        fence = store.fence(
            ids=[work.run.id for work in works],
            owners=[work.run.owner for work in works],
            function_ids=[work.run.durable_ids[-1] if work.run.durable_ids else None for work in works],
            others=[] if self.extras is None else self.extras.touches(),
            timeline=database.timeline,
            lsn=database.lsn,
        )
        made: list[Named] = [("fence", fence)]
        if self._leaving():
            made.append(("keep ledger", queues.keep_ledger()))
        return made

    def more(self) -> list[Named]:
        """New rows, then what comes with checkpoints."""
        made = super().more()
        if leaving := self._leaving():
            made.append(("ledger", queues.complete(ids=leaving)))
        if self.starting:
            settings = self.commons.engine.settings
            statement = start(
                sealed_starts([each.start for each in self.starting], self.commons.engine.payloads.seal),
                executor_id=self.executor_id,
                inputs_inline_max=settings.inputs_inline_max,
            )
            made.insert(0, ("start", statement))
        return made

    def _leaving(self) -> list[str]:
        """Whose places of queues become free with this."""
        return [
            work.run.id
            for work in self.works
            if work.ending is not None and work.ending.is_final and work.run.home.has_place
        ]

    def applied(self, written: Written) -> None:
        """Tell those who wait for new rows, and run those that are ours."""
        if rows := written.more.get("fence"):
            self.commons.engine.database.saw(rows[0][0])
        inserted = {row[0] for row in written.more.get("start", ())}
        for each in self.starting:
            is_new = each.start.id in inserted
            if is_new:
                inserted.discard(each.start.id)  # of several under one ID, the first is the row
                self.commons.adopt(each.start)
            each.tell(is_new)
        super().applied(written)

    def halves(self) -> list[Flush]:
        """Two flushes with half of it each, in order."""
        halves = [RowFlush(self.commons), RowFlush(self.commons)]
        middle = len(self.works) // 2 if len(self.works) > 1 else len(self.works)
        halves[0].works, halves[1].works = self.works[:middle], self.works[middle:]
        middle = len(self.starting) // 2 if len(self.works) <= 1 and len(self.starting) > 1 else 0
        halves[0].starting, halves[1].starting = self.starting[:middle], self.starting[middle:]
        return list(halves)

    @property
    def size(self) -> int:
        """Works and new workflows: one stands alone."""
        return len(self.works) + len(self.starting)


class RowCommitter(Committer):
    """The connection of the commons."""

    kind = "commons"

    def __init__(self, commons: Commons) -> None:
        super().__init__(commons.engine, "committer-commons")
        self._commons = commons
        self._settlement = RowSettlement(self)
        self.starting: list[Starting] = []
        """New workflows of the flush under way."""

    def wants_flush(self) -> None:
        """There is work."""
        self._wake.set()

    def _gathered(self, wanting: dict[Any, None]) -> Iterator[Flush]:
        del wanting  # sources; the commons keeps its own queues
        flush = RowFlush(self._commons)
        self._commons.take_into(flush, self.engine.settings.flush_rows_max)
        if self._commons.has_work:
            self.wants_flush()
        self.starting = list(flush.starting)
        yield flush
        self.starting = []


def own(commons: Commons, starts: list[Start]) -> None:
    """Decide who of new workflows runs here, by the room there is; the others are written at rest, due at once.

    The time of those that run here begins: the others' with whoever takes them.
    """
    room = commons.room()
    token, now = new_token(), now_ms()
    for each in starts:
        runs_here = room > 0 and each.status is WorkflowStatus.PENDING and each.wake_at is None
        each.owner = token if runs_here and commons.can_run(each) else None
        each.begins_at = None if each.owner is None else now
        room -= each.owner is not None


__all__ = ["RowCommitter", "RowFlush", "Starting", "own"]
