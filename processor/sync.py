"""What `processor` has for async workflows, for sync ones: the same names, called from threads.

from processor import sync

@app.workflow()
def remind(user: str) -> None:
sync.sleep(timedelta(days=3))
send_mail(user)
"""

import time
from datetime import timedelta
from typing import TypeVar

from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.outgoing import EventTopic, GivenHeaders
from processor import durable
from processor.blocking import from_thread
from processor.handles import workflow_here

E = TypeVar("E")


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


def _engine() -> Engine:
    raise ConfigurationError("there is no workflow here")


__all__ = ["publish", "sleep"]
