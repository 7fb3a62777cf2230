"""Which crash points a record passes, by the kind of its handler."""

from engine.crashpoints import CrashPoint
from tests.system.field import KINDS, MIXED

_FLUSHES = [CrashPoint.FLUSH_BUILT, CrashPoint.FLUSH_SENT, CrashPoint.FLUSH_DURABLE]
_STEPS = [CrashPoint.STEP_CALLED, CrashPoint.CHECKPOINTED]
_TRANSACTIONS = [CrashPoint.TRANSACTION_OPEN, CrashPoint.TRANSACTION_WRITTEN, CrashPoint.TRANSACTION_DURABLE]
_BOTH_ENDS = [CrashPoint.CLAIMED, CrashPoint.DELIVERED]

POINTS = {
    "journaled": [*_BOTH_ENDS, *_STEPS, *_FLUSHES, CrashPoint.RELEASED],
    "transactional": [*_BOTH_ENDS, *_STEPS, *_FLUSHES, *_TRANSACTIONS, CrashPoint.RELEASED],
    "fused": [*_BOTH_ENDS, CrashPoint.FUSED_CALLED, *_FLUSHES, CrashPoint.RELEASED],
    "batch": [*_BOTH_ENDS, CrashPoint.FUSED_CALLED, *_FLUSHES, CrashPoint.RELEASED],
}


def points_of(kind: str) -> list[CrashPoint]:
    """Those of one kind, or of all."""
    kinds = KINDS if kind == MIXED else (kind,)
    return list(dict.fromkeys(point for each in kinds for point in POINTS[each]))
