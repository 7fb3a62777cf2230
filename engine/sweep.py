"""One walk over what has ended, a batch after the other: what is old enough goes (P30).

    batch    look at so many rows by creation time, lock the horizons of their partitions
             ─▶ read `next`, delete, write the horizons ─▶ COMMIT

A batch is a transaction of its own, with a bound for each statement: it holds no snapshot and no lock for longer, and
waits for nobody (rows and horizons that somebody has locked are left for another time). The lock of a horizon is what a
seek takes as well: either the seek sees what was deleted, or this sees where progress went.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, AsyncCursor, errors

from engine.crashpoints import CrashPoint, reach
from engine.ids import parts_of
from engine.keeping import Frontier, PolicyRow, Span, ages
from engine.store import retention
from engine.store.retention import Deleted, Window
from engine.store.statement import send

STATEMENT_MS = 5_000
"""Longest one statement of a batch may take: whoever waits for a horizon, and vacuum, wait no longer."""

LOCK_MS = 500
"""Longest to wait for a seek that is the first to need a partition's horizon."""

Place = tuple[str, str]
"""Handler, and kind (`engine.keeping.Kind`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one batch did.

    Attributes:
        deleted: Rows by handler and kind.
        late_ms: By how much the oldest that was due had outlived its policy; `None` where nothing was due, or where
            the walk has come back for what stayed.
        is_full: Whether it deleted as many as it was to.
        busy_s: What it took Postgres, without turns of our event loop, and without the commit.
        paused: Why nothing was deleted, if an operator has stopped all deleting; the walk has not gone on.
    """

    deleted: Mapping[Place, int]
    late_ms: int | None = None
    is_full: bool = False
    busy_s: float = 0.0
    paused: str | None = None

    @property
    def count(self) -> int:
        """Rows deleted; what hung on them is not counted."""
        return sum(self.deleted.values())


@dataclass(frozen=True, slots=True)
class _Done:
    """A deletion that was sent, between two looks at the clock."""

    began: AsyncCursor[tuple[float]]
    deleting: AsyncCursor[Deleted]
    ended: AsyncCursor[tuple[float]]

    async def read(self) -> tuple[dict[Place, int], float]:
        """What it deleted, and what that took Postgres, in seconds."""
        began, ended = await self.began.fetchone(), await self.ended.fetchone()
        assert began is not None, "the clock has a time"
        assert ended is not None, "the clock has a time"
        deleted = {(row.handler, row.kind): row.rows for row in await self.deleting.fetchall()}
        return deleted, ended[0] - began[0]


class Sweep:
    """Goes over everything that any policy lets go. Remembers how far it came, in memory: another one begins anew.

    Args:
        schema: Of the system tables.
        dry_run: Count what would go, and change nothing.
    """

    def __init__(self, schema: str, *, dry_run: bool = False) -> None:
        self._schema = schema
        self._dry_run = dry_run
        self._frontiers: list[Frontier] = []
        self._now = 0

    def begin(self, policies: Sequence[PolicyRow], now: int) -> None:
        """Begin another sweep, of what is old enough now. What has new policies is walked over from its beginning.

        Args:
            policies: Of every handler.
            now: Time in Postgres, epoch ms. What becomes due during a sweep is the next one's: this one has an end.
        """
        self._now = now
        known = {frontier.age: frontier for frontier in self._frontiers}
        self._frontiers = [known.get(age) or Frontier(age) for age in ages(policies)]
        for frontier in self._frontiers:
            frontier.begin(now)

    async def step(self, connection: AsyncConnection[Any], *, rows: int) -> Batch | None:
        """Do one batch of about so many rows; `None`: the sweep has come to its end.

        Args:
            connection: In autocommit mode.
            rows: How many to look at.

        Raises:
            psycopg.Error: The batch was not committed, or nobody knows; nothing of it is remembered.
        """
        for frontier in self._frontiers:
            if (span := frontier.before(self._now)) is not None:
                doing = self._letters if frontier.age.of_letters else self._workflows
                return await doing(connection, frontier, span, rows)
        return None

    async def _workflows(self, connection: AsyncConnection[Any], frontier: Frontier, span: Span, rows: int) -> Batch:
        schema = self._schema
        done: _Done | None = None
        # Pipelined: turns of a busy event loop would be time in which the locks are held.
        async with connection.pipeline(), connection.transaction():
            await send(connection, schema, retention.read_committed())
            await send(connection, schema, retention.bound(statement_ms=STATEMENT_MS))
            looking = await send(connection, schema, retention.look(span, rows=rows, lock=not self._dry_run))
            window = await looking.fetchone()
            assert window is not None, "a look returns one row"
            assert span.start <= window.upto < span.end, f"{span}: looked up to {window.upto}"
            if window.paused is not None and not self._dry_run:
                return Batch(deleted={}, paused=window.paused)
            if window.due:
                done = await self._delete(connection, span, window, rows)
                reach(CrashPoint.RETENTION_DELETED)
        deleted, busy_s = ({}, 0.0) if done is None else await done.read()
        if deleted:
            reach(CrashPoint.RETENTION_DURABLE)
        count = sum(deleted.values())
        # A window has more rows than it was to have where many were created in one millisecond: the rest comes next.
        has_more = count >= rows and not self._dry_run
        is_ahead = frontier.is_ahead
        if not has_more and not (window.missing and await self._make_horizons(connection, window.missing)):
            left = span.start if count < window.due else None
            frontier.passed(window.upto, min((at for at in (left, window.left) if at is not None), default=None))
        return Batch(
            deleted=deleted,
            late_ms=span.end - window.oldest_end if window.oldest_end is not None and is_ahead else None,
            is_full=count >= rows,
            busy_s=busy_s + window.busy_ms / 1000,
        )

    async def _delete(self, connection: AsyncConnection[Any], span: Span, window: Window, rows: int) -> _Done:
        names = window.sources or () if self._dry_run else window.locked
        delete = retention.delete(
            span,
            upto=window.upto,
            partitions={source: parts for source in names if (parts := parts_of(source)) is not None},
            rows=window.due if self._dry_run else rows,
            dry_run=self._dry_run,
        )
        began = await send(connection, self._schema, retention.tick())
        # Sent when the locks are there: it sees progress as the last seek left it (P30).
        deleting = await send(connection, self._schema, delete)
        return _Done(began, deleting, await send(connection, self._schema, retention.tick()))

    async def _make_horizons(self, connection: AsyncConnection[Any], sources: list[str]) -> bool:
        """Give partitions the row that a deletion and a seek lock. False: a seek is at it, and in no hurry."""
        if self._dry_run:
            return False
        try:
            await send(connection, self._schema, retention.make_horizons(sources=sources, lock_ms=LOCK_MS))
        except errors.LockNotAvailable:
            return False
        return True

    async def _letters(self, connection: AsyncConnection[Any], frontier: Frontier, span: Span, rows: int) -> Batch:
        async with connection.pipeline(), connection.transaction():
            await send(connection, self._schema, retention.bound(statement_ms=STATEMENT_MS))
            delete = retention.delete_letters(span, rows=rows, dry_run=self._dry_run)
            deleting = await send(connection, self._schema, delete)
        found = await deleting.fetchall()
        if found[0].paused is not None and not self._dry_run:
            return Batch(deleted={}, paused=found[0].paused)
        frontier.passed(found[0].upto, None)
        return Batch(deleted={(row.handler, span.kinds[0]): row.rows for row in found if row.handler is not None})
