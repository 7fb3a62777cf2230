"""What of an app is about messages, events and streams, for the program that runs it."""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar, overload

from engine.engine import Engine
from processor.messaging import StreamReader, event_of, send_to, stream_of

E = TypeVar("E")


class Messages:
    """Of an app."""

    def engine(self) -> Engine:
        """What runs the app."""
        raise NotImplementedError

    def send(
        self, destination_id: str, message: Any, topic: str | None = None, *, idempotency_key: str | None = None
    ) -> Coroutine[Any, Any, None]:
        """Send a message to a workflow from anywhere in this program: durable when it returns. See `processor.send`."""
        return send_to(self.engine, destination_id, message, topic, idempotency_key)

    @overload
    def get_event(
        self, workflow_id: str, key: str, *, timeout: timedelta | None = None
    ) -> Coroutine[Any, Any, Any]: ...
    @overload
    def get_event(
        self, workflow_id: str, key: str, *, model: type[E], timeout: timedelta | None = None
    ) -> Coroutine[Any, Any, E | None]: ...
    def get_event(
        self, workflow_id: str, key: str, *, model: Any = Any, timeout: timedelta | None = None
    ) -> Coroutine[Any, Any, Any]:
        """An event of a workflow, once it is set, for anybody in this program. See `processor.get_event`."""
        return event_of(self.engine, workflow_id, key, model, timeout)

    @overload
    def read_stream(self, workflow_id: str, key: str, *, offset: int = 0) -> StreamReader[Any]: ...
    @overload
    def read_stream(self, workflow_id: str, key: str, *, model: type[E], offset: int = 0) -> StreamReader[E]: ...
    def read_stream(self, workflow_id: str, key: str, *, model: Any = Any, offset: int = 0) -> StreamReader[Any]:
        """Read a stream of a workflow from anywhere in this program. See `processor.read_stream`."""
        return stream_of(self.engine, workflow_id, key, model, offset)
