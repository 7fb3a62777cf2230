"""Takes records: decides, looks up what is known, decodes, orders by key, starts within the limits.

One inbox belongs to one claim of one partition. Everything here runs on the loop and does no I/O: what must become
durable, and what must be read under the fence, is handed to the committer as *work* and comes back as a call.

    deliver ─▶ backlog ─▶ look up (below `high`) ─▶ decide ─▶ decode ─▶ key free? ─▶ run
                             │ known: done                        │ taken: wait behind its holder
    open rows of the claim ──┴────────────────────────────────────┴──▶ acquire (owner written first) ─▶ run

A key's *holder* is its first open workflow; the others wait in `followers`, by place, then offset (P18). A holder
may run here, rest (retry), or be another executor's late run. Fused handlers let records without a taken key gather
in `group` instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine.crashpoints import CrashPoint, reach
from engine.failures import encode_error, summary
from engine.handlers import Decision, Handler, HandlerKind, UndecodableError
from engine.ids import PARTITION_KEY, OrderingKey, WorkflowId, ordering_key
from engine.policies import BlockKey, HaltPartition
from engine.progress import Offsets
from engine.records import Record
from engine.rows import allowed, record_of
from engine.runner import UNDECODED, Ending, Phase, Row, Run, Standing, now_ms
from engine.settings import EngineSettings
from engine.states import OPEN, WorkflowStatus
from engine.store.operation_outputs import CheckpointRow
from engine.store.workflow_status import AcquiredRow, FoundRow, OpenRow
from engine.telemetry import LateResultRefused, RecordsDecided, RecordsDelivered, SuspectStarted

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.source import Source

LOOK_UPS_MAX = 1_000
"""Records looked up in one flush."""


class Inbox:
    """The records of one claim, from delivery to durable end."""

    def __init__(self, engine: Engine, source: Source, handler: Handler, *, cautious: bool) -> None:
        self.engine = engine
        self.loop = engine.loop
        self.source = source
        self.handler = handler
        self.token = source.token
        self.id_prefix = source.id_prefix
        self.offsets = Offsets(source.progress.next)
        self.high = source.progress.high
        self.backlog: deque[Record] = deque()
        self.keys: dict[OrderingKey, Run] = {}
        self.runs: dict[WorkflowId, Run] = {}
        self.group: deque[Run] = deque()
        self.blocked: set[OrderingKey] = set()
        self.is_open = True
        self.has_taken_over = False
        """Whether the open rows of the claim are here: before, a row at rest may stand behind one that is not."""
        self.is_stopped = False
        """A hold on the partition is on its way: nothing starts any more, what runs goes on until the release."""
        self.looking: dict[WorkflowId, Record] = {}
        self._decided_at: deque[tuple[int, Decision]] = deque()
        self.parked = 0
        self._ahead: deque[Run] = deque()
        self._ahead_ids: set[WorkflowId] = set()
        self._wakeable: deque[Run] = deque()
        self._raw: set[Run] = set()
        """Raw rows under `order_by=`, whose keys were not known when they were written (P21)."""
        self._is_pumping = False
        self._cautious_left = engine.settings.in_flight_max if cautious else 0
        self._outcomes: deque[bool] = deque(maxlen=handler.breaker.window if handler.breaker else 1)
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
        self._wake_up()
        while self.backlog and not self.looking and engine.has_room():
            if self._raw and not self._cautious_left:
                break  # raw rows of a cautious claim, whose keys nobody knows yet (P21)
            record = self.backlog.popleft()
            engine.backlog_bytes -= record.size
            self._pass_rows(record.offset)
            if record.offset < self.high:
                self._look_up(record)
            else:
                self._admit(record)
        if not self.backlog and not self.looking:
            self._pass_rows(self.offsets.position)
        self._wake_up()

    def _wake_up(self) -> None:
        while self._wakeable and self.engine.has_room():
            if (run := self._wakeable.popleft()).phase is Phase.WAITING:
                self._acquire(run)

    def _pass_rows(self, offset: int) -> None:
        """Open rows at or above the claim's `next` may run when the fetch reaches or passes them (P15)."""
        while self._ahead and self._ahead[0].offset < offset:
            self._enter_ahead()

    def _enter_ahead(self) -> None:
        run = self._ahead.popleft()
        self._ahead_ids.discard(run.id)
        self._enter(run)

    def _look_up(self, first: Record) -> None:
        """Ask for the rows of records below `high`, under the fence, before any of them runs (P16)."""
        self.looking[WorkflowId(f"{self.id_prefix}{first.offset}")] = first
        while self.backlog and self.backlog[0].offset < self.high and len(self.looking) < LOOK_UPS_MAX:
            record = self.backlog.popleft()
            self.engine.backlog_bytes -= record.size
            self.looking[WorkflowId(f"{self.id_prefix}{record.offset}")] = record
        self.source.wants(look_up=True)

    def looked_up(self, found: dict[WorkflowId, FoundRow]) -> None:
        """The rows of the records asked for: known ones are done, open ones wait as rows, the others are fresh."""
        looking, self.looking = self.looking, {}
        known = 0
        self._is_pumping = True
        for workflow_id, record in looking.items():
            self._pass_rows(record.offset)
            row = found.get(workflow_id)
            if row is None:
                self._admit(record)
                continue
            if reason := self.source.mismatch(row, record):
                self.source.halt_soon(reason)
                self._is_pumping = False
                return
            self.offsets.settle(record.offset)
            known += 1
            if self._ahead and self._ahead[0].offset == record.offset:
                self._enter_ahead()
            elif row.status in OPEN and workflow_id not in self.runs:
                self._enter(self.stub_of_found(row, record.offset))
        self._is_pumping = False
        if known:
            self.engine.telemetry.emit(RecordsDecided(self.source.ref, "known", known))
            self.source.advance()
        self.pump()

    def _admit(self, record: Record) -> None:
        """A record that has no row: decide, decode, queue behind its key, start."""
        handler = self.handler
        try:
            decision = handler.decide(record)
        except Exception as error:  # noqa: BLE001  # the user's predicate or key: the record's failure
            self._undecodable(record, error)
            return
        if decision is not None:
            self._decided(record, decision)
            return
        cautious = self._cautious_left > 0
        run = Run(self, offset=record.offset, key=None, record=record)
        if cautious:
            self._cautious_left -= 1
            run.needs_first_row = True
            if not self._key_before_decoding(run):
                return
        else:
            run.needs_first_row = handler.persist_first
            try:
                self.decode(run)
            except Exception as error:  # noqa: BLE001  # the user's codec: the record's failure
                self._undecodable(record, error)
                return
        self._enter(run)

    def decode(self, run: Run) -> None:
        """Give a run its argument, and its key unless it has one. Raises what the format or the key raises."""
        record = run.record
        assert record is not None, "a run is decoded while it has its record"
        handler = self.handler
        if handler.stored_headers or record.headers:
            # What is not stored is not shown either: a replay after recovery sees the same.
            record.headers = allowed(record.headers, handler.stored_headers)
        run.argument = handler.format.decode(record)
        if run.row is Row.NONE:
            run.key = self._key_of(record, run.argument)

    def _key_of(self, record: Record, argument: Any) -> OrderingKey | None:
        handler = self.handler
        if handler.ordered_by_partition:
            return PARTITION_KEY
        key = handler.ordering_key(record, argument)
        return None if key is None else ordering_key(key)

    def _key_before_decoding(self, run: Run) -> bool:
        """The key of a raw row (P21): where it lies in the event, the raw rows run one after the other."""
        record = run.record
        assert record is not None, "raw rows have records"
        if self.handler.orders_by_argument:
            run.key = PARTITION_KEY
            return True
        try:
            run.key = self._key_of(record, None)
        except Exception as error:  # noqa: BLE001  # the user's predicate or key: the record's failure
            self._undecodable(record, error)
            return False
        return True

    def _decided(self, record: Record, decision: Decision) -> None:
        self.offsets.settle(record.offset)
        self._decided_at.append((record.offset, decision))
        self.engine.telemetry.emit(RecordsDecided(self.source.ref, decision.value, 1))
        self.source.advance()

    def decided_below(self, offset: int) -> tuple[int, int]:
        """Filtered and skipped records below an offset that no durable progress counts yet."""
        filtered = skipped = 0
        for at, decision in self._decided_at:
            if at >= offset:
                break
            if decision is Decision.FILTERED:
                filtered += 1
            else:
                skipped += 1
        return filtered, skipped

    def counted_below(self, offset: int) -> None:
        """Progress up to an offset is durable, and with it the counts."""
        decided = self._decided_at
        while decided and decided[0][0] < offset:
            decided.popleft()

    def _undecodable(self, record: Record, error: Exception) -> None:
        """A dead letter at once, in the commit that moves progress; its key goes on (design section 7)."""
        run = Run(self, offset=record.offset, key=None, record=record)
        self._count(run)
        self.runs[run.id] = run
        self._end(run, _undecodable_ending(error))

    # -- order --

    def _enter(self, run: Run) -> None:
        """Queue a run behind its key, or start it."""
        self.runs[run.id] = run
        if run.row is not Row.FOREIGN and run.record is not None:
            self._count(run)
        key = run.key
        if key == PARTITION_KEY and not self.handler.ordered_by_partition:
            self._raw.add(run)
        if key is None:
            self.go(run)
            return
        holder = self.keys.get(key)
        if holder is not None:
            _follow(holder, run)
            if run.row is Row.NONE:
                self.engine.watch(run)
            else:
                self._park(run)
            return
        if self.handler.kind is not HandlerKind.JOURNALED and self._may_fuse(run):
            self.group.append(run)
            self.source.wants(group=True)
            return
        self.keys[key] = run
        if key in self.blocked:
            if run.row is Row.NONE:
                self.engine.watch(run)
            return
        self.go(run)

    def poison(self, run: Run) -> None:
        """A fused record that failed standing alone: it becomes a journaled workflow, and its key waits (P19)."""
        run.phase, run.ending = Phase.WAITING, None
        run.submitted = False
        run.needs_first_row = True
        self._enter_journaled(run)

    def left_behind(self, run: Run) -> None:
        """A fused record whose key was taken meanwhile: it waits behind the holder, at rest (P19)."""
        run.phase, run.ending = Phase.WAITING, None
        run.submitted = False
        self._enter_journaled(run)

    def _enter_journaled(self, run: Run) -> None:
        if run.key is None:
            self.go(run)
        elif (holder := self.keys.get(run.key)) is not None:
            _follow(holder, run)
            self.engine.watch(run)
        else:
            self.keys[run.key] = run
            self.go(run)

    def _may_fuse(self, run: Run) -> bool:
        return run.row is Row.NONE and not run.needs_first_row and run.key not in self.blocked

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
                self.engine.call_later(delay_ms / 1000, self._wake, run)
            else:
                self._wake(run)
        elif self.handler.kind is not HandlerKind.JOURNALED and run.key is None and self._may_fuse(run):
            self.group.append(run)
            self.source.wants(group=True)
        elif run.needs_first_row and run.row is Row.NONE:
            run.phase = Phase.PERSISTING
            run.submit()
        else:
            self._start(run)

    def _wake(self, run: Run) -> None:
        if self.is_open and run.phase is Phase.WAITING and run.key not in self.blocked:
            self._wakeable.append(run)
            self.pump()

    def _acquire(self, run: Run) -> None:
        run.phase = Phase.ACQUIRING
        self._count(run)
        self.source.wants(acquire=run)

    def acquired(self, run: Run, row: AcquiredRow, history: Sequence[CheckpointRow]) -> None:
        """A row is ours: run it from its history. One that killed its process too often alone is buried (P22)."""
        run.row = Row.RUNNING
        if run.standing is not Standing.ACTIVE or not self.is_open:
            return  # a release is on its way, and puts the row back to rest
        run.recovery_attempts = row.recovery_attempts
        run.attempt = row.attempt
        run.alone_deaths = row.alone
        run.wake_at = None
        run.history = {checkpoint.function_id: checkpoint for checkpoint in history} or None
        run.durable_ids = [checkpoint.function_id for checkpoint in history]
        run.recorded = run.durable = len(run.durable_ids)
        try:
            run.record = record_of(row.request, row.inputs)
        except Exception as error:  # noqa: BLE001  # a row of another program's: its failure
            run.record = Record(self.source.ref.topic, self.source.ref.partition, run.offset, None, None)
            self.fail(run, UndecodableError(f"the row cannot be read back: {summary(error)}"), "undecodable")
            return
        self._uncount(run)
        self._count(run)
        if run.alone_deaths >= self.engine.settings.deaths_alone_max:
            error = RuntimeError(f"killed its process {run.alone_deaths} times running alone")
            status = WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED
            ending = Ending(status, error=encode_error(error), reason="killed its process", summary=summary(error))
            self._end(run, ending)
            return
        if run.recovery_attempts:
            alone = run.recovery_attempts >= 2
            self.engine.telemetry.emit(SuspectStarted(run.id, run.recovery_attempts, alone))
        self._start(run)

    def not_acquired(self, run: Run, row: FoundRow | None) -> None:
        """A row that could not be made ours: finished elsewhere (its key goes on), or a live executor's."""
        self._uncount(run)
        if row is None or row.status not in OPEN:
            self._free(run)
            return
        run.phase = Phase.WAITING
        if row.owner is None or not row.owner_alive:
            # Handed over meanwhile, perhaps to rest until another attempt (P12, P28).
            run.row, run.wake_at = Row.REST, row.wake_at
            self.go(run)
            return
        run.row = Row.FOREIGN
        self.engine.watch_foreign(run)

    def _start(self, run: Run) -> None:
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
        if run.phase is not Phase.WAITING:
            return
        if run.row is Row.RUNNING:
            self._start(run)
        else:
            self.go(run)

    def begin(self, run: Run) -> None:
        """Decode what was not, and run the handler's code."""
        if run.argument is UNDECODED:
            try:
                self.decode(run)
                may_run = run not in self._raw or self._takes_its_key(run)
            except Exception as error:  # noqa: BLE001  # the user's codec: the record's failure
                self._end(run, _undecodable_ending(error))
                return
            if not may_run:
                if run.is_alone:
                    self.engine.suspects.ended(run)
                return
        if run.row is Row.NONE:
            self.engine.watch(run)
        run.start()

    def _takes_its_key(self, run: Run) -> bool:
        """A raw row's key is known once it is decoded: it goes behind the open row of its key, if there is one (P21).

        The next raw row is decoded then; records that are not raw wait until all raw rows have ended.
        """
        assert run.record is not None, "decoded just now"
        key = self._key_of(run.record, run.argument)
        following = self._pass_key_on(run)
        run.key = key
        holder = None if key is None else self.keys.get(key)
        if key is not None and holder is None:
            self.keys[key] = run
        may_run = holder is None and key not in self.blocked
        if not may_run:
            run.phase = Phase.WAITING
        if holder is not None:
            _follow(holder, run)
        if following is not None:
            self.go(following)
        return may_run

    # -- endings --

    def ended(self, run: Run, ending: Ending | None) -> None:
        """A run's code has ended, and every step it called (P12)."""
        if run.is_alone and run.standing is not Standing.ACTIVE:
            self.engine.suspects.ended(run)
        if run.doom is not None:
            ending = run.doom
        if run.standing is Standing.ACTIVE:
            if ending is None:
                self.refuse(run, "suspended")
                return
            self._end(run, ending)
        elif run.standing is Standing.LATE:
            run.phase = Phase.ENDED
            run.ending = ending
            if ending is not None:
                ending.hold = self._hold_for(run, ending)
            self.engine.late_run_ended(run)
        else:
            run.phase = Phase.DONE
            self.engine.late.ended(run)
            if run.standing is Standing.REFUSED and self.is_open:
                self._free_after_look(run)

    def _end(self, run: Run, ending: Ending) -> None:
        run.phase = Phase.ENDED
        run.ending = ending
        if ending.status is not WorkflowStatus.SUCCESS:
            ending.hold = self._hold_for(run, ending)
        run.submit()

    def persisted(self, run: Run) -> None:
        """A run's first row is durable: a raw or persist_first row may start; one at rest waits as a row."""
        if run.phase is Phase.PERSISTING:
            if self.is_open and not self.is_stopped:
                self._start(run)
        elif run.phase in (Phase.WAITING, Phase.RESTING) and run.row is Row.REST:
            # Waits behind its key: its payload leaves memory, and comes back with the row (I10).
            run.phase = Phase.WAITING
            self._uncount(run)
            run.record, run.argument = None, UNDECODED
            if run.key is None or (self.keys.get(run.key) is run and run.key not in self.blocked):
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
        self._uncount(run)
        if not ending.is_final:
            run.ending = None
            run.phase, run.row = Phase.WAITING, Row.REST
            run.wake_at, run.attempt = ending.wake_at, ending.attempt
            run.record, run.argument = None, UNDECODED
            self.go(run)
            return
        if ending.status is WorkflowStatus.SUCCESS and self.handler.breaker is not None:
            self._outcomes.append(False)  # here, where those of fused groups pass too
        if ending.hold is not None:
            kind, key, reason = ending.hold
            if kind == "halt":
                self.source.halt_soon(reason)
            elif key is not None:
                self.blocked.add(key)
        self._free(run)

    def _hold_for(self, run: Run, ending: Ending) -> tuple[str, OrderingKey | None, str] | None:
        """The hold (kind, key, reason) to be written with a run's ending, by policy or breaker."""
        if not ending.is_final:
            return None
        failed = ending.status is not WorkflowStatus.SUCCESS
        breaker = self.handler.breaker
        if breaker is not None and failed:
            self._outcomes.append(True)
            if len(self._outcomes) == breaker.window:
                share = sum(self._outcomes) / breaker.window
                if share > breaker.ratio:
                    return "halt", None, f"breaker: {share:.0%} of the last {breaker.window} records failed"
        if not failed or ending.reason == "undecodable":
            return None
        policy = self.handler.on_failure
        if isinstance(policy, HaltPartition):
            return "halt", None, f"{run.id} failed: {ending.summary}"
        if isinstance(policy, BlockKey) and run.key is not None:
            return "block", run.key, f"{run.id} failed: {ending.summary}"
        return None

    def refuse(self, run: Run, reason: str) -> None:
        """A run's row is no longer PENDING under our token: it begins nothing more, and writes nothing (P7)."""
        if run.standing is not Standing.ACTIVE and run.standing is not Standing.LATE:
            return
        self.engine.telemetry.emit(LateResultRefused(run.id, reason))
        run.standing = Standing.REFUSED
        run.unsent.clear()
        run.wake_waiters()
        if run.task is not None and not run.task.done() and run.phase is Phase.RUNNING:
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
        self._uncount(run)
        self._acquire(run)

    def _free(self, run: Run) -> None:
        """A workflow is durably terminal and its run has ended: its key goes on (P18)."""
        run.phase = Phase.DONE
        # The task's context knows the run: a cycle, which only the garbage collector would end.
        run.task = run.context = None
        self.runs.pop(run.id, None)
        self._raw.discard(run)
        if run.key is not None and run.key in self.blocked and run.followers and self.keys.get(run.key) is run:
            # The blocked key stays with the finished run as its holder: nobody starts.
            return
        if (following := self._pass_key_on(run)) is not None:
            self.go(following)

    def _pass_key_on(self, run: Run) -> Run | None:
        """Take the key from its holder, and give it to who waits first. Returns that one."""
        key = run.key
        if key is None or self.keys.get(key) is not run:
            return None
        followers, run.followers = run.followers, None
        if not followers:
            del self.keys[key]
            return None
        following = followers.pop(0)
        following.followers = followers or None
        self.keys[key] = following
        return following

    def fail(self, run: Run, error: BaseException, reason: str = "unstorable") -> None:
        """A record that cannot be written as it is: it fails alone, with its raw bytes (P27)."""
        run.unsent.clear()
        run.recorded = run.durable
        ending = Ending(WorkflowStatus.ERROR, error=encode_error(error), reason=reason, summary=summary(error))
        if run.phase is Phase.RUNNING and run.task is not None and not run.task.done():
            # Nothing of it begins any more; its key is kept until what runs has ended (P18).
            run.doom = ending
            run.wake_waiters()
        else:
            self._end(run, ending)

    # -- open rows --

    def take_over(self, rows: Sequence[OpenRow], next_offset: int) -> None:
        """The open rows read after the claim (P10): foreign ones hold their keys at once, the rest by place."""
        stubs = [self.stub_of_open(row) for row in rows]
        foreign = [stub for stub in stubs if stub.row is Row.FOREIGN]
        for stub in foreign:
            self._enter(stub)
        ours = sorted((s for s in stubs if s.row is not Row.FOREIGN), key=_order)
        self._ahead = deque(sorted((s for s in ours if s.offset >= next_offset), key=lambda s: s.offset))
        self._ahead_ids = {stub.id for stub in self._ahead}
        for stub in ours:
            if stub.offset < next_offset:
                self._enter(stub)
        self.has_taken_over = True

    def take_rows(self, rows: Sequence[FoundRow]) -> None:
        """Rows at rest that nobody here knew: operators' retries, or handed over. By place, whatever their order.

        One waits for another look while records before its place wait to be admitted: it must not overtake them.
        """
        if not self.is_open or not self.has_taken_over:
            return
        if self.backlog or self.looking:
            first = next(iter(self.looking.values())) if self.looking else self.backlog[0]
            frontier = first.offset
        else:
            frontier = self.offsets.position
        stubs = [self.stub_of_found(row, int(row.workflow_id.rpartition("-")[2])) for row in rows]
        for stub in sorted(stubs, key=_order):
            if max(stub.place, stub.offset + 1) <= frontier and not self.knows(stub.id):
                self._enter(stub)

    def stub_of_open(self, row: OpenRow) -> Run:
        """A run without its payload, for a row."""
        run = Run(self, offset=row.offset, key=None if row.key is None else OrderingKey(row.key), record=None)
        run.place = row.offset if row.place is None else row.place
        run.row = Row.FOREIGN if row.owner is not None and row.owner_alive else Row.REST
        run.wake_at = row.wake_at
        return run

    def stub_of_found(self, row: FoundRow, offset: int) -> Run:
        """The same, from a look-up."""
        run = Run(self, offset=offset, key=None if row.key is None else OrderingKey(row.key), record=None)
        run.place = offset if row.place is None else row.place
        run.row = Row.FOREIGN if row.owner is not None and row.owner_alive else Row.REST
        run.wake_at = row.wake_at
        return run

    def knows(self, workflow_id: str) -> bool:
        """Whether a row is in memory here, or above what Kafka has delivered so far (P15)."""
        return (
            workflow_id in self.runs
            or workflow_id in self.looking
            or workflow_id in self._ahead_ids
            or (int(workflow_id.rpartition("-")[2]) >= self.offsets.position)
        )

    def known(self) -> list[str]:
        """The IDs of the rows in memory here, and of those Kafka has not reached."""
        return [*self.runs, *(run.id for run in self._ahead)]

    def examine(self, run: Run) -> None:
        """Look again at a row that was a live executor's: acquire it, or learn that it has ended."""
        run.row = Row.REST
        self._acquire(run)

    def hurry(self, by_ms: int) -> None:
        """Let time pass for workflows that rest until their next attempt. For tests with a moved clock."""
        for run in list(self.runs.values()):
            if run.phase is Phase.WAITING and run.row is Row.REST and run.wake_at is not None:
                run.wake_at -= by_ms
                if run.key is None or self.keys.get(run.key) is run:
                    self.go(run)

    def unblock(self, keys: set[OrderingKey]) -> None:
        """An operator lifted holds: the keys go on with whoever waits first."""
        for key in keys & self.blocked:
            self.blocked.discard(key)
            holder = self.keys.get(key)
            if holder is None:
                continue
            if holder.phase is Phase.DONE:
                self._free(holder)
            else:
                self.go(holder)

    # -- leaving --

    def close(self) -> list[Run]:
        """Take nothing more (P11). Returns the runs whose code still runs or whose ending is not durable."""
        self.is_open = False
        self.engine.backlog_bytes -= sum(record.size for record in self.backlog)
        self.backlog.clear()
        self.looking.clear()
        self._wakeable.clear()
        self._ahead.clear()
        self._ahead_ids.clear()
        for run in self.group:
            # Not begun, no row: Kafka still has it, above `next`.
            self.runs.pop(run.id, None)
            self._uncount(run)
        self.group.clear()
        for run in self.runs.values():
            if run.is_alone:
                self.engine.suspects.ended(run)
        return list(self.runs.values())

    def _park(self, run: Run) -> None:
        if not run.is_parked:
            run.is_parked = True
            self.parked += 1

    def _count(self, run: Run) -> None:
        if run.counted is None:
            run.counted = 0 if run.record is None else run.record.size
            self.engine.in_flight += 1
            self.engine.in_flight_bytes += run.counted

    def _uncount(self, run: Run) -> None:
        if run.counted is not None:
            self.engine.in_flight -= 1
            self.engine.in_flight_bytes -= run.counted
            run.counted = None

    def uncount_all(self) -> None:
        """Whatever is still counted leaves with the source."""
        for run in self.runs.values():
            self._uncount(run)


