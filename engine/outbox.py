"""The outbox for operators: what waits, who relays, what halted it; resume, discard. Every act is recorded in `audit`.

A live relay is not asked. An act raises its epoch, so that its next write finds another's claim; whoever claims next reads
what stands. A batch that is on its way to Kafka at that moment arrives as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from engine.errors import EngineError
from engine.ids import ExecutorId
from engine.store import executor, holds, outbox
from engine.store.outbox import OutboxRow
from engine.store.statement import send

LIST_MAX = 1_000
"""Rows of a page."""

COUNT_MAX = 10_000
"""Waiting events that are counted: beyond it the exact number changes nothing."""

CHANNEL = "processor_outbox"
"""Of hints: something was published, or the relay is free."""


class OutboxError(EngineError):
    """An act on the outbox is refused. The message says why, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class RelayState:
    """Who relays, how far, and what waits.

    Attributes:
        name: The outbox's, in Kafka's names of its position and its producer.
        executor_id: Who has the claim; `None`: nobody.
        is_alive: Whether that executor lives.
        epoch: + 1 with each claim.
        number: Of the batch published last, as far as the database knows.
        is_formed: Whether the next batch is formed, and perhaps on its way.
        adopts: Whether the next claim takes Kafka's position over, whatever it is.
        halted: Why it does not go on; `None`: it does.
        waiting: Events not known to be published, at most COUNT_MAX.
        oldest_at: Since when the oldest waits, epoch ms.
    """

    name: str
    executor_id: ExecutorId | None
    is_alive: bool
    epoch: int
    number: int
    is_formed: bool
    adopts: bool
    halted: str | None
    waiting: int
    oldest_at: int | None


async def relay_state(connection: AsyncConnection[Any], schema: str) -> RelayState:
    """Who relays, how far, and what waits. Raises `OutboxError` before the first relay of a table that was emptied."""
    stands = await (await send(connection, schema, outbox.standing())).fetchone()
    depth = await (await send(connection, schema, outbox.depth(count_max=COUNT_MAX))).fetchone()
    if stands is None or depth is None:
        raise OutboxError("the relay's row is not there: somebody emptied the table; the next relay makes another")
    return RelayState(
        name=stands.outbox_name,
        executor_id=stands.executor_id,
        is_alive=not stands.is_gone,
        epoch=stands.epoch,
        number=stands.number,
        is_formed=stands.next_token is not None,
        adopts=stands.adopts,
        halted=stands.halted,
        waiting=depth.waiting,
        oldest_at=depth.oldest_at,
    )


async def waiting(
    connection: AsyncConnection[Any], schema: str, *, topic: str | None = None, after: int = 0, limit: int = 100
) -> list[OutboxRow]:
    """Events not known to be published, oldest first: a page of at most LIST_MAX with an ID above `after`."""
    rows = outbox.rows(topic=topic, after=after, limit=min(limit, LIST_MAX))
    return await (await send(connection, schema, rows)).fetchall()


async def discard(
    connection: AsyncConnection[Any], schema: str, ids: Sequence[int], *, note: str, actor: str = "operator"
) -> int:
    """Give events up, all or none: they will not be published, unless they are on their way already. Returns how many.

    Raises:
        OutboxError: One of them does not wait (any more).
    """
    async with connection.transaction():
        dropped = await (await send(connection, schema, outbox.discard(ids=ids))).fetchall()
        if missing := sorted(set(ids) - {outbox_id for outbox_id, _ in dropped}):
            raise OutboxError(f"event {missing[0]} does not wait in the outbox: it was published, or discarded before")
        for outbox_id, topic in dropped:
            detail = f"{topic}; {note}"
            await send(
                connection,
                schema,
                holds.audit(actor=actor, action="discard event", subject=str(outbox_id), detail=detail),
            )
        await send(connection, schema, executor.notify(channel=CHANNEL, payload="discard"))
    return len(dropped)


async def rename(connection: AsyncConnection[Any], schema: str, *, note: str, actor: str = "operator") -> str:
    """Give the outbox of a copied database a name of its own, so that it and the original do not fence each other.

    It begins anew: what stands in its table is published, also what the original has published or will. Returns the name.

    Raises:
        OutboxError: The relay's row is not there; the next relay makes one, with a name of its own.
    """
    async with connection.transaction():
        row = await (await send(connection, schema, outbox.rename())).fetchone()
        if row is None:
            raise OutboxError("the relay's row is not there: the next relay makes one, with a name of its own")
        await send(connection, schema, holds.audit(actor=actor, action="rename outbox", subject="outbox", detail=note))
        await send(connection, schema, executor.notify(channel=CHANNEL, payload="rename"))
    return row[0]


async def resume(connection: AsyncConnection[Any], schema: str, *, note: str, actor: str = "operator") -> str:
    """Let a halted relay go on: from Kafka's position, whatever it is, with every event that stands in the table.

    After a restore some of them may have been published before: read the list first, discard those. Returns why it had
    halted.

    Raises:
        OutboxError: It is not halted.
    """
    async with connection.transaction():
        former = await (await send(connection, schema, outbox.resume())).fetchone()
        if former is None:
            raise OutboxError("the relay is not halted")
        detail = f"{former[0]}; {note}"
        await send(connection, schema, holds.audit(actor=actor, action="resume relay", subject="outbox", detail=detail))
        await send(connection, schema, executor.notify(channel=CHANNEL, payload="resume"))
    return former[0]
