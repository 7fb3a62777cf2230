"""One flush: what of which runs and sources becomes durable together. Pure.

A flush holds its work until it is known to be durable: it can be sent again as it is, lose the parts whose source is
gone (`prune`), or be split in two (`halves`) to find the record that cannot be written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from engine.effects import Extras, Named, extras_of, lock
from engine.ids import ExecutorId, WorkflowId
from engine.outgoing import Outgoing
from engine.progress import Progress
from engine.rows import headers_text
from engine.runner import Ending, Phase, Row, Run
from engine.sealed_rows import outcome, sealed_record
from engine.states import WorkflowStatus
from engine.store import event_dispatch_kv, holds
from engine.store.operation_outputs import Checkpoint, CheckpointRow
from engine.store.statement import Statement
from engine.store.workflow_status import AcquiredRow, FoundRow

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.source import Source


class Group(Protocol):
    """Fused work that runs inside the flush, before the fence (P19)."""

    runs: list[Run]

    async def run(self, connection: AsyncConnection[Any]) -> None:
        """Run the handler over the group, in the open transaction."""
        ...

    def published(self) -> Sequence[Outgoing]:
        """What it published, once it has run."""
        ...

    def left_out(self) -> list[Run]:
        """Runs whose key was taken since the group was formed."""
        ...

    def caused(self, error: BaseException) -> bool:
        """Whether an error is about the user's statements or code."""
        ...

    def is_postponed(self, error: BaseException) -> bool:
        """Whether it did not begin, since it may not now."""
        ...

    def put_back(self, flushes: Sequence[Flush]) -> None:
        """Take its runs, and those of all its other parts, out of these flushes, to where they came from."""
        ...

    def split(self, flush: Flush, error: BaseException) -> list[Flush]:
        """What to send after an error of the handler's."""
        ...

    def halved(self, flush: Flush) -> list[Flush]:
        """What to send after bad weather."""
        ...

    def cut(self, flush: Flush) -> list[Flush]:
        """What to send after its connection broke and nothing was written."""
        ...

    def again(self, flush: Flush) -> list[Flush]:
        """The same group as a whole."""
        ...


@dataclass(slots=True)
class Written:
    """What a flush brought back."""

    acquired: Mapping[WorkflowId, AcquiredRow] = field(default_factory=dict[WorkflowId, AcquiredRow])
    found: Mapping[WorkflowId, FoundRow] = field(default_factory=dict[WorkflowId, FoundRow])
    histories: Mapping[str, Sequence[CheckpointRow]] = field(default_factory=dict[str, Sequence[CheckpointRow]])
    lost: Collection[WorkflowId] = ()
    """Whose earlier row was not PENDING under its owner any more: nothing was written of it (P7)."""
    holds: Sequence[holds.HoldRow] = ()
    more: Mapping[str, Sequence[tuple[Any, ...]]] = field(default_factory=dict[str, "Sequence[tuple[Any, ...]]"])
    """What every statement returned, by its name; nothing where the reply was lost."""


@dataclass(slots=True)
class ReadBack:
    """What a flush has written of earlier rows, as it is read afterwards where nobody has the server's answer (P23, P24)."""

    checkpoints: set[tuple[WorkflowId, int]]
    finished: set[WorkflowId] = field(default_factory=set[WorkflowId])
    rested: set[WorkflowId] = field(default_factory=set[WorkflowId])

    def has(self, work: Work) -> bool:
        """Whether everything a work wanted to write was written."""
        run = work.run
        if any((run.id, checkpoint.function_id) not in self.checkpoints for checkpoint in work.checkpoints):
            return False
        if work.ending is not None and work.ending.is_final:
            return run.id in self.finished
        return run.id in self.rested if work.rests else True


