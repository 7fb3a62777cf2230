"""Takes records: decides, looks up what is known, decodes, orders by key, starts within the limits.

One inbox belongs to one claim of one partition. Everything here runs on the loop and does no I/O: what must become
durable, and what must be read under the fence, is handed to the committer as *work* and comes back as a call.

    deliver ─▶ backlog ─▶ look up (below `high`) ─▶ decide ─▶ decode ─▶ key free? ─▶ run
                             │ known: done                        │ taken: wait behind its holder
    open rows of the claim ──┴────────────────────────────────────┴──▶ acquire (owner written first) ─▶ run

A key's holder (`keys`) may run here, rest (retry), or be another executor's late run. Fused handlers let records without
a taken key gather in `group` instead. What stood in the database before is the business of `rows`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.admission import Decisions, decided, decode, raw_key_of, undecodable
from engine.congestion import is_congested
from engine.crashpoints import CrashPoint, reach
from engine.errors import NotYet
from engine.failures import encode_error, summary
from engine.handlers import Decision, Handler, HandlerKind
from engine.ids import PARTITION_KEY, OrderingKey, WorkflowId
from engine.in_flight import count, uncount
from engine.keys import Keys
from engine.not_yet import Undecided
from engine.open_rows import OpenRows
from engine.outcomes import Outcomes
from engine.progress import Offsets
from engine.raw_rows import RawRows
from engine.records import Record
from engine.runner import UNDECODED, Ending, Phase, Row, Run, Standing, now_ms
from engine.states import WorkflowStatus
from engine.store.workflow_status import FoundRow
from engine.telemetry import LateResultRefused, RecordsDecided, RecordsDelivered

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.source import Source


TIMER_MAX_S = 3_600.0
"""Longest timer of the loop: whoever rests longer is looked at again."""


class Inbox:
    """The records of one claim, from delivery to durable end."""

    has_source = True
    has_place = False

    def __init__(self, engine: Engine, source: Source, handler: Handler, *, cautious: bool) -> None:
        self.engine = engine
        self.loop = engine.loop
        self.source = source
        self.submit = source.submit
        self.handler = handler
        self.is_fused = handler.kind is not HandlerKind.JOURNALED
        self.token = source.token
        self.id_prefix = source.id_prefix
        self.source_name = source.name
        self.offsets = Offsets(source.progress.next)
        self.high = source.progress.high
        self.backlog: deque[Record] = deque()
        self.rows = OpenRows(self)
        self.keys = Keys(self.rows.recall)
        self.decisions = Decisions(source.progress.counted)
        self.undecided = Undecided(self)
        self.runs: dict[WorkflowId, Run] = {}
        self.group: deque[Run] = deque()
        self.is_open = True
        self.is_stopped = False
        """A hold on the partition is on its way: nothing starts any more, what runs goes on until the release."""
        self.parked = 0
        self._raw = RawRows(self)
        self._is_pumping = False
        self._cautious_left = engine.settings.in_flight_max if cautious else 0
        self.seal = engine.payloads.seal
        self._outcomes = Outcomes(handler, shows_errors=self.seal is None)
        self.body: Callable[..., Any] = engine.body_of(handler)

    # -- taking --

    def deliver(self, records: Sequence[Record]) -> None:
        """Take records in ascending order; those below the position are known already (a refetch)."""
        if not self.is_open:
            return
        offsets, backlog = self.offsets, self.backlog
        size = 0
        for record in records:
            if record.offset < offsets.position:
                continue
            offsets.deliver(record.offset)
            backlog.append(record)
            size += record.size
        self.engine.backlog_bytes += size
        self.engine.telemetry.emit(RecordsDelivered(self.source.ref, len(records), size))
        reach(CrashPoint.DELIVERED)
        self.pump()

    def reached(self, offset: int) -> None:
        """Kafka's position: whatever is not delivered below it does not exist."""
        if self.is_open and offset > self.offsets.position:
            self.offsets.reach(offset)
            self.pump()
            self.source.advance()

    def pump(self) -> None:
        """Start what the limits allow, in order; called whenever something ended."""
        engine = self.engine
        if self.is_stopped or self._is_pumping:
            # A row woken while a record is admitted must not admit the next record before it (I7).
            return
        self._is_pumping = True
        try:
            self._take_in()
        finally:
            self._is_pumping = False
        self.source.congested = is_congested(
            engine.settings,
            was=self.source.congested,
            backlog=len(self.backlog),
            backlog_bytes=engine.backlog_bytes,
            parked=self.parked,
        )

    def _take_in(self) -> None:
        engine = self.engine
        self.rows.wake_up()
        while self.backlog and not self.rows.looking and not self.undecided.is_waiting and engine.takes_in():
            if self._raw and not self._cautious_left:
                break  # raw rows of a cautious claim, whose keys nobody knows yet (P21)
            record = self.backlog.popleft()
            engine.backlog_bytes -= record.size
            if self.rows.ahead:
                self.rows.pass_by(record.offset)
            if record.offset < self.high:
                self.rows.look_up(record)
            else:
                self.admit(record)
        if not self.backlog and not self.rows.looking:
            self.rows.pass_by(self.offsets.position)
        self.rows.wake_up()

    def admit(self, record: Record) -> None:
        """A record that has no row: decide, decode, queue behind its key, start."""
        handler = self.handler
        if record.value is None or handler.filters:
            try:
                decision = decided(handler, record)
            except Exception as error:  # noqa: BLE001  # the user's predicate: the record's failure
                self._undecodable(record, error)
                return
            if decision is not None:
                self._decided(record, decision)
                return
        run = Run(self, offset=record.offset, key=None, record=record)
        try:
            if self._cautious_left > 0:
                # Its row comes first, undecoded: decoding may be what killed the process (P21).
                self._cautious_left -= 1
                run.needs_first_row = True
                run.key = raw_key_of(handler, record)
            else:
                run.needs_first_row = handler.persist_first
                decode(handler, run)
        except NotYet as signal:
            self.undecided.hold_back(record, signal)
            return
        except Exception as error:  # noqa: BLE001  # the user's codec or key: the record's failure
            self._undecodable(record, error)
            return
        if self.is_fused or run.needs_first_row:
            self.enter(run)
            return
        # What `enter`, `go` and `start` do for nearly every record, without asking what it is not.
        self.runs[run.id] = run
        count(run)
        if not self.keys.take(run) or run.key in self.keys.blocked:
            self.engine.watch(run)
        elif self.engine.has_late_or_suspect_runs():
            self.go(run)
        else:
            run.start()

    def looked_up(self, found: Mapping[WorkflowId, FoundRow]) -> None:
        """The rows of the records that were asked for (P16)."""
        self._is_pumping = True
        try:
            goes_on = self.rows.looked_up(found)
        finally:
            self._is_pumping = False
        if goes_on:
            self.pump()

    def _decided(self, record: Record, decision: Decision) -> None:
        self.offsets.settle(record.offset)
        self.decisions.add(record.offset, decision)
        self.engine.telemetry.emit(RecordsDecided(self.source.ref, decision.value, 1))
        self.source.advance()

    def _undecodable(self, record: Record, error: Exception) -> None:
        """A dead letter at once, in the commit that moves progress; its key goes on (design section 7)."""
        run = Run(self, offset=record.offset, key=None, record=record)
        count(run)
        self.runs[run.id] = run
        self.end(run, undecodable(error))

    # -- order --

    def enter(self, run: Run) -> None:
        """Queue a run behind its key, or start it."""
        self.runs[run.id] = run
        if run.row is not Row.FOREIGN and run.record is not None:
            count(run)
        key = run.key
        if key == PARTITION_KEY and not self.handler.ordered_by_partition:
            self._raw.add(run)
        if self.is_fused and key is not None and not self.keys.is_taken(key) and self._may_fuse(run):
            self.group.append(run)
            self.source.wants(group=True)
        elif not self.keys.take(run):
            if run.row is not Row.NONE:
                self._park(run)
            elif self.is_fused:
                self._rest_behind(run)
            else:
                self.engine.watch(run)
        elif key in self.keys.blocked:
            if run.row is Row.NONE:
                self.engine.watch(run)
        else:
            self.go(run)

    def poison(self, run: Run) -> None:
        """A fused record that failed standing alone: it becomes a journaled workflow, and its key waits (P19)."""
        run.needs_first_row = True
        self.left_behind(run)

    def left_behind(self, run: Run) -> None:
        """A fused record whose key was taken meanwhile: it waits behind the holder, at rest (P19)."""
        run.phase, run.ending = Phase.WAITING, None
        run.submitted = False
        if self.keys.take(run):
            self.go(run)
        else:
            self._rest_behind(run)

    def _rest_behind(self, run: Run) -> None:
        """A fused handler's record behind a taken key is persisted at rest, at once (P19)."""
        run.needs_first_row = True
        run.submit()

    def _may_fuse(self, run: Run) -> bool:
        return run.row is Row.NONE and not run.needs_first_row and run.key not in self.keys.blocked

    def go(self, run: Run) -> None:  # noqa: C901  # a list of cases
        """Start a run whose key is free: at once, after its first row, after its owner is written, or later."""
        if not self.is_open or self.is_stopped:
            return
        if run.is_parked:
            run.is_parked = False
            self.parked -= 1
        if run.phase is Phase.RESTING:
            return  # its row at rest is on its way; `persisted` goes on
        if self.engine.late.holds(run):
            # Its key is held by an abandoned run of ours that has not ended; `go` follows then. Its row comes as that
            # of any record that waits, and before its followers' (P8).
            if run.row is Row.NONE:
                self.engine.watch(run)
            return
        if run.row is Row.FOREIGN:
            self.engine.watch_foreign(run)
        elif run.row is Row.REST:
            if run.wake_at is not None and (delay_ms := run.wake_at - now_ms()) > 0:
                self.engine.call_later(min(delay_ms / 1000, TIMER_MAX_S), self._look_at, run)
            else:
                self.rows.wake(run)
        elif self.is_fused and run.key is None and self._may_fuse(run):
            self.group.append(run)
            self.source.wants(group=True)
        elif run.needs_first_row and run.row is Row.NONE:
            run.phase = Phase.PERSISTING
            run.submit()
        else:
            self.start(run)

    def _look_at(self, run: Run) -> None:
        """A run at rest is due, or its timer was as long as one can be."""
        if run.phase is Phase.WAITING and run.row is Row.REST:
            self.go(run)

    def start(self, run: Run) -> None:
        """Start a run, unless a suspect runs alone or it is one itself (P22)."""
        if run.recovery_attempts >= 2 and not run.is_alone:
            self.engine.suspects.put(run)
            return
        if self.engine.suspects.is_closed and not run.is_alone:
            run.phase = Phase.WAITING
            if run.row is Row.NONE:
                self.engine.watch(run)
            self.engine.suspects.defer(run)
            return
        self.begin(run)

    def resume(self, run: Run) -> None:
        """Start a run that waited for a suspect: over its row, if it came to rest meanwhile."""
        if run.phase is not Phase.WAITING or not self.keys.may_go(run):
            return
        if run.row is Row.RUNNING:
            self.start(run)
        else:
            self.go(run)

    def begin(self, run: Run) -> None:
        """Decode what was not, and run the handler's code."""
        if run.argument is UNDECODED:
            try:
                decode(self.handler, run)
                may_run = run not in self._raw or self._raw.takes_its_key(run)
            except NotYet as signal:
                self.undecided.wait(run, signal)
                return
            except Exception as error:  # noqa: BLE001  # the user's codec: the record's failure
                self.end(run, undecodable(error))
                return
            if not may_run:
                if run.is_alone:
                    self.engine.suspects.ended(run)
                return
        run.start()

    # -- endings --

    def ended(self, run: Run, ending: Ending | None) -> None:
        """A run's code has ended, and every step it called (P12)."""
        if ending is not None and run.standing is Standing.ACTIVE and run.doom is None:
            self.end(run, ending)
            return
        if run.is_alone and run.standing is not Standing.ACTIVE:
            self.engine.suspects.ended(run)
        if run.doom is not None:
            ending = run.doom
        if run.standing is Standing.ACTIVE:
            if ending is None:
                self.refuse(run, "suspended")
            else:
                self.end(run, ending)
        elif run.standing is Standing.LATE:
            run.phase = Phase.ENDED
            run.ending = ending
            if ending is not None:
                ending.hold = self._outcomes.hold_for(run, ending)
            self.engine.late_run_ended(run)
        else:
            run.phase = Phase.DONE
            self.engine.late.ended(run)
            if run.standing is Standing.REFUSED and self.is_open:
                self._free_after_look(run)

    def end(self, run: Run, ending: Ending) -> None:
        """An attempt has its ending: hand it to the committer."""
        run.phase = Phase.ENDED
        run.ending = ending
        if ending.status is not WorkflowStatus.SUCCESS:
            ending.hold = self._outcomes.hold_for(run, ending)
        if not run.submitted:
            run.submit()

    def persisted(self, run: Run) -> None:
        """A run's first row is durable: a raw or persist_first row may start; one at rest waits as a row."""
        if run.phase is Phase.PERSISTING:
            if self.is_open and not self.is_stopped:
                self.start(run)
        elif run.phase in (Phase.WAITING, Phase.RESTING) and run.row is Row.REST:
            # Waits behind its key: its payload leaves memory, and comes back with the row (I10).
            run.phase = Phase.WAITING
            uncount(run)
            run.record, run.argument = None, UNDECODED
            if self.keys.may_go(run):
                self.go(run)
            else:
                self._park(run)

    def finished(self, run: Run) -> None:
        """A run's ending is durable: free its key, or let it rest until its next attempt."""
        ending = run.ending
        assert ending is not None, "finished with an ending"
        if run.is_alone:
            # Not before: of two suspects, the one whose end was not durable would be blamed for the next one's death.
            self.engine.suspects.ended(run)
        uncount(run)
        if not ending.is_final:
            run.ending = run.doom = None
            run.phase, run.row = Phase.WAITING, Row.REST
            run.wake_at, run.attempt = ending.wake_at, ending.attempt
            self.rows.rested.add(run.id)
            run.record, run.argument = None, UNDECODED
            if not (ending.asleep and self.rows.lay_down(run)):
                self.go(run)
            return
        if ending.status is WorkflowStatus.SUCCESS:
            self._outcomes.succeeded()  # here, where those of fused groups pass too
        if ending.hold is not None:
            kind, key, reason = ending.hold
            if kind == "halt":
                self.source.halt_soon(reason)
            elif key is not None:
                self.keys.blocked.add(key)
        self.free(run)

    def refuse(self, run: Run, reason: str) -> None:
        """A run's row is no longer PENDING under our token: it begins nothing more, and writes nothing (P7)."""
        if run.standing is not Standing.ACTIVE and run.standing is not Standing.LATE:
            return
        self.engine.telemetry.emit(LateResultRefused(run.id, reason))
        run.standing = Standing.REFUSED
        run.unsent.clear()
        run.wake_waiters()
        if run.is_running and run.phase is Phase.RUNNING:
            return  # `ended` follows when its running steps have ended (P18)
        if run.is_alone:
            self.engine.suspects.ended(run)
        if self.is_open:
            self._free_after_look(run)

    def _free_after_look(self, run: Run) -> None:
        """Only a read under the fence says what became of a refused row (P18)."""
        run.phase = Phase.WAITING
        run.standing = Standing.ACTIVE
        run.row = Row.REST
        run.record, run.argument, run.history, run.ending = None, UNDECODED, None, None
        run.unsent.clear()
        run.submitted = False
        uncount(run)
        self.rows.acquire(run)

    def free(self, run: Run) -> None:
        """A workflow is durably terminal and its run has ended: its key goes on (P18)."""
        run.phase = Phase.DONE
        self.runs.pop(run.id, None)
        if self._raw:
            self._raw.discard(run)
        if (following := self.keys.leave(run)) is not None:
            self.go(following)

    def fail(self, run: Run, error: BaseException, reason: str = "unstorable") -> None:
        """A record that cannot be written as it is: it fails alone, with its raw bytes (P27)."""
        run.unsent.clear()
        run.recorded = run.durable
        ending = Ending(WorkflowStatus.ERROR, error=encode_error(error), reason=reason, summary=summary(error))
        if run.phase is Phase.RUNNING and run.is_running:
            # Nothing of it begins any more; its key is kept until what runs has ended (P18).
            run.doom = ending
            run.wake_waiters()
        else:
            self.end(run, ending)

    # -- operators and tests --

    def unblock(self, keys: set[OrderingKey]) -> None:
        """An operator lifted holds: the keys go on with whoever waits first."""
        for holder in self.keys.unblock(keys):
            if holder.phase is Phase.DONE:
                self.free(holder)
            else:
                self.go(holder)

    def look_at_clock(self) -> None:
        """The clock was moved: whoever rests in memory may be due. For tests."""
        for run in list(self.runs.values()):
            if run.wake_at is not None and self.keys.has(run):
                self._look_at(run)

    # -- leaving --

    def close(self) -> list[Run]:
        """Take nothing more (P11). Returns the runs whose code still runs or whose ending is not durable."""
        self.is_open = False
        self.engine.backlog_bytes -= sum(record.size for record in self.backlog)
        self.backlog.clear()
        self.rows.forget()
        for run in self.group:
            # Not begun, no row: Kafka still has it, above `next`.
            self.runs.pop(run.id, None)
            uncount(run)
        self.group.clear()
        for run in self.runs.values():
            if run.is_alone:
                self.engine.suspects.ended(run)
        return list(self.runs.values())

    def _park(self, run: Run) -> None:
        if not run.is_parked:
            run.is_parked = True
            self.parked += 1
