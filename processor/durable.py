"""What a workflow may do beside calling steps, durably: time. Outside of a workflow, and in a step, plain calls.

The same for threads, sync workflows' above all: `processor.sync`.
"""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from engine.timers import deadline, sleep_until
from processor.handles import workflow_here


def sleep(duration: timedelta) -> Coroutine[Any, Any, None]:
    """Sleep, for seconds or for months: the wake-up time is remembered at the call, and nothing but a row waits for it.

    A workflow that sleeps longer than a second leaves memory, and its process if that ends; it keeps the place of its record
    before others of the same key. When it wakes, its code runs again from the beginning, over what it has remembered.
    """
    if (run := workflow_here("sleep()")) is None:
        return asyncio.sleep(duration.total_seconds())
    return sleep_until(run, deadline(run, duration))
