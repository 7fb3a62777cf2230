"""What stands in the database of a partition already: taken over, looked up, woken (P10, P15, P16, P18).

open rows of the claim ─┬─ below `next`, and those of former topics of the name: entered at once, by place
├─ at or above it: when the fetch reaches or passes them
└─ a live executor's late run: holds its key, watched until it has ended
records below `high` ───── looked up under the fence before any of them runs
rows at rest, found by the scan ── operators' retries, handed over, slept
whoever may run ─▶ acquire: its owner is written first, in a flush that reads its history
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from engine.clock import now_ms
from engine.failures import encode_error, summary
from engine.handlers import UndecodableError
from engine.ids import OrderingKey, WorkflowId
from engine.in_flight import count, uncount
from engine.incarnations import former_place
from engine.keys import Asleep, by_place
from engine.payloads import UnreadablePayloadError
from engine.records import Record
from engine.runner import Ending, Phase, Row, Run, Standing
from engine.sealed_rows import opened_history, opened_record
from engine.states import OPEN, WorkflowStatus
from engine.store.asleep import AsleepRow
from engine.store.operation_outputs import CheckpointRow
from engine.store.workflow_status import AcquiredRow, FoundRow, OpenRow
from engine.telemetry import RecordsDecided, SuspectStarted

if TYPE_CHECKING:
    from engine.inbox import Inbox

LOOK_UPS_MAX = 1_000
"""Records looked up in one flush."""

STAYS_MS = 1_000
"""A workflow that wakes within so long stays in memory."""


class OpenRows:
    """The rows of one claim that were there before it, or came from elsewhere."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.has_taken_over = False
        """Whether the open rows of the claim are here: before, a row at rest may stand behind one that is not."""
        self.looking: dict[WorkflowId, Record] = {}
        """Records whose rows are being asked for."""
        self.ahead: deque[Run] = deque()
        """Open rows that the fetch has not reached (P15)."""
        self._ahead_ids: set[WorkflowId] = set()
        self._wakeable: deque[Run] = deque()
        self.rested: set[WorkflowId] = set()
        """Who has come to rest since the look under way was asked for: it may have read that they were due before."""

    # -- the claim's --

    def take_over(self, rows: Sequence[OpenRow], next_offset: int) -> None:
        """The open rows read after the claim (P10): foreign ones hold their keys at once, the rest by place."""
        stubs = [self._stub(row) for row in rows]
        for stub in stubs:
            if stub.row is Row.FOREIGN:
                self._inbox.enter(stub)
        ours = sorted((s for s in stubs if s.row is not Row.FOREIGN), key=_due_at)
        self.ahead = deque(stub for stub in ours if _due_at(stub) > next_offset)
        self._ahead_ids = {stub.id for stub in self.ahead}
        for stub in sorted(ours[: len(ours) - len(self.ahead)], key=by_place):
            self._inbox.enter(stub)
        self.has_taken_over = True

    def are_asleep(self, rows: Sequence[AsleepRow]) -> None:
        """Sleepers of the claim, read after its open rows: they keep their keys. Who is in both lists ran until just now."""
        keys = self._inbox.keys
        for row in rows:
            if row.workflow_id not in self._inbox.runs and row.workflow_id not in self._ahead_ids:
                place = self._place(row.source, row.offset) if row.place is None else row.place
                keys.asleep[OrderingKey(row.key)] = Asleep(row.workflow_id, row.offset, place, row.wake_at)

    def pass_by(self, offset: int) -> None:
        """Open rows at or above the claim's `next` may run when the fetch reaches or passes them (P15)."""
        while self.ahead and _due_at(self.ahead[0]) <= offset:
            run = self.ahead.popleft()
            self._ahead_ids.discard(run.id)
            self._inbox.enter(run)

    def _stub(self, row: OpenRow | FoundRow) -> Run:
        """A run without its payload, for a row."""
        offset = int(row.workflow_id.rpartition("-")[2])
        run = Run(self._inbox, offset=offset, key=None if row.key is None else OrderingKey(row.key), record=None)
        run.id = row.workflow_id
        run.place = self._place(row.source, offset) if row.place is None else row.place
        run.row = Row.FOREIGN if row.owner is not None and row.owner_alive else Row.REST
        run.wake_at = row.wake_at
        return run

    def _place(self, source: str | None, offset: int) -> int:
        """The place of a row that was given none (P18)."""
        former = self._inbox.source.former_names
        if source not in former:
            return offset
        return former_place(offset, topics_before=len(former) - former.index(source))

    # -- looked up --

    def look_up(self, first: Record) -> None:
        """Ask for the rows of records below `high`, under the fence, before any of them runs (P16)."""
        inbox = self._inbox
        self.looking[WorkflowId(f"{inbox.id_prefix}{first.offset}")] = first
        while inbox.backlog and inbox.backlog[0].offset < inbox.high and len(self.looking) < LOOK_UPS_MAX:
            record = inbox.backlog.popleft()
            inbox.engine.backlog_bytes -= record.size
            self.looking[WorkflowId(f"{inbox.id_prefix}{record.offset}")] = record
        inbox.source.wants(look_up=True)

    def looked_up(self, found: Mapping[WorkflowId, FoundRow]) -> bool:
        """The rows of the records asked for: known ones are done, open ones wait as rows, the others are fresh.

        Returns False where a row is another record's: the partition halts.
        """
        inbox = self._inbox
        looking, self.looking = self.looking, {}
        known = 0
        records = iter(looking.items())
        for workflow_id, record in records:
            self.pass_by(record.offset)
            row = found.get(workflow_id)
            if row is None:
                inbox.admit(record)
                if inbox.undecided.is_waiting:
                    inbox.undecided.hold_back_behind([later for _, later in records])
                    break
                continue
            if reason := inbox.source.mismatch(row, record):
                inbox.source.halt_soon(reason)
                return False
            inbox.offsets.settle(record.offset)
            known += 1
            self.pass_by(record.offset + 1)
            if row.status in OPEN and not (workflow_id in inbox.runs or workflow_id in self._ahead_ids):
                stub = self._stub(row)
                if not self._sleeps(stub):
                    inbox.enter(stub)
        if not inbox.undecided.is_waiting:
            inbox.undecided.went_on()
        if known:
            inbox.engine.telemetry.emit(RecordsDecided(inbox.source.ref, "known", known))
            inbox.source.advance()
        return True

    # -- asleep --

    def lay_down(self, run: Run) -> bool:
        """A workflow rests for long within an attempt: it leaves memory, all but its key (I10). False: it is to stay."""
        inbox = self._inbox
        if run.wake_at is None or run.wake_at - now_ms() < STAYS_MS or not inbox.keys.lay_down(run):
            return False
        run.phase = Phase.DONE
        run.task = run.context = None
        inbox.runs.pop(run.id, None)
        inbox.engine.scan.due_at(run.wake_at)
        return True

    def recall(self, key: OrderingKey, asleep: Asleep) -> Run:
        """A sleeper as a run at rest: somebody waits behind it now."""
        run = self._roused(key, asleep)
        self._inbox.engine.call_later(0, self._inbox.go, run)
        return run

    def cancelled(self, ids: AbstractSet[str]) -> list[Run]:
        """Rows were cancelled: keys of those at rest go on. Returns those that run here."""
        inbox = self._inbox
        keys = inbox.keys
        for key in [key for key, each in keys.asleep.items() if each.workflow_id in ids]:
            self._look_at(key)
        found = [inbox.runs[WorkflowId(workflow_id)] for workflow_id in ids & inbox.runs.keys()]
        for run in found:
            if run.phase is Phase.WAITING and run.row is Row.REST and keys.may_go(run):
                self.acquire(run)  # which finds it ended, and frees its key (P18)
        return [run for run in found if run.phase is Phase.RUNNING and run.row is Row.RUNNING]

    def _look_at(self, key: OrderingKey) -> None:
        """Look at a sleeper's row at once: it may have ended."""
        run = self._roused(key, self._inbox.keys.asleep[key])
        self._inbox.keys.take(run)
        self.acquire(run)

    def _roused(self, key: OrderingKey, asleep: Asleep) -> Run:
        """A sleeper as a run in memory."""
        run = Run(self._inbox, offset=asleep.offset, key=key, record=None)
        run.id = asleep.workflow_id
        run.place, run.row, run.wake_at = asleep.place, Row.REST, asleep.wake_at
        self._inbox.runs[run.id] = run
        return run

    def _sleeps(self, stub: Run) -> bool:
        """Whether a row that was looked up needs no run now: it is at rest, and keeps a key that is noted, or has none."""
        keys = self._inbox.keys
        if stub.row is not Row.REST or stub.wake_at is None or stub.wake_at <= now_ms():
            return False
        return stub.key is None or (stub.key in keys.asleep and keys.asleep[stub.key].workflow_id == stub.id)

    # -- the scan's --

    def is_due(self, workflow_id: str) -> None:
        """A row that is known here is due, perhaps since a signal came: it need not wait for its time."""
        run = self._inbox.runs.get(WorkflowId(workflow_id))
        if (
            run is not None
            and run.phase is Phase.WAITING
            and run.row is Row.REST
            and run.wake_at is not None
            and run.wake_at > now_ms()
            and run.id not in self.rested
            and self._inbox.keys.may_go(run)
        ):
            run.wake_at = 0
            self._inbox.go(run)

    def take_rows(self, rows: Sequence[FoundRow]) -> int:
        """Rows at rest that nobody here knew: operators' retries, handed over, or slept. By place, whatever their order.

        One waits for another look while records before its place wait to be admitted: it must not overtake them. Returns
        how many were taken.
        """
        inbox = self._inbox
        if not inbox.is_open or not self.has_taken_over:
            return 0
        taken = 0
        if self.looking:
            frontier = next(iter(self.looking.values())).offset
        else:
            frontier = inbox.backlog[0].offset if inbox.backlog else inbox.offsets.position
        stubs = [self._stub(row) for row in rows]
        for stub in sorted(stubs, key=by_place):
            if _due_at(stub) <= frontier and not self.knows(stub.id):
                inbox.enter(stub)
                taken += 1
        return taken

    def knows(self, workflow_id: str) -> bool:
        """Whether a row is in memory here, or above what Kafka has delivered so far (P15)."""
        inbox = self._inbox
        return (
            workflow_id in inbox.runs
            or workflow_id in self.looking
            or workflow_id in self._ahead_ids
            or (
                workflow_id.startswith(inbox.id_prefix)
                and int(workflow_id.rpartition("-")[2]) >= inbox.offsets.position
            )
        )

    def known(self) -> list[str]:
        """The IDs of the rows in memory here, and of those Kafka has not reached."""
        return [*self._inbox.runs, *(run.id for run in self.ahead)]

    # -- waking --

    def wake(self, run: Run) -> None:
        """A row at rest may run, when there is room."""
        inbox = self._inbox
        if inbox.is_open and run.phase is Phase.WAITING and inbox.keys.may_go(run):
            self._wakeable.append(run)
            inbox.pump()

    def wake_up(self) -> None:
        """Acquire whoever there is room for."""
        while self._wakeable and self._inbox.engine.has_room():
            run = self._wakeable.popleft()
            if run.phase is Phase.WAITING and self._inbox.keys.may_go(run):
                self.acquire(run)

    def examine(self, run: Run) -> None:
        """Look again at a row that was a live executor's: acquire it, or learn that it has ended."""
        run.row = Row.REST
        self.acquire(run)

    def acquire(self, run: Run) -> None:
        """Have its owner written, and its history read."""
        run.phase = Phase.ACQUIRING
        count(run)
        self._inbox.source.wants(acquire=run)

    def acquired(self, run: Run, row: AcquiredRow, history: Sequence[CheckpointRow]) -> None:
        """A row is ours: run it from its history. One that was running when its process died is a suspect (P22)."""
        run.row = Row.RUNNING
        if run.standing is not Standing.ACTIVE or not self._inbox.is_open:
            return  # a release is on its way, and puts the row back to rest
        run.recovery_attempts = row.recovery_attempts
        run.attempt = row.attempt
        run.alone_deaths = row.alone
        run.wake_at = None
        try:
            history = opened_history(history, self._inbox.engine.payloads)
            run.record = opened_record(row, self._inbox.engine.payloads)
        except UnreadablePayloadError as error:
            self._inbox.source.halt_soon(str(error))
            return  # the release puts the row back to rest
        except Exception as error:  # noqa: BLE001  # a row of another program's: its failure
            unreadable = error
        else:
            unreadable = None
        run.history = {checkpoint.function_id: checkpoint for checkpoint in history} or None
        run.durable_ids = [checkpoint.function_id for checkpoint in history]
        run.recorded = run.durable = len(run.durable_ids)
        if unreadable is not None:
            run.record = Record(self._inbox.source.ref.topic, self._inbox.source.ref.partition, run.offset, None, None)
            self._inbox.fail(
                run, UndecodableError(f"the row cannot be read back: {summary(unreadable)}"), "undecodable"
            )
            return
        uncount(run)
        count(run)
        if run.recovery_attempts:
            alone = run.recovery_attempts >= 2
            self._inbox.engine.telemetry.emit(SuspectStarted(run.id, run.recovery_attempts, alone))
        self._inbox.start(run)

    def bury(self, run: Run) -> None:
        """It has killed its process too often, alone (P22)."""
        error = RuntimeError("killed its process every time it ran alone")
        status = WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED
        ending = Ending(status, error=encode_error(error), reason="killed its process", summary=summary(error))
        self._inbox.end(run, ending)

    def not_acquired(self, run: Run, row: FoundRow | None) -> None:
        """A row that could not be made ours: finished elsewhere (its key goes on), or a live executor's.

        One that was cancelled under a live executor may have a step that still runs there (P18).
        """
        uncount(run)
        mine = self._inbox.token
        runs_elsewhere = row is not None and row.owner not in (None, mine) and row.owner_alive
        if row is None or (row.status not in OPEN and not runs_elsewhere):
            if row is not None and row.owner == mine:
                self._inbox.engine.late.let_go(run.id, mine, self._inbox.source.name)
            self._inbox.free(run)
            return
        run.phase = Phase.WAITING
        if row.owner is None or not row.owner_alive:
            # Handed over meanwhile, perhaps to rest until another attempt (P12, P28).
            run.row, run.wake_at = Row.REST, row.wake_at
            self._inbox.go(run)
            return
        run.row = Row.FOREIGN
        self._inbox.engine.watch_foreign(run)

    # -- leaving --

    def forget(self) -> None:
        """Nothing of it is taken any more; the rows are the next owner's."""
        self.looking.clear()
        self._wakeable.clear()
        self.ahead.clear()
        self._ahead_ids.clear()
        self._inbox.keys.asleep.clear()


def _due_at(run: Run) -> int:
    """From which position of the fetch on a row may run: behind every record before its place and itself (P15, P18)."""
    return max(run.place, run.offset + 1) if run.id.startswith(run.inbox.id_prefix) else run.place
