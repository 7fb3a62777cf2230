"""Statements of `executor` and `claim_request`: leases, deaths, who asks whom to release."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.ids import ExecutorId, WorkflowId
from engine.store.statement import Statement


class Renewal(NamedTuple):
    """What one heartbeat brings (P1)."""

    alive: bool
    requests: list[list[Any]] | None
    """[service, key, requester, generation, requester alive] for progress rows that name this executor."""
    progress: list[list[Any]] | None
    """[service, key, epoch, value] of the attached partitions."""
    executors: list[list[Any]] | None
    """[executor, counter] of every process alive, for P2."""
    timeline: str
    lsn: str


def register(
    *, executor_id: ExecutorId, name: str, named: bool, hostname: str, pid: int, version: str, lease_ms: int
) -> Statement[Any]:
    """Enter this executor; a predecessor of the same explicit name is dead at once (P3)."""
    return Statement(
        """
        WITH predecessor AS (
            UPDATE {schema}.executor
               SET died_at = {schema}.now_ms(), lease_until = 0
             WHERE %(named)s AND named AND name = %(name)s AND died_at IS NULL
        )
        INSERT INTO {schema}.executor
               (executor_id, name, named, hostname, pid, application_version, started_at, renewed_at, lease_until)
        VALUES (%(id)s, %(name)s, %(named)s, %(hostname)s, %(pid)s, %(version)s,
                {schema}.now_ms(), {schema}.now_ms(), {schema}.now_ms() + %(lease)s)
        """,
        {
            "lease": lease_ms,
            "id": executor_id,
            "name": name,
            "named": named,
            "hostname": hostname,
            "pid": pid,
            "version": version,
        },
    )


BURY_CLAIMS: Final = """
            UPDATE {schema}.executor AS e
               SET died_at = {schema}.now_ms()
             WHERE e.executor_id IN (SELECT c.executor_id
                                       FROM {schema}.executor AS c
                                      WHERE c.claim_of IS NOT NULL AND c.died_at IS NULL
                                        AND c.lease_until <= {schema}.now_ms()
                                        FOR NO KEY UPDATE SKIP LOCKED)
"""
"""Ends all claims of executions whose time is over (decision 0016): by Postgres's clock, and in a commit before anybody takes
one. One that is being extended just now is passed over."""


def renew(
    *, executor_id: ExecutorId, lease_ms: int, services: Sequence[str], keys: Sequence[str]
) -> Statement[Renewal]:
    """The heartbeat: one statement (P1)."""
    return Statement(
        """
        WITH me AS (
            UPDATE {schema}.executor
               SET counter = counter + 1,
                   renewed_at = {schema}.now_ms(),
                   lease_until = {schema}.now_ms() + %(lease)s
             WHERE executor_id = %(id)s AND died_at IS NULL
            RETURNING executor_id
        ), over AS (
"""
        + BURY_CLAIMS
        + """
        )
        SELECT EXISTS (SELECT FROM me),
               (SELECT json_agg(json_build_array(r.service_name, r.key, r.executor_id, r.generation,
                                                 e.executor_id IS NOT NULL))
                  FROM {schema}.claim_request AS r
                  JOIN {schema}.event_dispatch_kv AS k
                    ON k.service_name = r.service_name AND k.service_name LIKE 'kafka:%%' AND k.key = r.key
                  LEFT JOIN {schema}.executor AS e ON e.executor_id = r.executor_id AND e.died_at IS NULL
                 WHERE k.value::json ->> 'owner' = %(id)s),
               (SELECT json_agg(json_build_array(k.service_name, k.key, k.update_seq::bigint, k.value))
                  FROM unnest(%(services)s::text[], %(keys)s::text[]) AS t (service, key)
                  JOIN {schema}.event_dispatch_kv AS k
                    ON k.service_name = t.service AND k.service_name LIKE 'kafka:%%' AND k.key = t.key),
               (SELECT json_agg(json_build_array(e.executor_id, e.counter))
                  FROM {schema}.executor AS e WHERE e.died_at IS NULL AND e.claim_of IS NULL),
               left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
               pg_current_wal_insert_lsn()::text
        """,
        {"id": executor_id, "lease": lease_ms, "services": list(services), "keys": list(keys)},
        args_row(Renewal),
    )


def bury(*, executor_id: ExecutorId, counter: int) -> Statement[tuple[str]]:
    """Mark an executor dead whose counter still stands where it was seen (P2)."""
    return Statement(
        """
        UPDATE {schema}.executor
           SET died_at = {schema}.now_ms()
         WHERE executor_id = %(id)s AND counter = %(counter)s AND died_at IS NULL
        RETURNING executor_id
        """,
        {"id": executor_id, "counter": counter},
    )


def session_name(executor_id: ExecutorId) -> str:
    """`application_name` of an executor's sessions."""
    return f"onceflow {executor_id}"


