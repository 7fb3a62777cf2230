"""What a handler may be told about failure and order. The engine's rules, under the names users import."""

from enum import Enum

from engine.policies import BlockKey, Breaker, DeadLetter, FailurePolicy, HaltPartition
from engine.retries import NEVER, Retry, RetryAfterError, TerminalError

__all__ = [
    "NEVER",
    "BlockKey",
    "Breaker",
    "DeadLetter",
    "FailurePolicy",
    "HaltPartition",
    "Ordering",
    "Retry",
    "RetryAfterError",
    "TerminalError",
    "dead_letter_topic",
]


def dead_letter_topic(policy: FailurePolicy) -> str | None:
    """Where a policy publishes dead letters as well."""
    return policy.topic if isinstance(policy, DeadLetter) else None


class Ordering(Enum):
    """Which records of a partition run one after the other, in offset order (I7)."""

    KEY = "key"
    """Those with the same ordering key: the record's key, or what `order_by=` says. Records without one are unordered."""
    PARTITION = "partition"
    """All of a partition, strictly: one at a time."""
    NONE = "none"
    """None: whatever fits runs at once."""
