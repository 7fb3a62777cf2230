"""Lists of workflows, whoever started them: for programs, commands, other processes."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from engine.errors import ConfigurationError
from engine.handles import WorkflowInfo, info_of, opened_row
from engine.payloads import Payloads
from engine.states import WorkflowStatus
from engine.store import handles as store
from engine.store.statement import send

LIST_MAX = 10_000
"""Workflows of one page: they are in memory together."""


class After(NamedTuple):
    """Where the page before ended: creation (epoch ms) and ID of its last workflow."""

    created_ms: int
    workflow_id: str

    @classmethod
    def of(cls, last: WorkflowInfo) -> "After":
        """Behind this one."""
        return cls((last.created_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), last.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFilter:
    """Which workflows: those that pass everything that is given.

    Attributes:
        ids: Of these IDs.
        status: In one of these states.
        name: Of these functions.
        version: Of these versions of their code.
        queue: In, or once in, one of these queues; `is_queued`: in any, or in none.
        executor: Run by one of these, or last run by it.
        user: With this identity.
        prefix: IDs that begin so.
        forked_from: Forks of this one.
        parent: Started by this one.
        is_of_record: Whether a record started it.
        created_from, created_before: When their rows were created, from the first moment to before the second.
    """

    ids: Collection[str] | None = None
    status: Collection[WorkflowStatus | str] | WorkflowStatus | str | None = None
    name: Collection[str] | str | None = None
    version: Collection[str] | str | None = None
    queue: Collection[str] | str | None = None
    is_queued: bool | None = None
    executor: Collection[str] | str | None = None
    user: str | None = None
    prefix: str | None = None
    forked_from: str | None = None
    parent: str | None = None
    is_of_record: bool | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None

    def __post_init__(self) -> None:
        for status in _texts(self.status) or ():
            if status not in frozenset(WorkflowStatus):
                raise ConfigurationError(f"status {status!r}: one of {', '.join(WorkflowStatus)}")
        for name in ("created_from", "created_before"):
            at: datetime | None = getattr(self, name)
            if at is not None and at.tzinfo is None:
                raise ConfigurationError(f"{name}={at}: say of which time zone, as in datetime.now(UTC)")

    def given(self) -> dict[str, Any]:
        """What the statement is narrowed by."""
        every: dict[str, Any] = {
            "ids": None if self.ids is None else list(self.ids),
            "statuses": _texts(self.status),
            "names": _texts(self.name),
            "versions": _texts(self.version),
            "queues": _texts(self.queue),
            "is_queued": self.is_queued,
            "executors": _texts(self.executor),
            "user": self.user,
            "prefix": self.prefix,
            "forked_from": self.forked_from,
            "parent": self.parent,
            "is_of_record": self.is_of_record,
            "created_from_ms": _epoch_ms(self.created_from),
            "created_before_ms": _epoch_ms(self.created_before),
        }
        return {name: value for name, value in every.items() if value is not None}


async def list_workflows(
    connection: AsyncConnection[Any],
    schema: str,
    chosen: WorkflowFilter | None = None,
    *,
    limit: int = 100,
    offset: int = 0,
    after: After | None = None,
    newest_first: bool = False,
    payloads: Payloads | None,
) -> list[WorkflowInfo]:
    """Workflows by the time of their creation.

    Args:
        connection: For one read.
        schema: Of the system tables.
        chosen: Which; `None`: all.
        limit: Most of them, up to `LIST_MAX`.
        offset: How many to pass over before.
        after: Where the page before ended, for pages that stay apart while rows are added, and cost the same however far.
        newest_first: The other way round.
        payloads: Opens inputs, outputs and errors; `None`: they are not read.

    Raises:
        ConfigurationError: `limit` or `offset` cannot be.
        UnreadablePayloadError: One cannot be opened.
    """
    if not 1 <= limit <= LIST_MAX:
        raise ConfigurationError(f"limit={limit}: 1 to {LIST_MAX:,} workflows; offset= has the next page")
    if offset < 0:
        raise ConfigurationError(f"offset={offset}: 0 or more")
    given = {} if chosen is None else chosen.given()
    asked = store.listed(
        given, limit=limit, offset=offset, after=after, newest_first=newest_first, payloads=payloads is not None
    )
    cursor = await send(connection, schema, asked)
    return [info_of(row if payloads is None else opened_row(row, payloads)) for row in await cursor.fetchall()]


def _texts(value: Collection[str] | str | None) -> list[str] | None:
    if value is None:
        return None
    return [str(value)] if isinstance(value, str) else [str(each) for each in value]


def _epoch_ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)
