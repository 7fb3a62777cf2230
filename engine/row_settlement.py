"""What to do after a group flush that did not simply succeed (P24, P25, P27).

| what happened                      | what is done                                                               |
|------------------------------------|----------------------------------------------------------------------------|
| the database went back             | everything in memory is abandoned; a new executor registers (P4)           |
| the connection broke               | the COMMIT is unknown: lock the rows, read what stands, send the rest again |
| weather                            | back off with jitter, send again                                           |
| a row cannot be written            | halve until it stands alone; it fails as its workflow's error              |
| the ID of a child stands already   | it is adopted or is its parent's error (engine/child_conflicts.py)         |
| a checkpoint stands already        | read what stands: a lost flush of ours; else the run starts over its row   |
| anything else                      | the process ends, visibly                                                  |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from engine.failures import summary
from engine.faults import Fault, fault_of
from engine.flush import Flush, ReadBack, Work, Written
from engine.settlement import Settlement
from engine.store import operation_outputs, workflow_status
from engine.store.statement import send
from engine.telemetry import FlushRetried

if TYPE_CHECKING:
    from engine.row_flush import RowFlush


class RowSettlement(Settlement):
    """The answers of the commons' committer."""

    async def after(self, flush: Flush, error: Exception) -> list[Flush]:
        """The flushes to send instead, in order."""
        rows = _rows(flush)
        connection = self._committer.connection
        if connection is not None and connection.closed:
            self._engine.telemetry.emit(FlushRetried("unknown commit", summary(error)))
            return await self._settled(rows)
        fault = fault_of(error)
        self._engine.telemetry.emit(FlushRetried(fault.value, summary(error)))
        match fault:
            case Fault.WENT_BACK:
                self._engine.went_back(str(error))
                rows.works.clear()
                return [rows]
            case Fault.WEATHER:
                await self._weather(error)
                return [rows]
            case Fault.RECORD:
                return self._alone(rows, error)
            case Fault.CONFLICT:
                try:
                    if (again := await self._children_settled(rows, error)) is not None:
                        return again
                except psycopg.Error as unread:
                    if fault_of(unread) is not Fault.WEATHER:
                        raise
                    await self._weather(unread)
                    return [rows]
                return await self._settled(rows, conflict=error)
            case Fault.FENCED | Fault.BROKEN:
                raise error

    async def _settled(self, flush: RowFlush, *, conflict: Exception | None = None) -> list[Flush]:
        """P24 for a group. Locking waits for our own lost transaction, should the server still run it; what stands then is done.

        Sending the rest again is safe even if that transaction comes later: its checkpoints meet ours, its outcomes and rests
        a row that is no longer PENDING under their owner, its new rows those that stand.
        """
        while True:
            try:
                written, standing = await self._standing(flush)
                break
            except psycopg.Error as error:
                if fault_of(error) is not Fault.WEATHER:
                    raise
                await self._weather(error)
        self.clear_weather()
        done, left = _parted(flush, written, standing)
        if not done.is_empty:
            done.gather_extras()
            self._committer.apply(done, written, 0.0)
        if conflict is None or not done.is_empty:
            return [left]
        return _without_conflict(left, standing) or self._alone(left, conflict)

    async def _standing(self, flush: RowFlush) -> tuple[Written, ReadBack]:
        connection = await self._committer.connected()
        schema = self._engine.settings.schema
        ids = [work.run.id for work in flush.works]
        new = [each.start.id for each in flush.starting]
        async with connection.transaction():
            await send(connection, schema, workflow_status.lock(ids=[*ids, *new]))
            cursor = await send(connection, schema, operation_outputs.recorded(ids=ids))
            standing = ReadBack(set(await cursor.fetchall()))
            cursor = await send(connection, schema, workflow_status.statuses(ids=[*ids, *new]))
            states = {i: (status, owner) for i, status, owner in await cursor.fetchall()}
        for work in flush.works:
            status, owner = states.get(work.run.id, ("", None))
            ending = work.ending
            if ending is not None and ending.is_final and status == ending.status and owner is None:
                standing.finished.add(work.run.id)
            elif work.rests and status == "PENDING" and owner != work.run.owner:
                standing.rested.add(work.run.id)
        started = [
            (each.start.id,)
            for each in flush.starting
            if each.start.owner is not None and states.get(each.start.id, ("", None))[1] == each.start.owner
        ]
        return Written(more={"start": started}), standing

    def _alone(self, flush: RowFlush, error: Exception) -> list[Flush]:
        """Halve until it stands alone, then let it fail as its workflow's error, or its caller's."""
        if flush.size > 1:
            return flush.halves()
        for each in flush.starting:
            each.fail(error)
        flush.starting.clear()
        for work in flush.works:
            if work.ending is not None and work.ending.summary == UNSTORABLE:
                raise error  # its error cannot be written either: our statement, not the workflow
            work.run.submitted = False
            work.run.home.fail(work.run, error, UNSTORABLE)
        flush.works.clear()
        return [flush]


UNSTORABLE = "unstorable"


def _parted(flush: RowFlush, written: Written, standing: ReadBack) -> tuple[RowFlush, RowFlush]:
    """What stands, and what is to be sent again."""
    done, left = type(flush)(flush.commons), type(flush)(flush.commons)
    inserted = {row[0] for row in written.more["start"]}
    for work in flush.works:
        (done if _writes(work) and standing.has(work) else left).works.append(work)
    for each in flush.starting:
        (done if each.start.id in inserted else left).starting.append(each)
    return done, left


def _writes(work: Work) -> bool:
    return bool(work.checkpoints or work.rests or work.ending is not None)


def _without_conflict(flush: RowFlush, standing: ReadBack) -> list[Flush]:
    """A checkpoint stands that is not what we wrote: we are not where we thought. Its run starts over its row (P27).

    Nothing where no work is in conflict that way.
    """
    again = type(flush)(flush.commons)
    again.starting = flush.starting
    for work in flush.works:
        if any((work.run.id, each.function_id) in standing.checkpoints for each in work.checkpoints):
            work.run.submitted = False
            work.run.home.refuse(work.run, "a checkpoint stood already")
        else:
            again.works.append(work)
    return [again] if len(again.works) < len(flush.works) else []


def _rows(flush: Flush) -> RowFlush:
    from engine.row_flush import RowFlush

    assert isinstance(flush, RowFlush), "the commons' committer sends nothing else"
    return flush