def is_congested(settings: EngineSettings, *, was: bool, backlog: int, backlog_bytes: int, parked: int) -> bool:
    """Whether a partition should be paused (I10): on at a limit, off at half of it.

    A pause throws away what the client has fetched ahead, and a resume fetches it again: a partition that went back
    and forth at one threshold paused ten times a second.

    Args:
        settings: The limits.
        was: Whether it is paused for this now.
        backlog: Records of the partition that wait for room.
        backlog_bytes: Theirs and all other partitions' bytes; counts for those that have a backlog.
        parked: Rows of the partition at rest behind their keys.
    """
    share = 0.5 if was else 1.0
    return (
        backlog > settings.backlog_max * share
        or parked > settings.parked_max * share
        or (backlog > 0 and backlog_bytes > settings.in_flight_bytes_max * share)
    )


def _undecodable_ending(error: Exception) -> Ending:
    cause = error if isinstance(error, UndecodableError) else UndecodableError(summary(error))
    return Ending(WorkflowStatus.ERROR, error=encode_error(cause), reason="undecodable", summary=summary(cause))


def _order(run: Run) -> tuple[int, int]:
    return run.place, run.offset


def _follow(holder: Run, run: Run) -> None:
    """Queue by place, then offset: nearly always at the end."""
    followers = holder.followers
    if followers is None:
        holder.followers = [run]
        return
    if _order(followers[-1]) <= _order(run):
        followers.append(run)
        return
    index = next(i for i, follower in enumerate(followers) if _order(follower) > _order(run))
    followers.insert(index, run)
