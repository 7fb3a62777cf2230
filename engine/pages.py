"""Workflows page by page, the newest first, without their payloads: what an operator looks through."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import class_row

from engine.store.statement import Statement, send

PAGE_MAX = 1_000
"""Workflows of one page."""

_FILTERS: Final[dict[str, LiteralString]] = {
    "statuses": "w.status = ANY (%(statuses)b::text[])",
    "name": "w.name = %(name)s",
    "user": "w.authenticated_user = %(user)s",
    "prefix": "starts_with(w.workflow_uuid, %(prefix)s)",
    "created_ms": "(w.created_at, w.workflow_uuid) < (%(created_ms)s, %(workflow_id)s)",
}
"""Only those that are asked for are in the statement, so that each combination is planned for itself."""


class After(NamedTuple):
    """Where the page before ended: creation (epoch ms) and ID of its last workflow."""

    created_ms: int
    workflow_id: str


@dataclass(frozen=True, slots=True)
class PageRow:
    """A workflow in a list. Times in epoch ms; the rest as `engine.handles.WorkflowInfo`."""

    workflow_id: str
    name: str
    version: str | None
    status: str
    created_ms: int
    updated_ms: int
    executor_id: str | None
    queue: str | None
    source: str | None
    user: str | None


async def page(
    connection: AsyncConnection[Any],
    schema: str,
    *,
    statuses: Sequence[str] | None = None,
    name: str | None = None,
    user: str | None = None,
    prefix: str | None = None,
    after: After | None = None,
    limit: int = 100,
) -> list[PageRow]:
    """Workflows that pass everything given, behind `after`. Pages stay apart while rows are added."""
    given: dict[str, Any] = {"statuses": statuses, "name": name, "user": user, "prefix": prefix}
    if after is not None:
        given |= after._asdict()
    parameters = {key: value for key, value in given.items() if value is not None}
    conditions: list[LiteralString] = [text for key, text in _FILTERS.items() if key in parameters]
    text: LiteralString = """
        SELECT w.workflow_uuid AS workflow_id, COALESCE(w.name, '') AS name, w.application_version AS version,
               COALESCE(w.status, '') AS status, w.created_at AS created_ms, w.updated_at AS updated_ms, w.executor_id,
               w.queue_name AS queue, w.kafka_source AS source, w.authenticated_user AS "user"
          FROM {schema}.workflow_status AS w
    """
    if conditions:
        text += " WHERE " + " AND ".join(conditions)
    text += " ORDER BY w.created_at DESC, w.workflow_uuid DESC LIMIT %(limit)s"
    cursor = await send(connection, schema, Statement(text, {**parameters, "limit": limit}, class_row(PageRow)))
    return await cursor.fetchall()
