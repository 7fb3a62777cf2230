"""Statements of `operation_outputs`: checkpoints."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.ids import WorkflowId
from engine.store.columns import packed
from engine.store.statement import Statement


class CheckpointRow(NamedTuple):
    """A recorded step."""

    workflow_id: WorkflowId
    function_id: int
    name: str
    output: str | None
    error: str | None


class Checkpoint(NamedTuple):
    """A recorded step on its way to its row. A tuple: columns of thousands are made by one `zip`."""

    workflow_id: WorkflowId
    function_id: int
    name: str
    output: str | None
    error: str | None
    started_ms: int
    ended_ms: int
    child: str | None = None
    """The workflow it is about: started, or awaited."""


def insert(checkpoints: Sequence[Checkpoint]) -> Statement[Any]:
    """Checkpoints of rows that this very transaction inserted or locked."""
    return Statement(
        """
        INSERT INTO {schema}.operation_outputs
               (workflow_uuid, function_id, function_name, output, error, started_at_epoch_ms, completed_at_epoch_ms,
                child_workflow_id)
        SELECT t.id, COALESCE(t.function_id, %(one_function_ids)s::integer), COALESCE(t.name, %(one_names)s),
               COALESCE(t.output, %(one_outputs)s), COALESCE(t.error, %(one_errors)s),
               COALESCE(t.started, %(one_starts)s::bigint), COALESCE(t.ended, %(one_ends)s::bigint),
               COALESCE(t.child, %(one_children)s)
          FROM unnest(string_to_array(%(ids)s, %(separator)s, %(null)s),
                      %(function_ids)s::integer[],
                      string_to_array(%(names)s, %(separator)s, %(null)s),
                      string_to_array(%(outputs)s, %(separator)s, %(null)s),
                      string_to_array(%(errors)s, %(separator)s, %(null)s),
                      %(starts)s::bigint[], %(ends)s::bigint[],
                      string_to_array(%(children)s, %(separator)s, %(null)s))
                 AS t (id, function_id, name, output, error, started, ended, child)
        """,
        columns(checkpoints),
    )


def columns(checkpoints: Sequence[Checkpoint], **others: Sequence[str | None]) -> dict[str, Any]:
    """The parameters of a statement about checkpoints, with more columns of texts."""
    ids, function_ids, names, outputs, errors, starts, ends, children = zip(*checkpoints, strict=True)
    return packed(
        ids,
        {"names": names, "outputs": outputs, "errors": errors, "children": children, **others},
        {"function_ids": function_ids, "starts": starts, "ends": ends},
    )


def of_workflows(*, ids: Sequence[str]) -> Statement[CheckpointRow]:
    """The histories of workflows, in order."""
    return Statement(
        """
        SELECT o.workflow_uuid, o.function_id, o.function_name, o.output, o.error
          FROM {schema}.operation_outputs AS o
         WHERE o.workflow_uuid = ANY (%(ids)b::text[])
         ORDER BY o.workflow_uuid, o.function_id
        """,
        {"ids": ids},
        args_row(CheckpointRow),
    )


def recorded(*, ids: Sequence[str]) -> Statement[tuple[WorkflowId, int]]:
    """Which checkpoints stand (P23, P24)."""
    return Statement(
        """
        SELECT o.workflow_uuid, o.function_id
          FROM {schema}.operation_outputs AS o
         WHERE o.workflow_uuid = ANY (%(ids)b::text[])
        """,
        {"ids": ids},
    )


def note_errors(
    *, ids: Sequence[str], function_ids: Sequence[int], besides: Sequence[int | None], called: Sequence[int]
) -> Statement[Any]:
    """What had been called when errors were given, of those that this very transaction has written (engine/given_errors.py)."""
    return Statement(
        """
        UPDATE {schema}.operation_outputs AS o
           SET kafka_called = t.called
          FROM unnest(%(ids)b::text[], %(function_ids)s::integer[], %(besides)s::integer[], %(called)s::integer[])
                 AS t (id, function_id, beside, called)
          JOIN {schema}.operation_outputs AS e
            ON e.workflow_uuid = t.id AND e.function_id = t.function_id AND e.error IS NOT NULL
         WHERE o.workflow_uuid = t.id AND o.function_id IN (t.function_id, t.beside)
        """,
        {"ids": ids, "function_ids": function_ids, "besides": besides, "called": called},
    )


def delete_errors(*, ids: Sequence[str], owners: Sequence[str]) -> Statement[Any]:
    """Forget the failed calls of an attempt, in the commit that starts the next one (P28).

    Not of a workflow that rested within an attempt: it has been given these errors.
    """
    return Statement(
        """
        DELETE FROM {schema}.operation_outputs AS o
         USING unnest(%(ids)b::text[], %(owners)b::text[]) AS t (id, owner),
               {schema}.workflow_status AS w
         WHERE o.workflow_uuid = t.id
           AND (o.error IS NOT NULL OR o.kafka_called IS NOT NULL)
           AND w.kafka_asleep IS NOT TRUE
           AND w.workflow_uuid = t.id
           AND w.owner_xid = t.owner
           AND w.status = 'PENDING'
        """,
        {"ids": ids, "owners": owners},
    )
