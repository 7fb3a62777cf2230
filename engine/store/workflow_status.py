"""Statements of `workflow_status`: rows of records, their outcomes, waking, looking up; and of `workflow_inputs`."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.identity import Origin
from engine.ids import ExecutorId, OwnerToken, WorkflowId
from engine.store.columns import packed
from engine.store.statement import Statement


class OpenRow(NamedTuple):
    """An open row of a partition, without its inputs."""

    workflow_id: WorkflowId
    status: str
    offset: int
    place: int | None
    key: int | None
    owner: OwnerToken | None
    owner_alive: bool
    recovery_attempts: int
    attempt: int
    wake_at: int | None
    source: str


class FoundRow(NamedTuple):
    """What a look-up by ID says."""

    workflow_id: WorkflowId
    status: str
    name: str
    source: str | None
    owner: OwnerToken | None
    owner_alive: bool
    key: int | None
    place: int | None
    recovery_attempts: int
    attempt: int
    wake_at: int | None
    request: str | None


class AcquiredRow(NamedTuple):
    """A row that was written as ours, with what its run needs."""

    workflow_id: WorkflowId
    request: str
    inputs: str
    recovery_attempts: int
    attempt: int
    alone: int


INPUTS_ELSEWHERE: Final = '{"args": [], "kwargs": {}, "stored_in": "workflow_inputs"}'
"""What `inputs` holds where the inputs themselves are too large for a row that is read and written so often."""

INPUTS: Final = """
    COALESCE(CASE WHEN w.inputs = %(elsewhere)s
                  THEN (SELECT i.inputs FROM {schema}.workflow_inputs AS i WHERE i.workflow_uuid = w.workflow_uuid)
                  ELSE w.inputs END, '')
"""
"""The inputs of a row `w`, wherever they are; `elsewhere` is `INPUTS_ELSEWHERE`."""

_INSERT: Final = """
    INSERT INTO {schema}.workflow_status
           (workflow_uuid, status, name, application_version, request, inputs, output, error, owner_xid,
            executor_id, created_at, updated_at, started_at_epoch_ms,
            kafka_source, kafka_offset, kafka_key, kafka_attempt, kafka_wake_at)
    SELECT t.id, COALESCE(t.status, %(one_statuses)s), COALESCE(t.name, %(one_names)s),
           COALESCE(t.version, %(one_versions)s), COALESCE(t.request, %(one_requests)s),
           COALESCE(t.inputs, %(one_inputs)s), COALESCE(t.output, %(one_outputs)s), COALESCE(t.error, %(one_errors)s),
           COALESCE(t.owner, %(one_owners)s), %(executor)s, c.now, c.now, COALESCE(t.started, %(one_starts)s::bigint),
           COALESCE(t.source, %(one_sources)s), COALESCE(t.kafka_offset, %(one_offsets)s::bigint),
           COALESCE(t.key, %(one_keys)s::bigint), COALESCE(t.attempt, %(one_attempts)s::integer),
           COALESCE(t.wake, %(one_wakes)s::bigint)
      FROM (SELECT {schema}.now_ms() AS now) AS c,
           unnest(string_to_array(%(ids)s, %(separator)s, %(null)s),
                  string_to_array(%(statuses)s, %(separator)s, %(null)s),
                  string_to_array(%(names)s, %(separator)s, %(null)s),
                  string_to_array(%(versions)s, %(separator)s, %(null)s),
                  string_to_array(%(requests)s, %(separator)s, %(null)s),
                  string_to_array(%(inputs)s, %(separator)s, %(null)s),
                  string_to_array(%(outputs)s, %(separator)s, %(null)s),
                  string_to_array(%(errors)s, %(separator)s, %(null)s),
                  string_to_array(%(owners)s, %(separator)s, %(null)s),
                  string_to_array(%(sources)s, %(separator)s, %(null)s),
                  %(offsets)s::bigint[], %(keys)s::bigint[], %(starts)s::bigint[], %(attempts)s::integer[],
                  %(wakes)s::bigint[])
             AS t (id, status, name, version, request, inputs, output, error, owner, source, kafka_offset, key,
                   started, attempt, wake)
