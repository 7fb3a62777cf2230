"""What steps write for their workflow beside their result: events and streams, each in a commit of its own.

    row persisted through the committer
    BEGIN ─ row fence (P7, P4) ─ the rows ─ who is woken ─ COMMIT     on a pool connection

A step is at least once, and so is what it writes on the way. Rows of a workflow that is no longer ours are refused, and the
step is unwound: its successor's run writes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from engine.errors import Suspended
from engine.faults import Fault, fault_of
from engine.signals import Signal
from engine.store import waiting
from engine.store.statement import Statement, send
from engine.transactional import row_fence
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.runner import Run


async def write(run: Run, statement: Statement[Any], signal: Signal) -> None:
    """Write rows for a run that has its step's function under way, and tell who waits for them.

    Raises:
        Suspended: The run may not go on here.
    """
    engine = run.home.engine
    await run.persisted()
    await run.ready()

    async def attempt() -> bool:
        schema = engine.settings.schema
        async with engine.pool.connection() as connection, connection.pipeline(), connection.transaction():
            await send(connection, schema, row_fence(run, timeline=engine.database.timeline, lsn=engine.database.lsn))
            await send(connection, schema, statement)
            woken = await send(
                connection, schema, waiting.wake(kinds=[signal.kind], targets=[signal.target], names=[signal.name])
            )
            return bool(await woken.fetchall())

    try:
        is_woken = await through_weather(attempt)
    except psycopg.Error as error:
        _refuse(run, error)
        raise
    signals: Sequence[Signal] = (signal,)
    engine.waits.signalled(signals)
    engine.hints.brought(signals)
    if is_woken:
        engine.hints.rows()


def _refuse(run: Run, error: psycopg.Error) -> None:
    """The row is no longer ours, or the database is not where it was: nothing of this was written."""
    fault = fault_of(error)
    if fault is Fault.WENT_BACK:
        run.home.engine.went_back(str(error))
    elif fault is not Fault.FENCED:
        return
    run.home.refuse(run, "row fence")
    run.was_suspended = True
    raise Suspended(run.id) from error
