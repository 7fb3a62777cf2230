"""One partition proven or not: its progress, its rows and Kafka's log against each other (`processor verify`).

    look at progress ─▶ look at the log ─▶ judge both ─▶ read the log in windows, judge each against its rows

In that order: what is committed meanwhile lies above the progress that was read, and is not judged.
"""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from consumers import reading
from consumers.cluster import Cluster
from consumers.errors import may_pass
from consumers.offsets import Target
from consumers.reading import LogNotReadError, Window
from consumers.settings import GroupSettings, StartAt
from consumers.validation import Halt, Log, Wait, judge
from engine import completeness
from engine.completeness import Decide, Kind, Standing, Tally
from engine.partitions import Place
from engine.ranges import Range


def _nobody(count: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found of a partition.

    Attributes:
        standing: As it stood.
        range: The offsets that were judged.
        lag: Records beyond the progress that readers of committed ones can reach, in offsets; `None`: not known.
        tally: What became of the offsets, and what is wrong.
    """

    standing: Standing
    range: Range
    lag: int | None
    tally: Tally

    @property
    def is_proven(self) -> bool:
        """Whether nothing was found."""
        return not self.tally.findings

    @property
    def judged_nothing(self) -> bool:
        """Whether its range had no offset, though its log is as it should be."""
        return self.range[0] >= self.range[1] and self.tally.findings.keys() <= {Kind.NOTHING}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which offsets: from where, `None` the start of the log; to where, `None` the progress; and whether all must be done."""

    start: Target | None = None
    end: Target | None = None
    finished: bool = False


class Verification:
    """Proves partitions of one group, one after the other.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        settings: Of the group.
        cluster: Open.
        expect: Told how many offsets of a partition there are to judge.
        judged: Told how many more were.
    """

    def __init__(
        self,
        connection: Any,
        schema: str,
        settings: GroupSettings,
        cluster: Cluster,
        *,
        expect: Callable[[int], None] = _nobody,
        judged: Callable[[int], None] = _nobody,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._settings = settings
        self._cluster = cluster
        self._expect, self._judged = expect, judged

    async def verify(self, place: Place, wanted: Wanted, decide: Decide | None) -> Verified:
        """Prove one partition.

        Raises:
            PartitionActError: There is no such partition.
        """
        standing = await completeness.look(self._connection, self._schema, place)
        tally = Tally()
        completeness.judge_progress(standing, tally)
        ref, after = place.ref(standing.handler), standing.progress.next
        try:
            log = await self._cluster.log(ref.topic, ref.partition)
            reachable = await self._cluster.ends([(ref.topic, ref.partition)], committed_only=True)
            start, end = [await self._locate(ref.topic, ref.partition, log, at) for at in (wanted.start, wanted.end)]
        except Exception as error:
            if not may_pass(error):
                raise
            tally.find(Kind.LOG, f"Kafka does not say what the log holds: {error}")
            return Verified(standing, (after, after), None, tally)
        lag = max(reachable[ref.topic, ref.partition] - after, 0)
        start, end = log.start if start is None else start, after if end is None else min(end, after)
        verdict = judge(standing.progress, log, place=place)
        if isinstance(verdict, Halt | Wait):
            tally.find(Kind.LOG, verdict.reason)
            end = start if standing.progress.topic_id != log.topic_id else min(end, log.end)
        elif standing.owes_next:
            await self._judge_next(standing, tally, decide)
        if start >= end and not tally.findings and any(isinstance(at, int) for at in (wanted.start, wanted.end)):
            tally.find(Kind.NOTHING, f"no offset of it lies in the range and below the progress, {after}")
        self._expect(max(end - start, 0))
        await self._below_log(standing, tally, start, min(end, log.start))
        await self._read(standing, tally, max(start, log.start), end, decide)
        completeness.judge_counts(standing, tally)
        if wanted.finished:
            self._judge_finished(tally, lag)
        return Verified(standing, (start, max(start, end)), lag, tally)

    async def _read(self, standing: Standing, tally: Tally, start: int, end: int, decide: Decide | None) -> None:
        if start >= end:
            return
        ref = standing.place.ref(standing.handler)
        compacts: bool | None = None
        knows = False
        stop = threading.Event()
        log = reading.windows(self._settings, (ref.topic, ref.partition), start, end, stopped=stop.is_set)
        try:
            while (window := await _following(log, stop)) is not None:
                await completeness.judge(
                    self._connection,
                    self._schema,
                    standing,
                    tally,
                    records=window.records,
                    aborted=window.aborted,
                    decide=decide,
                )
                if window.empty and not knows:
                    knows, compacts = True, await self._cluster.compacts(ref.topic)
                if compacts is False:
                    tally.markers += window.empty
                else:
                    tally.compacted += window.empty
                self._judged(window.end - window.start)
        except LogNotReadError as error:
            tally.find(Kind.UNREAD, f"{error}")
        finally:
            await asyncio.to_thread(log.close)

    async def _judge_next(self, standing: Standing, tally: Tally, decide: Decide | None) -> None:
        """Look at what the log has where the progress stands."""
        ref, at, behind = standing.place.ref(standing.handler), standing.progress.next, standing.first_row
        assert behind is not None, "or it would owe nothing"
        if behind == at:
            return  # found already
        stop = threading.Event()
        log = reading.windows(self._settings, (ref.topic, ref.partition), at, behind, stopped=stop.is_set)
        try:
            window = await _following(log, stop)
        except LogNotReadError as error:
            tally.find(Kind.UNREAD, f"{error}")
            return
        finally:
            await asyncio.to_thread(log.close)
        assert window is not None, "the range has an offset"
        record = next((each for each in window.records if each.offset == at), None)
        if record is None and at not in window.aborted and await self._cluster.compacts(ref.topic) is not False:
            return  # it may have been one that ran, and is compacted
        completeness.judge_next(standing, tally, record, decide)

    async def _below_log(self, standing: Standing, tally: Tally, start: int, end: int) -> None:
        while start < end:
            behind = min(start + reading.OFFSETS_MAX, end)
            await completeness.judge_below_log(self._connection, self._schema, standing, tally, range(start, behind))
            self._judged(behind - start)
            start = behind

    async def _locate(self, topic: str, partition: int, log: Log, target: Target | None) -> int | None:
        place = (topic, partition)
        match target:
            case datetime():
                return (await self._cluster.at_time([place], int(target.timestamp() * 1000)))[place]
            case StartAt.LATEST:
                return log.end
            case StartAt():
                return log.start
            case _:
                return target

    def _judge_finished(self, tally: Tally, lag: int) -> None:
        if tally.open:
            tally.find(Kind.OPEN, "workflows that have not ended", count=tally.open)
        if lag:
            tally.find(Kind.BEHIND, "offsets that were not taken yet", count=lag)


async def _following(windows: Generator[Window], stop: threading.Event) -> Window | None:
    """The next window, taken in a thread; cancelled, the thread is told and waited for: a generator has one user."""
    taking = asyncio.ensure_future(asyncio.to_thread(next, windows, None))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        stop.set()
        with suppress(LogNotReadError):
            await taking
        raise
