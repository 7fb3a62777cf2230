"""Repeats what may be repeated until Postgres answers (P25): reads, and writes that say the same twice."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from engine.faults import Fault, fault_of

Value = TypeVar("Value")

WAIT_FIRST_S, WAIT_MAX_S = 0.05, 3.0
"""Back-off while Postgres is away: short enough that a restart costs little, long enough not to add to it."""


async def through_weather(attempt: Callable[[], Awaitable[Value]]) -> Value:
    """What `attempt` returns, or raises, once the weather lets it. It must be safe to repeat after an unknown COMMIT."""
    wait_s = WAIT_FIRST_S
    while True:
        try:
            return await attempt()
        except psycopg.Error as error:
            if fault_of(error) is not Fault.WEATHER:
                raise
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
        wait_s = min(wait_s * 2, WAIT_MAX_S)
