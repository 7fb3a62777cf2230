"""Statements about open workflows, as operators see them, and as a topic made anew leaves them behind (P30)."""

from collections.abc import Sequence
from typing import Any

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
