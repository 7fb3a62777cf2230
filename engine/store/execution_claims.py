"""Statements of claims, which are executors of one execution each, and of recovery (decision 0016).

A claim stands while its executor is not dead and its lease not over by Postgres's clock. Whoever buries it commits that
before anybody takes the execution (P2): extending it and burying it lock the same row, so that one of them is too late.
"""

from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.execution_rows import StoredExecution
from engine.ids import ExecutorId, OwnerToken
from engine.store.executions import EXECUTION, FROMS
from engine.store.executor import BURY_CLAIMS
from engine.store.statement import Statement


class ClaimRow(NamedTuple):
    """A claim as rows say it. `status`: active, expired or released."""

    execution_id: str
    worker_id: str
    claimed_ms: int
    heartbeat_ms: int
    expires_ms: int
    status: str


class RecoveryRow(NamedTuple):
    """A row of `recovery`."""

    worker_id: str
    reason: str
    previous_status: str | None
    previous_worker_id: str | None
    recovered_ms: int


def expire_of(*, execution_id: str) -> Statement[Any]:
    """Bury the claim of one execution, if its time is over. The execution is locked by this transaction."""
    return Statement(
        """
        UPDATE {schema}.executor AS e
           SET died_at = {schema}.now_ms()
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(id)s AND e.executor_id = w.executor_id AND e.claim_of = w.workflow_uuid
           AND e.died_at IS NULL AND e.lease_until <= {schema}.now_ms()
        """,
        {"id": execution_id},
    )


def claim(
    *,
    execution_id: str,
    executor_id: ExecutorId,
    owner: OwnerToken,
    worker_id: str,
    timeout_ms: int,
    hostname: str,
    pid: int,
) -> Statement[tuple[str]]:
    """Make a locked execution a worker's, if it is nobody's: open, and not run, asleep or at a breakpoint elsewhere.

    One that a dead worker was running is started once more, and charged with that (P22).
    """
    return Statement(
        """
        WITH chosen AS MATERIALIZED (
            SELECT w.workflow_uuid, w.status, w.owner_xid, w.started_at_epoch_ms, t.now
              FROM (SELECT {schema}.now_ms() AS now OFFSET 0) AS t, {schema}.workflow_status AS w
             WHERE w.workflow_uuid = %(id)s AND w.kafka_execution
               AND (w.status = 'ENQUEUED'
                    OR w.status = 'PENDING' AND w.owner_xid IS NULL AND COALESCE(w.kafka_wake_at, 0) <= t.now
                    OR w.status = 'PENDING' AND w.owner_xid IS NOT NULL AND {schema}.executor_is_gone(w.executor_id))
        ), entered AS (
            INSERT INTO {schema}.executor
                   (executor_id, name, hostname, pid, started_at, renewed_at, lease_until, claim_of)
            SELECT %(executor)s, %(worker)s, %(hostname)s, %(pid)s, c.now, c.now, c.now + %(timeout)s, c.workflow_uuid
              FROM chosen AS c
        ), awaited AS (
            DELETE FROM {schema}.waiting AS x USING chosen AS c WHERE x.workflow_uuid = c.workflow_uuid
        )
        UPDATE {schema}.workflow_status AS w
           SET status = 'PENDING',
               owner_xid = %(owner)s,
               executor_id = %(executor)s,
               started_at_epoch_ms = CASE WHEN c.status = 'PENDING' THEN w.started_at_epoch_ms END,
               kafka_wake_at = NULL,
               recovery_attempts = COALESCE(w.recovery_attempts, 0)
                   + CASE WHEN c.owner_xid IS NOT NULL AND c.started_at_epoch_ms IS NOT NULL THEN 1 ELSE 0 END,
               updated_at = {schema}.now_ms()
          FROM chosen AS c
         WHERE w.workflow_uuid = c.workflow_uuid
        RETURNING w.workflow_uuid
        """,
        {
            "id": execution_id,
            "executor": executor_id,
            "owner": owner,
            "worker": worker_id,
            "timeout": timeout_ms,
            "hostname": hostname,
            "pid": pid,
        },
    )


