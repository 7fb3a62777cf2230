"""Named gaps between two durable writes, where a test can end the process. Free when unused.

Production code calls `reach(CrashPoint.X)`; unless a test armed that point, it is one dictionary look-up of an
empty dictionary. The system tests kill -9 a worker at every one; the `Bench` crashes its engine there.
"""

from collections.abc import Callable
from enum import StrEnum


class CrashPoint(StrEnum):
    """Every gap of the hot path, in the order a record meets them."""

    CLAIMED = "claimed"
    """The claim is committed, nothing of the partition was read."""
    DELIVERED = "delivered"
    """The inbox has the records, nothing was started."""
    STEP_CALLED = "step-called"
    """The step's function has returned; its checkpoint is not handed over."""
    CHECKPOINTED = "checkpointed"
    """The checkpoint was handed to the committer and is not durable."""
    FLUSH_BUILT = "flush-built"
    """The flush was built, nothing was sent."""
    FLUSH_SENT = "flush-sent"
    """All statements and COMMIT were sent; the reply was not read."""
    FLUSH_DURABLE = "flush-durable"
    """The commit was acknowledged; nobody was told."""
    TRANSACTION_OPEN = "transaction-open"
    """A transactional step's function has returned; its checkpoint is not written."""
    TRANSACTION_WRITTEN = "transaction-written"
    """The checkpoint and the fence were sent; COMMIT was not."""
    TRANSACTION_DURABLE = "transaction-durable"
    """The transaction is committed; the workflow was not told."""
    FUSED_CALLED = "fused-called"
    """A fused handler's function has returned for some record of its group; the group is not committed."""
    STARTING = "starting"
    """A workflow without a source is to be started; nothing was sent."""
    STARTED = "started"
    """Its row is durable; its code has not begun, and nobody was told."""
    TAKEN = "taken"
    """Rows at rest, or of a dead executor, are ours; none of them runs."""
    DEQUEUING = "dequeuing"
    """The limits of a queue are read, and locked if it has any over all processes; nothing of it was taken."""
    DEQUEUED = "dequeued"
    """Rows of a queue are ours; none of them runs."""
    RELEASED = "released"
    """The release flush is committed; Kafka was not told."""
    RELAY_CLAIMED = "relay-claimed"
    """The relay is claimed; no producer is open. (A `Bench` has no relay and passes none of these.)"""
    RELAY_FORMED = "relay-formed"
    """A batch of the outbox is formed and durable; Kafka has nothing of it."""
    RELAY_PRODUCED = "relay-produced"
    """The batch's records were produced in an open transaction; the position was not."""
    RELAY_POSITIONED = "relay-positioned"
    """The position was sent to the transaction; it is not committed."""
    RELAY_COMMITTED = "relay-committed"
    """Kafka has committed; Postgres still has the batch."""
    RETENTION_DELETED = "retention-deleted"
    """The deletion of a batch and its horizons were sent; COMMIT was not. (Only where policies let something go.)"""
    RETENTION_DURABLE = "retention-durable"
    """A batch is committed; nobody was told."""
    TICKS_WRITTEN = "ticks-written"
    """The rows of a schedule's ticks were sent, and its last tick; COMMIT was not. (Only where there is a schedule.)"""
    TICKS_DURABLE = "ticks-durable"
    """They are committed; nobody was told."""

    @property
    def is_of_relay(self) -> bool:
        """Whether only the relay passes it, and no record."""
        return self.value.startswith("relay-")

    @property
    def is_of_retention(self) -> bool:
        """Whether only retention passes it, and no record."""
        return self.value.startswith("retention-")

    @property
    def is_of_schedules(self) -> bool:
        """Whether only schedules pass it, and no record."""
        return self.value.startswith("ticks-")


class Crash(BaseException):
    """What an action raises that ends the engine at its point, as a kill would: no failure of whoever's code is there."""


armed: dict[CrashPoint, Callable[[CrashPoint], None]] = {}
"""What to do at which point: filled by tests, by `PROCESSOR_CRASH_AT` in a worker under test, and by nobody else."""


def reach(point: CrashPoint) -> None:
    """Pass a crash point."""
    if armed and (action := armed.get(point)):
        action(point)
