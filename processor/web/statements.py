"""Statements of operators, through the engine's pool: few at a time, bounded by the time of their requests."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from engine.engine import Engine
from engine.weather import through_weather

Value = TypeVar("Value")

STATEMENTS_MAX = 2
"""Statements of operators under way at the same time: lists can be slow, and the pool (`postgres.pool_max`) is there for work."""


class Statements:
    """What operators read and do, all of them together.

    Args:
        engine: Of this process.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self._turns = asyncio.Semaphore(STATEMENTS_MAX)

    async def read(self, read: Callable[[Any, str], Awaitable[Value]]) -> Value:
        """Read, again while Postgres is away: the request's time bounds it."""
        return await through_weather(lambda: self.act(read))

    async def act(self, act: Callable[[Any, str], Awaitable[Value]]) -> Value:
        """Act once: a reply that is lost leaves open whether it was done, and whoever asked is told so."""
        async with self.connection() as connection:
            return await act(connection, self._engine().settings.schema)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any]:
        """One of the engine's, when it is its turn: the request's time bounds the wait."""
        async with self._turns, self._engine().pool.connection() as connection:
            yield connection


__all__ = ["STATEMENTS_MAX", "Statements"]
