"""What becomes of a record before it is a workflow: its argument, its key, or the decision that it has none.

Functions of a handler and a record: no order, no limits, no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from engine.errors import NotYet
from engine.failures import NO_FAILURES, encode_error, summary
from engine.handlers import Decision, Handler, UndecodableError, record_key
from engine.ids import PARTITION_KEY, OrderingKey, ordering_key
from engine.ranges import Range
from engine.records import Record
from engine.rows import allowed
from engine.runner import Ending, Row, Run
from engine.states import WorkflowStatus

PASSING = (Exception, *NO_FAILURES)
"""What is raised on as it is. All else that a user's codec, filter or key raises (a panic of an extension in Rust) is its record's
failure as well: past the inbox it would take the rest of the batch with it (I1)."""


def decode(handler: Handler, run: Run) -> None:
    """Give a run its argument, and its key unless it has one. Raises what the format or the key raises, `NotYet` too."""
    record = run.record
    assert record is not None, "a run is decoded while it has its record"
    headers = record.headers
    if handler.stored_headers or headers:
        # What is not stored is not shown either: a replay after recovery sees the same.
        record.headers = allowed(headers, handler.stored_headers)
    try:
        argument = run.argument = handler.format.decode(record)
    except NotYet:
        record.headers = headers  # the filter, which sees all of them, is asked again
        raise
    except PASSING:
        raise
    except BaseException as error:
        raise UndecodableError(summary(error)) from error
    if run.row is Row.NONE:
        run.key = key_of(handler, record, argument)


def key_of(handler: Handler, record: Record, argument: Any) -> OrderingKey | None:
    """What orders a record; `None`: nothing. Raises what the user's key raises."""
    if handler.ordered_by_partition:
        return PARTITION_KEY
    order_by = handler.ordering_key
    try:
        key = record.key if order_by is record_key else order_by(record, argument)
    except PASSING:
        raise
    except BaseException as error:
        raise UndecodableError(summary(error)) from error
    return None if key is None else ordering_key(key)


def decided(handler: Handler, record: Record) -> Decision | None:
    """What becomes of a record that gets no workflow; `None`: it gets one. Raises what the user's filter raises."""
    try:
        return handler.decide(record)
    except PASSING:
        raise
    except BaseException as error:
        raise UndecodableError(summary(error)) from error


def raw_key_of(handler: Handler, record: Record) -> OrderingKey | None:
    """The key of a raw row (P21): where it lies in the event, the raw rows run one after the other."""
    return PARTITION_KEY if handler.orders_by_argument else key_of(handler, record, None)


def undecodable(error: Exception) -> Ending:
    """The ending of a record that the format, the filter or the key refuses: a dead letter at once (design section 7)."""
    cause = error if isinstance(error, UndecodableError) else UndecodableError(summary(error))
    return Ending(WorkflowStatus.ERROR, error=encode_error(cause), reason=cause.reason, summary=summary(cause))


class Decisions:
    """Records without a workflow that no durable progress counts yet.

    Args:
        counted: Ranges of offsets that it counts already: they are delivered again, after a seek back.
    """

    def __init__(self, counted: Sequence[Range] = ()) -> None:
        self._at: deque[tuple[int, Decision]] = deque()
        self._counted = counted

    def add(self, offset: int, decision: Decision) -> None:
        """One more, above all before it."""
        if self._counted and any(start <= offset < end for start, end in self._counted):
            return
        self._at.append((offset, decision))

    def below(self, offset: int) -> tuple[int, int]:
        """Filtered and skipped records below an offset."""
        filtered = skipped = 0
        for at, decision in self._at:
            if at >= offset:
                break
            if decision is Decision.FILTERED:
                filtered += 1
            else:
                skipped += 1
        return filtered, skipped

    def forget_below(self, offset: int) -> None:
        """Progress up to an offset is durable, and with it the counts."""
        decided = self._at
        while decided and decided[0][0] < offset:
            decided.popleft()
