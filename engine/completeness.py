"""Whether every record below a partition's progress has its row, or a recorded reason why it has none (I1 to I3).

    Kafka's log, a window at a time ──▶ judge ◀── rows of those offsets, horizon, gaps
                                          │
                                          └──▶ Tally: how many of each kind, and findings

Nothing is locked and nothing is written: it may run beside everything, on a standby too. Progress is read first and rows
afterwards, so what is committed meanwhile is not missed; a row that is missing is looked for once more under the horizon
and the gaps of then, because retention deletes rows and writes the horizon in one commit (P30).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from psycopg import AsyncConnection

from engine.handlers import Decision
from engine.partitions import Place, unknown
from engine.progress import Progress
from engine.ranges import Range
from engine.records import Record
from engine.states import WorkflowStatus
from engine.store import completeness as store
from engine.store.completeness import EXAMPLES_MAX, OffsetRow
from engine.store.statement import send

Decide = Callable[[Record], Decision | None]
"""What the app says of a record: why it has no workflow, or `None`."""

ABOVE_LOOKED_AT = 1_000
"""Offsets from `high` on that are looked at for rows, where none may be."""

BEHIND_LOOKED_AT = 10_000
"""Offsets from the progress on that are looked at for the first row: as many as one partition has under way."""


class Kind(StrEnum):
    """What a finding says."""

    LOST = "lost"
    """A record below the progress has no row, and no reason is recorded."""
    UNPROVEN = "unproven"
    """As lost, where a filter may have passed over it: only the app could say."""
    MISCOUNTED = "miscounted"
    """More records would be passed over than were ever decided so: rows are missing among them."""
    OTHER_RECORD = "other record"
    """The row of an offset was made of another record: the log, or the row, was rewritten."""
    FOREIGN_ROW = "foreign row"
    """The row of an offset is another program's, or has an unknown status."""
    ABORTED = "aborted"
    """A record of a transaction that was aborted has a row."""
    PROGRESS_BEHIND = "progress behind"
    """The record at the progress has its row, or needs none though later ones have theirs: progress was moved back, and not
    by a seek."""
    ABOVE_HIGH = "above high"
    """Rows stand above the highest that progress knows of: it was moved back."""
    UNBURIED = "no dead letter"
    """A record that was given up has no dead letter, so that nobody would ever decide about it."""
    NOTHING = "nothing"
    """The range that was asked for has no offset below the progress: nothing was judged."""
    LOG = "log"
    """The log is not the one of the progress: another topic, cut, or its oldest records are gone."""
    UNREAD = "unread"
    """The log was not read to the end of the range."""
    OPEN = "open"
    """Workflows that have not ended, where all were to have."""
    BEHIND = "behind"
    """Records that were not taken yet, where all were to be."""
    MISSING_EFFECT = "missing effect"
    DOUBLED_EFFECT = "doubled effect"
    ORPHANED_EFFECT = "orphaned effect"
    """An effect of a record that has no row, and never had one."""
    NOBODYS_EFFECT = "nobody's effect"
    """An effect that names no workflow that stands, nor a record of any partition that has progress."""


@dataclass(slots=True)
class Finding:
    """What is wrong, how often, and where: offsets or workflow IDs, the first ones."""

    kind: Kind
    message: str
    count: int = 1
    examples: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Standing:
    """A partition as it stood when it was looked at.

    Attributes:
        place, handler, epoch, progress: Whose it is, and where it is.
        source, prefix: Of its rows, in the incarnation that there is: `kafka_source`, and what stands before the offset.
        former: `source` and `prefix` of the topics that had its name before.
        holds: Reasons stored why it, or keys of it, do not go on.
        horizon: Below it rows may have been deleted (P30).
        gaps: What no row will ever stand for, by decision.
        first_row: The first offset from the progress on, below `high`, that has a row; `None`: none, or far away.
        above: Offsets at or above `high` that have rows.
    """

    place: Place
    handler: str
    epoch: int
    progress: Progress
    source: str
    prefix: str
    former: tuple[tuple[str, str], ...]
    holds: int
    horizon: int
    gaps: tuple[Range, ...]
    first_row: int | None
    above: tuple[int, ...]

    @property
    def owes_next(self) -> bool:
        """Whether the record at the progress must be one that runs, as rows stand behind it and no seek or gap says why.

        Progress stands at the first record that has neither row nor decision, or behind all of them (I3).
        """
        sought = any(start <= self.progress.next < end for start, end in self.progress.counted)
        behind_gap = any(end == self.progress.next for _, end in self.gaps)
        return self.first_row is not None and not sought and not behind_gap