def end_sessions() -> Statement[tuple[int]]:
    """End the sessions of every executor that is dead and whose lease is over, however it died (P2, P3, P9).

    A process that stopped in the middle of a pipeline keeps its locks for as long as it is stopped: no time-out of
    Postgres before version 17 counts there. Nothing it does may count any more (P1). An executor that has no row is
    left alone: it may be another schema's.
    """
    return Statement(
        """
        SELECT count(pg_terminate_backend(a.pid))
          FROM pg_stat_activity AS a
          JOIN {schema}.executor AS e ON e.executor_id = substr(a.application_name, length(%(prefix)s) + 1)
         WHERE starts_with(a.application_name, %(prefix)s)
           AND a.usename = current_user
           AND a.datname = current_database()
           AND e.died_at IS NOT NULL
           AND e.lease_until <= {schema}.now_ms()
        """,
        {"prefix": session_name(ExecutorId(""))},
    )


def condemn(*, executor_id: ExecutorId) -> Statement[tuple[str]]:
    """Mark an executor dead that lives and does not answer a request within a lease (P9).

    Takeovers follow when the lease it last showed has run out.
    """
    return Statement(
        """
        UPDATE {schema}.executor
           SET died_at = {schema}.now_ms()
         WHERE executor_id = %(id)s AND died_at IS NULL
        RETURNING executor_id
        """,
        {"id": executor_id},
    )


def leave(*, executor_id: ExecutorId) -> Statement[Any]:
    """This executor ends: nothing of it is at work any more."""
    return Statement(
        """
        UPDATE {schema}.executor
           SET died_at = COALESCE(died_at, {schema}.now_ms()), lease_until = 0
         WHERE executor_id = %(id)s
        """,
        {"id": executor_id},
    )


def survived_alone(*, executor_id: ExecutorId, workflow_id: WorkflowId) -> Statement[Any]:
    """A process noted that a workflow, which ran alone in it when a claim was lost, did not kill it (P22)."""
    return Statement(
        """
        UPDATE {schema}.executor AS e
           SET survived_alone = array_append(e.survived_alone, %(workflow)s)
         WHERE e.executor_id = %(executor)s
        """,
        {"executor": executor_id, "workflow": workflow_id},
    )


def survivals(*, workflow_id: WorkflowId) -> Statement[tuple[int]]:
    """How often a workflow that ran alone did not kill its process though its claim was lost."""
    return Statement(
        """
        SELECT COALESCE(sum(cardinality(array_positions(e.survived_alone, %(workflow)s::text))), 0)::integer
          FROM {schema}.executor AS e
         WHERE e.survived_alone @> ARRAY[%(workflow)s::text]
        """,
        {"workflow": workflow_id},
    )


def is_gone(*, executor_id: ExecutorId) -> Statement[tuple[bool]]:
    """Whether nothing of an executor is at work any more."""
    return Statement("SELECT {schema}.executor_is_gone(%(id)s)", {"id": executor_id})


def request(*, service: str, key: str, executor_id: ExecutorId, generation: int) -> Statement[tuple[int]]:
    """Ask the owner of a partition to release it (P9). Returns for how many milliseconds it has been asked."""
    return Statement(
        """
        INSERT INTO {schema}.claim_request (service_name, key, executor_id, generation, requested_at)
        VALUES (%(service)s, %(key)s, %(id)s, %(generation)s, {schema}.now_ms())
            ON CONFLICT (service_name, key, executor_id) DO UPDATE SET generation = EXCLUDED.generation
        RETURNING ({schema}.now_ms() - requested_at)::integer
        """,
        {"service": service, "key": key, "id": executor_id, "generation": generation},
    )


def withdraw(*, service: str, key: str, executor_id: ExecutorId | None) -> Statement[Any]:
    """Delete requests: one's own when the claim is taken or no longer wanted, or all of an answered partition."""
    return Statement(
        """
        DELETE FROM {schema}.claim_request
         WHERE service_name = %(service)s AND key = %(key)s
           AND (%(id)s::text IS NULL OR executor_id = %(id)s)
        """,
        {"service": service, "key": key, "id": executor_id},
    )


def notify(*, channel: str, payload: str) -> Statement[Any]:
    """A hint; never the only way to learn of it."""
    return Statement("SELECT pg_notify(%(channel)s, %(payload)s)", {"channel": channel, "payload": payload})


def notify_all(*, channels: Sequence[str], payloads: Sequence[str]) -> Statement[Any]:
    """Several hints at once."""
    return Statement(
        """
        SELECT pg_notify(t.channel, t.payload)
          FROM unnest(%(channels)b::text[], %(payloads)b::text[]) AS t (channel, payload)
        """,
        {"channels": channels, "payloads": payloads},
    )
