"""What tests of retention share: rows that are old, one sweep over them, what is left."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection

from engine.keeping import Keep, policy_rows
from engine.progress import Progress
from engine.store import retention
from engine.store.statement import send
from engine.sweep import Place, Sweep

DAY = timedelta(days=1)
WEEK = Keep(success=7 * DAY, error=7 * DAY, cancelled=7 * DAY, dead_letters=7 * DAY)
SOURCE = "shop|orders-0"


@asynccontextmanager
async def connecting(database: str) -> AsyncGenerator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


async def sweep(
    database: str, keep: Mapping[str, Keep], *, rows: int = 100, sweep: Sweep | None = None
) -> Counter[Place]:
    """Sweep until nothing is left. Returns what was deleted."""
    sweep = sweep or Sweep("dbos")
    gone: Counter[Place] = Counter()
    async with connecting(database) as connection:
        clock = await (await send(connection, "dbos", retention.clock())).fetchone()
        assert clock is not None
        sweep.begin(policy_rows(keep), clock.now)
        while (batch := await sweep.step(connection, rows=rows)) is not None:
            gone.update(batch.deleted)
    return gone


def partition(connection: psycopg.Connection[Any], *, next: int, incarnation: int = 1, key: str = "orders-0") -> None:  # noqa: A002  # as it is called
    """A partition's progress, as a flush would have left it."""
    progress = Progress(next=next, high=next, incarnation=incarnation)
    connection.execute(
        "INSERT INTO dbos.event_dispatch_kv VALUES ('kafka:shop', 'fulfil', %s, %s, 1, 0)"
        " ON CONFLICT (service_name, key) WHERE service_name LIKE 'kafka:%%' DO UPDATE SET value = EXCLUDED.value",
        (key, progress.encode()),
    )


def workflow(
    connection: psycopg.Connection[Any],
    workflow_id: str,
    *,
    status: str = "SUCCESS",
    name: str = "fulfil",
    source: str | None = SOURCE,
    days: float = 8,
    ended_days: float | None = None,
) -> None:
    """A workflow created, and ended, so many days ago. The offset of a record's is the last number of its ID."""
    offset = int(workflow_id.rpartition("-")[2]) if source is not None else None
    connection.execute(
        """
        INSERT INTO dbos.workflow_status (workflow_uuid, status, name, inputs, created_at, updated_at,
                                          kafka_source, kafka_offset)
        SELECT %s, %s, %s, '{}', dbos.now_ms() - (%s::float * 86400000)::bigint, dbos.now_ms() - (%s::float * 86400000)::bigint, %s, %s
        """,
        (workflow_id, status, name, days, days if ended_days is None else ended_days, source, offset),
    )


def left(connection: psycopg.Connection[Any]) -> list[str]:
    """IDs of the workflows there are."""
    rows = connection.execute("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY created_at, workflow_uuid")
    return [row[0] for row in rows.fetchall()]


def horizons(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """What is stored."""
    return dict(connection.execute("SELECT kafka_source, horizon FROM dbos.horizon").fetchall())


def ids(*offsets: int) -> Sequence[str]:
    return [f"orders-0-{offset}" for offset in offsets]
