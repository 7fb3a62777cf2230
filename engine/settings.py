"""How much one engine takes on, and how long it waits. Frozen; `processor` fills it from files and environment."""

from dataclasses import dataclass, field
from datetime import timedelta

from engine.keeping import RetentionSettings
from engine.outgoing import EVENT_BYTES_MAX
from engine.payloads import PayloadKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeSettings:
    """From where on less is taken in; `None`: never for this.

    Attributes:
        commit_max: Mean time of a commit.
        replica_lag_max: How far the replay of the slowest standby is behind.
        vacuum_held_max: For how long somebody has been seen to keep deleted rows from being removed.
    """

    commit_max: timedelta | None = timedelta(seconds=1)
    replica_lag_max: timedelta | None = None
    vacuum_held_max: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of one engine.

    Attributes:
        conninfo: libpq connection string for everything.
        direct_conninfo: For LISTEN and session features, around a transaction-mode pooler; `None`: the same.
        schema: Schema of the system tables.
        executor_name: Stable name of this process, `None` to have none (P3).
        in_flight_max: Workflows in memory and not finished, all partitions together.
        in_flight_bytes_max: Their payloads.
        backlog_max: Records of one partition waiting for room, before the partition is paused.
        parked_max: Records of one partition waiting behind keys in the database, before it is paused.
        persist_after: Running or waiting longer than this gives a record its row (P8).
        inputs_inline_max: Characters of a record's inputs up to which they stand in its row, and not in
            `workflow_inputs`.
        lease: Silence after which an executor is dead.
        heartbeat: Between two renewals.
        committers: Connections that commit journaled work, each with its own partitions; as many for fused handlers.
        flush_rows_max: Workflows in one commit.
        threads: Threads for sync handlers and steps.
        pool_max: Connections for transactional steps and claims.
        connect_timeout: To open a connection.
        statement_timeout: Longest any statement of ours may take.
        lock_timeout: Longest a claim waits for a lock.
        prepare: Use prepared statements (off for old poolers).
        alone_max: How long a suspect runs alone (P22).
        deaths_alone_max: Deaths alone after which a record is the killer (P22).
        deaths_max: Deaths without a new checkpoint after which a workflow without a source is given up (P29).
        payload_keys: What payloads are sealed with, and opened.
        scan: Between two looks for rows at rest that nobody knows, and for changed holds.
        event_bytes_max: Key, value and headers of an event that is published.
        retention: How long what has ended is kept (P30).
        brakes: From where on less is taken in, for the database's sake.
    """

    conninfo: str
    direct_conninfo: str | None = None
    schema: str = "dbos"
    executor_name: str | None = None
    in_flight_max: int = 4_000
    in_flight_bytes_max: int = 64 * 1024 * 1024
    backlog_max: int = 4_000
    parked_max: int = 10_000
    persist_after: timedelta = timedelta(milliseconds=20)
    inputs_inline_max: int = 64 * 1024
    lease: timedelta = timedelta(seconds=10)
    heartbeat: timedelta = timedelta(seconds=3)
    committers: int = 2
    flush_rows_max: int = 2_000
    threads: int = 16
    pool_max: int = 8
    connect_timeout: timedelta = timedelta(seconds=10)
    statement_timeout: timedelta = timedelta(seconds=30)
    lock_timeout: timedelta = timedelta(seconds=2)
    prepare: bool = True
    alone_max: timedelta = timedelta(seconds=10)
    deaths_alone_max: int = 3
    deaths_max: int = 50
    payload_keys: PayloadKeys = field(default_factory=PayloadKeys)
    scan: timedelta = timedelta(seconds=1)
    event_bytes_max: int = EVENT_BYTES_MAX
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    brakes: BrakeSettings = field(default_factory=BrakeSettings)

    @property
    def idle_ms(self) -> int:
        """Longest a transaction with user code may idle: below the lease, so that a zombie's locks end before it."""
        return int(self.lease.total_seconds() * 700)

    def __post_init__(self) -> None:
        if self.heartbeat * 3 > self.lease:
            raise ValueError(f"heartbeat {self.heartbeat} must fit three times into the lease {self.lease}")
        for name in ("in_flight_max", "backlog_max", "committers", "flush_rows_max", "threads", "pool_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
