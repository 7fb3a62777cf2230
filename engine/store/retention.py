"""Statements of retention: policies, what may go, deleting it with the horizon (P30). And of `retention_policy`.

Nothing here scans a table: workflows are found by the index of creation times, a window after the other, decided dead
letters by that of their decisions, what spares a row by its ID.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.ids import SourceParts
from engine.keeping import PolicyRow, Span
from engine.store.statement import Statement

BRAKE = "retention"
"""`hold.service_name` of an operator's pause of all deleting."""


def write_policies(rows: Sequence[PolicyRow]) -> Statement[Any]:
    """Say how long a process's handlers are kept; writes only what is not so yet."""
    handlers, kinds, keeps = zip(*rows, strict=True) if rows else ((), (), ())
    return Statement(
        """
        INSERT INTO {schema}.retention_policy (handler, kind, keep_ms, written_at)
        SELECT t.handler, t.kind, t.keep_ms, {schema}.now_ms()
          FROM unnest(%(handlers)b::text[], %(kinds)b::text[], %(keeps)b::bigint[]) AS t (handler, kind, keep_ms)
         WHERE NOT EXISTS (SELECT FROM {schema}.retention_policy AS s
                            WHERE s.handler = t.handler AND s.kind = t.kind
                              AND s.keep_ms IS NOT DISTINCT FROM t.keep_ms)
         ORDER BY t.handler, t.kind
            ON CONFLICT (handler, kind) DO UPDATE SET keep_ms = EXCLUDED.keep_ms, written_at = EXCLUDED.written_at
        """,
        {"handlers": list(handlers), "kinds": list(kinds), "keeps": list(keeps)},
    )


def read_policies() -> Statement[PolicyRow]:
    """Every policy, by handler."""
    return Statement(
        "SELECT p.handler, p.kind, p.keep_ms FROM {schema}.retention_policy AS p ORDER BY p.handler, p.kind",
        {},
        args_row(PolicyRow),
    )


class Clock(NamedTuple):
    """What time it is in Postgres, epoch ms, and why nothing is deleted, if so."""

    now: int
    paused: str | None


def clock() -> Statement[Clock]:
    """The time, and an operator's pause."""
    return Statement(
        """
        SELECT {schema}.now_ms(),
               (SELECT h.reason FROM {schema}.hold AS h WHERE h.service_name = %(brake)s LIMIT 1)
        """,
        {"brake": BRAKE},
        args_row(Clock),
    )


class Window(NamedTuple):
    """What a look at some rows in the order of their creation says.

    Attributes:
        upto: Creation time of the last one looked at; the span's last where there were not so many.
        due: How many are old enough.
        oldest_end: When the one ended first that is old enough.
        left: Creation time of the first that may become so: open, to be put back to work, or not old enough yet.
        sources: The partitions of those that are old enough.
        locked: Of these, those whose horizon is locked now: no seek is at work there.
        missing: Of these, those that have no horizon yet.
        paused: Why an operator has stopped all deleting, if so.
        busy_ms: What the look took Postgres.
    """

    upto: int
    due: int
    oldest_end: int | None
    left: int | None
    sources: list[str] | None
    locked: list[str]
    missing: list[str]
    paused: str | None
    busy_ms: float


