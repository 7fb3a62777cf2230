"""The time, random numbers and identifiers for workflows, whose code must do the same in every replay.

Their own calls (`datetime.now()`, `random.random()`, `uuid.uuid4()`) give another value each time the code runs. These give
the first one again. In a step, outside of a workflow, and in a handler that is one transaction they are plain.
"""

import json
import random as random_numbers
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from engine.clock import now_ms
from engine.current import current_run, current_step
from engine.recorded import NOW, RANDOM, UUID, recorded
from engine.runner import Phase, Run

V = TypeVar("V")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> Coroutine[Any, Any, datetime]:
    """The time, to the millisecond, in UTC. Remembered in a workflow."""
    return _value(NOW, lambda: str(now_ms()), lambda text: _EPOCH + timedelta(milliseconds=int(text)))


def random() -> Coroutine[Any, Any, float]:
    """A random number from 0 up to 1. Remembered in a workflow. Not for secrets, which do not belong into a history."""
    return _value(RANDOM, lambda: json.dumps(random_numbers.random()), json.loads)


def uuid4() -> Coroutine[Any, Any, uuid.UUID]:
    """A random identifier. Remembered in a workflow."""
    return _value(UUID, lambda: json.dumps(str(uuid.uuid4())), lambda text: uuid.UUID(json.loads(text)))


def _value(name: str, make: Callable[[], str], read: Callable[[str], V]) -> Coroutine[Any, Any, V]:
    run = _replayed()
    return _read(make, read, None if run is None else recorded(run, name, make))


async def _read(make: Callable[[], str], read: Callable[[str], V], text: Coroutine[Any, Any, str] | None) -> V:
    return read(make() if text is None else await text)


def _replayed() -> Run | None:
    """The workflow whose code calls and is run again over its history."""
    run = current_run.get()
    return None if run is None or current_step.get() is not None or run.phase is Phase.ENDED else run


__all__ = ["now", "random", "uuid4"]
