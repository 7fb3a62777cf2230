"""One connection that hears hints. Without it, and behind a pooler that keeps them to itself, whoever waits looks now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import psycopg
from psycopg import sql

from engine.pool import connect
from engine.settings import EngineSettings

AGAIN_S = 1.0
"""Before a connection that was lost is opened again."""


async def listen(
    settings: EngineSettings,
    application: str,
    channels: Sequence[str],
    *,
    listening: Callable[[], None],
    heard: Callable[[str, str], None],
) -> None:
    """Listen until it is cancelled.

    Args:
        settings: Where; on the direct connection, if there is one.
        application: Name of the session.
        channels: Which.
        listening: Called whenever it has begun to: what was said before nobody has heard.
        heard: Called with channel and payload of each hint.
    """
    direct = replace(settings, conninfo=settings.direct_conninfo or settings.conninfo, direct_conninfo=None)
    while True:
        with suppress(psycopg.Error):
            async with await connect(direct, application) as connection:
                for channel in channels:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                listening()
                async for hint in connection.notifies():
                    heard(hint.channel, hint.payload)
        await asyncio.sleep(AGAIN_S)


__all__ = ["listen"]
