"""Statements of `schedule`, `executor_schedule` and `scheduler_state` (decision 0014).

Whoever decides about a schedule locks its row first, and reads in a statement behind the lock: so it sees what the last
holder has committed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.ids import ExecutorId
from engine.store.statement import Statement


class ScheduleRow(NamedTuple):
    """A schedule as it stands, and what the executor that decides has."""

    name: str
    expression: str
    timezone: str
    catch_up: str
    version: str
    is_paused: bool
    last: int
    now: int
    """By Postgres's clock; epoch ms, as all times here."""
    decided_expression: str | None
    """Of the live executor that started last; these four are `None` where no live one has the schedule."""
    decided_timezone: str | None
    decided_catch_up: str | None
    decided_version: str | None
    active_since: int | None
    """When the first of those that live has started."""
    waiting: int
    """Workflows of it that are due and that nobody has taken, as far as they were counted."""


class ListedRow(NamedTuple):
    """A schedule for operators."""

    name: str
    expression: str
    timezone: str
    catch_up: str
    version: str
    registered_at: int
    changed_at: int | None
    last_tick_at: int | None
    last_started_at: int | None
    paused_at: int | None
    paused_by: str | None
    pause_note: str | None
    last: int
    executors: int
    now: int


def announce(
    *,
    executor_id: ExecutorId,
    names: Sequence[str],
    expressions: Sequence[str],
    timezones: Sequence[str],
    catch_ups: Sequence[str],
    versions: Sequence[str],
) -> Statement[Any]:
    """Say which schedules this executor has, and forget what dead ones had. One that is new begins now."""
    return Statement(
        """
        WITH had AS (
            DELETE FROM {schema}.executor_schedule AS x
             WHERE NOT EXISTS (SELECT FROM {schema}.executor AS e
                                WHERE e.executor_id = x.executor_id AND e.died_at IS NULL)
        ), has AS MATERIALIZED (
            SELECT h.name, h.expression, h.timezone, h.catch_up, h.version
              FROM unnest(%(names)b::text[], %(expressions)b::text[], %(timezones)b::text[], %(catch_ups)b::text[],
                          %(versions)b::text[]) AS h (name, expression, timezone, catch_up, version)
             ORDER BY h.name
        ), registered AS (
            INSERT INTO {schema}.schedule (name, expression, timezone, catch_up, version, registered_at)
            SELECT has.name, has.expression, has.timezone, has.catch_up, has.version, {schema}.now_ms() FROM has
                ON CONFLICT (name) DO NOTHING
        ), begun AS (
            INSERT INTO {schema}.scheduler_state (workflow_fn_name, last_run_time)
            SELECT has.name, {schema}.now_ms() FROM has
                ON CONFLICT (workflow_fn_name) DO NOTHING
        )
        INSERT INTO {schema}.executor_schedule (executor_id, name, expression, timezone, catch_up, version)
        SELECT %(executor)s, has.name, has.expression, has.timezone, has.catch_up, has.version FROM has
            ON CONFLICT (name, executor_id) DO NOTHING
        """,
        {
            "executor": executor_id,
            "names": names,
            "expressions": expressions,
            "timezones": timezones,
            "catch_ups": catch_ups,
            "versions": versions,
        },
    )


def lock(*, names: Sequence[str]) -> Statement[tuple[str]]:
    """Lock the rows of schedules that nobody else looks at just now; returns which."""
    return Statement(
        """
        SELECT s.name
          FROM {schema}.schedule AS s
         WHERE s.name = ANY (%(names)b::text[])
         ORDER BY s.name
           FOR NO KEY UPDATE SKIP LOCKED
        """,
        {"names": names},
    )


def lock_one(*, name: str) -> Statement[tuple[str]]:
    """Lock a schedule's row, waiting for whoever has it; no row: there is no such schedule."""
    return Statement(
        "SELECT s.name FROM {schema}.schedule AS s WHERE s.name = %(name)s FOR NO KEY UPDATE",
        {"name": name},
    )


def read(*, names: Sequence[str], waiting_max: int) -> Statement[ScheduleRow]:
    """Schedules as they stand, behind their locks. An index probe for each of three tables."""
    return Statement(
        """
        SELECT s.name, s.expression, s.timezone, s.catch_up, s.version, s.paused_at IS NOT NULL, t.last_run_time, c.now,
               d.expression, d.timezone, d.catch_up, d.version,
               (SELECT min(e.started_at)
                  FROM {schema}.executor_schedule AS x
                  JOIN {schema}.executor AS e ON e.executor_id = x.executor_id
                 WHERE x.name = s.name AND e.died_at IS NULL),
               (SELECT count(*)::integer
                  FROM (SELECT
                          FROM {schema}.workflow_status AS w
                         WHERE w.kafka_source IS NULL AND w.status = 'PENDING' AND w.owner_xid IS NULL
                           AND w.name = s.name AND w.application_version = COALESCE(d.version, s.version)
                           AND COALESCE(w.kafka_wake_at, 0) <= c.now
                         LIMIT %(waiting_max)s) AS due)
          FROM (SELECT {schema}.now_ms() AS now OFFSET 0) AS c
         CROSS JOIN {schema}.schedule AS s
          JOIN {schema}.scheduler_state AS t ON t.workflow_fn_name = s.name
          LEFT JOIN LATERAL (
               SELECT x.expression, x.timezone, x.catch_up, x.version
                 FROM {schema}.executor_schedule AS x
                 JOIN {schema}.executor AS e ON e.executor_id = x.executor_id
                WHERE x.name = s.name AND e.died_at IS NULL
                ORDER BY e.started_at DESC, e.executor_id DESC
                LIMIT 1) AS d ON true
         WHERE s.name = ANY (%(names)b::text[])
         ORDER BY s.name
        """,
        {"names": names, "waiting_max": waiting_max},
        args_row(ScheduleRow),
    )


