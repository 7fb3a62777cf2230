"""What one claim waits for before it can decode: records that go back to the backlog, rows that stay where they are.

    admit  ─ NotYet ─▶ the record is the first of the backlog again, nothing behind it is taken in (I7)
    begin  ─ NotYet ─▶ a row of an earlier owner, or a raw one (P21), waits with its key
                            │ after as long as the format says
                            └─▶ tried again

The format asks for what it needs in its own time; here is only who waits, and since when. Timers end with the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from engine.runner import Phase, Run
from engine.telemetry import DecodingResumed, DecodingWaits

if TYPE_CHECKING:
    from engine.errors import NotYet
    from engine.inbox import Inbox
    from engine.records import Record


class Undecided:
    """The records and rows of one claim about which the format has nothing to say yet."""

    __slots__ = ("_inbox", "_reasons", "_since", "_waiting", "is_waiting", "reason")

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.is_waiting = False
        """Whether the first record of the backlog waits, and with it all behind it."""
        self.reason: str | None = None
        """Why, where there is trouble; `None` also while something was only just asked for."""
        self._waiting: set[Run] = set()
        self._reasons: dict[Run | None, str] = {}
        """Of each row that waits; of the backlog under `None`."""
        self._since = 0.0

    def hold_back(self, record: Record, signal: NotYet) -> None:
        """Put a record back at the head of the backlog, and take in nothing until it was tried again."""
        inbox = self._inbox
        inbox.backlog.appendleft(record)
        inbox.engine.backlog_bytes += record.size
        self.is_waiting = True
        self._note(None, signal.reason)
        inbox.engine.call_later(signal.again_in.total_seconds(), self._admit_again)

    def hold_back_behind(self, records: Sequence[Record]) -> None:
        """Put records that were taken out together with the one held back behind it, in their order."""
        backlog = self._inbox.backlog
        first = backlog.popleft()
        backlog.extendleft(reversed(records))
        backlog.appendleft(first)
        self._inbox.engine.backlog_bytes += sum(record.size for record in records)

    def went_on(self) -> None:
        """The records at the head were admitted."""
        self._forget(None)

    def wait(self, run: Run, signal: NotYet) -> None:
        """Let a row wait where it is, with its key, and start it again."""
        run.phase = Phase.WAITING
        self._waiting.add(run)
        self._note(run, signal.reason)
        self._inbox.engine.call_later(signal.again_in.total_seconds(), self._begin_again, run)

    def _admit_again(self) -> None:
        inbox = self._inbox
        self.is_waiting = False
        if inbox.is_open and not inbox.is_stopped:
            inbox.pump()
        if not self.is_waiting and not inbox.rows.looking:
            self.went_on()

    def _begin_again(self, run: Run) -> None:
        inbox = self._inbox
        self._waiting.discard(run)
        if inbox.is_open and not inbox.is_stopped:
            inbox.resume(run)
        if run not in self._waiting:
            self._forget(run)

    def _note(self, who: Run | None, reason: str | None) -> None:
        if reason is None:
            return  # what stands stays: a request under way is no better news than the last one's failure
        self._reasons[who] = reason
        self._tell()

    def _forget(self, who: Run | None) -> None:
        if self._reasons.pop(who, None) is not None:
            self._tell()

    def _tell(self) -> None:
        """Show the oldest reason, where it is another one than before."""
        inbox = self._inbox
        before, self.reason = self.reason, next(iter(self._reasons.values()), None)
        if before == self.reason:
            return
        telemetry, ref = inbox.engine.telemetry, inbox.source.ref
        if self.reason is None:
            telemetry.emit(DecodingResumed(ref, monotonic() - self._since))
        else:
            self._since = monotonic() if before is None else self._since
            telemetry.emit(DecodingWaits(ref, self.reason))
        if inbox.is_open:
            inbox.source.advance()  # into the progress row, for whoever looks from outside
