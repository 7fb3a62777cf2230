"""What waits for an operator, the relay or a turn: dead letters, workflows whose code is nowhere, events, queues. Looked at rarely, by
one process of all, so that it is seen also where no relay runs.

The first of the live executors looks, by its ID, so that many processes cost Postgres as much as one, and no two show
the same series. The look is bounded: so many places, and so many dead letters of each (I10).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.inspection import list_stranded
from engine.store import debounce, holds, outbox, queues
from engine.store.queues import QueueDepth
from engine.store.statement import send

if TYPE_CHECKING:
    from engine.engine import Engine

LOOK_EVERY_S = 30.0
"""Between two looks."""

LOOK_AT_QUEUES_EVERY_S = 10.0
"""Between two looks at queues, and at keys of debounced calls that nobody needs any more."""

LOOK_AT_OUTBOX_EVERY_S = 10.0
"""Between two looks at the outbox, which is nearly empty where a relay is at work."""

COUNT_MAX = 10_000
"""Dead letters of one topic, events of the outbox that are counted: beyond it the exact number changes nothing."""

PLACES_MAX = 1_000
"""Topics of groups, and queues, that are looked at."""

DEBOUNCED_KEPT_MS = 3_600_000
"""How long a key is kept after its last call: far longer than a call is repeated whose reply was lost."""

DEBOUNCED_MAX = 1_000
"""Keys that are forgotten in one look."""


@dataclass(frozen=True, slots=True)
class Depth:
    """Open dead letters of one topic of one group. `oldest_at` is in epoch ms, `None` where there are none."""

    group: str
    topic: str
    count: int
    oldest_at: int | None


@dataclass(frozen=True, slots=True)
class OutboxDepth:
    """What waits to be published, and why nothing is (`halted`), if so. `oldest_at` is in epoch ms."""

    waiting: int
    oldest_at: int | None
    halted: str | None


class Depths:
    """What the last looks found; nothing in every process but one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.look_again()
        self.latest: tuple[Depth, ...] = ()
        self.stranded: tuple[tuple[str, int], ...] = ()
        self.outbox: OutboxDepth | None = None
        self.queues: tuple[QueueDepth, ...] = ()

    async def look_if_due(self) -> None:
        """Look, if it is time and this is the process that looks."""
        if not self._engine.lease.is_first:
            self.latest = self.stranded = self.queues = ()
            self.outbox = None
            self.look_again()
            return
        now = time.monotonic()
        if now - self._outbox_at >= LOOK_AT_OUTBOX_EVERY_S:
            await self.look_at_outbox()
        if now - self._queues_at >= LOOK_AT_QUEUES_EVERY_S:
            await self.look_at_queues()
        if now - self._looked_at >= LOOK_EVERY_S:
            await self.look()

    def look_again(self) -> None:
        """Look at the next occasion, however short ago the last look was."""
        self._looked_at = time.monotonic() - LOOK_EVERY_S
        self._outbox_at = time.monotonic() - LOOK_AT_OUTBOX_EVERY_S
        self._queues_at = time.monotonic() - LOOK_AT_QUEUES_EVERY_S

    async def look_at_outbox(self) -> None:
        """Look now at what waits to be published."""
        engine = self._engine
        self._outbox_at = time.monotonic()
        async with engine.pool.connection() as connection:
            reading = outbox.depth(count_max=COUNT_MAX)
            row = await (await send(connection, engine.settings.schema, reading)).fetchone()
        self.outbox = None if row is None else OutboxDepth(row.waiting, row.oldest_at, row.halted)

    async def look_at_queues(self) -> None:
        """Look now at what waits in queues."""
        engine = self._engine
        self._queues_at = time.monotonic()
        async with engine.pool.connection() as connection:
            reading = queues.depths(count_max=COUNT_MAX, queues_max=PLACES_MAX)
            found = await (await send(connection, engine.settings.schema, reading)).fetchall()
            forgetting = debounce.forget(before_ms=DEBOUNCED_KEPT_MS, limit=DEBOUNCED_MAX)
            await send(connection, engine.settings.schema, forgetting)
        self.queues = tuple(found)

    async def look(self) -> None:
        """Look now. Topics that this process consumes are shown with 0 as well."""
        engine = self._engine
        self._looked_at = time.monotonic()
        async with engine.pool.connection() as connection:
            reading = holds.depths(count_max=COUNT_MAX, places_max=PLACES_MAX)
            cursor = await send(connection, engine.settings.schema, reading)
            rows = await cursor.fetchall()
            stranded = await list_stranded(connection, engine.settings.schema)
        self.stranded = tuple(sorted(Counter(row.name for row in stranded).items()))
        found = {
            (source.ref.group, source.ref.topic): Depth(source.ref.group, source.ref.topic, 0, None)
            for source in engine.sources.attached()
        }
        for row in rows:
            group = row.service_name.removeprefix("kafka:")
            found[group, row.topic] = Depth(group, row.topic, row.open_count, row.oldest_at)
        self.latest = tuple(depth for _, depth in sorted(found.items()))