@dataclass(slots=True)
class Tally:
    """What became of the offsets of a range.

    Attributes:
        records: That the log has, for readers of committed ones.
        succeeded, failed, cancelled, open: Rows of them, by status; `failed` are given up.
        filtered, tombstones: Without a row, by the app's decision.
        gap: Without one, as a recorded gap.
        deleted: Without one, below the horizon: deleted by retention, or passed over before.
        undecided: Without one, and only the app could say whether its filter passed them over.
        aborted, markers, compacted: Offsets without a record: of aborted transactions, their control records, or compacted.
        below_log: Offsets that Kafka no longer has; `below_log_rows` of them have a row.
    """

    records: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    open: int = 0
    filtered: int = 0
    tombstones: int = 0
    gap: int = 0
    deleted: int = 0
    undecided: int = 0
    aborted: int = 0
    markers: int = 0
    compacted: int = 0
    below_log: int = 0
    below_log_rows: int = 0
    findings: dict[Kind, Finding] = field(default_factory=dict[Kind, Finding])

    def find(self, kind: Kind, message: str, *examples: object, count: int | None = None) -> None:
        """Note what is wrong; of each kind one, counted, with its first examples."""
        finding = self.findings.setdefault(kind, Finding(kind, message, count=0))
        finding.count += max(len(examples), 1) if count is None else count
        room = EXAMPLES_MAX - len(finding.examples)
        finding.examples += [str(each) for each in examples[:room]]

    def count_row(self, status: str) -> None:
        """One row."""
        match status:
            case WorkflowStatus.SUCCESS:
                self.succeeded += 1
            case WorkflowStatus.CANCELLED:
                self.cancelled += 1
            case WorkflowStatus.ENQUEUED | WorkflowStatus.PENDING:
                self.open += 1
            case _:
                self.failed += 1


async def look(connection: AsyncConnection[Any], schema: str, place: Place) -> Standing:
    """A partition, in one snapshot.

    Raises:
        PartitionActError: There is no such partition.
    """
    topic = place.topic_partition.rpartition("-")[0]
    async with connection.transaction():
        await send(connection, schema, store.read_only())
        reading = store.standing(service=place.service_name, key=place.topic_partition, topic=topic)
        row = await (await send(connection, schema, reading)).fetchone()
        if row is None:
            raise unknown(place)
        progress, ref = Progress.decode(row.value, place), place.ref(row.handler)
        source = ref.name(progress.incarnation)
        owns = row.owner_group == place.service_name
        prefix = ref.id_prefix(owns_topic=owns, incarnation=progress.incarnation)
        former = [(ref.name(n), ref.id_prefix(owns_topic=owns, incarnation=n)) for n in range(1, progress.incarnation)]
        horizon, gaps = await _decided(connection, schema, source)
        # By IDs, as everything here: `high` and a bound above it, and the progress itself.
        behind = range(progress.next, min(progress.high, progress.next + BEHIND_LOOKED_AT))
        probed = [*behind, *range(progress.high, progress.high + ABOVE_LOOKED_AT)]
        found = await rows_of(connection, schema, prefix, probed)
    return Standing(
        place=place,
        handler=row.handler,
        epoch=row.epoch,
        progress=progress,
        source=source,
        prefix=prefix,
        former=tuple(former),
        holds=row.holds,
        horizon=horizon,
        gaps=gaps,
        first_row=min((offset for offset in found if offset < progress.high), default=None),
        above=tuple(sorted(offset for offset in found if offset >= progress.high)),
    )


async def rows_of(
    connection: AsyncConnection[Any], schema: str, prefix: str, offsets: Sequence[int]
) -> dict[int, OffsetRow]:
    """The rows that stand for offsets, by offset. As many offsets as the caller can hold."""
    if not offsets:
        return {}
    cursor = await send(connection, schema, store.rows_of(prefix=prefix, offsets=list(offsets)))
    return {row.offset: row for row in await cursor.fetchall()}


def judge_progress(standing: Standing, tally: Tally) -> None:
    """What progress alone says, with the rows around it (I3). Pure.

    At the progress no row stands: the commit that writes one moves progress over it. But for what a seek back left there,
    and at the end of a gap, which may have had rows beyond it already.
    """
    progress = standing.progress
    if standing.above:
        tally.find(Kind.ABOVE_HIGH, f"rows at or above {progress.high}, which progress says has none", *standing.above)
    if standing.owes_next and standing.first_row == progress.next:
        tally.find(
            Kind.PROGRESS_BEHIND,
            "its record has its row: progress was moved back, and no seek says so",
            progress.next,
        )


def judge_next(standing: Standing, tally: Tally, record: Record | None, decide: Decide | None) -> None:
    """The record at the progress, where rows stand behind it; `None`: the log has none there. Pure.

    It runs, or was running. What needs no row is behind the progress as soon as a later record has one (I3).
    """
    if record is None:
        why = "has no record"
    elif decide is None:
        if record.value is not None or not standing.progress.skipped:
            return  # only the app could say
        why = "is a tombstone"
    elif (decision := _decision(record, decide)) is not None:
        why = "is passed over by the filter" if decision is Decision.FILTERED else "is a tombstone"
    else:
        return
    tally.find(
        Kind.PROGRESS_BEHIND,
        f"it {why}, and {standing.first_row} behind it has its row: progress was moved back, and no seek says so",
        standing.progress.next,
    )


