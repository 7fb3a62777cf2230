"""Statements of `operation_outputs`: checkpoints."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.ids import WorkflowId
from engine.store.statement import Statement, squeezed


class CheckpointRow(NamedTuple):
    """A recorded step."""

    workflow_id: WorkflowId
    function_id: int
    name: str
    output: str | None
    error: str | None


def insert(
    *,
    ids: list[str],
    function_ids: list[int],
    names: list[str],
    outputs: list[str | None],
    errors: list[str | None],
    starts: list[int],
    ends: list[int],
) -> Statement[Any]:
    """Checkpoints of rows that this very transaction inserted or locked."""
    function_ids, function_id = squeezed(function_ids)
    names, name = squeezed(names)
    outputs, output = squeezed(outputs)
    errors, error = squeezed(errors)
    return Statement(
        """
        INSERT INTO {schema}.operation_outputs
               (workflow_uuid, function_id, function_name, output, error, started_at_epoch_ms, completed_at_epoch_ms)
        SELECT t.id, COALESCE(t.function_id, %(function_id)s::integer), COALESCE(t.name, %(name)s),
               COALESCE(t.output, %(output)s), COALESCE(t.error, %(error)s), t.started, t.ended
          FROM unnest(%(ids)b::text[], %(function_ids)b::integer[], %(names)b::text[], %(outputs)b::text[],
                      %(errors)b::text[], %(starts)b::bigint[], %(ends)b::bigint[])
                 AS t (id, function_id, name, output, error, started, ended)
        """,
        {
            "function_id": function_id,
            "name": name,
            "output": output,
            "error": error,
            "ids": ids,
            "function_ids": function_ids,
            "names": names,
            "outputs": outputs,
            "errors": errors,
            "starts": starts,
            "ends": ends,
        },
    )


def insert_owned(
    *,
    ids: list[str],
    owners: list[str],
    function_ids: list[int],
    names: list[str],
    outputs: list[str | None],
    errors: list[str | None],
    starts: list[int],
    ends: list[int],
) -> Statement[tuple[WorkflowId, int]]:
    """Checkpoints of rows persisted earlier: only where the row is still PENDING under its owner; returns those (P7)."""
    function_ids, function_id = squeezed(function_ids)
    names, name = squeezed(names)
    outputs, output = squeezed(outputs)
    errors, error = squeezed(errors)
    return Statement(
        """
        INSERT INTO {schema}.operation_outputs
               (workflow_uuid, function_id, function_name, output, error, started_at_epoch_ms, completed_at_epoch_ms)
        SELECT t.id, COALESCE(t.function_id, %(function_id)s::integer), COALESCE(t.name, %(name)s),
               COALESCE(t.output, %(output)s), COALESCE(t.error, %(error)s), t.started, t.ended
          FROM unnest(%(ids)b::text[], %(owners)b::text[], %(function_ids)b::integer[], %(names)b::text[],
                      %(outputs)b::text[], %(errors)b::text[], %(starts)b::bigint[], %(ends)b::bigint[])
                 AS t (id, owner, function_id, name, output, error, started, ended)
          JOIN {schema}.workflow_status AS w
            ON w.workflow_uuid = t.id AND w.owner_xid = t.owner AND w.status = 'PENDING'
        RETURNING workflow_uuid, function_id
        """,
        {
            "function_id": function_id,
            "name": name,
            "output": output,
            "error": error,
            "ids": ids,
            "owners": owners,
            "function_ids": function_ids,
            "names": names,
            "outputs": outputs,
            "errors": errors,
            "starts": starts,
            "ends": ends,
        },
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


def delete_errors(*, ids: Sequence[str], owners: Sequence[str]) -> Statement[Any]:
    """Forget the failed steps of an attempt, in the commit that starts the next one (P28)."""
    return Statement(
        """
        DELETE FROM {schema}.operation_outputs AS o
         USING unnest(%(ids)b::text[], %(owners)b::text[]) AS t (id, owner),
               {schema}.workflow_status AS w
         WHERE o.workflow_uuid = t.id
           AND o.error IS NOT NULL
           AND w.workflow_uuid = t.id
           AND w.owner_xid = t.owner
           AND w.status = 'PENDING'
        """,
        {"ids": ids, "owners": owners},
    )