def decide(
    *,
    names: Sequence[str],
    lasts: Sequence[int],
    ticks: Sequence[int | None],
    now: int,
    expressions: Sequence[str],
    timezones: Sequence[str],
    catch_ups: Sequence[str],
    versions: Sequence[str],
    changed: Sequence[bool],
) -> Statement[Any]:
    """Write what was decided: the last ticks, and which definitions stand; in the commit of the ticks' rows."""
    return Statement(
        """
        WITH decided AS MATERIALIZED (
            SELECT d.name, d.last, d.tick, d.expression, d.timezone, d.catch_up, d.version, d.changed
              FROM unnest(%(names)b::text[], %(lasts)b::bigint[], %(ticks)b::bigint[], %(expressions)b::text[],
                          %(timezones)b::text[], %(catch_ups)b::text[], %(versions)b::text[], %(changed)b::boolean[])
                     AS d (name, last, tick, expression, timezone, catch_up, version, changed)
        ), moved AS (
            UPDATE {schema}.scheduler_state AS t
               SET last_run_time = GREATEST(t.last_run_time, d.last)
              FROM decided AS d
             WHERE t.workflow_fn_name = d.name
        )
        UPDATE {schema}.schedule AS s
           SET expression = d.expression,
               timezone = d.timezone,
               catch_up = d.catch_up,
               version = d.version,
               changed_at = CASE WHEN d.changed THEN %(now)s ELSE s.changed_at END,
               last_tick_at = COALESCE(d.tick, s.last_tick_at),
               last_started_at = CASE WHEN d.tick IS NULL THEN s.last_started_at ELSE %(now)s END
          FROM decided AS d
         WHERE s.name = d.name
        """,
        {
            "names": names,
            "lasts": lasts,
            "ticks": ticks,
            "now": now,
            "expressions": expressions,
            "timezones": timezones,
            "catch_ups": catch_ups,
            "versions": versions,
            "changed": changed,
        },
    )


def listed(*, name: str | None = None) -> Statement[ListedRow]:
    """Schedules for operators, by name."""
    return Statement(
        """
        SELECT s.name, s.expression, s.timezone, s.catch_up, s.version, s.registered_at, s.changed_at, s.last_tick_at,
               s.last_started_at, s.paused_at, s.paused_by, s.pause_note, t.last_run_time,
               (SELECT count(*)::integer
                  FROM {schema}.executor_schedule AS x
                  JOIN {schema}.executor AS e ON e.executor_id = x.executor_id
                 WHERE x.name = s.name AND e.died_at IS NULL),
               {schema}.now_ms()
          FROM {schema}.schedule AS s
          JOIN {schema}.scheduler_state AS t ON t.workflow_fn_name = s.name
         WHERE %(name)s::text IS NULL OR s.name = %(name)s
         ORDER BY s.name
        """,
        {"name": name},
        args_row(ListedRow),
    )


def pause(*, name: str, actor: str, note: str) -> Statement[tuple[str]]:
    """Pause one that is not; returns it."""
    return Statement(
        """
        UPDATE {schema}.schedule AS s
           SET paused_at = {schema}.now_ms(), paused_by = %(actor)s, pause_note = %(note)s
         WHERE s.name = %(name)s AND s.paused_at IS NULL
        RETURNING s.name
        """,
        {"name": name, "actor": actor, "note": note},
    )


def resume(*, name: str) -> Statement[tuple[int]]:
    """Let a paused one go on from now; returns since when it was paused.

    Its last tick is now, also where it was later: that is how a schedule comes back from a clock that was ahead.
    """
    return Statement(
        """
        WITH paused AS (
            SELECT s.name, s.paused_at FROM {schema}.schedule AS s WHERE s.name = %(name)s AND s.paused_at IS NOT NULL
        ), moved AS (
            UPDATE {schema}.scheduler_state AS t
               SET last_run_time = {schema}.now_ms()
              FROM paused AS p
             WHERE t.workflow_fn_name = p.name
        )
        UPDATE {schema}.schedule AS s
           SET paused_at = NULL, paused_by = NULL, pause_note = NULL
          FROM paused AS p
         WHERE s.name = p.name
        RETURNING p.paused_at
        """,
        {"name": name},
    )
