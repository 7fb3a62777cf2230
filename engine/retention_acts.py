"""What operators do about retention: look at policies, count or delete what is due, pause all deleting, resume it."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from engine.errors import EngineError
from engine.keeping import PolicyRow
from engine.pace import Pace
from engine.store import holds, retention
from engine.store.statement import send
from engine.sweep import Place, Sweep

SUBJECT = "retention"
"""Of these acts in `audit`."""


class RetentionActError(EngineError):
    """An act on retention is refused. The message says why; nothing was deleted."""


@dataclass(frozen=True, slots=True)
class Policies:
    """What processes have said of their handlers, and why nothing is deleted, if so."""

    rows: tuple[PolicyRow, ...]
    paused: str | None


async def read_policies(connection: AsyncConnection[Any], schema: str) -> Policies:
    """How long what has ended is kept, for every handler that a process ever named."""
    rows = await (await send(connection, schema, retention.read_policies())).fetchall()
    _, paused = await _clock(connection, schema)
    return Policies(tuple(rows), paused)


async def sweep_now(
    connection: AsyncConnection[Any], schema: str, *, actor: str, rows_max: int, dry_run: bool
) -> Counter[Place]:
    """Delete, or count, what is due by the policies, beside whatever runs. Returns how many by handler and kind.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        actor: Who.
        rows_max: Rows of one batch; rests between them are as long as they took.
        dry_run: Only count. What a process is deleting meanwhile may be counted or not.

    Raises:
        RetentionActError: An operator has paused all deleting.
    """
    policies = await (await send(connection, schema, retention.read_policies())).fetchall()
    now, _ = await _clock(connection, schema)
    pace, walk, gone = Pace(rows_max), Sweep(schema, dry_run=dry_run), Counter[Place]()
    walk.begin(policies, now)
    while (batch := await walk.step(connection, rows=pace.rows)) is not None:
        if batch.paused is not None:
            raise RetentionActError(f"deleting is paused: {batch.paused}\n  See `processor retention resume`.")
        gone.update(batch.deleted)
        pace.batched(batch.busy_s, is_full=batch.is_full)
        if not dry_run:
            pace.late(batch.late_ms, time.monotonic())
            await asyncio.sleep(pace.rest_s(batch.busy_s))
    if gone and not dry_run:
        detail = f"{gone.total()} rows deleted"
        await send(connection, schema, holds.audit(actor=actor, action="sweep", subject=SUBJECT, detail=detail))
    return gone


async def pause(connection: AsyncConnection[Any], schema: str, *, note: str, actor: str) -> bool:
    """Stop all deleting in this schema until it is resumed; a batch under way is finished. False: it was paused already."""
    async with connection.transaction():
        placing = holds.place(
            services=[retention.BRAKE],
            keys=[""],
            ordering_keys=[None],
            kinds=["pause"],
            reasons=[note],
            workflows=[None],
        )
        if not (await send(connection, schema, placing)).rowcount:
            return False
        await send(connection, schema, holds.audit(actor=actor, action="pause", subject=SUBJECT, detail=note))
    return True


async def resume(connection: AsyncConnection[Any], schema: str, *, note: str, actor: str) -> bool:
    """Take the pause away. False: it was not paused."""
    async with connection.transaction():
        lifting = holds.lift(service=retention.BRAKE, key="", kinds=["pause"])
        if not await (await send(connection, schema, lifting)).fetchall():
            return False
        await send(connection, schema, holds.audit(actor=actor, action="resume", subject=SUBJECT, detail=note))
    return True


async def _clock(connection: AsyncConnection[Any], schema: str) -> tuple[int, str | None]:
    clock = await (await send(connection, schema, retention.clock())).fetchone()
    assert clock is not None, "a look at the clock returns one row"
    return clock