_MINE: Final = """
             WHERE w.workflow_uuid = %(id)s AND w.status = 'PENDING' AND w.owner_xid IS NOT NULL
               AND (%(owner)s::text IS NULL OR w.owner_xid = %(owner)s::text)
               AND e.claim_of = w.workflow_uuid AND e.name = %(worker)s
"""


def extend(*, execution_id: str, worker_id: str, owner: OwnerToken | None, timeout_ms: int) -> Statement[tuple[str]]:
    """Renew a claim that stands."""
    return Statement(
        """
        UPDATE {schema}.executor AS e
           SET counter = e.counter + 1, renewed_at = t.now, lease_until = t.now + %(timeout)s
          FROM (SELECT {schema}.now_ms() AS now OFFSET 0) AS t, {schema}.workflow_status AS w
        """
        + _MINE
        + """
               AND e.executor_id = w.executor_id AND e.died_at IS NULL AND e.lease_until > t.now
        RETURNING w.workflow_uuid
        """,
        {"id": execution_id, "worker": worker_id, "owner": owner, "timeout": timeout_ms},
    )


def release(*, execution_id: str, worker_id: str, owner: OwnerToken | None) -> Statement[tuple[str]]:
    """End a claim of a locked execution; one that was not begun waits again, one that was needs recovery."""
    return Statement(
        """
        WITH mine AS MATERIALIZED (
            SELECT w.workflow_uuid, w.executor_id
              FROM {schema}.workflow_status AS w
              JOIN {schema}.executor AS e ON e.executor_id = w.executor_id
        """
        + _MINE
        + """
        ), ended AS (
            UPDATE {schema}.executor AS e
               SET died_at = COALESCE(e.died_at, {schema}.now_ms()), lease_until = 0
              FROM mine AS m
             WHERE e.executor_id = m.executor_id
        )
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = NULL,
               status = CASE WHEN w.started_at_epoch_ms IS NULL THEN 'ENQUEUED' ELSE w.status END,
               updated_at = {schema}.now_ms()
          FROM mine AS m
         WHERE w.workflow_uuid = m.workflow_uuid
        RETURNING w.workflow_uuid
        """,
        {"id": execution_id, "worker": worker_id, "owner": owner},
    )


def expire() -> Statement[tuple[int]]:
    """Bury all claims whose time is over; how many. One that is being extended just now is passed over."""
    return Statement(
        """
        WITH over AS (
"""
        + BURY_CLAIMS
        + """
            RETURNING e.executor_id
        )
        SELECT count(*)::integer FROM over
        """,
        {},
    )


_CLAIM: Final = """
    SELECT w.workflow_uuid, CASE WHEN e.claim_of IS NULL THEN e.executor_id ELSE e.name END,
           CASE WHEN e.claim_of IS NULL THEN w.updated_at ELSE e.started_at END, e.renewed_at, e.lease_until,
           CASE WHEN w.status <> 'PENDING' OR w.owner_xid IS NULL THEN 'released'
                WHEN e.died_at IS NULL AND e.lease_until > {schema}.now_ms() THEN 'active'
                ELSE 'expired' END
      FROM {schema}.workflow_status AS w
      JOIN {schema}.executor AS e USING (executor_id)
"""


def active() -> Statement[ClaimRow]:
    """All claims that stand, and the leases of executors of ours that run executions, oldest first."""
    return Statement(
        _CLAIM
        + """
         WHERE w.kafka_execution AND w.status = 'PENDING' AND w.owner_xid IS NOT NULL
           AND e.died_at IS NULL AND e.lease_until > {schema}.now_ms()
         ORDER BY 3, 1
        """,
        {},
        args_row(ClaimRow),
    )


def of_execution(*, execution_id: str) -> Statement[ClaimRow]:
    """The claim of an execution, or its last one."""
    return Statement(
        _CLAIM
        + """
         WHERE w.kafka_execution AND w.workflow_uuid = %(id)s
        """,
        {"id": execution_id},
        args_row(ClaimRow),
    )


