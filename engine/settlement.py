"""What to do after a flush that did not simply succeed (P5, P6, P23, P25, P27).

| what happened                      | what is done                                                               |
|------------------------------------|----------------------------------------------------------------------------|
| a partition is no longer ours      | it is dropped, alone; the others' work is sent again at once               |
| the database went back             | everything in memory is abandoned; a new executor registers (P4)           |
| the connection broke               | the COMMIT is unknown: raise the epoch in place, read the flush number     |
| weather                            | back off with jitter, send again                                           |
| a record cannot be written         | halve until it stands alone; it fails as its workflow's error              |
| the ID of a child stands already   | it is adopted or is its parent's error (engine/child_conflicts.py)         |
| a key of ours stands already       | re-read: another's row halts the partition, our own sends it to look up    |
| anything else                      | the partitions halt, visibly                                               |
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from engine.failures import summary
from engine.faults import Fault, fault_of, is_weather_error
from engine.flush import Flush, Part, ReadBack, Written
from engine.progress import Progress
from engine.store import event_dispatch_kv, operation_outputs, starts, workflow_status
from engine.store.event_dispatch_kv import ProgressRow
from engine.store.statement import send
from engine.telemetry import FlushRetried, StoreAvailable, StoreUnavailable

if TYPE_CHECKING:
    from engine.committer import Committer

WAIT_FIRST_S = 0.05
WAIT_MAX_S = 3.0
"""Back-off while Postgres is away: short enough that a restart costs little, long enough not to add to it."""


class Settlement:
    """A committer's answers to errors."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._engine = committer.engine
        self._wait_s = WAIT_FIRST_S
        self._bad_since: float | None = None
        self._was_cut = False
        """Whether the connection broke since a flush went through."""

    async def after(self, flush: Flush, error: Exception) -> list[Flush]:  # noqa: C901  # a list of cases
        """The flushes to send instead, in order."""
        connection = self._committer.connection
        if flush.group is not None and flush.group.caused(error):
            if connection is None or not connection.closed:
                if is_weather_error(error.__cause__ or error):
                    await self._weather(error)
                return flush.group.split(flush, error.__cause__ or error)
            error = error.__cause__ if isinstance(error.__cause__, Exception) else error
        fault = fault_of(error)
        if connection is not None and connection.closed and fault is not Fault.FENCED:
            self._engine.telemetry.emit(FlushRetried("unknown commit", summary(error)))
            return await self._unknown(flush, cut=error)
        self._engine.telemetry.emit(FlushRetried(fault.value, summary(error)))
        match fault:
            case Fault.FENCED:
                await self._fenced(flush, error)
                return [flush]
            case Fault.WENT_BACK:
                self._went_back(flush.parts, str(error))
                return [flush]
            case Fault.WEATHER:
                await self._weather(error)
                return [flush] if flush.group is None else flush.group.halved(flush)
            case Fault.RECORD:
                return self._bisected(flush, error)
            case Fault.CONFLICT:
                try:
                    if (again := await self._children_settled(flush, error)) is not None:
                        return again
                    return await self._conflict(flush)
                except psycopg.Error as unread:
                    if fault_of(unread) is not Fault.WEATHER:
                        raise
                    await self._weather(unread)
                    return [flush]
            case Fault.BROKEN:
                return self._broken(flush, error)

    def clear_weather(self) -> None:
        """A flush went through."""
        self._was_cut = False
        if self._bad_since is not None:
            self._engine.telemetry.emit(StoreAvailable(time.monotonic() - self._bad_since))
            self._bad_since = None
            self._wait_s = WAIT_FIRST_S

    async def _weather(self, error: Exception) -> None:
        now = time.monotonic()
        self._bad_since = self._bad_since or now
        self._engine.telemetry.emit(StoreUnavailable(summary(error), now - self._bad_since))
        await asyncio.sleep(self._wait_s * random.uniform(0.5, 1.5))
        self._wait_s = min(self._wait_s * 2, WAIT_MAX_S)

    async def _fenced(self, flush: Flush, error: Exception) -> None:
        """Drop the partitions the fence names; a database that lost commits shows here too (P4, P6)."""
        assert isinstance(error, psycopg.Error), "only the server fences"
        places: list[int] = json.loads(error.diag.message_detail or "[]")
        lost: list[Part] = [flush.parts[place - 1] for place in places]
        stored = {(row.service_name, row.key): row for row in await self._read(lost)}
        for part in lost:
            source = part.source
            row = stored.get((source.ref.service_name, source.ref.key))
            if _went_back(source.epoch, source.progress, row):
                self._went_back(lost, f"{source.ref}: progress is behind what was written")
                return
        for part in lost:
            part.source.drop("fenced")

    def _went_back(self, parts: Sequence[Part], reason: str) -> None:
        """Abandon everything; a process that is stopping already registers no new executor, but drops these as well."""
        self._engine.went_back(reason)
        for part in parts:
            part.source.drop(reason)

    async def _unknown(self, flush: Flush, *, cut: Exception) -> list[Flush]:  # noqa: C901  # a decision with its cases
        """P23: was it committed? Raising the epoch waits for our own transaction and ends its right to commit."""
        while True:
            flush.parts = [part for part in flush.parts if not part.source.is_gone]
            if not flush.parts:
                return []
            for part in flush.parts:
                part.source.is_settling = True
            try:
                raised = await self._raise_epochs(flush.parts)
                break
            except psycopg.Error as error:
                await self._weather(error)
        committed: bool | None = None
        for part in flush.parts:
            source = part.source
            source.is_settling = False
            row = raised.get((source.ref.service_name, source.ref.key))
            if row is None:
                source.drop("fenced")
                continue
            source.epoch = row.epoch
            if row.value == part.value:
                committed = True
            elif row.value == source.value:
                committed = committed or False
            else:
                self._went_back(flush.parts, f"{source.ref}: progress is neither what was written nor what was before")
                return []
        if not committed:
            if self._was_cut:  # it may be a statement in the flush that breaks it, every time
                await self._weather(cut)
            self._was_cut = True
            return [flush] if flush.group is None else flush.group.cut(flush)
        while True:
            try:
                written = await self._written(flush)
                break
            except psycopg.Error as error:
                await self._weather(error)
        self.clear_weather()
        self._committer.apply(flush, written, 0.0)
        return []

    async def _raise_epochs(self, parts: list[Part]) -> dict[tuple[str, str], ProgressRow]:
        connection = await self._committer.connected()
        ordered = sorted(parts, key=lambda part: (part.source.ref.service_name, part.source.ref.key))
        async with connection.transaction():
            cursor = await send(
                connection,
                self._engine.settings.schema,
                event_dispatch_kv.raise_epochs(
                    services=[part.source.ref.service_name for part in ordered],
                    keys=[part.source.ref.key for part in ordered],
                    epochs=[part.source.epoch for part in ordered],
                    tokens=[part.source.token for part in ordered],
                ),
            )
            return {(row.service_name, row.key): row for row in await cursor.fetchall()}

    async def _written(self, flush: Flush) -> Written:
        """Read again what a flush whose reply was lost has written of earlier rows, and what it would have read."""
        connection = await self._committer.connected()
        schema = self._engine.settings.schema
        earlier = [work for work in flush.works if not work.inserts]
        acquires = [run for part in flush.parts for run in part.acquires]
        look_ups = [i for part in flush.parts for i in part.look_ups]
        ids = [work.run.id for work in earlier]
        written = Written()
        async with connection.transaction():
            cursor = await send(connection, schema, operation_outputs.recorded(ids=ids))
            standing = ReadBack(set(await cursor.fetchall()))
            states = {i: (status, owner) for i, status, owner in await self._statuses(connection, ids)}
            for work in earlier:
                status, owner = states.get(work.run.id, ("", None))
                ending = work.ending
                if ending is not None and ending.is_final and status == ending.status:
                    standing.finished.add(work.run.id)
                elif work.rests and status == "PENDING" and owner is None:
                    standing.rested.add(work.run.id)
            written.lost = {work.run.id for work in earlier if not standing.has(work)}
            if acquires:
                written.acquired = await self._acquired(connection, [(run.id, run.inbox.token) for run in acquires])
                cursor = await send(
                    connection, schema, operation_outputs.of_workflows(ids=[run.id for run in acquires])
                )
                histories: dict[str, list[Any]] = {}
                for row in await cursor.fetchall():
                    histories.setdefault(row.workflow_id, []).append(row)
                written.histories = histories
            looked = [run.id for run in acquires] + look_ups
            if acquires:
                cursor = await send(connection, schema, flush.read_holds())
                written.holds = await cursor.fetchall()
            if looked:
                found = await send(connection, schema, workflow_status.look_up(ids=looked))
                written.found = {row.workflow_id: row for row in await found.fetchall()}
        return written

    async def _statuses(self, connection: Any, ids: list[Any]) -> list[tuple[Any, str, Any]]:
        cursor = await send(connection, self._engine.settings.schema, workflow_status.statuses(ids=ids))
        return await cursor.fetchall()

    async def _acquired(self, connection: Any, wanted: list[tuple[Any, Any]]) -> dict[Any, Any]:
        cursor = await send(
            connection,
            self._engine.settings.schema,
            workflow_status.owned(ids=[i for i, _ in wanted], owners=[o for _, o in wanted]),
        )
        return {row.workflow_id: row for row in await cursor.fetchall()}

    async def _read(self, parts: list[Part]) -> list[ProgressRow]:
        try:
            connection = await self._committer.connected()
            cursor = await send(
                connection,
                self._engine.settings.schema,
                event_dispatch_kv.read(
                    services=[part.source.ref.service_name for part in parts],
                    keys=[part.source.ref.key for part in parts],
                ),
            )
            return await cursor.fetchall()
        except psycopg.Error:
            return [_unread(part) for part in parts]

    def _bisected(self, flush: Flush, error: Exception) -> list[Flush]:
        """Halve until the record stands alone, then let it fail as its workflow's error."""
        if flush.group is not None:
            # Never a row without its effect: the group is halved with its works.
            return flush.group.split(flush, error)
        if len(flush.works) > 1:
            return flush.halves()
        if not flush.works or (flush.works[0].ending is not None and flush.works[0].ending.reason == "unstorable"):
            return self._broken(flush, error)
        work = flush.works[0]
        flush.works = []
        work.run.submitted = False
        work.run.inbox.fail(work.run, error)
        return [flush]

    async def _children_settled(self, flush: Flush, error: Exception) -> list[Flush] | None:
        """What to send where the ID of a child stood already (P31); `None`: it was another conflict."""
        from engine import child_conflicts

        if not child_conflicts.is_of_a_row(error):
            return None

        async def standing(ids: Sequence[str]) -> dict[str, starts.ExistingRow]:
            connection = await self._committer.connected()
            cursor = await send(connection, self._engine.settings.schema, starts.existing(ids=ids))
            return {row.workflow_id: row for row in await cursor.fetchall()}

        return await child_conflicts.settled(flush, standing)

    async def _conflict(self, flush: Flush) -> list[Flush]:
        """A row of ours stands already. Another's row is never a dedup; our own is looked up, not run (I2, P27)."""
        new = {work.run.id: work for work in flush.works if work.inserts}
        connection = await self._committer.connected()
        cursor = await send(connection, self._engine.settings.schema, workflow_status.foreign_rows(ids=list(new)))
        standing = await cursor.fetchall()
        if not standing:
            # A checkpoint's key: never the record's fault. The next claim reads what stands.
            for part in flush.parts:
                part.source.drop("a checkpoint of ours stood already")
            return [flush]
        for workflow_id, kafka_source, name, _ in standing:
            work = new[workflow_id]
            source = work.run.inbox.source
            if kafka_source != source.name:
                source.break_off(
                    f"workflow {workflow_id} stands already as {name!r} of {kafka_source or 'no source'}: "
                    f"another group or program uses this ID"
                )
            else:
                # Look-ups reach below `high`: the next claim will find the row instead of running the record.
                source.claim_anew_above(work.run.offset, "a row of ours stood already")
        ids = {row[0] for row in standing}
        flush.works = [work for work in flush.works if work.run.id not in ids]
        if flush.group is not None:
            flush.group.runs = [run for run in flush.group.runs if run.id not in ids]
            return flush.group.again(flush)
        return [flush]

    def _broken(self, flush: Flush, error: Exception) -> list[Flush]:
        for part in flush.parts:
            part.source.break_off(f"the database refuses our statements: {summary(error)}")
        return [flush]


def _went_back(epoch: int, held: Progress, row: ProgressRow | None) -> bool:
    """Whether a stored progress row is older than what we know was committed."""
    if row is None or row.epoch < epoch:
        return True
    return row.epoch == epoch and Progress.decode(row.value).flush < held.flush


def _unread(part: Part) -> ProgressRow:
    source = part.source
    return ProgressRow(source.ref.service_name, source.ref.key, source.ref.handler, source.epoch + 1, source.value)
