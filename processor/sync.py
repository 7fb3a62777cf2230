"""What `processor` has for async workflows, for sync ones: the same names, called from threads.

from processor import sync

@app.workflow()
def remind(user: str) -> None:
sync.sleep(timedelta(days=3))
send_mail(user)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, TypeVarTuple, overload
from uuid import UUID

from engine.current import current_run
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.outgoing import EventTopic, GivenHeaders
from engine.transaction import SyncTransaction
from processor import durable, messaging, recorded
from processor.blocking import from_thread
from processor.here import engine_here, telling, workflow_code, workflow_here
from processor.inline import gather as gathered
from processor.inline import run_step_sync
from processor.messaging import SyncStreamReader
from processor.policies import Retry

E = TypeVar("E")
M = TypeVar("M")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")


@overload
def run_step(
    fn: Callable[[*Ts], Awaitable[V]],
    *args: *Ts,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
) -> V: ...
@overload
def run_step(
    fn: Callable[[*Ts], V],
    *args: *Ts,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
) -> V: ...
def run_step(
    fn: Callable[..., Any],
    *args: Any,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
) -> Any:
    """Call a function as a step of the sync workflow that asks for it, without registering it before: see `App.run_step`.

    A sync function runs in the workflow's own thread, with `timeout` in one of its own; an async one, or an async step or
    transaction, on the loop. Outside of a workflow, and in a step, it is a plain call.
    """
    return run_step_sync(fn, args, name=name, retry=retry, timeout=timeout)


@overload
def gather(*calls: Callable[[], Awaitable[V]], return_exceptions: Literal[False] = False) -> list[V]: ...
@overload
def gather(*calls: Callable[[], V], return_exceptions: Literal[False] = False) -> list[V]: ...
@overload
def gather(*calls: Callable[[], Any], return_exceptions: bool) -> list[Any]: ...
def gather(*calls: Callable[[], Any], return_exceptions: bool = False) -> list[Any]:
    """Call several steps of a sync workflow beside each other: `sync.gather(partial(charge, a), partial(charge, b))`.

    Each runs in a thread of its own, an async one on the loop, and is remembered like any step: at the place of its call, in
    every replay. Returns when all have ended. What is no registered step is one by its name. A thread pool of the workflow's
    own cannot do this: what it runs is refused, or not remembered.

    Outside of a workflow, and in a step, they are called one after the other.

    Args:
        *calls: Without arguments: `functools.partial` gives them some, by place for registered steps.
        return_exceptions: Have errors among the results, in place of the first one raised.
    """
    return gathered(calls, return_exceptions=return_exceptions)


def sleep(duration: timedelta) -> None:
    """Sleep durably: see `processor.sleep`."""
    if workflow_here("sleep()") is None:
        time.sleep(duration.total_seconds())
    else:
        from_thread(_engine, lambda: durable.sleep(duration))


def publish(topic: EventTopic[E], event: E, *, headers: GivenHeaders = (), key: bytes | str | None = None) -> None:
    """Publish an event to Kafka, once, however often the workflow is run again (I9): see `processor.publish`."""
    durable.publishing_workflow(topic.name)
    from_thread(_engine, lambda: durable.publish(topic, event, headers=headers, key=key))


def send(
    destination_id: str,
    message: Any,
    topic: str | None = None,
    *,
    idempotency_key: str | None = None,
    tx: SyncTransaction | None = None,
) -> None:
    """Send a message to a workflow: see `processor.send`."""
    if tx is not None:
        tx.send_message(messaging.message_of(destination_id, message, topic, idempotency_key))
        return
    from_thread(
        engine_here("send"), lambda: messaging.send(destination_id, message, topic, idempotency_key=idempotency_key)
    )


@overload
def recv(topic: str | None = None, *, timeout: timedelta | None = None) -> Any: ...
@overload
def recv(topic: str | None = None, *, model: type[M], timeout: None = None) -> M: ...
@overload
def recv(topic: str | None = None, *, model: type[M], timeout: timedelta) -> M | None: ...
def recv(topic: str | None = None, *, model: Any = Any, timeout: timedelta | None = None) -> Any:
    """Receive the oldest message of a topic: see `processor.recv`. A workflow that waits long has no thread meanwhile."""
    workflow_code("recv()")
    return from_thread(_engine, lambda: messaging.recv(topic, model=model, timeout=timeout))


def set_event(key: str, value: Any) -> None:
    """Tell whoever knows this workflow's ID a value: see `processor.set_event`."""
    telling("set_event()")
    from_thread(_engine, lambda: messaging.set_event(key, value))


@overload
def get_event(workflow_id: str, key: str, *, timeout: timedelta | None = None) -> Any: ...
@overload
def get_event(workflow_id: str, key: str, *, model: type[M], timeout: timedelta | None = None) -> M | None: ...
def get_event(workflow_id: str, key: str, *, model: Any = Any, timeout: timedelta | None = None) -> Any:
    """An event of another workflow, once it is set: see `processor.get_event`."""
    return from_thread(
        engine_here("get_event"), lambda: messaging.get_event(workflow_id, key, model=model, timeout=timeout)
    )


def write_stream(key: str, value: Any) -> None:
    """Write the next value of one of this workflow's streams: see `processor.write_stream`."""
    telling("write_stream()")
    from_thread(_engine, lambda: messaging.write_stream(key, value))


def close_stream(key: str) -> None:
    """End one of this workflow's streams: see `processor.close_stream`."""
    workflow_code("close_stream()")
    from_thread(_engine, lambda: messaging.close_stream(key))


@overload
def read_stream(workflow_id: str, key: str, *, offset: int = 0) -> SyncStreamReader[Any]: ...
@overload
def read_stream(workflow_id: str, key: str, *, model: type[M], offset: int = 0) -> SyncStreamReader[M]: ...
def read_stream(workflow_id: str, key: str, *, model: Any = Any, offset: int = 0) -> SyncStreamReader[Any]:
    """Read a stream of a workflow, in a `for`: see `processor.read_stream`."""
    engine = engine_here("read_stream")
    return SyncStreamReader(messaging.stream_of(engine, workflow_id, key, model, offset), engine)


def now() -> datetime:
    """The time, remembered in a workflow: see `processor.now`."""
    return _remembered(recorded.now)


def random() -> float:
    """A random number from 0 up to 1, remembered in a workflow: see `processor.random`."""
    return _remembered(recorded.random)


def uuid4() -> UUID:
    """A random identifier, remembered in a workflow: see `processor.uuid4`."""
    return _remembered(recorded.uuid4)


def _remembered(value: Callable[[], Coroutine[Any, Any, V]]) -> V:
    return asyncio.run(value()) if current_run.get() is None else from_thread(_engine, value)


def _engine() -> Engine:
    if (run := current_run.get()) is not None:
        return run.home.engine
    raise ConfigurationError("there is no workflow here")


__all__ = [
    "close_stream",
    "gather",
    "get_event",
    "now",
    "publish",
    "random",
    "read_stream",
    "recv",
    "run_step",
    "send",
    "set_event",
    "sleep",
    "uuid4",
    "write_stream",
]