_LOOK: Final = """
    WITH bound AS MATERIALIZED (
        SELECT COALESCE((SELECT w.created_at
                           FROM {schema}.workflow_status AS w
                          WHERE w.created_at >= %(start)s AND w.created_at < %(end)s
                          ORDER BY w.created_at
                         OFFSET %(rows)s - 1 LIMIT 1), %(end)s - 1) AS upto
    ), policy AS MATERIALIZED (
        SELECT t.handler, t.kind FROM unnest(%(handlers)b::text[], %(kinds)b::text[]) AS t (handler, kind)
    ), seen AS MATERIALIZED (
        -- OFFSET 0: looked at in the order of the index, and joined then.
        SELECT w.created_at, w.updated_at, w.kafka_source,
               p.kind IS NOT NULL AND w.updated_at < %(end)s AS is_due,
               -- Whatever has not succeeded may yet end as one of these: open, or put back to work by an operator.
               CASE WHEN p.kind IS NOT NULL THEN w.updated_at >= %(end)s
                    ELSE w.status <> 'SUCCESS' AND w.name = ANY (%(handlers)b::text[]) END AS is_left
          FROM bound AS b
         CROSS JOIN LATERAL (SELECT s.created_at, s.updated_at, s.kafka_source, s.name, s.status
                               FROM {schema}.workflow_status AS s
                              WHERE s.created_at >= %(start)s AND s.created_at <= b.upto
                             OFFSET 0) AS w
          LEFT JOIN policy AS p ON p.handler = w.name AND p.kind = w.status
    ), found AS MATERIALIZED (
        SELECT count(*) FILTER (WHERE s.is_due) AS due,
               min(s.updated_at) FILTER (WHERE s.is_due) AS oldest_end,
               min(s.created_at) FILTER (WHERE s.is_left) AS left_at,
               array_agg(DISTINCT s.kafka_source) FILTER (WHERE s.is_due AND s.kafka_source IS NOT NULL) AS sources
          FROM seen AS s
    ), locked AS MATERIALIZED (
        SELECT h.kafka_source
          FROM {schema}.horizon AS h
         WHERE h.kafka_source = ANY ((SELECT f.sources FROM found AS f)::text[])
"""

_LOCKED: Final = """
         ORDER BY h.kafka_source
           FOR NO KEY UPDATE SKIP LOCKED
"""

_LOOKED: Final = """
    )
    SELECT b.upto, f.due, f.oldest_end, f.left_at, f.sources, ARRAY(SELECT l.kafka_source FROM locked AS l),
           ARRAY(SELECT t.source
                   FROM unnest(f.sources) AS t (source)
                  WHERE NOT EXISTS (SELECT FROM {schema}.horizon AS h WHERE h.kafka_source = t.source)),
           (SELECT h.reason FROM {schema}.hold AS h WHERE h.service_name = %(brake)s LIMIT 1),
           EXTRACT(EPOCH FROM clock_timestamp() - statement_timestamp())::float * 1000
      FROM bound AS b, found AS f
"""


def look(span: Span, *, rows: int, lock: bool = True) -> Statement[Window]:
    """Look at about so many rows of a span from its beginning on, and lock the horizons of their partitions (P30).

    In one order, and without waiting: what a seek has locked is left out.
    """
    return Statement(
        _LOOK + (_LOCKED if lock else "") + _LOOKED,
        {**_parameters(span), "rows": rows, "brake": BRAKE},
        args_row(Window),
    )


def tick() -> Statement[tuple[float]]:
    """The server's clock, in seconds: what lies between two of them in a pipeline is what it took Postgres."""
    return Statement("SELECT EXTRACT(EPOCH FROM clock_timestamp())::float", {})


def read_committed() -> Statement[Any]:
    """First in a deleting transaction: progress must be read as it stands behind the lock of its horizon (P30)."""
    return Statement("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", {})


def bound(*, statement_ms: int) -> Statement[Any]:
    """No statement of this transaction lasts longer."""
    return Statement("SELECT set_config('statement_timeout', %(ms)s, true)", {"ms": str(statement_ms)})


def make_horizons(*, sources: Sequence[str], lock_ms: int) -> Statement[Any]:
    """Make the rows that a deletion and a seek lock: nothing was deleted yet. A seek may just be making one."""
    return Statement(
        """
        WITH bound AS MATERIALIZED (SELECT set_config('lock_timeout', %(ms)s, true))
        INSERT INTO {schema}.horizon (kafka_source, horizon)
        SELECT t.source, 0 FROM bound, unnest(%(sources)b::text[]) AS t (source) ORDER BY t.source
            ON CONFLICT DO NOTHING
        """,
        {"sources": list(sources), "ms": str(lock_ms)},
    )


class Deleted(NamedTuple):
    """How many rows of a handler went, of one kind."""

    handler: str
    kind: str
    rows: int


