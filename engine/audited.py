"""What operators do to workflows by way of a server: each act is a row of `audit`, in the commit of the act.

Recovery is many commits, and of the engine's own: its row says before it that it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

from engine.store import holds
from engine.store.statement import Statement, send
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.engine import Engine


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An act of an operator. `created_at` in epoch ms; `detail` as the act wrote it."""

    audit_id: int
    created_at: int
    actor: str
    action: str
    subject: str
    detail: Any


async def recover(engine: Engine, executors: Sequence[str], *, actor: str) -> list[str]:
    """Take over now what dead executors ran and this process can run; returns which. See `Recovery.recover`."""
    subject, detail = ", ".join(executors), f"by {engine.executor_id}"

    async def ask() -> None:
        async with engine.pool.connection() as connection:
            await record(
                connection, engine.settings.schema, actor=actor, action="recover", subject=subject, detail=detail
            )

    await through_weather(ask)
    return list(await through_weather(lambda: engine.recovery.recover(executors)))


async def record(
    connection: AsyncConnection[Any], schema: str, *, actor: str, action: str, subject: str, detail: str
) -> None:
    """A row of `audit`."""
    await send(connection, schema, holds.audit(actor=actor, action=action, subject=subject, detail=detail))


async def list_audit(
    connection: AsyncConnection[Any], schema: str, *, before: int | None, limit: int
) -> list[AuditRow]:
    """Acts, the newest first, with an ID below `before`."""
    cursor = await send(
        connection,
        schema,
        Statement(
            """
            SELECT a.audit_id, a.created_at, a.actor, a.action, a.subject, a.detail
              FROM {schema}.audit AS a
             WHERE %(before)s::bigint IS NULL OR a.audit_id < %(before)s
             ORDER BY a.audit_id DESC
             LIMIT %(limit)s
            """,
            {"before": before, "limit": limit},
            class_row(AuditRow),
        ),
    )
    return await cursor.fetchall()
