"""The client for threads: beside a client's loop (`client.sync`), or with a loop of its own (`SyncClient`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from engine.errors import ConfigurationError
from processor.acts import SyncActs
from processor.blocking import from_thread
from processor.client import Client, ClientOptions, PlaceInQueue
from processor.client_acts import SyncDeadLetters, SyncQueues, SyncSchedules
from processor.handles import SyncWorkflowHandle

M = TypeVar("M")


class SyncClientActs(SyncActs):
    """`Client` for threads."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._client = client

    @property
    def queues(self) -> SyncQueues:
        """Queues, and acts on them."""
        return SyncQueues(self._client.queues)

    @property
    def schedules(self) -> SyncSchedules:
        """Schedules, and acts on them."""
        return SyncSchedules(self._client.schedules)

    @property
    def dead_letters(self) -> SyncDeadLetters:
        """Dead letters, and acts on them."""
        return SyncDeadLetters(self._client.dead_letters)

    @overload
    def start(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        id: str | None = None,
        timeout: timedelta | None = None,
        version: str | None = None,
        instance: str | None = None,
    ) -> SyncWorkflowHandle[Any]: ...
    @overload
    def start(
        self,
        name: str,
        /,
        *args: Any,
        model: type[M],
        kwargs: Mapping[str, Any] | None = None,
        id: str | None = None,
        timeout: timedelta | None = None,
        version: str | None = None,
        instance: str | None = None,
    ) -> SyncWorkflowHandle[M]: ...
    def start(self, name: str, /, *args: Any, **options: Any) -> SyncWorkflowHandle[Any]:
        """Start a workflow. See `Client.start`."""
        handle = from_thread(self._client.engine, lambda: self._client.start(name, *args, **options))
        return SyncWorkflowHandle(handle, self._client.engine)

    @overload
    def enqueue(self, name: str, /, *args: Any, **options: Unpack[PlaceInQueue]) -> SyncWorkflowHandle[Any]: ...
    @overload
    def enqueue(
        self, name: str, /, *args: Any, model: type[M], **options: Unpack[PlaceInQueue]
    ) -> SyncWorkflowHandle[M]: ...
    def enqueue(self, name: str, /, *args: Any, **options: Any) -> SyncWorkflowHandle[Any]:
        """Have a workflow run when its turn in a queue comes. See `Client.enqueue`."""
        handle = from_thread(self._client.engine, lambda: self._client.enqueue(name, *args, **options))
        return SyncWorkflowHandle(handle, self._client.engine)


class SyncClient(SyncClientActs):
    """`Client` for programs without a loop: it has one of its own, in a thread, from `with` to the end of the block.

    Safe to use from several threads. Errors are those of `Client`.

    Args:
        client: The address of the database, or a client that is not open, as of `Client.from_settings`.
        **options: As for `Client`, of one that is given by its address.
    """

    def __init__(self, client: str | Client, **options: Unpack[ClientOptions]) -> None:
        if isinstance(client, Client) and options:
            raise TypeError(f"SyncClient: the client that is given has its options: {', '.join(sorted(options))}")
        super().__init__(client if isinstance(client, Client) else Client(client, **options))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Connect."""
        if self._thread is not None:
            raise ConfigurationError("this client is open already")
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=_run_loop, args=(started,), name="onceflow client", daemon=True)
        self._thread.start()
        self._loop = started.result()
        try:
            self._on_loop(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        try:
            self._on_loop(self._client.__aexit__(kind, error, trace))
        finally:
            self._end()

    def _on_loop(self, call: Coroutine[Any, Any, Any]) -> None:
        assert self._loop is not None, "its thread runs"
        asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _end(self) -> None:
        assert self._loop is not None, "its thread runs"
        assert self._thread is not None, "its thread runs"
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = self._thread = None


def _run_loop(started: Future[asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        started.set_result(loop)
        loop.run_forever()


__all__ = ["SyncClient", "SyncClientActs"]