class Work:
    """What of one run a flush writes. `is_plain`: the first row of a workflow that has succeeded."""

    __slots__ = ("checkpoints", "ending", "inserts", "is_plain", "rests", "row_after", "run")

    def __init__(self, run: Run, *, releases: bool = False) -> None:
        self.run = run
        self.checkpoints: list[Checkpoint]
        self.checkpoints, run.unsent = run.unsent, []
        self.ending: Ending | None = run.ending if run.phase is Phase.ENDED else None
        if run.row is Row.NONE and self.ending is not None and self.ending.wake_at is None:
            # Nearly every record: its row comes with its end.
            self.inserts, self.rests, self.row_after = True, False, Row.RUNNING
            self.is_plain = self.ending.status is WorkflowStatus.SUCCESS
            return
        self.is_plain = False
        if run.row is Row.RUNNING and run.phase is Phase.RUNNING and self.ending is None:
            # A checkpoint of a workflow that goes on.
            self.inserts, self.rests, self.row_after = False, False, Row.RUNNING
            return
        self.inserts = run.row is Row.NONE and (
            self.ending is not None or bool(self.checkpoints) or run.needs_first_row or releases
        )
        final = self.ending is not None and self.ending.is_final
        runs = self.ending is None and (run.phase is Phase.RUNNING or (run.phase is Phase.PERSISTING and not releases))
        self.rests = (
            not self.inserts
            and run.row is Row.RUNNING
            and ((self.ending is not None and not final) or (releases and not runs and self.ending is None))
        )
        self.row_after = Row.RUNNING if runs or final else Row.REST

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.inserts or self.checkpoints or self.ending or self.rests)

    @property
    def size(self) -> int:
        """Rows."""
        return 1 + len(self.checkpoints)


class Part:
    """What of one source a flush writes and reads."""

    __slots__ = ("acquires", "look_ups", "progress", "releases", "source", "value")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.acquires: list[Run] = []
        self.look_ups: list[WorkflowId] = []
        self.releases = False
        self.progress: Progress = source.progress
        self.value = ""

    def seal(self, inserted: set[int]) -> None:
        """Compute the progress this flush writes: only what it, and those before it, make durable (I3)."""
        source, inbox = self.source, self.source.inbox
        next_offset = inbox.offsets.next_with(inserted)
        filtered, skipped = inbox.decisions.below(next_offset)
        self.progress = source.progress.to(
            next=next_offset,
            high=max(source.progress.high, source.high_min, max(inserted, default=-1) + 1),
            released=self.releases,
            leader_epoch=source.leader_epoch,
            topic_id=source.topic_id,
            filtered=source.progress.filtered + filtered,
            skipped=source.progress.skipped + skipped,
            waits=None if self.releases else source.inbox.undecided.reason,
        )
        self.value = self.progress.encode()

    def apply_reads(self, written: Written) -> None:
        """Hand what was read under the fence to the inbox."""
        inbox = self.source.inbox
        if self.acquires:
            self.source.found_holds(written.holds)
        for run in self.acquires:
            if (row := written.acquired.get(run.id)) is not None:
                inbox.rows.acquired(run, row, written.histories.get(run.id, ()))
            else:
                inbox.rows.not_acquired(run, written.found.get(run.id))
        if self.look_ups:
            inbox.looked_up({i: written.found[i] for i in self.look_ups if i in written.found})