"""

_INSERT_WITH_ORIGINS: Final = (
    _INSERT.replace(
        "executor_id, created_at", "authenticated_user, assumed_role, authenticated_roles, executor_id, created_at"
    )
    .replace(
        "%(executor)s, c.now",
        """COALESCE(t."user", %(one_user)s), COALESCE(t.role, %(one_role)s),
           COALESCE(t.roles, %(one_roles)s), %(executor)s, c.now""",
    )
    .replace(
        "%(offsets)s::bigint[]",
        """string_to_array(%(user)s, %(separator)s, %(null)s),
                  string_to_array(%(role)s, %(separator)s, %(null)s),
                  string_to_array(%(roles)s, %(separator)s, %(null)s),
                  %(offsets)s::bigint[]""",
    )
    .replace("source, kafka_offset, key,", 'source, "user", role, roles, kafka_offset, key,')
)
"""Where records say whose they are. Three columns more for everybody would cost those who have none."""

# One command: the foreign key is checked when it has ended.
_LARGE_FIRST: Final = "WITH record AS ("
_LARGE: Final = """)
    INSERT INTO {schema}.workflow_inputs (workflow_uuid, inputs)
    SELECT t.id, t.inputs FROM unnest(%(large_ids)b::text[], %(large_inputs)b::text[]) AS t (id, inputs)
    """


def insert(
    *,
    executor_id: ExecutorId,
    ids: Sequence[str],
    statuses: Sequence[str],
    names: Sequence[str],
    versions: Sequence[str],
    requests: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str | None],
    errors: Sequence[str | None],
    owners: Sequence[str | None],
    sources: Sequence[str],
    offsets: Sequence[int],
    keys: Sequence[int | None],
    starts: Sequence[int | None],
    attempts: Sequence[int | None],
    wakes: Sequence[int | None],
    inputs_inline_max: int,
    origins: Sequence[Origin] | None = None,
) -> Statement[Any]:
    """New rows of records, PENDING or already terminal (P8). Plain: a conflict is an error, never a dedup (I2).

    Inputs of more than `inputs_inline_max` characters go to `workflow_inputs`, by the same statement. `origins`: whose the
    records are, where any says so.
    """
    large: dict[str, list[str]] = {}
    if places := [place for place, text in enumerate(inputs) if len(text) > inputs_inline_max]:
        large = {"large_ids": [ids[place] for place in places], "large_inputs": [inputs[place] for place in places]}
        inputs = list(inputs)
        for place in places:
            inputs[place] = INPUTS_ELSEWHERE
    whose: dict[str, Sequence[str | None]] = {}
    if origins is not None:
        for name in ("user", "role", "roles"):
            whose[name] = [getattr(origin, name) for origin in origins]
    text = _INSERT if origins is None else _INSERT_WITH_ORIGINS
    return Statement(
        text if not large else _LARGE_FIRST + text + _LARGE,
        {
            "executor": executor_id,
            **large,
            **packed(
                ids,
                {
                    "statuses": statuses,
                    "names": names,
                    "versions": versions,
                    "requests": requests,
                    "inputs": inputs,
                    "outputs": outputs,
                    "errors": errors,
                    "owners": owners,
                    "sources": sources,
                    **whose,
                },
                {"offsets": offsets, "keys": keys, "starts": starts, "attempts": attempts, "wakes": wakes},
            ),
        },
    )


def acquire(
    *, executor_id: ExecutorId, ids: Sequence[str], owners: Sequence[str], rested: Sequence[bool]
) -> Statement[AcquiredRow]:
    """Wake rows: write their owner before they run (P15), count blame (P22).

    Only a row whose owner died is blamed: one at rest was running nothing. One that names our own claim has no run
    here any more: it was refused, cancelled and resumed. One that rests until another attempt is taken only by who
    knows that (`rested`), since its failed steps are forgotten in the same commit (P28). The returned rows are ours.
    """
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = t.owner,
               executor_id = %(executor)s,
               status = 'PENDING',
               started_at_epoch_ms = COALESCE(w.started_at_epoch_ms, {schema}.now_ms()),
               recovery_attempts = COALESCE(w.recovery_attempts, 0)
                                   + CASE WHEN w.owner_xid IS NULL OR w.owner_xid = t.owner THEN 0 ELSE 1 END,
               kafka_wake_at = NULL,
               updated_at = {schema}.now_ms()
          FROM unnest(%(ids)b::text[], %(owners)b::text[], %(rested)b::boolean[]) AS t (id, owner, rested)
         WHERE w.workflow_uuid = t.id
           AND COALESCE(w.status, '') IN ('PENDING', 'ENQUEUED')
           AND (w.owner_xid IS NULL OR w.owner_xid = t.owner OR {schema}.executor_is_gone(w.executor_id))
           AND (w.kafka_wake_at IS NULL OR t.rested)
        RETURNING w.workflow_uuid, COALESCE(w.request, ''),"""
        + INPUTS
        + """, w.recovery_attempts, COALESCE(w.kafka_attempt, 0), COALESCE(w.kafka_alone, 0)
        """,
        {
            "executor": executor_id,
            "ids": ids,
            "owners": owners,
            "rested": rested,
            "elsewhere": INPUTS_ELSEWHERE,
        },
        args_row(AcquiredRow),
    )


