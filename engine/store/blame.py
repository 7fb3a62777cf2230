"""Statements about who is blamed for the death of a process (P22)."""

from collections.abc import Sequence
from typing import Any

from engine.ids import OwnerToken, WorkflowId
from engine.store.statement import Statement


def reset_blame(*, ids: Sequence[str], owners: Sequence[str]) -> Statement[Any]:
    """A checkpoint says that the row gets on: its deaths are forgotten (P22)."""
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET recovery_attempts = 0, kafka_alone = NULL
          FROM unnest(%(ids)b::text[], %(owners)b::text[]) AS t (id, owner)
         WHERE w.workflow_uuid = t.id
           AND w.owner_xid = t.owner
           AND w.status IS NOT DISTINCT FROM 'PENDING'
        """,
        {"ids": ids, "owners": owners},
    )


def start_alone(*, workflow_id: WorkflowId, owner: OwnerToken) -> Statement[tuple[int]]:
    """Note that a suspect is about to run alone: if the process dies now, it was this one (P22)."""
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET kafka_alone = COALESCE(w.kafka_alone, 0) + 1
         WHERE w.workflow_uuid = %(id)s AND w.owner_xid = %(owner)s AND w.status = 'PENDING'
        RETURNING w.kafka_alone
        """,
        {"id": workflow_id, "owner": owner},
    )


def forgive(*, workflow_id: WorkflowId, owner: OwnerToken) -> Statement[Any]:
    """Take back one start alone: the time alone is over, and a death from now on may be a neighbour's (P22)."""
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET kafka_alone = GREATEST(COALESCE(w.kafka_alone, 0) - 1, 0)
         WHERE w.workflow_uuid = %(id)s AND w.owner_xid = %(owner)s AND w.status = 'PENDING'
        """,
        {"id": workflow_id, "owner": owner},
    )
