"""What `processor` has for async workflows, for sync ones: the same names, called from threads.

from processor import sync

@app.workflow()
def remind(user: str) -> None:
sync.sleep(timedelta(days=3))
send_mail(user)
"""

import time
from datetime import timedelta

from engine.engine import Engine
from engine.errors import ConfigurationError
from processor import durable
from processor.blocking import from_thread
from processor.handles import workflow_here


def sleep(duration: timedelta) -> None:
    """Sleep durably: see `processor.sleep`."""
    if workflow_here("sleep()") is None:
        time.sleep(duration.total_seconds())
    else:
        from_thread(_engine, lambda: durable.sleep(duration))


def _engine() -> Engine:
    raise ConfigurationError("there is no workflow here")


__all__ = ["sleep"]
