"""What stands in the database, for operators: partitions with their progress, owners, holds and open work."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import class_row

from engine import migrations
from engine.addresses import explained
from engine.partitions import place_of
from engine.pool import connect
from engine.progress import Progress
from engine.settings import EngineSettings
from engine.store import holds, open_work
from engine.store.statement import Statement, send


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """One partition of one group as stored.

    Attributes:
        group, handler, topic_partition: Whose it is; `topic_partition` is `topic-partition`.
        epoch: Of the last claim.
        progress: As the last flush wrote it.
        written_at_s: When that was, epoch seconds.
        owner_alive: Whether the owner still has a lease (meaningless for a released one).
        holds: Reasons why it, or keys of it, do not go on.
        dead_letters: Open ones.
        open: Workflows that have not ended, of the topic there is now.
        former: The same of topics that had its name before.
        horizon: Lowest offset from which on all rows stand; `None` where none was ever deleted (P30).
    """

    group: str
    handler: str
    topic_partition: str
    epoch: int
    progress: Progress
    written_at_s: float | None
    owner_alive: bool
    holds: tuple[str, ...]
    dead_letters: int
    open: int
    former: int
    horizon: int | None


@dataclass(frozen=True, slots=True)
class _Stored:
    service_name: str
    handler: str
    key: str
    epoch: int
    value: str
    written_at_s: float | None
    owner_alive: bool
    holds: list[str] | None
    dead_letters: int


@asynccontextmanager
async def connected(settings: EngineSettings) -> AsyncGenerator[AsyncConnection[Any]]:
    """A connection for operators' acts, on a database that has our schema.

    Raises:
        ConfigurationError: It does not let us in, or lacks migrations; the message says what to do.
        StoreUnavailableError: It does not answer.
    """
    with explained(settings.conninfo):
        connection = await connect(settings, "onceflow operator")
    async with connection:
        await migrations.check(connection, settings.schema)
        try:
            yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise await migrations.not_allowed(connection, settings.schema, error) from error


async def list_partitions(
    connection: AsyncConnection[Any], schema: str, *, group: str | None = None
) -> list[PartitionRow]:
    """Every partition with progress, by group and name. Two statements; costs nothing on the hot path."""
    opened = dict(await (await send(connection, schema, open_work.counted())).fetchall())
    cursor = await send(
        connection,
        schema,
        Statement(
            """
            SELECT k.service_name, k.workflow_fn_name AS handler, k.key, k.update_seq::bigint AS epoch, k.value,
                   k.update_time::double precision AS written_at_s,
                   NOT {schema}.executor_is_gone(k.value::json ->> 'owner') AS owner_alive,
                   (SELECT array_agg(h.kind || ': ' || h.reason ORDER BY h.hold_id)
                      FROM {schema}.hold AS h
                     WHERE h.service_name = k.service_name AND h.key = k.key) AS holds,
                   (SELECT count(*)
                      FROM {schema}.dead_letter AS d
                     WHERE d.service_name = k.service_name AND d.topic || '-' || d.partition = k.key
                       AND d.state = 'OPEN') AS dead_letters
              FROM {schema}.event_dispatch_kv AS k
             WHERE k.service_name LIKE 'kafka:%%'
               AND (%(service)s::text IS NULL OR k.service_name = %(service)s)
             ORDER BY k.service_name, k.key
            """,
            {"service": None if group is None else f"kafka:{group}"},
            class_row(_Stored),
        ),
    )
    stored = await cursor.fetchall()
    horizons = dict(await (await send(connection, schema, holds.horizons())).fetchall())
    return [_listed(row, opened, horizons) for row in stored]


def _listed(row: _Stored, opened: Mapping[str, int], horizons: Mapping[str, int]) -> PartitionRow:
    place = place_of(row.service_name, row.key)
    progress, ref = Progress.decode(row.value, place), place.ref(row.handler)
    source = ref.name(progress.incarnation)
    return PartitionRow(
        group=ref.group,
        handler=row.handler,
        topic_partition=row.key,
        epoch=row.epoch,
        progress=progress,
        written_at_s=row.written_at_s,
        owner_alive=row.owner_alive,
        holds=tuple(row.holds or ()),
        dead_letters=row.dead_letters,
        open=opened.get(source, 0),
        former=sum(opened.get(name, 0) for name in ref.former_names(progress.incarnation)),
        horizon=horizons.get(source),
    )


@dataclass(frozen=True, slots=True)
class StrandedRow:
    """A workflow without a source that no live executor can run.

    Attributes:
        workflow_id, name, version, instance: What it is, and of which object it is a method.
        created_at_ms: Of its row, epoch ms.
        reason: Why nobody can.
    """

    workflow_id: str
    name: str
    version: str | None
    instance: str | None
    created_at_ms: int
    reason: str


async def list_stranded(connection: AsyncConnection[Any], schema: str, *, limit: int = 1_000) -> list[StrandedRow]:
    """Workflows without a source whose code is nowhere, or from whose queue nobody takes, oldest first (P29).

    They have begun, and wait until some executor can go on with them.
    """
    cursor = await send(
        connection,
        schema,
        Statement(
            """
            WITH running AS MATERIALIZED (
                SELECT x.name, x.version, x.instance
                  FROM {schema}.executor_workflow AS x
                  JOIN {schema}.executor AS e ON e.executor_id = x.executor_id AND e.died_at IS NULL
                 GROUP BY x.name, x.version, x.instance
            ), listening AS MATERIALIZED (
                SELECT DISTINCT q.queue_name
                  FROM {schema}.queue_listener AS q
                  JOIN {schema}.executor AS e ON e.executor_id = q.executor_id AND e.died_at IS NULL
            )
            SELECT w.workflow_uuid, COALESCE(w.name, ''), w.application_version, w.config_name, w.created_at,
                   (SELECT array_agg(DISTINCT r.version ORDER BY r.version) FROM running AS r WHERE r.name = w.name),
                   (SELECT array_agg(DISTINCT r.instance ORDER BY r.instance) FROM running AS r
                     WHERE r.name = w.name AND r.version = w.application_version),
                   CASE WHEN l.queue_name IS NULL THEN w.queue_name END
              FROM {schema}.workflow_status AS w
              LEFT JOIN listening AS l ON l.queue_name = w.queue_name
             WHERE w.kafka_source IS NULL
               AND w.status = 'PENDING'
               AND (w.owner_xid IS NULL OR {schema}.executor_is_gone(w.executor_id))
               -- Left by a worker outside of engines: an execution that needs recovery (engine/execution_recovery.py).
               AND NOT (w.kafka_execution IS TRUE AND w.application_version IS NULL)
               AND ((w.queue_name IS NOT NULL AND l.queue_name IS NULL)
                    OR NOT EXISTS (SELECT FROM running AS r
                                    WHERE r.name = w.name AND r.version = w.application_version
                                      AND r.instance = COALESCE(w.config_name, '')))
             ORDER BY w.created_at
             LIMIT %(limit)s
            """,
            {"limit": limit},
        ),
    )
    return [
        StrandedRow(
            workflow_id,
            name,
            version,
            instance,
            created_ms,
            _why_stranded(name, version, instance, (versions, instances, queue)),
        )
        for workflow_id, name, version, instance, created_ms, versions, instances, queue in await cursor.fetchall()
    ]


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version of a workflow's code that there is or was.

    Attributes:
        name, version: Of which workflow.
        first_at_ms: When an executor had it first, epoch ms.
        executors: Live ones that have this very version.
        open: Workflows of it that have not ended, of records or not.
    """

    name: str
    version: str
    first_at_ms: int | None
    executors: int
    open: int


