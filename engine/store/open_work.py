"""Statements about workflows that are open and that nobody here runs.

As operators see them; as a topic made anew leaves them behind (P30); as an executor hands them over (P12).
"""

from collections.abc import Sequence
from typing import Any

from engine.ids import ExecutorId, OwnerToken, WorkflowId
from engine.store.statement import Statement


def counted() -> Statement[tuple[str, int]]:
    """Open workflows by source, from the index of open ones alone."""
    return Statement(
        """
        SELECT w.kafka_source, count(*)
          FROM {schema}.workflow_status AS w
         WHERE w.kafka_source IS NOT NULL
           AND w.status IN ('PENDING', 'ENQUEUED')
         GROUP BY w.kafka_source
        """,
        {},
    )


def move_places(*, sources: Sequence[str], service: str, key: str, by: int) -> Statement[Any]:
    """Move the places of a partition's workflows that may still run: the open ones, and those that block a key (P18)."""
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET kafka_place = w.kafka_place + %(by)s
         WHERE w.kafka_place IS NOT NULL
           AND w.workflow_uuid IN (
               SELECT o.workflow_uuid
                 FROM {schema}.workflow_status AS o
                WHERE o.kafka_source = ANY (%(sources)b::text[])
                  AND o.status IN ('PENDING', 'ENQUEUED')
               UNION
               SELECT h.workflow_uuid
                 FROM {schema}.hold AS h
                WHERE h.service_name = %(service)s AND h.key = %(key)s)
        """,
        {"sources": sources, "service": service, "key": key, "by": by},
    )


def disown(*, ids: Sequence[str], owners: Sequence[str]) -> Statement[Any]:
    """Hand over rows that nobody runs, also ENQUEUED and CANCELLED ones, whose owner a client left there (P12, P18)."""
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = NULL,
               updated_at = {schema}.now_ms()
          FROM unnest(%(ids)b::text[], %(owners)b::text[]) AS t (id, owner)
         WHERE w.workflow_uuid = t.id
           AND w.owner_xid = t.owner
           AND w.status IN ('PENDING', 'ENQUEUED', 'CANCELLED')
        """,
        {"ids": ids, "owners": owners},
    )


def store_keys(
    *,
    ids: Sequence[str],
    owners: Sequence[str],
    keys: Sequence[int | None],
    rests: Sequence[bool],
    forgiven: Sequence[bool],
) -> Statement[tuple[WorkflowId]]:
    """The keys of raw rows, which were not known when they were written (P21); some come to rest with it.

    One that was to run alone and did not is `forgiven` that start (P22). A row that is no longer ours or PENDING is not
    returned (P7).
    """
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET kafka_key = t.key,
               owner_xid = CASE WHEN t.rests THEN NULL ELSE w.owner_xid END,
               kafka_alone = CASE WHEN t.forgiven THEN GREATEST(COALESCE(w.kafka_alone, 0) - 1, 0) ELSE w.kafka_alone END,
               updated_at = {schema}.now_ms()
          FROM unnest(%(ids)b::text[], %(owners)b::text[], %(keys)b::bigint[], %(rests)b::boolean[],
                      %(forgiven)b::boolean[])
                 AS t (id, owner, key, rests, forgiven)
         WHERE w.workflow_uuid = t.id
           AND w.owner_xid = t.owner
           AND w.status = 'PENDING'
        RETURNING w.workflow_uuid
        """,
        {"ids": ids, "owners": owners, "keys": keys, "rests": rests, "forgiven": forgiven},
    )


def let_go(*, ids: Sequence[str], owners: Sequence[str]) -> Statement[Any]:
    """Cancelled rows whose steps have ended name nobody any more: their keys go on wherever they wait (P18)."""
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET owner_xid = NULL,
               updated_at = {schema}.now_ms()
          FROM unnest(%(ids)b::text[], %(owners)b::text[]) AS t (id, owner)
         WHERE w.workflow_uuid = t.id
           AND w.owner_xid = t.owner
           AND w.status = 'CANCELLED'
        """,
        {"ids": ids, "owners": owners},
    )


def orphans_of(*, executor_id: ExecutorId, limit: int) -> Statement[tuple[WorkflowId, OwnerToken, str]]:
    """Rows of partitions that name this executor: those of superseded claims without a run are handed over (P12)."""
    return Statement(
        """
        SELECT w.workflow_uuid, w.owner_xid, w.kafka_source
          FROM {schema}.workflow_status AS w
         WHERE w.executor_id = %(executor)s
           AND w.status IN ('PENDING', 'ENQUEUED')
           AND w.owner_xid IS NOT NULL
           AND w.kafka_source IS NOT NULL
         UNION ALL
        SELECT c.workflow_uuid, c.owner_xid, c.kafka_source
          FROM {schema}.workflow_status AS c
         WHERE c.kafka_source IS NOT NULL
           AND c.status = 'CANCELLED'
           AND c.owner_xid IS NOT NULL
           AND c.executor_id = %(executor)s
         LIMIT %(limit)s
        """,
        {"executor": executor_id, "limit": limit},
    )
