"""Statements of a check-up: what a server says of itself, and who is at work. Postgres's own views; every role may ask."""

from typing import NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement


class ServerRow(NamedTuple):
    """A server and this session, as one statement sees them. Times are epoch ms."""

    now_ms: float
    backend_pid: int
    is_standby: bool
    is_read_only: bool
    encoding: str
    settings: dict[str, str]
    connections: int
    role_connections: int
    role_limit: int
    database_limit: int
    xid_age: int
    sees_standbys: bool = True
    """Whether this role is told how far standbys are."""


class ExecutorRow(NamedTuple):
    """A process, as its last heartbeat left it. `lease_ms` is what is left of its lease, negative where it is over."""

    executor_id: str
    name: str
    hostname: str
    pid: int
    version: str | None
    claim_of: str | None
    started_at: int
    renewed_at: int
    lease_ms: int
    died_at: int | None
    partitions: int
    in_flight: int
    queues: list[str] | None


SETTINGS = (
    *(
        "fsync",
        "full_page_writes",
        "synchronous_commit",
        "autovacuum",
        "max_connections",
        "superuser_reserved_connections",
    ),
    *("reserved_connections", "idle_in_transaction_session_timeout", "default_transaction_isolation"),
)
"""Of `pg_settings`; one that a version does not have is missing."""


def server() -> Statement[ServerRow]:
    """What there is to know of the server, of this role, and of this session."""
    return Statement(
        """
        SELECT EXTRACT(EPOCH FROM clock_timestamp())::double precision * 1000, pg_backend_pid(), pg_is_in_recovery(),
               current_setting('transaction_read_only')::boolean, current_setting('server_encoding'),
               (SELECT json_object_agg(s.name, s.setting) FROM pg_settings AS s WHERE s.name = ANY (%(names)s)),
               (SELECT count(*) FROM pg_stat_activity AS a WHERE a.backend_type = 'client backend'),
               (SELECT count(*) FROM pg_stat_activity AS a WHERE a.usename = current_user),
               (SELECT r.rolconnlimit FROM pg_roles AS r WHERE r.rolname = current_user),
               d.datconnlimit, age(d.datfrozenxid), pg_has_role(current_user, 'pg_monitor', 'USAGE')
          FROM pg_database AS d
         WHERE d.datname = current_database()
        """,
        {"names": list(SETTINGS)},
        args_row(ServerRow),
    )


def idle_in_transaction(*, seconds: int) -> Statement[tuple[int, str, float]]:
    """Sessions that hold a transaction open and do nothing, longest first: process, name, seconds."""
    return Statement(
        """
        SELECT a.pid, COALESCE(NULLIF(a.application_name, ''), 'without a name'),
               EXTRACT(EPOCH FROM clock_timestamp() - a.state_change)::double precision
          FROM pg_stat_activity AS a
         WHERE a.datname = current_database()
           AND a.state LIKE 'idle in transaction%%'
           AND a.state_change < clock_timestamp() - make_interval(secs => %(seconds)s)
         ORDER BY a.state_change
         LIMIT 20
        """,
        {"seconds": seconds},
    )


def executors(*, all_of_them: bool) -> Statement[ExecutorRow]:
    """Processes and claims of executions, live ones first; of the dead, those that still have something unless all are asked.

    `in_flight` are rows that name it: what it runs and has not persisted yet is only in its memory.
    """
    return Statement(
        """
        SELECT e.executor_id, e.name, e.hostname, e.pid, e.application_version, e.claim_of, e.started_at, e.renewed_at,
               e.lease_ms, e.died_at, e.partitions, e.in_flight, e.queues
          FROM (SELECT e.executor_id, e.name, e.hostname, e.pid, e.application_version, e.claim_of, e.started_at, e.renewed_at,
                       e.lease_until - {schema}.now_ms() AS lease_ms, e.died_at,
                       (SELECT count(*)
                          FROM {schema}.event_dispatch_kv AS k
                         WHERE k.service_name LIKE 'kafka:%%'
                           AND k.value::json ->> 'owner' = e.executor_id
                           AND NOT (k.value::json ->> 'released')::boolean) AS partitions,
                       (SELECT count(*)
                          FROM {schema}.workflow_status AS w
                         WHERE w.executor_id = e.executor_id
                           AND w.status IN ('PENDING', 'ENQUEUED')
                           AND w.owner_xid IS NOT NULL) AS in_flight,
                       (SELECT array_agg(q.queue_name ORDER BY q.queue_name)
                          FROM {schema}.queue_listener AS q
                         WHERE q.executor_id = e.executor_id) AS queues
                  FROM {schema}.executor AS e) AS e
         WHERE %(all)s OR e.died_at IS NULL OR e.partitions > 0 OR e.in_flight > 0
         ORDER BY e.died_at IS NOT NULL, e.started_at, e.executor_id
        """,
        {"all": all_of_them},
        args_row(ExecutorRow),
    )


def lock_executor(*, executor_id: str) -> Statement[tuple[int, int | None]]:
    """What is left of an executor's lease, in ms, and when it died; locked, so that no heartbeat comes between."""
    return Statement(
        """
        SELECT e.lease_until - {schema}.now_ms(), e.died_at
          FROM {schema}.executor AS e
         WHERE e.executor_id = %(id)s
           FOR UPDATE
        """,
        {"id": executor_id},
    )


def held_partitions() -> Statement[tuple[int]]:
    """How many partitions a hold stops as a whole."""
    return Statement(
        "SELECT count(DISTINCT (h.service_name, h.key)) FROM {schema}.hold AS h WHERE h.ordering_key IS NULL", {}
    )


def progress() -> Statement[tuple[str, str, str, str]]:
    """Group, partition, handler and progress of everything."""
    return Statement(
        """
        SELECT substr(k.service_name, 7), k.key, k.workflow_fn_name, k.value
          FROM {schema}.event_dispatch_kv AS k
         WHERE k.service_name LIKE 'kafka:%%'
         ORDER BY k.service_name, k.key
        """,
        {},
    )
