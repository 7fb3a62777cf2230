"""Statements of `streams`: values in the order in which a workflow wrote them, at offsets from 0 without gaps.

Every writer has locked the workflow's row, so that the next offset is nobody else's.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement


class StreamRow(NamedTuple):
    """A value of a stream, and its workflow's status at that moment."""

    status: str
    offset: int | None
    """`None`: nothing is there (yet)."""
    value: str | None


def read(*, workflow_id: str, key: str, offset: int, limit: int, bytes_max: int) -> Statement[StreamRow]:
    """Values from an offset on, as many as fit, with the status of one snapshot. No row: there is no such workflow."""
    return Statement(
        """
        SELECT w.status, s."offset", s.value
          FROM {schema}.workflow_status AS w
          LEFT JOIN LATERAL (
               SELECT x."offset", x.value,
                      sum(octet_length(x.value)) OVER (ORDER BY x."offset") - octet_length(x.value) AS bytes_before
                 FROM (SELECT y."offset", y.value
                         FROM {schema}.streams AS y
                        WHERE y.workflow_uuid = w.workflow_uuid AND y.key = %(key)s AND y."offset" >= %(offset)s
                        ORDER BY y."offset"
                        LIMIT %(limit)s) AS x) AS s ON s.bytes_before < %(bytes_max)s
         WHERE w.workflow_uuid = %(id)s
         ORDER BY s."offset"
        """,
        {"id": workflow_id, "key": key, "offset": offset, "limit": limit, "bytes_max": bytes_max},
        args_row(StreamRow),
    )


_WRITE: Final = """
    INSERT INTO {schema}.streams (workflow_uuid, key, value, "offset", function_id)
    SELECT t.id, t.key, t.value,
           COALESCE(last.place, -1) + row_number() OVER (PARTITION BY t.id, t.key ORDER BY t.number), t.function_id
      FROM unnest(%(ids)b::text[], %(function_ids)b::integer[], %(keys)b::text[], %(values)b::text[])
             WITH ORDINALITY AS t (id, function_id, key, value, number)
"""

_RECORDED: Final = """
      JOIN {schema}.operation_outputs AS o
        ON o.workflow_uuid = t.id AND o.function_id = t.function_id AND o.xmin = pg_current_xact_id()::xid
"""

_LAST: Final = """
     CROSS JOIN LATERAL (
           SELECT max(s."offset") AS place
             FROM {schema}.streams AS s
            WHERE s.workflow_uuid = t.id AND s.key = t.key) AS last
"""


def write_recorded(
    *, ids: Sequence[str], function_ids: Sequence[int], keys: Sequence[str], values: Sequence[str]
) -> Statement[Any]:
    """Values that come with checkpoints, in order, only where this transaction wrote those (P7, P31)."""
    return Statement(
        _WRITE + _RECORDED + _LAST,
        {"ids": ids, "function_ids": function_ids, "keys": keys, "values": values},
    )


def write_in_step(*, workflow_id: str, function_id: int, key: str, value: str) -> Statement[Any]:
    """A value that a step writes, behind the fence of its workflow's row: once each time it runs."""
    return Statement(
        _WRITE + _LAST,
        {"ids": [workflow_id], "function_ids": [function_id], "keys": [key], "values": [value]},
    )
