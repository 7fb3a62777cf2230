"""What a workflow may do beside calling steps, durably: sleep, publish, take the code of a patch.

The same for threads, sync workflows' above all: `processor.sync`.
"""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from engine.current import current_run, current_step
from engine.errors import ConfigurationError
from engine.outgoing import EventTopic, GivenHeaders
from engine.patches import pass_by, patched
from engine.publishing import publish as publish_from
from engine.runner import Phase, Run
from engine.timers import deadline, sleep_until
from engine.transactional import NotInWorkflowError
from processor.here import workflow_here

E = TypeVar("E")

PATCH_NAME_MAX = 200
"""Characters of a patch's name."""


def sleep(duration: timedelta) -> Coroutine[Any, Any, None]:
    """Sleep, for seconds or for months: the wake-up time is remembered at the call, and nothing but a row waits for it.

    A workflow that sleeps longer than a second leaves memory, and its process if that ends; it keeps the place of its record
    before others of the same key. When it wakes, its code runs again from the beginning, over what it has remembered.
    """
    if (run := workflow_here("sleep()")) is None:
        return asyncio.sleep(duration.total_seconds())
    return sleep_until(run, deadline(run, duration))


def publish(
    topic: EventTopic[E], event: E, *, headers: GivenHeaders = (), key: bytes | str | None = None
) -> Coroutine[Any, Any, None]:
    """Publish an event to Kafka, once, however often the workflow is run again (I9).

    The event comes with the record of this call: in one commit, or not at all. The workflow goes on at once; readers of
    committed records (`isolation.level=read_committed`) get it when that commit is done, after those of its key that
    were committed before. What a transactional step publishes comes with the step's own commit: `tx.publish`.

    Args:
        topic: A topic by name. Its codec encodes the event, its `key=` says what it is ordered by.
        event: Of the topic's type; `None`, for topics that deliver tombstones: a tombstone.
        headers: Names and values; text is UTF-8.
        key: Instead of the topic's `key=`.

    Raises:
        PublishError: It cannot be encoded, is larger than `outbox.event_bytes_max`, or its topic is no topic. Remembered:
            a replay raises it again.
        NotInWorkflowError: Called outside of a workflow or in a step, where nothing would remember it.
    """
    return publish_from(publishing_workflow(topic.name), topic, event, headers=headers, key=key)


def patch(name: str) -> bool:
    """Whether this workflow runs the code behind a patch; the code there was before stands in the `else:`.

    True in workflows that have not come to this place yet, and in all their replays; False in one that has, with the
    code before. Called in the workflow's own code, async or not; outside of a workflow, as in a unit test of `fn`, True.

    The version of the code changes with it: a workflow that no record starts says by `continues=` which versions' runs
    it goes on with. Once nothing is under way from before the patch, `deprecate_patch` takes its place.

    Raises:
        NotInWorkflowError: Called in a step, where nothing would remember it.
    """
    run = _patched_workflow("patch", name)
    return True if run is None else patched(run, name)


def deprecate_patch(name: str) -> None:
    """In the place of `patch(name)` when the code before it is gone: workflows that have its step pass it by.

    Once none of those is under way either, this goes as well.
    """
    if (run := _patched_workflow("deprecate_patch", name)) is not None:
        pass_by(run, name)


def _patched_workflow(call: str, name: str) -> Run | None:
    if not name or len(name) > PATCH_NAME_MAX or "\0" in name:
        raise ConfigurationError(f"{call}({name[:50]!r}): a name of 1 to {PATCH_NAME_MAX} characters, without NUL")
    if current_run.get() is None:
        return None
    if current_step.get() is not None:
        raise NotInWorkflowError(
            f"{call}({name!r}) was called in a step, where nothing would remember it.\n"
            f"  Decide in the workflow, and hand the step what it needs to know."
        )
    return workflow_here(f"{call}()")


def publishing_workflow(topic: str) -> Run:
    """The workflow whose own code publishes. Raises `NotInWorkflowError` where there is none."""
    run = current_run.get()
    if run is None or current_step.get() is not None or run.phase is Phase.ENDED:
        raise NotInWorkflowError(
            f"publish() to {topic!r} was called outside of a workflow's own code, where nothing would remember it.\n"
            f"  In a transactional step, and in a handler that is one transaction: `tx.publish(topic, event)`.\n"
            f"  In a step: return the event, and publish it from the workflow."
        )
    return run