_NEEDS_RECOVERY: Final = """
           AND CASE {schema}.execution_status(w.status, w.started_at_epoch_ms)
               WHEN 'created' THEN
                    CASE WHEN w.owner_xid IS NULL THEN w.queue_name IS NULL AND w.application_version IS NULL
                         ELSE e.executor_id IS NULL OR e.died_at IS NOT NULL OR e.lease_until <= {schema}.now_ms() END
                    AND (x.failure_count = 0
                         OR x.failure_count < %(failures_max)s AND x.last_failure_at < {schema}.now_ms() - %(rest_ms)s)
               ELSE CASE WHEN w.owner_xid IS NULL THEN w.application_version IS NULL
                         ELSE e.executor_id IS NULL OR e.died_at IS NOT NULL OR e.lease_until <= {schema}.now_ms() END
               END
"""


class NeedingRow(NamedTuple):
    """An execution that needs recovery, and where it stands among them."""

    execution: StoredExecution
    entered_ms: int


def _needing(*values: Any) -> NeedingRow:
    *execution, entered = values
    return NeedingRow(StoredExecution._make(execution), entered)


_NEEDING_ROW: Final = args_row(_needing)


def needing_recovery(
    *, limit: int, failures_max: int, rest_ms: int, behind: tuple[int, str] | None = None
) -> Statement[NeedingRow]:
    """Executions that nobody has and nobody will come to by himself, oldest first; only those behind a place.

    Created ones of a queue wait for their turn; at rest between two steps they have their engine's version.
    """
    entered, behind_id = behind or (None, None)
    return Statement(
        EXECUTION
        + ", w.created_at"
        + FROMS
        + """
         WHERE w.kafka_execution AND w.status IN ('PENDING', 'ENQUEUED')
        """
        + _NEEDS_RECOVERY
        + """
           AND (%(behind)s::bigint IS NULL OR (w.created_at, w.workflow_uuid) > (%(behind)s::bigint, %(behind_id)s::text))
         ORDER BY w.created_at, w.workflow_uuid
         LIMIT %(limit)s
        """,
        {
            "limit": limit,
            "failures_max": failures_max,
            "rest_ms": rest_ms,
            "behind": entered,
            "behind_id": behind_id,
        },
        _NEEDING_ROW,
    )


def record(
    *, execution_id: str, worker_id: str, reason: str, previous_status: str | None, previous_worker_id: str | None
) -> Statement[tuple[int]]:
    """A row of the history of recovery; none where there is no such execution."""
    return Statement(
        """
        INSERT INTO {schema}.recovery
               (workflow_uuid, worker_id, reason, previous_status, previous_worker_id, recovered_at)
        SELECT x.workflow_uuid, %(worker)s, %(reason)s, %(status)s, %(previous)s, {schema}.now_ms()
          FROM {schema}.execution AS x
         WHERE x.workflow_uuid = %(id)s
        RETURNING recovery_id
        """,
        {
            "id": execution_id,
            "worker": worker_id,
            "reason": reason,
            "status": previous_status,
            "previous": previous_worker_id,
        },
    )


def history(*, execution_id: str) -> Statement[RecoveryRow]:
    """Every time it was taken from somebody, also by the engine's own recovery, oldest first."""
    return Statement(
        """
        SELECT r.worker_id, r.reason,
               CASE r.previous_status WHEN 'PENDING' THEN 'running' WHEN 'ENQUEUED' THEN 'created'
                    ELSE r.previous_status END,
               r.previous_worker_id, r.recovered_at
          FROM {schema}.recovery AS r
         WHERE r.workflow_uuid = %(id)s
         ORDER BY r.recovery_id
        """,
        {"id": execution_id},
        args_row(RecoveryRow),
    )


def try_lock(*, lock_id: int) -> Statement[tuple[bool]]:
    """Take the advisory lock of a number, of this schema, for the session; whether it was free."""
    return Statement(
        "SELECT pg_try_advisory_lock(hashtextextended($name${schema}.recovery:$name$ || %(id)s::text, 0))",
        {"id": lock_id},
    )


def unlock(*, lock_id: int) -> Statement[tuple[bool]]:
    """Give it back."""
    return Statement(
        "SELECT pg_advisory_unlock(hashtextextended($name${schema}.recovery:$name$ || %(id)s::text, 0))",
        {"id": lock_id},
    )