# (Not NOT EXISTS: the planner makes a hash of the whole table of it, where an index answers for the few rows there are.)
# What may go of a window. `next` of a partition as it stands when this begins; of a topic that had its name before,
# everything; of a partition that is held as a whole, nothing: whoever decides about it may need its rows.
_DOOMED: Final = """
    WITH policy AS MATERIALIZED (
        SELECT t.handler, t.kind FROM unnest(%(handlers)b::text[], %(kinds)b::text[]) AS t (handler, kind)
    ), progress AS MATERIALIZED (
        SELECT t.source,
               CASE WHEN (k.value::json ->> 'incarnation')::integer > t.incarnation THEN 9223372036854775807
                    WHEN (k.value::json ->> 'incarnation')::integer = t.incarnation
                    THEN (k.value::json ->> 'next')::bigint
                    ELSE 0 END AS next
          FROM unnest(%(sources)b::text[], %(services)b::text[], %(keys)b::text[], %(incarnations)b::integer[])
                 AS t (source, service, key, incarnation)
          JOIN {schema}.event_dispatch_kv AS k
            ON k.service_name = t.service AND k.service_name LIKE 'kafka:%%' AND k.key = t.key
         WHERE NOT EXISTS (SELECT FROM {schema}.hold AS h
                            WHERE h.service_name = t.service AND h.key = t.key AND h.ordering_key IS NULL)
    ), doomed AS MATERIALIZED (
        SELECT w.ctid AS place, w.name, w.status
          FROM {schema}.workflow_status AS w
          JOIN policy AS p ON p.handler = w.name AND p.kind = w.status
          LEFT JOIN progress AS g ON g.source = w.kafka_source
         WHERE w.created_at >= %(start)s
           AND w.created_at <= %(upto)s
           AND w.updated_at < %(end)s
           AND w.status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
           -- Cancelled, and a step of it still runs: its key waits for it (P12, P18).
           AND (w.status <> 'CANCELLED' OR w.owner_xid IS NULL OR {schema}.executor_is_gone(w.executor_id))
           AND CASE WHEN w.kafka_source IS NOT NULL
                    THEN w.kafka_offset < g.next
                    ELSE (SELECT true
                            FROM {schema}.operation_outputs AS o
                            JOIN {schema}.workflow_status AS parent ON parent.workflow_uuid = o.workflow_uuid
                           WHERE o.child_workflow_id = w.workflow_uuid AND parent.status <> 'SUCCESS'
                           LIMIT 1) IS NULL END
           AND (SELECT true
                  FROM {schema}.waiting AS x
                  JOIN {schema}.workflow_status AS waiter ON waiter.workflow_uuid = x.workflow_uuid
                 WHERE x.target = w.workflow_uuid AND waiter.status IN ('PENDING', 'ENQUEUED')
                 LIMIT 1) IS NULL
           AND (w.status = 'SUCCESS'
                OR (SELECT true FROM {schema}.dead_letter AS d
                     WHERE d.workflow_uuid = w.workflow_uuid AND d.state = 'OPEN'
                     LIMIT 1) IS NULL
                   AND (SELECT true FROM {schema}.hold AS h WHERE h.workflow_uuid = w.workflow_uuid LIMIT 1) IS NULL)
         ORDER BY w.created_at
         LIMIT %(rows)s
"""

_DELETED: Final = """
           FOR UPDATE OF w SKIP LOCKED
    ), gone AS (
        -- Where they are: rows that are locked stay in their places, and no index has to be asked again.
        DELETE FROM {schema}.workflow_status AS w
         WHERE w.ctid = ANY (ARRAY(SELECT d.place FROM doomed AS d))
        RETURNING w.name, w.status, w.kafka_source, w.kafka_offset
    ), moved AS (
        UPDATE {schema}.horizon AS h
           SET horizon = m.horizon
          FROM (SELECT g.kafka_source, max(g.kafka_offset) + 1 AS horizon
                  FROM gone AS g
                 WHERE g.kafka_source IS NOT NULL
                 GROUP BY g.kafka_source) AS m
         WHERE h.kafka_source = m.kafka_source AND h.horizon < m.horizon
    )
    SELECT g.name, g.status, count(*) FROM gone AS g GROUP BY g.name, g.status
"""

_COUNTED: Final = """
    )
    SELECT d.name, d.status, count(*) FROM doomed AS d GROUP BY d.name, d.status
"""