def owned(*, ids: Sequence[str], owners: Sequence[str]) -> Statement[AcquiredRow]:
    """Rows that stand under these owners: what an acquisition whose reply was lost made ours (P23)."""
    return Statement(
        """
        SELECT w.workflow_uuid, COALESCE(w.request, ''),"""
        + INPUTS
        + """, COALESCE(w.recovery_attempts, 0)::integer, COALESCE(w.kafka_attempt, 0), COALESCE(w.kafka_alone, 0)
          FROM unnest(%(ids)b::text[], %(owners)b::text[]) AS t (id, owner)
          JOIN {schema}.workflow_status AS w
            ON w.workflow_uuid = t.id AND w.owner_xid = t.owner AND w.status = 'PENDING'
        """,
        {"ids": ids, "owners": owners, "elsewhere": INPUTS_ELSEWHERE},
        args_row(AcquiredRow),
    )


def open_rows(*, sources: Sequence[str], limit: int) -> Statement[OpenRow]:
    """Open rows of a partition by topic, in this order, and offset: what a claim takes over (P10).

    With them come those that were cancelled and that a live executor still runs: their keys wait for it (P12, P18). Not
    those asleep: see `engine.store.asleep`.
    """
    return Statement(
        """
        SELECT w.workflow_uuid, w.status, w.kafka_offset, w.kafka_place, w.kafka_key, w.owner_xid,
               NOT {schema}.executor_is_gone(w.executor_id),
               COALESCE(w.recovery_attempts, 0)::integer, COALESCE(w.kafka_attempt, 0), w.kafka_wake_at,
               w.kafka_source
          FROM (SELECT o.*
                  FROM {schema}.workflow_status AS o
                 WHERE o.kafka_source = ANY (%(sources)b::text[])
                   AND o.status IN ('PENDING', 'ENQUEUED')
                   AND NOT (o.status = 'PENDING' AND o.owner_xid IS NULL AND o.kafka_asleep IS TRUE
                            AND o.kafka_wake_at IS NOT NULL)
                UNION ALL
                SELECT c.*
                  FROM {schema}.workflow_status AS c
                 WHERE c.kafka_source = ANY (%(sources)b::text[])
                   AND c.status = 'CANCELLED'
                   AND c.owner_xid IS NOT NULL
                   AND NOT {schema}.executor_is_gone(c.executor_id)) AS w
         ORDER BY array_position(%(sources)b::text[], w.kafka_source), w.kafka_offset
         LIMIT %(limit)s
        """,
        {"sources": sources, "limit": limit},
        args_row(OpenRow),
    )