class Flush:
    """Parts of sources, works of runs, and perhaps a fused group."""

    def __init__(self, executor_id: ExecutorId) -> None:
        self.executor_id = executor_id
        self.parts: list[Part] = []
        self.works: list[Work] = []
        self.group: Group | None = None
        self.extras: Extras | None = None
        self.publishes = False
        """Whether it wrote to the outbox when it was sent last."""

    @property
    def is_empty(self) -> bool:
        """Whether no source takes part."""
        return not self.parts

    @property
    def size(self) -> int:
        """Workflows that share it."""
        return len(self.works)

    @property
    def new_ids(self) -> list[str]:
        """Of workflows that no workflow starts, and that get their rows with this."""
        return [work.run.id for work in self.works if work.inserts]

    def prune(self) -> None:
        """Leave out sources that are gone, and compute every part's progress anew."""
        if any(part.source.is_gone for part in self.parts):
            self.parts = [part for part in self.parts if not part.source.is_gone]
            kept = {part.source for part in self.parts}
            self.works = [work for work in self.works if work.run.inbox.source in kept]
        if self.group is not None:
            left_out = set(self.group.left_out())
            self.works = [work for work in self.works if work.run not in left_out]
            if not self.parts or not self.group.runs:
                self.group = None
        inserted: dict[Source, set[int]] = {part.source: set() for part in self.parts}
        for work in self.works:
            if work.inserts:
                inserted[work.run.inbox.source].add(work.run.offset)
        for part in self.parts:
            part.seal(inserted[part.source])
        if self.works:
            self.extras = extras_of(self.works[0].run.home.engine, self.works)

    def fences(self) -> list[Named]:
        """What comes first: every source's progress, compare-and-set (P6); locks of rows that several may touch."""
        parts = sorted(self.parts, key=lambda part: (part.source.ref.service_name, part.source.ref.key))
        self.parts[:] = parts
        fence = event_dispatch_kv.fence(
            services=[part.source.ref.service_name for part in parts],
            keys=[part.source.ref.key for part in parts],
            epochs=[part.source.epoch for part in parts],
            held=[part.source.value for part in parts],
            written=[part.value for part in parts],
        )
        made: list[Named] = [("fence", fence)]
        if self.extras is not None and (others := self.extras.touches()):
            made.append(("lock", lock([work.run.id for work in self.works if not work.inserts], others)))
        return made

    def more(self) -> list[Named]:
        """What comes last."""
        return [] if self.extras is None else self.extras.statements()

    def applied(self, written: Written) -> None:
        """It is durable, and every run knows."""
        if self.extras is not None:
            self.extras.applied(written.more)

    def halves(self) -> list[Flush]:
        """Two flushes with half the works each, in order; the first has the reads. Of two works or more."""
        middle = len(self.works) // 2
        halves: list[Flush] = []
        for index, works in enumerate((self.works[:middle], self.works[middle:])):
            half = Flush(self.executor_id)
            half.works = works
            sources = {work.run.inbox.source for work in works}
            for part in self.parts:
                if index == 0 and (part.acquires or part.look_ups):
                    half.parts.append(part)
                elif part.source in sources:
                    copy = Part(part.source)
                    copy.releases = part.releases and index == 1
                    half.parts.append(copy)
            halves.append(half)
        if any(part.releases for part in self.parts):
            halves[1].parts = [self._releasing(half_parts=halves[1].parts, part=part) for part in self.parts]
        return halves

    def _releasing(self, *, half_parts: list[Part], part: Part) -> Part:
        for half_part in half_parts:
            if half_part.source is part.source:
                return half_part
        copy = Part(part.source)
        copy.releases = part.releases
        return copy

    def read_holds(self) -> Statement[holds.HoldRow]:
        """The holds of the sources that wake rows."""
        refs = [part.source.ref for part in self.parts if part.acquires]
        return holds.read(services=[ref.service_name for ref in refs], keys=[ref.key for ref in refs])

    @staticmethod
    def dead_letters(works: Sequence[Work]) -> Statement[Any]:
        """The dead letters of the works that failed for good."""
        rows = [(work.run, work.ending, work.run.record) for work in works]
        records = [_buried(run) for run in (work.run for work in works)]
        return holds.bury(
            ids=[run.id for run, _, _ in rows],
            statuses=[ending.status if ending else "" for _, ending, _ in rows],
            handlers=[run.handler.name for run, _, _ in rows],
            services=[run.inbox.source.ref.service_name for run, _, _ in rows],
            topics=[run.inbox.source.ref.topic for run, _, _ in rows],
            partitions=[run.inbox.source.ref.partition for run, _, _ in rows],
            offsets=[run.offset for run, _, _ in rows],
            keys=[key for key, _, _ in records],
            values=[value for _, value, _ in records],
            headers=[headers for _, _, headers in records],
            timestamps=[record.timestamp_ms if record else 0 for _, _, record in rows],
            reasons=[ending.reason if ending else "" for _, ending, _ in rows],
            errors=[outcome(ending, run.home.seal)[1] or "{}" for run, ending, _ in rows],
        )

    @staticmethod
    def holds(works: Sequence[Work]) -> Statement[Any]:
        """The holds that come with endings."""
        placed = [(work.run, work.ending.hold) for work in works if work.ending and work.ending.hold]
        return holds.place(
            services=[run.inbox.source.ref.service_name for run, _ in placed],
            keys=[run.inbox.source.ref.key for run, _ in placed],
            ordering_keys=[hold[1] for _, hold in placed],
            kinds=[hold[0] for _, hold in placed],
            reasons=[hold[2] for _, hold in placed],
            workflows=[run.id for run, _ in placed],
        )


def _buried(run: Run) -> tuple[bytes | None, bytes | None, str | None]:
    """Key, value and headers of a dead letter's record."""
    record, stored = run.record, run.handler.stored_headers
    if run.home.seal is not None:
        return sealed_record(record, stored, run.home.engine.payloads)
    if record is None:
        return None, None, None
    kept = tuple(header for header in record.headers if header[0] in stored)
    return record.key, record.value, headers_text(kept) if record.headers else None
