"""Statements of a dead letter whose payload is changed."""

from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement
from engine.store.workflow_status import INPUTS, INPUTS_ELSEWHERE


class EditedRow(NamedTuple):
    """The row of the workflow of a dead letter, and how many of its steps have succeeded."""

    request: str | None
    inputs: str
    steps: int


def lock(*, workflow_id: str) -> Statement[EditedRow]:
    """What a row was made of; locked."""
    return Statement(
        "SELECT w.request, "
        + INPUTS
        + """,
               (SELECT count(*)
                  FROM {schema}.operation_outputs AS o
                 WHERE o.workflow_uuid = w.workflow_uuid AND o.error IS NULL)
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(id)s
           FOR UPDATE OF w
        """,
        {"id": workflow_id, "elsewhere": INPUTS_ELSEWHERE},
        args_row(EditedRow),
    )


def write(
    *, workflow_id: str, request: str, inputs: str, inline_max: int, new_key: bool, key: int | None
) -> Statement[Any]:
    """Other inputs, where inputs of their size stand; and another ordering key, if it is known."""
    return Statement(
        """
        WITH former AS (
            DELETE FROM {schema}.workflow_inputs AS i WHERE i.workflow_uuid = %(id)s AND NOT %(is_large)s
        ), large AS (
            INSERT INTO {schema}.workflow_inputs AS i (workflow_uuid, inputs)
            SELECT %(id)s, %(inputs)s WHERE %(is_large)s
                ON CONFLICT (workflow_uuid) DO UPDATE SET inputs = EXCLUDED.inputs
        )
        UPDATE {schema}.workflow_status AS w
           SET request = %(request)s,
               inputs = CASE WHEN %(is_large)s THEN %(elsewhere)s ELSE %(inputs)s END,
               kafka_key = CASE WHEN %(new_key)s THEN %(key)s::bigint ELSE w.kafka_key END
         WHERE w.workflow_uuid = %(id)s
        """,
        {
            "id": workflow_id,
            "request": request,
            "inputs": inputs,
            "is_large": len(inputs) > inline_max,
            "elsewhere": INPUTS_ELSEWHERE,
            "new_key": new_key,
            "key": key,
        },
    )
