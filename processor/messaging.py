"""How workflows talk: messages to one, events and streams of one. Async; the same for threads: `processor.sync`.

    send ─▶ recv                            to a workflow whose ID one has: each message once, oldest first
    set_event ─▶ get_event                  of a workflow: the last value of each key
    write_stream, close_stream ─▶ read_stream    of a workflow: every value, in order

In a workflow all of these are remembered. From outside: the methods of the same names of `App` and of handles.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, Generic, TypeVar, overload

from engine.current import current_step
from engine.events import event_in_workflow, event_outside, set_in_step
from engine.events import set_event as set_from
from engine.messages import NULL_TOPIC, Message, receive, send_from, send_outside
from engine.reach import Reach
from engine.streams import CLOSED, Chunk, read_in_workflow, read_outside, write_in_step
from engine.streams import close_stream as close_from
from engine.streams import write_stream as write_from
from engine.transaction import Transaction
from processor.blocking import from_thread
from processor.here import engine_here, plain, talking, telling, workflow_code
from processor.values import check_name, decoder, encode

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)


# -- messages --


def send(
    destination_id: str,
    message: Any,
    topic: str | None = None,
    *,
    idempotency_key: str | None = None,
    tx: Transaction | None = None,
) -> Coroutine[Any, Any, None]:
    """Send a message to a workflow, which has it until it receives it.

    From a workflow: exactly once, with the record of this call; the workflow goes on at once. With `tx`: exactly once, with
    the commit of that transaction. In a step: as often as the step runs, unless there is an `idempotency_key`.

    Args:
        destination_id: ID of the workflow that is to receive it.
        message: Whatever can be written as JSON: models, dataclasses, dates, plain values.
        topic: For one `recv` of several. `None` is a topic of its own.
        idempotency_key: The destination gets one message under this key, whoever sends it how often.
        tx: In a transaction: the one it is a part of.

    Raises:
        WorkflowNotFoundError: There is no workflow of this ID; in a workflow, remembered. That of a record which Kafka has
            is waited for, two seconds.
        TypeError, ValueError: It cannot be written as JSON, or is too large.
    """
    if tx is not None:
        return tx.send_message(message_of(destination_id, message, topic, idempotency_key))
    return send_to(engine_here("send"), destination_id, message, topic, idempotency_key)


@overload
def recv(topic: str | None = None, *, timeout: timedelta | None = None) -> Coroutine[Any, Any, Any]: ...
@overload
def recv(topic: str | None = None, *, model: type[M], timeout: None = None) -> Coroutine[Any, Any, M]: ...
@overload
def recv(topic: str | None = None, *, model: type[M], timeout: timedelta) -> Coroutine[Any, Any, M | None]: ...
def recv(topic: str | None = None, *, model: Any = Any, timeout: timedelta | None = None) -> Coroutine[Any, Any, Any]:
    """Receive the oldest message of a topic, waiting until there is one: in the commit of the record of this call.

    A workflow that waits long rests: nothing but its row waits.

    Args:
        topic: As `send` had it.
        model: What it is read as; JSON values unless given.
        timeout: Longest wait, from the first call on, whatever happens in between; then `None` is received. `None`: for ever.

    Raises:
        UndecodableError: It is none of `model`. It counts as received; the history has it.
        NotInWorkflowError: Called outside of a workflow or in a step: only a workflow receives.
    """
    run = workflow_code("recv()")
    name, decode = _topic(topic), decoder(model, f"message of topic {topic!r}")
    return _received(receive(run, name, timeout), decode, timeout)


async def _received(
    received: Coroutine[Any, Any, str],
    decode: Callable[[str], Any],
    timeout: timedelta | None,  # noqa: ASYNC109  # kept by the engine
) -> Any:
    text = await received
    return None if text == "null" and timeout is not None else decode(text)


def send_to(
    engine: Callable[[], Reach], destination_id: str, message: Any, topic: str | None, idempotency_key: str | None
) -> Coroutine[Any, Any, None]:
    """`send`, with the engine that is asked where no workflow calls."""
    sent = message_of(destination_id, message, topic, idempotency_key)
    if (run := talking("send()", engine, instead="send(..., tx=tx) is")) is not None:
        return send_from(run, sent)
    return send_outside(engine(), sent)


def message_of(destination_id: str, message: Any, topic: str | None, idempotency_key: str | None) -> Message:
    """A message as it will be stored."""
    key = None if idempotency_key is None else check_name(idempotency_key, "idempotency key")
    return Message(destination_id, _topic(topic), encode(message, f"message to {destination_id}"), key)


def _topic(topic: str | None) -> str:
    return NULL_TOPIC if topic is None else check_name(topic, "topic")


# -- events --


def set_event(key: str, value: Any) -> Coroutine[Any, Any, None]:
    """Tell whoever knows this workflow's ID a value. The last one of a key stands; `workflow_events_history` has all.

    In a workflow with the record of this call; in a step at once, in a commit of its own.

    Args:
        key: What it is called.
        value: Whatever can be written as JSON.

    Raises:
        NotInWorkflowError: Called outside of a workflow.
        TypeError, ValueError: It cannot be written as JSON, or is too large.
    """
    run = telling("set_event()")
    text = encode(value, f"event {check_name(key, 'key')!r}")
    if (step := current_step.get()) is not None:
        return set_in_step(run, plain(step, "set_event()"), key, text)
    return set_from(run, key, text)


@overload
def get_event(workflow_id: str, key: str, *, timeout: timedelta | None = None) -> Coroutine[Any, Any, Any]: ...
@overload
def get_event(
    workflow_id: str, key: str, *, model: type[M], timeout: timedelta | None = None
) -> Coroutine[Any, Any, M | None]: ...
def get_event(
    workflow_id: str, key: str, *, model: Any = Any, timeout: timedelta | None = None
) -> Coroutine[Any, Any, Any]:
    """An event of another workflow: its value as it is, or once it is set.

    In a workflow it is remembered; one that waits long rests.

    Args:
        workflow_id: Whose.
        key: Which.
        model: What it is read as; JSON values unless given.
        timeout: Longest wait. `None`: until it is set.

    Returns `None` when the time is over, and when the workflow has ended without setting it.

    Raises:
        WorkflowNotFoundError: There is no workflow of this ID. That of a record which Kafka has is waited for, two seconds.
        UndecodableError: The value is none of `model`.
    """
    return event_of(engine_here("get_event"), workflow_id, key, model, timeout)


def event_of(
    engine: Callable[[], Reach], workflow_id: str, key: str, model: Any, timeout: timedelta | None
) -> Coroutine[Any, Any, Any]:
    """`get_event`, with the engine that is asked where no workflow calls."""
    check_name(key, "key")
    decode = decoder(model, f"event {key!r} of {workflow_id}")
    if (run := talking("get_event()", engine)) is not None:
        return _event(event_in_workflow(run, workflow_id, key, timeout), decode)
    timeout_s = None if timeout is None else timeout.total_seconds()
    return _event(event_outside(engine(), workflow_id, key, timeout_s), decode)


async def _event(read: Coroutine[Any, Any, str | None], decode: Callable[[str], Any]) -> Any:
    text = await read
    return None if text is None or text == "null" else decode(text)


# -- streams --


def write_stream(key: str, value: Any) -> Coroutine[Any, Any, None]:
    """Write the next value of one of this workflow's streams.

    From a workflow exactly once, with the record of this call; in a step at once, and again whenever the step runs again.

    Args:
        key: Which stream.
        value: Whatever can be written as JSON.

    Raises:
        NotInWorkflowError: Called outside of a workflow.
        StreamClosedError: The workflow has closed it.
        TypeError, ValueError: It cannot be written as JSON, or is too large.
    """
    run = telling("write_stream()")
    text = encode(value, f"stream {check_name(key, 'key')!r}")
    if value == CLOSED:
        raise ValueError(f"stream {key!r}: {CLOSED!r} is how its end is written: close_stream({key!r})")
    if (step := current_step.get()) is not None:
        return write_in_step(run, plain(step, "write_stream()"), key, text)
    return write_from(run, key, text)


def close_stream(key: str) -> Coroutine[Any, Any, None]:
    """End one of this workflow's streams: whoever reads it comes to its end. A workflow's end ends those left open.

    Raises:
        NotInWorkflowError: Called outside of a workflow or in a step.
        StreamClosedError: The workflow has closed it.
    """
    return close_from(workflow_code("close_stream()"), check_name(key, "key"))


@overload
def read_stream(workflow_id: str, key: str, *, offset: int = 0) -> "StreamReader[Any]": ...
@overload
def read_stream(workflow_id: str, key: str, *, model: type[M], offset: int = 0) -> "StreamReader[M]": ...
def read_stream(workflow_id: str, key: str, *, model: Any = Any, offset: int = 0) -> "StreamReader[Any]":
    """Read a stream of a workflow, in an `async for`.

    Waits for more until it is closed or its workflow has ended. In a workflow what was read is remembered, up to 100 values
    by one record; one that waits long rests.

    Args:
        workflow_id: Whose.
        key: Which.
        model: What values are read as; JSON values unless given.
        offset: The first value, from 0. `reader.offset` is where to go on later.

    Raises:
        WorkflowNotFoundError: There is no workflow of this ID. That of a record which Kafka has is waited for, two seconds.
        UndecodableError: A value is none of `model`.
    """
    return stream_of(engine_here("read_stream"), workflow_id, key, model, offset)


def stream_of(engine: Callable[[], Reach], workflow_id: str, key: str, model: Any, offset: int) -> "StreamReader[Any]":
    """`read_stream`, with the engine that is asked where no workflow calls."""
    check_name(key, "key")
    if offset < 0:
        raise ValueError(f"offset {offset}: a stream begins at 0")
    return StreamReader(engine, workflow_id, key, decoder(model, f"stream {key!r} of {workflow_id}"), offset)


class StreamReader(AsyncIterator[M_co], Generic[M_co]):
    """One pass over a stream.

    Attributes:
        offset: Of the next value.
    """

    def __init__(
        self, engine: Callable[[], Reach], workflow_id: str, key: str, decode: Callable[[str], M_co], offset: int
    ) -> None:
        self.offset = offset
        self._engine = engine
        self._workflow_id = workflow_id
        self._key = key
        self._decode = decode
        self._read: Sequence[str] = ()
        self._next = 0
        self._is_over = False

    async def __anext__(self) -> M_co:
        """The next value, once there is one."""
        while self._next >= len(self._read):
            if self._is_over:
                raise StopAsyncIteration
            chunk = await self._chunk()
            self._read, self._next, self._is_over = chunk.values, 0, chunk.is_last
        text = self._read[self._next]
        self._next += 1
        self.offset += 1
        return self._decode(text)

    async def next_or_end(self) -> "M_co | End":
        """The next value, or `END`."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            return END

    def _chunk(self) -> Coroutine[Any, Any, Chunk]:
        if (run := talking("read_stream()", self._engine)) is not None:
            return read_in_workflow(run, self._workflow_id, self._key, self.offset)
        return read_outside(self._engine(), self._workflow_id, self._key, self.offset)


class End(Enum):
    """What no stream has among its values."""

    END = "end"


END = End.END


class SyncStreamReader(Iterator[M_co], Generic[M_co]):
    """`StreamReader` for threads."""

    def __init__(self, reader: StreamReader[M_co], engine: Callable[[], Reach]) -> None:
        self._reader = reader
        self._engine = engine

    @property
    def offset(self) -> int:
        """Of the next value."""
        return self._reader.offset

    def __next__(self) -> M_co:
        """The next value, once there is one."""
        value = from_thread(self._engine, self._reader.next_or_end)
        if isinstance(value, End):
            raise StopIteration
        return value


__all__ = [
    "StreamReader",
    "SyncStreamReader",
    "close_stream",
    "event_of",
    "get_event",
    "read_stream",
    "recv",
    "send",
    "send_to",
    "set_event",
    "stream_of",
    "write_stream",
]
