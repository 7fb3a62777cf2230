"""Statements about rows that were persisted earlier: checkpoints, outcomes, rests, where the row is still ours (P7).

Each answers with one row: NULL if it wrote what it was given for all workflows, as nearly always, else whose it wrote. (To
return every ID, and to read it, costs a checkpoint 1 µs.)
"""

from collections.abc import Sequence
from typing import Final

from engine.ids import WorkflowId
from engine.store.columns import packed
from engine.store.operation_outputs import Checkpoint, columns
from engine.store.statement import Statement

Written = tuple[list[WorkflowId] | None]

_ANSWER: Final = """
        SELECT CASE WHEN (SELECT count(*) FROM written) < %(count)s
                    THEN (SELECT COALESCE(array_agg(x.workflow_uuid), '{}') FROM written AS x) END
"""

_RECORD: Final = """
        INSERT INTO {schema}.operation_outputs
               (workflow_uuid, function_id, function_name, output, error, started_at_epoch_ms, completed_at_epoch_ms,
                child_workflow_id)
        SELECT t.id, COALESCE(t.function_id, %(one_function_ids)s::integer), COALESCE(t.name, %(one_names)s),
               COALESCE(t.output, %(one_outputs)s), COALESCE(t.error, %(one_errors)s),
               COALESCE(t.started, %(one_starts)s::bigint), COALESCE(t.ended, %(one_ends)s::bigint),
               COALESCE(t.child, %(one_children)s)
"""


def record(checkpoints: Sequence[Checkpoint], *, owners: Sequence[str]) -> Statement[Written]:
    """Checkpoints of rows that are still PENDING under their owners."""
    return Statement(
        "WITH written AS ("
        + _RECORD
        + """
          FROM unnest(string_to_array(%(ids)s, %(separator)s, %(null)s),
                      string_to_array(%(owners)s, %(separator)s, %(null)s),
                      %(function_ids)s::integer[],
                      string_to_array(%(names)s, %(separator)s, %(null)s),
                      string_to_array(%(outputs)s, %(separator)s, %(null)s),
                      string_to_array(%(errors)s, %(separator)s, %(null)s),
                      %(starts)s::bigint[], %(ends)s::bigint[],
                      string_to_array(%(children)s, %(separator)s, %(null)s))
                 AS t (id, owner, function_id, name, output, error, started, ended, child)
          JOIN {schema}.workflow_status AS w
            ON w.workflow_uuid = t.id AND w.owner_xid = COALESCE(t.owner, %(one_owners)s)
           AND w.status IS NOT DISTINCT FROM 'PENDING'
        RETURNING workflow_uuid)
        """
        + _ANSWER,
        {"count": len(checkpoints), **columns(checkpoints, owners=owners)},
    )


_FINISH: Final = """
        UPDATE {schema}.workflow_status AS w
           SET status = COALESCE(t.status, %(one_statuses)s),
               output = COALESCE(t.result, %(one_results)s),
               error = COALESCE(t.failure, %(one_failures)s),
               owner_xid = NULL,
               deduplication_id = NULL,
               kafka_wake_at = NULL,
               updated_at = c.now
          FROM (SELECT {schema}.now_ms() AS now) AS c,
               unnest(string_to_array(%(ids)s, %(separator)s, %(null)s),
                      string_to_array(%(owners)s, %(separator)s, %(null)s),
                      string_to_array(%(statuses)s, %(separator)s, %(null)s),
                      string_to_array(%(results)s, %(separator)s, %(null)s),
                      string_to_array(%(failures)s, %(separator)s, %(null)s)"""
_WHERE_OURS: Final = """
         WHERE w.workflow_uuid = t.id
           AND w.owner_xid = COALESCE(t.owner, %(one_owners)s)
           AND w.status IS NOT DISTINCT FROM 'PENDING'
"""


