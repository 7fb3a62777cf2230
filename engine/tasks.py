"""Ends a loop's task for certain.

What a task awaits can swallow its cancellation: `asyncio.wait_for` of Python 3.11 where the answer comes at the same
moment (psycopg and its pool use it), or whatever raises an error of its own in its place. Its loop then goes on, and a stop
would wait for ever: seen once in fifty crashes of a Bench under load, with the scan looking on.
"""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

CANCEL_AGAIN_S = 5.0
"""Longer than the ends of our tasks take: a second cancellation interrupts no orderly end."""


async def end(task: asyncio.Task[Any], *, again_s: float = CANCEL_AGAIN_S) -> None:
    """Cancel a task, again and again, until it has ended; its error is its owner's."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=again_s)
    if not task.cancelled():
        task.exception()  # looked at, or asyncio would log it


async def within(limit: timedelta, what: str, call: Awaitable[Any]) -> Any:
    """What a call returns in time. Raises a `TimeoutError` that names it and its limit."""
    limited = asyncio.timeout(limit.total_seconds())
    try:
        async with limited:
            return await call
    except TimeoutError as error:
        if not limited.expired() or error.args:
            raise
        raise TimeoutError(f"{what} took longer than {limit.total_seconds():g} s") from None
