"""Statements of the proof of effects: a user's query, compared with the workflows of ranges."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple, cast

from psycopg.rows import args_row

from engine.store.completeness import EXAMPLES_MAX
from engine.store.statement import Statement


class EffectRow(NamedTuple):
    """A workflow whose effects are not what they should be, `None` where they name none; and how many there are of its kind."""

    kind: str
    workflow_id: str | None
    effects: int
    total: int


class Owned(NamedTuple):
    """IDs that are a partition's: of records in [first, behind), `None`: of all from there on, and of what those started."""

    prefix: str
    source: str
    first: int
    behind: int | None


def wrong_effects(
    *, query: str, each: int, sources: Sequence[str], starts: Sequence[int], ends: Sequence[int], name: str | None
) -> Statement[EffectRow]:
    """Workflows of ranges that have more effects than they should, or have succeeded with fewer.

    `query` is the user's; its rows are a workflow's ID and a number. Everything is compared where it is.
    """
    return Statement(
        _effects(query)
        + """
        , judged AS (
            SELECT CASE WHEN COALESCE(e.effects, 0) > %(each)s THEN 'doubled' ELSE 'missing' END AS kind,
                   w.workflow_uuid, COALESCE(e.effects, 0) AS effects
              FROM unnest(%(sources)b::text[], %(starts)b::bigint[], %(ends)b::bigint[]) AS t (source, first, behind)
              JOIN {schema}.workflow_status AS w
                ON w.kafka_source = t.source AND w.kafka_offset >= t.first AND w.kafka_offset < t.behind
              LEFT JOIN effect AS e ON e.workflow_id = w.workflow_uuid
             WHERE (%(name)s::text IS NULL OR w.name = %(name)s)
               AND (COALESCE(e.effects, 0) > %(each)s
                    OR (w.status = 'SUCCESS' AND COALESCE(e.effects, 0) < %(each)s))
        )
        SELECT n.kind, n.workflow_uuid, n.effects, n.total
          FROM (SELECT j.kind, j.workflow_uuid, j.effects::bigint,
                       count(*) OVER (PARTITION BY j.kind) AS total,
                       row_number() OVER (PARTITION BY j.kind ORDER BY j.workflow_uuid) AS place
                  FROM judged AS j) AS n
         WHERE n.place <= %(examples)s
         ORDER BY n.kind, n.place
        """,
        {"each": each, "sources": sources, "starts": starts, "ends": ends, "name": name, "examples": EXAMPLES_MAX},
        args_row(EffectRow),
    )


def unowned_effects(*, query: str, owned: Sequence[Owned], is_whole: bool) -> Statement[EffectRow]:
    """Effects that name no workflow which stands, where retention cannot have deleted it.

    Of a record of these, or of what it started (`ID-2`), above the horizon: orphaned. Of anything else, where these are
    all there are: nobody's.
    """
    return Statement(
        _effects(query)
        + """
        , owned AS (
            SELECT t.prefix, GREATEST(t.first, COALESCE(h.horizon, 0)) AS first, t.behind
              FROM unnest(%(prefixes)b::text[], %(sources)b::text[], %(firsts)b::bigint[], %(behinds)b::bigint[])
                     AS t (prefix, source, first, behind)
              LEFT JOIN {schema}.horizon AS h ON h.kafka_source = t.source
        ), unknown AS (
            SELECT e.workflow_id, e.effects
              FROM effect AS e
             WHERE NOT EXISTS (SELECT FROM {schema}.workflow_status AS w WHERE w.workflow_uuid = e.workflow_id)
        ), judged AS (
            SELECT u.workflow_id, u.effects,
                   CASE WHEN o.record IS NULL THEN CASE WHEN %(is_whole)s THEN 'nobodys' END
                        WHEN split_part(o.record, '-', 1)::bigint >= o.first
                         AND (o.behind IS NULL OR split_part(o.record, '-', 1)::bigint < o.behind)
                         AND NOT EXISTS (SELECT FROM {schema}.workflow_status AS p
                                          WHERE p.workflow_uuid = o.prefix || split_part(o.record, '-', 1))
                        THEN 'orphaned' END AS kind
              FROM unknown AS u
              LEFT JOIN LATERAL (
                   SELECT x.prefix, x.first, x.behind, substr(u.workflow_id, length(x.prefix) + 1) AS record
                     FROM owned AS x
                    WHERE starts_with(u.workflow_id, x.prefix)
                      AND substr(u.workflow_id, length(x.prefix) + 1) ~ '^[0-9]{1,18}(-[0-9]{1,18})*$'
                    -- orders-0-3-1: a record of topic 'orders-0', if there is one, rather than what one of 'orders' started.
                    ORDER BY length(x.prefix) DESC
                    LIMIT 1) AS o ON true
        )
        SELECT n.kind, n.workflow_id, n.effects, n.total
          FROM (SELECT j.kind, j.workflow_id, j.effects::bigint,
                       count(*) OVER (PARTITION BY j.kind) AS total,
                       row_number() OVER (PARTITION BY j.kind ORDER BY j.workflow_id) AS place
                  FROM judged AS j
                 WHERE j.kind IS NOT NULL) AS n
         WHERE n.place <= %(examples)s
         ORDER BY n.kind DESC, n.place
        """,
        {
            "prefixes": [each.prefix for each in owned],
            "sources": [each.source for each in owned],
            "firsts": [each.first for each in owned],
            "behinds": [each.behind for each in owned],
            "is_whole": is_whole,
            "examples": EXAMPLES_MAX,
        },
        args_row(EffectRow),
    )


def counted_rows(*, table: str, column: str) -> str:
    """A query of effects over a table that has a row for each: its column has the workflow's ID."""
    named = ".".join(_quoted(part) for part in table.split("."))
    return f"SELECT {_quoted(column)}, count(*) FROM {named} GROUP BY 1"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _effects(query: str) -> LiteralString:
    # The one statement of a user's own in ours: the operator's, who has this connection anyway, in a read-only transaction.
    own = query.strip().rstrip(";").replace("%", "%%")
    text = (
        "WITH effect AS (SELECT e.workflow_id::text, sum(e.effects) AS effects\n"
        f"FROM (\n{own}\n) AS e (workflow_id, effects) GROUP BY e.workflow_id::text)"
    )
    return cast("LiteralString", text)
