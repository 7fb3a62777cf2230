"""What it takes to reach workflows by their IDs, whoever runs them: a pool, and somebody who hears what others say.

    Reach ─┬─ Engine   runs workflows as well (engine/engine.py)
           └─ Caller   runs none: a program that starts, awaits and asks (engine/client.py)

Starting, awaiting, messages from outside, events, streams and acts are written for a `Reach`; what each of the two has to do with them
beside, or has not, are its abstract methods.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from engine.cancels import Cancels
from engine.events import Events
from engine.hints import Hints
from engine.payloads import Payloads
from engine.pool import Pool
from engine.results import Results
from engine.waits import Waits

if TYPE_CHECKING:
    from engine.errors import EngineError
    from engine.settings import EngineSettings
    from engine.starts import Start
    from engine.tracing import Tracing


class Reach(ABC):
    """A process's way to workflows. All methods belong to its loop."""

    def __init__(self, settings: EngineSettings, tracing: Tracing | None = None) -> None:
        self.settings = settings
        self.tracing = tracing
        self.payloads = Payloads(settings.payload_keys)
        self.stopping = threading.Event()
        self.is_aborted = False
        self.loop: asyncio.AbstractEventLoop
        self._spawned: set[asyncio.Task[None]] = set()

    def _prepare(self, application: str) -> None:
        """On its loop, before anything is opened."""
        self.loop = asyncio.get_running_loop()
        self.pool = Pool(self.settings, application)
        self.waits = Waits(self)
        self.hints = Hints(self)
        self.results = Results(self)
        self.cancels = Cancels(self)
        self.events = Events(self)

    # -- for the parts --

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task with an owner: its failure is the engine's, or the client's."""

        async def owned() -> None:
            try:
                await coroutine
            except psycopg.Error as error:
                self.troubled(coroutine.__qualname__, error)
            except Exception as error:  # noqa: BLE001  # a task's failure is its owner's
                self.failed(error)

        task = self.loop.create_task(owned())
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        task.add_done_callback(lambda _: coroutine.close())  # one that was cancelled before it began is begun by nobody
        return task

    def call_later(self, delay_s: float, function: Callable[..., None], *args: Any) -> None:
        """Call on the loop after a while; an error is the owner's failure, where the loop would only log it."""
        self.loop.call_later(delay_s, self._owned_call, function, *args)

    def _owned_call(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # noqa: BLE001  # nobody else hears of it
            self.failed(error)

    # -- what it is --

    @abstractmethod
    async def insert(self, start: Start) -> bool:
        """Give a workflow its row; returns when that is durable, and whether it is new.

        Raises:
            EngineStoppedError: The engine does not run.
            psycopg.Error: The row cannot be written as it is.
        """

    @abstractmethod
    def gone(self) -> EngineError:
        """What to tell who waits when it ends."""

    @abstractmethod
    def troubled(self, what: str, error: psycopg.Error) -> None:
        """Postgres refused a task of its own."""

    @abstractmethod
    def failed(self, error: BaseException) -> None:
        """It cannot go on."""

    @abstractmethod
    def listens(self) -> None:
        """Somebody waits for a signal: see that hints of other processes are heard."""

    @abstractmethod
    def is_at_work_on(self, workflow_id: str) -> bool:
        """Whether its outcome will come from here."""

    @abstractmethod
    def look_for_rows(self) -> None:
        """Rows at rest are due: look for them here as well."""

    @abstractmethod
    def cancelled_here(self, ids: Sequence[str], *, interrupt: bool) -> None:
        """Rows are CANCELLED: what runs of them here begins nothing more."""


__all__ = ["Reach"]