async def list_versions(
    connection: AsyncConnection[Any], schema: str, *, name: str | None = None, limit: int = 1_000
) -> list[VersionRow]:
    """Versions of workflows: which code runs now, and who is under way in which; newest first."""
    cursor = await send(
        connection,
        schema,
        Statement(
            """
            WITH under_way AS (
                SELECT w.name, COALESCE(w.application_version, '') AS version, count(*) AS open
                  FROM {schema}.workflow_status AS w
                 WHERE w.status IN ('PENDING', 'ENQUEUED')
                 GROUP BY w.name, COALESCE(w.application_version, '')
            ), running AS (
                SELECT x.name, x.version, count(DISTINCT x.executor_id) AS executors
                  FROM {schema}.executor_workflow AS x
                  JOIN {schema}.executor AS e ON e.executor_id = x.executor_id AND e.died_at IS NULL
                 WHERE x.is_own
                 GROUP BY x.name, x.version
            )
            SELECT name, version, v.first_at AS first_at_ms, COALESCE(r.executors, 0) AS executors,
                   COALESCE(u.open, 0) AS open
              FROM {schema}.workflow_version AS v
              FULL JOIN under_way AS u USING (name, version)
              LEFT JOIN running AS r USING (name, version)
             WHERE %(name)s::text IS NULL OR name = %(name)s
             ORDER BY name, v.first_at DESC NULLS LAST, version
             LIMIT %(limit)s
            """,
            {"name": name, "limit": limit},
            class_row(VersionRow),
        ),
    )
    return await cursor.fetchall()


def _why_stranded(
    name: str, version: str | None, instance: str | None, others: tuple[list[str] | None, list[str] | None, str | None]
) -> str:
    versions, instances, queue = others
    if queue is not None:
        return f"no live executor takes from its queue {queue!r}"
    if not versions:
        return f"no live executor has a workflow {name!r}"
    if instances:
        named = ", ".join(repr(each) for each in instances if each)
        return f"it is of the object {instance!r}, which no live executor has" + (
            f"; they have {named}" if named else ""
        )
    return f"version {version!r} of {name!r} runs nowhere; {', '.join(map(repr, versions))} does"
