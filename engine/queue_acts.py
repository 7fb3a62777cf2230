"""Queues for operators: what waits, who takes from them; pause, resume. Every act is recorded in `audit`."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from engine.depths import COUNT_MAX, PLACES_MAX
from engine.errors import EngineError
from engine.hints import ROWS_CHANNEL
from engine.store import executor, holds, queues
from engine.store.queues import QueueDepth
from engine.store.statement import Statement, send


class QueueError(EngineError):
    """An act on a queue is refused. The message says why, and nothing was changed."""


async def list_queues(connection: AsyncConnection[Any], schema: str) -> Sequence[QueueDepth]:
    """Every queue that an app registered, or in which something waits, by name."""
    reading = queues.depths(count_max=COUNT_MAX, queues_max=PLACES_MAX)
    return await (await send(connection, schema, reading)).fetchall()


async def pause(
    connection: AsyncConnection[Any], schema: str, queue: str, *, note: str, actor: str = "operator"
) -> None:
    """Start nothing of a queue from now on. What has started goes on, also elsewhere.

    Raises:
        QueueError: No app has registered it, or it is paused already.
    """
    pausing = queues.pause(queue=queue)
    await _act(connection, schema, queue, pausing, action="pause queue", note=note, actor=actor)


async def resume(
    connection: AsyncConnection[Any], schema: str, queue: str, *, note: str, actor: str = "operator"
) -> None:
    """Let a queue go on.

    Raises:
        QueueError: No app has registered it, or it is not paused.
    """
    resuming = queues.resume(queue=queue)
    await _act(connection, schema, queue, resuming, action="resume queue", note=note, actor=actor)


async def _act(
    connection: AsyncConnection[Any],
    schema: str,
    queue: str,
    changing: Statement[tuple[str]],
    *,
    action: str,
    note: str,
    actor: str,
) -> None:
    async with connection.transaction():
        if not await (await send(connection, schema, changing)).fetchall():
            raise QueueError(await _why_not(connection, schema, queue))
        await send(connection, schema, holds.audit(actor=actor, action=action, subject=queue, detail=note))
        await send(connection, schema, executor.notify(channel=ROWS_CHANNEL, payload=f"queue {queue}"))


async def _why_not(connection: AsyncConnection[Any], schema: str, queue: str) -> str:
    row = await (await send(connection, schema, queues.read(queue=queue))).fetchone()
    if row is None:
        return f"there is no queue {queue!r}: no app that has run here registers it"
    return f"queue {queue!r} is {'paused already' if row.is_paused else 'not paused'}"