def rows_at_rest(*, sources: Sequence[str], known: Sequence[str], limit: int) -> Statement[tuple[str, WorkflowId]]:
    """Open ownerless rows that are due and nobody here knows: an operator's retry, a client's resume, handed over, slept.

    An ENQUEUED row runs nowhere, whatever owner a client's resume left there.
    """
    return Statement(
        """
        SELECT w.kafka_source, w.workflow_uuid
          FROM {schema}.workflow_status AS w
         WHERE w.kafka_source = ANY (%(sources)b::text[])
           AND w.status IN ('PENDING', 'ENQUEUED')
           AND (w.owner_xid IS NULL OR w.status = 'ENQUEUED')
           AND COALESCE(w.kafka_wake_at, 0) <= (SELECT {schema}.now_ms())
           AND w.workflow_uuid <> ALL (%(known)b::text[])
         ORDER BY w.kafka_source, w.kafka_offset
         LIMIT %(limit)s
        """,
        {"sources": sources, "known": known, "limit": limit},
    )


def look_up(*, ids: Sequence[str]) -> Statement[FoundRow]:
    """Rows by ID, locked against change until the flush that asks has ended (P16, P18)."""
    return Statement(
        """
        SELECT w.workflow_uuid, w.status, COALESCE(w.name, ''), w.kafka_source, w.owner_xid,
               NOT {schema}.executor_is_gone(w.executor_id),
               w.kafka_key, w.kafka_place, COALESCE(w.recovery_attempts, 0)::integer, COALESCE(w.kafka_attempt, 0),
               w.kafka_wake_at, w.request
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
           FOR SHARE OF w
        """,
        {"ids": ids},
        args_row(FoundRow),
    )


def lock(*, ids: Sequence[str]) -> Statement[Any]:
    """Lock rows in the order of their IDs: waits for whoever writes them (P24)."""
    return Statement(
        """
        SELECT 1
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
         ORDER BY w.workflow_uuid
           FOR NO KEY UPDATE OF w
        """,
        {"ids": ids},
    )


def fence_rows(
    *,
    ids: Sequence[str],
    owners: Sequence[str],
    checkpoint_ids: Sequence[str],
    function_ids: Sequence[int],
    timeline: str,
    lsn: str,
) -> Statement[tuple[str]]:
    """P7 and P4 for several rows: raises KP002 or KP003; returns the WAL position."""
    return Statement(
        """
        SELECT {schema}.fence_rows(%(ids)b::text[], %(owners)b::text[], %(checkpoint_ids)b::text[],
                                   %(function_ids)b::integer[], %(timeline)s, %(lsn)s::pg_lsn)::text
        """,
        {
            "ids": ids,
            "owners": owners,
            "checkpoint_ids": checkpoint_ids,
            "function_ids": function_ids,
            "timeline": timeline,
            "lsn": lsn,
        },
    )


def fence_database(*, timeline: str, lsn: str) -> Statement[tuple[str]]:
    """P4 for a transaction that takes rows: raises KP003; returns the WAL position."""
    return Statement(
        "SELECT {schema}.fence_database(%(timeline)s, %(lsn)s::pg_lsn)::text", {"timeline": timeline, "lsn": lsn}
    )


def foreign_rows(*, ids: Sequence[str]) -> Statement[tuple[WorkflowId, str | None, str | None, str]]:
    """Which of these IDs have rows, and whose: after a conflict."""
    return Statement(
        """
        SELECT w.workflow_uuid, w.kafka_source, w.name, w.status
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids},
    )


def statuses(*, ids: Sequence[str]) -> Statement[tuple[WorkflowId, str, OwnerToken | None]]:
    """Status and owner of rows: what an unknown COMMIT wrote (P23)."""
    return Statement(
        """
        SELECT w.workflow_uuid, w.status, w.owner_xid
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids},
    )
