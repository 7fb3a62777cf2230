"""Reads of one turn of the loop are one statement: a thousand who ask at the same time cost one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import psycopg

from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.reach import Reach

Key = TypeVar("Key")
Value = TypeVar("Value")


class Asked(Generic[Key, Value]):
    """What was asked for and not yet read.

    Args:
        reach: Whose loop and tasks these are.
        read: Reads many; what it does not return is not there. Repeated until Postgres answers (P25).
    """

    def __init__(self, reach: Reach, read: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Value]]]) -> None:
        self._reach = reach
        self._read = read
        self._asked: dict[Key, list[asyncio.Future[Value | None]]] = {}

    async def get(self, key: Key) -> Value | None:
        """What there is now; `None`: nothing. Raises `EngineStoppedError`, `ClientClosedError`."""
        future: asyncio.Future[Value | None] = self._reach.loop.create_future()
        if not self._asked:
            self._reach.spawn(self._read_asked())
        self._asked.setdefault(key, []).append(future)
        return await future

    async def _read_asked(self) -> None:
        await asyncio.sleep(0)  # whoever asks in this turn of the loop
        asked, self._asked = self._asked, {}
        futures = [(key, future) for key, each in asked.items() for future in each]
        try:
            found = await through_weather(lambda: self._read(list(asked)))
            for key, future in futures:
                if not future.done():
                    future.set_result(found.get(key))
        except psycopg.Error as error:
            for _, future in futures:
                if not future.done():
                    future.set_exception(error)
        finally:
            for _, future in futures:
                if not future.done():
                    future.set_exception(self._reach.gone())
