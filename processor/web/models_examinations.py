"""What the admin API shows of processes, lag, set-up and completeness, field by field. Times are in UTC."""

from collections.abc import Sequence
from datetime import datetime
from typing import Self

from pydantic import BaseModel

from engine.checkup import Check, Level
from engine.completeness import Finding, Tally
from engine.executors import state_of
from engine.resealing import KeyInUse, Resealed
from engine.store.checkup import ExecutorRow
from processor.lags import PartitionLag
from processor.proofs import Proof
from processor.verification import Verified
from processor.web.models import at

COUNTS = (
    *("records", "succeeded", "failed", "cancelled", "open", "filtered", "tombstones", "gap", "deleted", "undecided"),
    *("aborted", "markers", "compacted", "below_log", "below_log_rows"),
)
"""What became of offsets: `Tally` has them by these names."""


class ShownExecutor(BaseModel):
    """A process: `live`, `silent` (its lease is over) or `dead`; `claim_of`: it is a claim of that execution."""

    executor_id: str
    state: str
    name: str
    host: str
    pid: int
    version: str | None
    claim_of: str | None
    started_at: datetime
    renewed_at: datetime
    lease_s: float | None
    died_at: datetime | None
    partitions: int
    in_flight: int
    queues: Sequence[str]

    @classmethod
    def of(cls, row: ExecutorRow) -> Self:
        """The row."""
        return cls(
            executor_id=row.executor_id,
            state=state_of(row),
            name=row.name,
            host=row.hostname,
            pid=row.pid,
            version=row.version,
            claim_of=row.claim_of,
            started_at=at(row.started_at),
            renewed_at=at(row.renewed_at),
            lease_s=None if row.died_at is not None else round(row.lease_ms / 1000, 1),
            died_at=None if row.died_at is None else at(row.died_at),
            partitions=row.partitions,
            in_flight=row.in_flight,
            queues=row.queues or (),
        )


class ShownLag(BaseModel):
    """How far a partition is behind. None: it is not known. `lag_s`: the age of the first record that was not processed."""

    group: str
    partition: str
    handler: str
    next: int
    end: int | None
    lag: int | None
    lag_s: float | None
    open_transactions: int | None

    @classmethod
    def of(cls, lag: PartitionLag) -> Self:
        """The measurement."""
        return cls(**{name: getattr(lag, name) for name in cls.model_fields})


class ShownCheck(BaseModel):
    """One thing that was looked at; `advice`: what to do, '' where nothing is."""

    level: Level
    subject: str
    message: str
    advice: str

    @classmethod
    def of(cls, check: Check) -> Self:
        """The check."""
        return cls(level=check.level, subject=check.subject, message=check.message, advice=check.advice)


class Checkup(BaseModel):
    """Everything that was looked at, and whether nothing of it is a problem."""

    is_well: bool
    checks: Sequence[ShownCheck]

    @classmethod
    def of(cls, checks: Sequence[Check]) -> Self:
        """The checks."""
        is_well = all(each.level is not Level.PROBLEM for each in checks)
        return cls(is_well=is_well, checks=[ShownCheck.of(each) for each in checks])


class ShownFinding(BaseModel):
    """What is not as it should be; `examples`: some offsets or IDs."""

    kind: str
    message: str
    count: int
    examples: Sequence[str]

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """The finding."""
        return cls(
            kind=finding.kind, message=finding.message, count=finding.count, examples=[*map(str, finding.examples)]
        )


class VerifiedPartition(BaseModel):
    """A partition's offsets in [start, end), by what became of them; proven where nothing was found."""

    group: str
    partition: str
    handler: str
    incarnation: int
    start: int
    end: int
    next: int
    high: int
    horizon: int | None
    lag: int | None
    holds: int
    counts: dict[str, int]
    is_proven: bool
    findings: Sequence[ShownFinding]

    @classmethod
    def of(cls, verified: Verified) -> Self:
        """What was found."""
        standing, tally = verified.standing, verified.tally
        return cls(
            group=standing.place.group,
            partition=standing.place.topic_partition,
            handler=standing.handler,
            incarnation=standing.progress.incarnation,
            start=verified.range[0],
            end=verified.range[1],
            next=standing.progress.next,
            high=standing.progress.high,
            horizon=standing.horizon or None,
            lag=verified.lag,
            holds=standing.holds,
            counts={name: getattr(tally, name) for name in COUNTS},
            is_proven=verified.is_proven,
            findings=_findings(tally),
        )


class UnclaimedPartition(BaseModel):
    """A partition without progress, though its log has `offsets` (none: it is not known), or rows of it stand here."""

    group: str
    partition: str
    offsets: int | None
    has_rows: bool


class ShownProof(BaseModel):
    """Whether everything is there; `effects`: what is wrong with them, if they were asked for."""

    is_proven: bool
    partitions: Sequence[VerifiedPartition]
    unclaimed: Sequence[UnclaimedPartition]
    effects: Sequence[ShownFinding] | None

    @classmethod
    def of(cls, proof: Proof) -> Self:
        """The proof."""
        return cls(
            is_proven=proof.is_whole,
            partitions=[VerifiedPartition.of(each) for each in proof.partitions],
            unclaimed=[
                UnclaimedPartition(
                    group=each.place.group,
                    partition=each.place.topic_partition,
                    offsets=each.offsets,
                    has_rows=each.has_rows,
                )
                for each in proof.unclaimed
            ],
            effects=None if proof.effects is None else _findings(proof.effects),
        )


class ShownKey(BaseModel):
    """Values of one column under one key; without a key they stand readable."""

    table: str
    column: str
    key: str | None
    values: int
    is_configured: bool

    @classmethod
    def of(cls, used: KeyInUse, *, known: bool) -> Self:
        """The count."""
        return cls(table=used.table, column=used.column, key=used.key_id, values=used.values, is_configured=known)


class Rotated(BaseModel):
    """Values that were sealed anew or opened, and those that cannot be opened: they were left as they are."""

    values: int
    unreadable: int
    why: Sequence[str]

    @classmethod
    def of(cls, done: Resealed) -> Self:
        """What a run has done."""
        return cls(values=done.values, unreadable=done.unreadable_count, why=done.unreadable)


def _findings(tally: Tally) -> list[ShownFinding]:
    return [ShownFinding.of(each) for each in tally.findings.values()]
