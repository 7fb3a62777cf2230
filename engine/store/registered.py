"""Statements that ask what apps have registered here, for whoever has no code of theirs."""

from collections.abc import Sequence
from typing import NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement


class WorkflowVersions(NamedTuple):
    """What is known of a workflow by its name; nothing of one that no executor ever had."""

    live: str | None
    """The version of the live executor that started last."""
    latest: str | None
    """The version that an executor had first most recently, whether it lives or not."""
    instances: Sequence[str] | None
    """Of live executors: names of the objects that it is a method of; '' where it is none."""


class QueueShape(NamedTuple):
    """What a queue lets its members ask for."""

    has_priority: bool
    is_partitioned: bool


def workflow(*, name: str, instance: str | None) -> Statement[WorkflowVersions]:
    """Versions of a workflow; the live one, where it is a method, of executors that have this object."""
    return Statement(
        """
        WITH live AS MATERIALIZED (
            SELECT x.version, x.instance, e.started_at, e.executor_id
              FROM {schema}.executor_workflow AS x
              JOIN {schema}.executor AS e ON e.executor_id = x.executor_id AND e.died_at IS NULL
             WHERE x.name = %(name)s AND x.is_own
        )
        SELECT (SELECT l.version
                  FROM live AS l
                 WHERE l.instance = %(instance)s
                 ORDER BY l.started_at DESC, l.executor_id
                 LIMIT 1),
               (SELECT v.version
                  FROM {schema}.workflow_version AS v
                 WHERE v.name = %(name)s
                 ORDER BY v.first_at DESC, v.version
                 LIMIT 1),
               (SELECT array_agg(DISTINCT l.instance ORDER BY l.instance) FROM live AS l)
        """,
        {"name": name, "instance": instance or ""},
        args_row(WorkflowVersions),
    )


def workflow_names() -> Statement[tuple[str]]:
    """Every workflow that an executor ever had."""
    return Statement("SELECT DISTINCT v.name FROM {schema}.workflow_version AS v ORDER BY v.name", {})


def queue(*, name: str) -> Statement[QueueShape]:
    """What a queue is; no row where no app registered it."""
    return Statement(
        "SELECT q.has_priority, q.is_partitioned FROM {schema}.queue AS q WHERE q.queue_name = %(name)s",
        {"name": name},
        args_row(QueueShape),
    )


def queue_names() -> Statement[tuple[str]]:
    """Every queue that an app registered."""
    return Statement("SELECT q.queue_name FROM {schema}.queue AS q ORDER BY q.queue_name", {})
