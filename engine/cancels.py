"""Cancels workflows, here and elsewhere.

The row is CANCELLED in one commit, whoever runs it; that alone keeps its run from writing anything more (P7). So that it
begins nothing more either, its process is told, by a hint, and finds out by itself within a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from engine.signals import Signal
from engine.store import cancels as store
from engine.store.statement import send
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.reach import Reach


class Cancels:
    """What one process cancels, and hears of."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def cancel(self, ids: Sequence[str], *, interrupt: bool = False) -> list[str]:
        """Cancel workflows that have not ended; returns which. One at rest has ended with it.

        Args:
            ids: Of workflows.
            interrupt: Also cancel async steps that run, where they wait next; else they end by themselves, their results
                are dropped.
        """
        reach = self._reach

        async def cancel() -> list[str]:
            async with reach.pool.connection() as connection:
                cursor = await send(connection, reach.settings.schema, store.cancel(ids=ids, interrupt=interrupt))
                return [row.workflow_id for row in await cursor.fetchall()]

        if cancelled := await through_weather(cancel):
            self.are_cancelled(cancelled, interrupt=interrupt)
        return cancelled

    def are_cancelled(self, ids: Sequence[str], *, interrupt: bool) -> None:
        """These rows are CANCELLED, by a commit of this process: tell everybody."""
        self.heard(ids, interrupt=interrupt)
        for workflow_id in ids:
            self._reach.hints.cancelled(workflow_id, interrupt=interrupt)
        self._reach.hints.rows()

    def heard(self, ids: Iterable[str], *, interrupt: bool) -> None:
        """Workflows were cancelled: what runs of them here begins nothing more; keys of those asleep go on."""
        named = list(ids)
        self._reach.waits.signalled([Signal("result", i) for i in named])
        self._reach.cancelled_here(named, interrupt=interrupt)
