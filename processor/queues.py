"""Queues: workflows that wait for their turn, under limits that hold over all processes.

    emails = app.register_queue(Queue("emails", concurrency=10, limit=(100, timedelta(minutes=1))))

    await emails.enqueue(send_email, "ada@example.org")                    a handle, at once
    await emails.having(priority=1, deduplication_id="ada").enqueue(send_email, "ada@example.org")
    await send_email.enqueue("ada@example.org", queue=emails, priority=1)  the same, from the workflow's side

A queue is a value, as a topic is: whoever names it enqueues into it; whose app registers it takes from it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

from engine.queues import INTERNAL, QueueSpec
from processor.handles import SyncWorkflowHandle, WorkflowHandle
from processor.options import check_options

if TYPE_CHECKING:
    from processor.workflows import WorkflowFunction

P = ParamSpec("P")
R = TypeVar("R")


class PlaceOptions(TypedDict, total=False):
    """How a workflow waits in its queue.

    Attributes:
        id: Its idempotency key: the same ID again is the first run.
        timeout: From its start, not from its enqueueing, to its completion; then it is cancelled.
        priority: Lower numbers first, then older ones; of queues with `priority=True`. 0 by default.
        deduplication_id: At most one workflow of the queue has it at a time, from its enqueueing to its end.
        partition_key: Whose limits and whose order count; of queues with `partitioned=True`, which need it.
        delay: It does not start before; then it is as if it had waited since it was enqueued.
    """

    id: str | None
    timeout: timedelta | None
    priority: int
    deduplication_id: str | None
    partition_key: str | None
    delay: timedelta | None


class Queue:
    """A queue and its limits.

    Attributes:
        name: `workflow_status.queue_name`.
        spec: Its limits, as the engine has them.
        options: Of what is enqueued through this value: see `having`.

    Args:
        name: Of the queue; whoever uses the same name means the same queue.
        concurrency: Workflows between their start and their end at a time, over all processes. One that sleeps, or waits for
            others, keeps its place. With 1 they run one after the other, in order.
        worker_concurrency: Workflows whose code runs at a time, in one process.
        limit: So many starts in any period of this length, over all processes: `(50, timedelta(seconds=30))`. A workflow
            that goes on elsewhere after the death of its process counts as one more.
        priority: Whether its members have a priority.
        partitioned: Whether its members have a partition key: then `concurrency`, `worker_concurrency` and `limit` hold for
            each key, and order is each key's.

    Raises:
        ConfigurationError: A limit is none.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        worker_concurrency: int | None = None,
        limit: tuple[int, timedelta] | None = None,
        priority: bool = False,
        partitioned: bool = False,
    ) -> None:
        self.spec = QueueSpec(name, concurrency, worker_concurrency, limit, priority, partitioned)
        self.name = name
        self.options: PlaceOptions = {}

    def having(self, **options: Unpack[PlaceOptions]) -> Queue:
        """The same queue, for workflows that are enqueued with these options: see `PlaceOptions`."""
        unknown = options.keys() - PlaceOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"queue {self.name!r}: there is no option {', '.join(sorted(unknown))}")
        given = Queue.__new__(Queue)
        given.spec, given.name = self.spec, self.name
        given.options = self.options | options
        return given

    @overload
    def enqueue(
        self, workflow: WorkflowFunction[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, WorkflowHandle[R]]: ...
    @overload
    def enqueue(
        self, workflow: WorkflowFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, WorkflowHandle[R]]: ...
    def enqueue(self, workflow: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        """Have a workflow run when its turn comes, and have its handle.

        Outside of a workflow: returns when its row is durable. In a workflow it is a child: its row comes in the commit of the
        checkpoint that says so, and the caller goes on at once (with a deduplication ID when that is decided).

        Raises:
            DeduplicatedError: Another workflow of the queue has the deduplication ID; in a workflow remembered.
            WorkflowConflictError: The ID is another workflow's, or this one's with other inputs.
            ConfigurationError: The queue has no such places, or the app does not run in this process.
            TypeError: These are no arguments of the workflow.
        """
        return workflow.starter.enqueue(args, kwargs, self.spec, self.options)

    @overload
    def enqueue_sync(
        self, workflow: WorkflowFunction[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncWorkflowHandle[R]: ...
    @overload
    def enqueue_sync(
        self, workflow: WorkflowFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncWorkflowHandle[R]: ...
    def enqueue_sync(self, workflow: Any, /, *args: Any, **kwargs: Any) -> SyncWorkflowHandle[Any]:
        """`enqueue` from a thread, as a sync workflow's."""
        return workflow.starter.enqueue_sync(args, kwargs, self.spec, self.options)

    def __repr__(self) -> str:
        return f"<queue {self.name}>"


INTERNAL_QUEUE = Queue(INTERNAL)
"""Every process takes from it, without limits."""


def checked(queue: QueueSpec, options: PlaceOptions) -> PlaceOptions:
    """The options, if each is of its type."""
    check_options(f"queue {queue.name!r}", **options)
    return options


__all__ = ["PlaceOptions", "Queue"]
