"""Sessions of somebody who looks now and then, such as a test: the last one that was used is kept for the next use."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection

from engine.pool import connect
from engine.settings import EngineSettings


class Sessions:
    """A session costs both sides ten milliseconds, more than most looks.

    Args:
        settings: The address and bounds.
        application: What its sessions are called.
    """

    def __init__(self, settings: EngineSettings, application: str) -> None:
        self._settings, self._application = settings, application
        self._rests: AsyncConnection[Any] | None = None
        self._is_closed = False

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncConnection[Any]]:
        """A session for one block; one in which something failed is not used again."""
        connection = await self._rested() or await connect(self._settings, self._application)
        try:
            yield connection
        except BaseException:
            await connection.close()
            raise
        if self._rests is None and not self._is_closed:
            self._rests = connection
        else:
            await connection.close()

    async def close(self) -> None:
        """Close what rests, and keep none from now on: whoever still looks opens one each time."""
        self._is_closed = True
        connection, self._rests = self._rests, None
        if connection is not None:
            await connection.close()

    async def _rested(self) -> AsyncConnection[Any] | None:
        connection, self._rests = self._rests, None
        if connection is None:
            return None
        try:
            await connection.execute("")  # its server may be gone
        except psycopg.Error:
            await connection.close()
            return None
        return connection