def delete(
    span: Span, *, upto: int, partitions: Mapping[str, SourceParts], rows: int, dry_run: bool = False
) -> Statement[Deleted]:
    """Delete what may go of a span up to a creation time, and write the horizons that this makes, in one command (P30).

    Of a partition, below `next` as it stands when this begins; of workflows without a source, none whose parent may
    still ask for it. Spared: what an open dead letter or a hold names, what a workflow at rest waits for, and what
    somebody has locked. What hangs on a row goes with it, by trigger and foreign key.

    Args:
        span: Of what.
        upto: Of the last row looked at.
        partitions: Sources whose horizons are locked.
        rows: At most so many.
        dry_run: Only count.
    """
    return Statement(
        _DOOMED + (_COUNTED if dry_run else _DELETED),
        {
            **_parameters(span),
            "upto": upto,
            "sources": list(partitions),
            "services": [parts.service_name for parts in partitions.values()],
            "keys": [parts.key for parts in partitions.values()],
            "incarnations": [parts.incarnation for parts in partitions.values()],
            "rows": rows,
        },
        args_row(Deleted),
    )


def _parameters(span: Span) -> dict[str, Any]:
    return {"handlers": list(span.handlers), "kinds": list(span.kinds), "start": span.start, "end": span.end}


class DeletedLetters(NamedTuple):
    """How many dead letters of a handler went; `handler` is `None` in a row that only says how far the look came."""

    upto: int
    paused: str | None
    handler: str | None
    rows: int


_LETTERS: Final = """
    WITH bound AS MATERIALIZED (
        SELECT COALESCE((SELECT d.resolved_at
                           FROM {schema}.dead_letter AS d
                          WHERE d.state <> 'OPEN' AND d.resolved_at >= %(start)s AND d.resolved_at < %(end)s
                          ORDER BY d.resolved_at
                         OFFSET %(rows)s - 1 LIMIT 1), %(end)s - 1) AS upto
    ), doomed AS MATERIALIZED (
        SELECT d.dead_letter_id, d.handler
          FROM {schema}.dead_letter AS d
         WHERE d.state <> 'OPEN'
           AND d.resolved_at >= %(start)s
           AND d.resolved_at <= (SELECT b.upto FROM bound AS b)
           AND d.handler = ANY (%(handlers)b::text[])
           AND (%(dry_run)s OR NOT EXISTS (SELECT FROM {schema}.hold AS h WHERE h.service_name = %(brake)s))
    ), gone AS (
"""

_LETTERS_DELETED: Final = """
        DELETE FROM {schema}.dead_letter AS d
         WHERE d.dead_letter_id = ANY (ARRAY(SELECT x.dead_letter_id FROM doomed AS x))
        RETURNING d.handler
"""

_LETTERS_COUNTED: Final = """
        SELECT x.handler FROM doomed AS x
"""

_LETTERS_FOUND: Final = """
    )
    SELECT b.upto, (SELECT h.reason FROM {schema}.hold AS h WHERE h.service_name = %(brake)s LIMIT 1),
           g.handler, count(g.handler)
      FROM bound AS b
      LEFT JOIN gone AS g ON true
     GROUP BY b.upto, g.handler
"""


def delete_letters(span: Span, *, rows: int, dry_run: bool = False) -> Statement[DeletedLetters]:
    """Delete, or count, dead letters of a span, by when they were decided; about so many at most."""
    return Statement(
        _LETTERS + (_LETTERS_COUNTED if dry_run else _LETTERS_DELETED) + _LETTERS_FOUND,
        {
            "handlers": list(span.handlers),
            "start": span.start,
            "end": span.end,
            "rows": rows,
            "dry_run": dry_run,
            "brake": BRAKE,
        },
        args_row(DeletedLetters),
    )


def forget_executors(*, dead_before: int, rows: int) -> Statement[Any]:
    """Delete executors that have been dead for long: one without a row is dead as well (P2).

    Not those that note whom they survived, until it has succeeded or is gone: without the note that workflow would be
    charged with a death (P22).
    """
    return Statement(
        """
        DELETE FROM {schema}.executor AS e
         WHERE e.executor_id IN (SELECT d.executor_id
                                   FROM {schema}.executor AS d
                                  WHERE d.died_at < %(dead_before)s AND d.lease_until < %(dead_before)s
                                    AND NOT EXISTS (SELECT FROM {schema}.workflow_status AS w
                                                     WHERE w.workflow_uuid = ANY (d.survived_alone)
                                                       AND w.status <> 'SUCCESS')
                                  LIMIT %(rows)s)
        """,
        {"dead_before": dead_before, "rows": rows},
    )