async def judge(
    connection: AsyncConnection[Any],
    schema: str,
    standing: Standing,
    tally: Tally,
    *,
    records: Sequence[Record],
    aborted: Sequence[int],
    decide: Decide | None,
) -> None:
    """Judge one window of the log: the records it has, and offsets that belong to aborted transactions."""
    rows = await rows_of(connection, schema, standing.prefix, [*(r.offset for r in records), *aborted])
    tally.records += len(records)
    tally.aborted += len(aborted)
    if wrong := [offset for offset in aborted if offset in rows]:
        tally.find(Kind.ABORTED, "rows of records whose transaction was aborted", *wrong)
    missing: list[Record] = []
    for record in records:
        row = rows.get(record.offset)
        if row is None:
            missing.append(record)
        elif _is_its_row(standing, record, row, tally):
            _count(row, tally)
    if missing:
        horizon, gaps = await _decided(connection, schema, standing.source)
        judge_missing(standing, tally, missing, horizon=horizon, gaps=gaps, decide=decide)


def judge_missing(
    standing: Standing,
    tally: Tally,
    missing: Iterable[Record],
    *,
    horizon: int,
    gaps: Sequence[Range],
    decide: Decide | None,
) -> None:
    """Why records have no row: a gap, the horizon, a decision, or no reason at all. Pure."""
    for record in missing:
        if any(start <= record.offset < end for start, end in gaps):
            tally.gap += 1
        elif record.offset < horizon:
            tally.deleted += 1
        elif decide is None:
            if record.value is None and standing.progress.skipped:
                tally.tombstones += 1
            elif standing.progress.filtered:
                tally.undecided += 1
                tally.find(
                    Kind.UNPROVEN,
                    "no row, and only the app can say whether its filter passed them over: give --app MODULE:app",
                    record.offset,
                )
            else:
                tally.find(Kind.LOST, "no row, and no reason is recorded", record.offset)
        else:
            _decide(record, decide, tally)


def judge_counts(standing: Standing, tally: Tally) -> None:
    """Whether more was passed over than progress ever counted (one way: the log may not have all of it any more). Pure."""
    progress = standing.progress
    counted, found = progress.filtered + progress.skipped, tally.filtered + tally.tombstones
    if found > counted:
        tally.find(
            Kind.MISCOUNTED,
            f"{found} records without a row would be passed over, and only {counted} ever were",
            count=found - counted,
        )


async def judge_below_log(
    connection: AsyncConnection[Any], schema: str, standing: Standing, tally: Tally, offsets: Sequence[int]
) -> None:
    """Offsets that Kafka no longer has: whether they were records nobody can say; what stands for them is counted."""
    tally.below_log += len(offsets)
    for row in (await rows_of(connection, schema, standing.prefix, offsets)).values():
        tally.below_log_rows += 1
        _count(row, tally)


def _count(row: OffsetRow, tally: Tally) -> None:
    tally.count_row(row.status)
    if row.lacks_letter:
        tally.find(Kind.UNBURIED, "records were given up, and their dead letters are not there", row.offset)


def _is_its_row(standing: Standing, record: Record, row: OffsetRow, tally: Tally) -> bool:
    if row.source != standing.source or row.status not in tuple(WorkflowStatus):
        what = f"rows that are not of {standing.source}, or have no known status"
        tally.find(Kind.FOREIGN_ROW, what, record.offset)
        return False
    if row.timestamp is not None and row.timestamp != record.timestamp_ms:
        tally.find(Kind.OTHER_RECORD, "rows made of another record than the log has (its time differs)", record.offset)
        return False
    return True


def _decision(record: Record, decide: Decide) -> Decision | None:
    try:
        return decide(record)
    except Exception:  # noqa: BLE001  # the user's predicate: such a record is a dead letter, with a row
        return None


def _decide(record: Record, decide: Decide, tally: Tally) -> None:
    match _decision(record, decide):
        case Decision.FILTERED:
            tally.filtered += 1
        case Decision.TOMBSTONE:
            tally.tombstones += 1
        case None:
            tally.find(Kind.LOST, "no row, and no reason is recorded", record.offset)


async def _decided(connection: AsyncConnection[Any], schema: str, source: str) -> tuple[int, tuple[Range, ...]]:
    row = await (await send(connection, schema, store.decided(source=source))).fetchone()
    assert row is not None, "a row of aggregates"
    return row[0], tuple((start, end) for start, end in row[1] or ())
