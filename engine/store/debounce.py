"""Statements of `debounce`: calls under a key, of which the last is what runs (decision 0013)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.store.columns import packed
from engine.store.statement import Statement


class Call(NamedTuple):
    """One call under a key.

    Attributes:
        id: Of the workflow that begins to wait, if none does; the call's own name.
        name, key: Which workflow, under which key.
        wait_ms, max_wait_ms: From this call, and from the first of those that wait.
    """

    id: str
    name: str
    key: str
    wait_ms: int
    max_wait_ms: int | None
    queue: str
    inputs: str
    request: str | None
    timeout_ms: int | None
    place: int


def call(made: Call) -> Statement[tuple[str]]:
    """Make one call; returns the workflow that waits now. Made again, it does nothing."""
    return Statement(
        """
        SELECT {schema}.debounce(%(name)s, %(key)s, %(id)s, %(wait_ms)s, %(max_wait_ms)s, %(queue)s, %(inputs)s,
                                 %(request)s, %(timeout_ms)s, %(place)s)
        """,
        made._asdict(),
    )


def call_recorded(checkpoints: Sequence[tuple[str, int]], calls: Sequence[Call]) -> Statement[tuple[str, int, str]]:
    """Calls that come with checkpoints (workflow and function ID of each), only where this transaction wrote those.

    Each checkpoint gets the workflow that waits now; returns them. In the order of their keys: two transactions that call
    under the same ones wait for each other in one direction.
    """
    return Statement(
        """
        WITH made AS MATERIALIZED (
            SELECT t.parent, t.function_id,
                   {schema}.debounce(t.name, t.key, t.id, t.wait_ms, t.max_wait_ms, t.queue, t.inputs, t.request,
                                     t.timeout_ms, t.place) AS id
              FROM (SELECT i.*
                      FROM (SELECT p.id, COALESCE(p.parent, %(one_parent)s) AS parent,
                                   COALESCE(p.name, %(one_name)s) AS name, COALESCE(p.key, %(one_key)s) AS key,
                                   COALESCE(p.queue, %(one_queue)s) AS queue,
                                   COALESCE(p.inputs, %(one_inputs)s) AS inputs,
                                   COALESCE(p.request, %(one_request)s) AS request,
                                   COALESCE(p.function_id, %(one_function_id)s::integer) AS function_id,
                                   COALESCE(p.wait_ms, %(one_wait_ms)s::bigint) AS wait_ms,
                                   COALESCE(p.max_wait_ms, %(one_max_wait_ms)s::bigint) AS max_wait_ms,
                                   COALESCE(p.timeout_ms, %(one_timeout_ms)s::bigint) AS timeout_ms,
                                   COALESCE(p.place, %(one_place)s::bigint) AS place
                              FROM unnest(string_to_array(%(ids)s, %(separator)s, %(null)s),
                                          string_to_array(%(parent)s, %(separator)s, %(null)s),
                                          string_to_array(%(name)s, %(separator)s, %(null)s),
                                          string_to_array(%(key)s, %(separator)s, %(null)s),
                                          string_to_array(%(queue)s, %(separator)s, %(null)s),
                                          string_to_array(%(inputs)s, %(separator)s, %(null)s),
                                          string_to_array(%(request)s, %(separator)s, %(null)s),
                                          %(function_id)s::integer[], %(wait_ms)s::bigint[], %(max_wait_ms)s::bigint[],
                                          %(timeout_ms)s::bigint[], %(place)s::bigint[])
                                     AS p (id, parent, name, key, queue, inputs, request, function_id, wait_ms,
                                           max_wait_ms, timeout_ms, place)) AS i
                      JOIN {schema}.operation_outputs AS c
                        ON c.workflow_uuid = i.parent AND c.function_id = i.function_id
                       AND c.xmin = pg_current_xact_id()::xid
                     ORDER BY i.name, i.key, i.place
                    OFFSET 0) AS t
        )
        UPDATE {schema}.operation_outputs AS o
           SET output = to_json(made.id)::text, child_workflow_id = made.id
          FROM made
         WHERE o.workflow_uuid = made.parent AND o.function_id = made.function_id
        RETURNING o.workflow_uuid, o.function_id, made.id
        """,
        packed(
            [each.id for each in calls],
            {
                "parent": [parent for parent, _ in checkpoints],
                **{
                    column: [getattr(each, column) for each in calls]
                    for column in ("name", "key", "queue", "inputs", "request")
                },
            },
            {
                "function_id": [function_id for _, function_id in checkpoints],
                **{
                    column: [getattr(each, column) for each in calls]
                    for column in ("wait_ms", "max_wait_ms", "timeout_ms", "place")
                },
            },
        ),
    )


def answered(*, workflow_id: str, function_id: int) -> Statement[tuple[str | None]]:
    """Which workflow a recorded call got."""
    return Statement(
        """
        SELECT o.child_workflow_id
          FROM {schema}.operation_outputs AS o
         WHERE o.workflow_uuid = %(id)s AND o.function_id = %(function_id)s
        """,
        {"id": workflow_id, "function_id": function_id},
    )


def forget(*, before_ms: int, limit: int) -> Statement[Any]:
    """Forget keys under which nothing waits, and nobody has called lately."""
    return Statement(
        """
        DELETE FROM {schema}.debounce AS d
         USING (SELECT d.name, d.key
                  FROM {schema}.debounce AS d
                 WHERE d.called_at < (SELECT {schema}.now_ms()) - %(before)s
                   AND COALESCE((SELECT w.status
                                   FROM {schema}.workflow_status AS w
                                  WHERE w.workflow_uuid = d.workflow_uuid), '') <> 'ENQUEUED'
                 ORDER BY d.called_at
                 LIMIT %(limit)s
                   FOR UPDATE SKIP LOCKED) AS over
         WHERE d.name = over.name AND d.key = over.key
        """,
        {"before": before_ms, "limit": limit},
    )
