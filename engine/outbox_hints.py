"""Tells whoever relays that something was published: here at once, elsewhere by a NOTIFY, gathered. Never the only way.

Not in the publishing transaction: NOTIFY lets one committing transaction through at a time, in the whole cluster.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.outbox import CHANNEL

if TYPE_CHECKING:
    from engine.engine import Engine

PUBLISHED = "published"

GATHER_S = 0.05
"""What is published in this time is one hint."""


class OutboxHints:
    """Of one engine. Belongs to its loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_gathering = False
        self.woken = asyncio.Event()
        """Something was published, or decided. The relay at work clears it."""
        self.freed = asyncio.Event()
        """The claim may be free. Who stands by clears it."""
        self.relays_here = False
        """Whether the relay at work is this process's: nobody else need be told."""

    def published(self) -> None:
        """Something was published, durably."""
        self.woken.set()
        if not self.relays_here and not self._is_gathering:
            self._is_gathering = True
            self._engine.call_later(GATHER_S, self._tell)

    def hinted(self, payload: str) -> None:
        """Another process, or an operator, says something."""
        self.woken.set()
        if payload != PUBLISHED:
            self.freed.set()

    def _tell(self) -> None:
        self._is_gathering = False
        self._engine.notify(CHANNEL, PUBLISHED)