def finish(
    *,
    ids: Sequence[str],
    owners: Sequence[str],
    statuses: Sequence[str],
    results: Sequence[str | None],
    failures: Sequence[str | None],
) -> Statement[Written]:
    """Outcomes of rows. The owner goes with the outcome, and a deduplication ID is free again."""
    return Statement(
        "WITH written AS ("
        + _FINISH
        + """)
                 AS t (id, owner, status, result, failure)"""
        + _WHERE_OURS
        + "RETURNING w.workflow_uuid)"
        + _ANSWER,
        {
            "count": len(ids),
            **packed(ids, {"owners": owners, "statuses": statuses, "results": results, "failures": failures}),
        },
    )


def finish_recorded(
    checkpoints: Sequence[Checkpoint],
    *,
    owners: Sequence[str],
    statuses: Sequence[str],
    results: Sequence[str | None],
    failures: Sequence[str | None],
) -> Statement[Written]:
    """As `finish`, of workflows that each have one checkpoint to record with it: the row is looked for once."""
    return Statement(
        "WITH written AS ("
        + _FINISH
        + """,
                      %(function_ids)s::integer[],
                      string_to_array(%(names)s, %(separator)s, %(null)s),
                      string_to_array(%(outputs)s, %(separator)s, %(null)s),
                      string_to_array(%(errors)s, %(separator)s, %(null)s),
                      %(starts)s::bigint[], %(ends)s::bigint[],
                      string_to_array(%(children)s, %(separator)s, %(null)s))
                 AS t (id, owner, status, result, failure, function_id, name, output, error, started, ended, child)"""
        + _WHERE_OURS
        + """
        RETURNING w.workflow_uuid, t.id, t.function_id, t.name, t.output, t.error, t.started, t.ended, t.child
        ), recorded AS ("""
        + _RECORD
        + "FROM written AS t)"
        + _ANSWER,
        {
            "count": len(checkpoints),
            **columns(checkpoints, owners=owners, statuses=statuses, results=results, failures=failures),
        },
    )


def rest(
    *,
    ids: Sequence[str],
    owners: Sequence[str],
    attempts: Sequence[int | None],
    wakes: Sequence[int | None],
    ended: Sequence[bool],
    asleep: Sequence[bool],
    keys: Sequence[int | None],
) -> Statement[Written]:
    """Put running rows to rest: ownerless, until `wakes` (a retry, a sleep) or until somebody wakes them (a release).

    `keys`: of those whose code has ended; a raw row may come to rest before its key was stored, and who waits behind it
    has a row with the key (I7).
    `asleep`: within an attempt, so that nothing is forgotten when it wakes. One whose code has `ended` here has not killed its process, if it was started alone (P22).
    """
    return Statement(
        """
        WITH written AS (
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = NULL,
               kafka_attempt = COALESCE(t.attempt, w.kafka_attempt),
               kafka_wake_at = t.wake,
               kafka_asleep = NULLIF(t.asleep, false),
               kafka_key = COALESCE(t.key, w.kafka_key),
               kafka_alone = CASE WHEN t.ended THEN NULL ELSE w.kafka_alone END,
               updated_at = {schema}.now_ms()
          FROM unnest(%(ids)b::text[], %(owners)b::text[], %(attempts)b::integer[], %(wakes)b::bigint[],
                      %(ended)b::boolean[], %(asleep)b::boolean[], %(keys)b::bigint[])
                 AS t (id, owner, attempt, wake, ended, asleep, key)
         WHERE w.workflow_uuid = t.id
           AND w.owner_xid = t.owner
           AND w.status IS NOT DISTINCT FROM 'PENDING'
        RETURNING w.workflow_uuid)
        """
        + _ANSWER,
        {
            "count": len(ids),
            "ids": ids,
            "owners": owners,
            "attempts": attempts,
            "wakes": wakes,
            "ended": ended,
            "asleep": asleep,
            "keys": keys,
        },
    )
