"""Executes flows: workflows of an app, or what a service of the program's makes of them (decision 0016).

enqueue ─▶ the queue, limits over all processes ─▶ an engine that runs the app ─▶ the flow, its steps are nodes
               ▲                                                                   or: one step of a service
               └── recovery, one worker of all: what nobody has
"""

from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Final, Protocol, cast

from pydantic import JsonValue

from engine.errors import ConfigurationError
from engine.execution_queue import FlowCall
from engine.execution_queue import enqueue as hand_over
from engine.execution_recovery import ExecutionRecovery
from engine.execution_rows import Execution
from engine.identity import authorized
from processor.app import App
from processor.execution_store import ExecutionStore
from processor.handlers import Registration
from processor.queues import Queue
from processor.workflows import identity_here

QUEUE: Final = "executions"
"""Where executions wait for workers."""

SERVICE_FLOW: Final = "execution"
"""The workflow that has a service execute a flow; `execute_flow` is its one step."""

_OfService = Annotated[Execution, "options are the service's: its nodes are no steps"]

RECOVER_EVERY: Final = timedelta(seconds=30)


class ExecutionService(Protocol):
    """What executes flows that are no workflows of an app: a program's own interpreter."""

    def execute(self, execution: Execution, /) -> object:
        """Run a flow to its end, as one step: at least once. An async function, or a sync one, which gets a thread.

        Its result is JSON values. Whatever it raises fails the execution.
        """
        ...


class ExecutionQueue:
    """Where executions wait for their turn.

    Attributes:
        name: Of the queue, as `processor queues` shows it.
    """

    def __init__(self, store: ExecutionStore, worker: "ExecutionWorker") -> None:
        self.name = QUEUE
        self._store = store
        self._worker = worker

    async def enqueue(self, execution: Execution) -> bool:
        """Have an execution run when its turn comes; one that is not in the store is created first.

        `False`: it is enqueued already, a worker has it, or it has ended. It is whose who enqueues it acts as (`acting_as`, or
        the workflow whose step this is), and that one needs a role that its flow requires.

        Raises:
            NotAuthorizedError: Nobody who may start the flow asks for it. Nothing was written.
            ConfigurationError: Nobody here knows its flow, or it cannot be created.
            WorkflowConflictError: Its ID is another execution's, or a workflow's that is none.
        """
        call = self._worker.call_of(execution)
        if call is None:
            raise ConfigurationError(
                f"execution {execution.id}: no flow {execution.flow_id!r}; there are {self._worker.flows()}.\n"
                f"  A flow is a workflow of the app whose argument is the Execution; or give the worker a service."
            )
        identity = authorized(call.name, identity_here(), self._worker.app.workflows[call.name].roles)
        stored = await self._store.get(execution.id)
        if stored is None:
            await self._store.create(execution)
            stored = execution
        elif stored.flow_id != execution.flow_id:
            await self._store.create(execution)  # which says why not
        call = self._worker.call_of(stored) or call
        return await hand_over(self._store, execution.id, replace(call, identity=identity))


class ExecutionWorker:
    """Executes flows that wait in the queue, durably, and brings back what other workers left behind.

    Args:
        store: Of executions. Opened by `start` and closed by `stop`, unless it is open before.
        execution_service: Executes flows that are no workflows; `None`: there are none, or it comes by
            `initialize_execute_flow_step`.
        app: Its workflows with an `Execution` as their argument are flows. `None`: all flows are the service's. Give it before
            the app runs: it registers the queue there, so that every process that runs the app is a worker.
        concurrency: Executions at a time, over all processes.
        worker_concurrency: Executions whose code runs at a time, in one process.
        recover_every: Between two looks for executions that nobody has, by one process of all.
    """

    def __init__(
        self,
        store: ExecutionStore,
        execution_service: ExecutionService | None = None,
        *,
        app: App | None = None,
        concurrency: int = 100,
        worker_concurrency: int = 5,
        recover_every: timedelta = RECOVER_EVERY,
    ) -> None:
        if recover_every <= timedelta(0):
            raise ConfigurationError(f"recover_every={recover_every}: longer than nothing")
        self.app = App("executions") if app is None else app
        self._store = store
        self._queue = ExecutionQueue(store, self)
        self._recover_every = recover_every
        self._service: Registration | None = None
        self._recovery: ExecutionRecovery | None = None
        self._stack = AsyncExitStack()
        self.app.register_queue(Queue(QUEUE, concurrency=concurrency, worker_concurrency=worker_concurrency))
        if execution_service is not None:
            self.initialize_execute_flow_step(execution_service)

    def initialize_execute_flow_step(self, service: ExecutionService) -> None:
        """Say what executes flows that are no workflows. Before the app runs, and once."""
        if self.app.engines:
            raise ConfigurationError("the app runs already: say what executes flows before")
        app, execute = self.app, service.execute

        @app.workflow(name=SERVICE_FLOW, version="1")
        async def execution_workflow(execution: _OfService) -> JsonValue:
            return cast("JsonValue", await app.run_step(execute, execution, name="execute_flow"))

        self._service = app.workflows[execution_workflow.name]

    def get_queue(self) -> ExecutionQueue:
        """The queue, for whoever enqueues: also in a process whose worker is not started. The store must be open."""
        return self._queue

    def is_worker_running(self) -> bool:
        """Whether it executes."""
        return self._recovery is not None and self._recovery.is_running and bool(self.app.engines)

    async def start(self) -> None:
        """Begin to execute what is enqueued: runs the app, unless it runs in this process already.

        Raises:
            ConfigurationError: There are no flows, or the database is not as it must be. Says what to do.
        """
        if self._recovery is not None:
            return
        if self._service is None and not self._flows():
            raise ConfigurationError(
                f"app {self.app.name!r} has no flow: nothing would ever be executed.\n"
                f"  Give it a workflow whose one argument is an Execution, or the worker a service."
            )
        async with AsyncExitStack() as stack:
            if not self._store.is_open:
                await self._store.open()
                stack.push_async_callback(self._store.close)
            if not self.app.engines:
                await stack.enter_async_context(self.app.running(self._store.deployment, kafka=False))
            engine = self.app.engines[-1]
            recovery = ExecutionRecovery(
                self._store,
                self.call_of,
                worker_id=engine.executor_id,
                every=self._recover_every,
                tell=engine.telemetry.emit,
                failed=engine.failed,
            )
            recovery.start()
            stack.push_async_callback(recovery.stop)
            self._stack = stack.pop_all()
        self._recovery = recovery

    async def stop(self) -> None:
        """Begin nothing more, let what runs end its running nodes, at most `executor.drain`, and close the connections.

        What is not done by then goes on in another worker, behind its last recorded node.
        """
        self._recovery = None
        await self._stack.aclose()

    # -- for the queue and recovery --

    def flows(self) -> str:
        """The flows there are, for people."""
        names = sorted(self._flows())
        return ", ".join(names) or "none"

    def call_of(self, execution: Execution) -> FlowCall | None:
        """How an execution is run here; `None`: not at all."""
        registration = self.app.workflows.get(execution.flow_id)
        if registration is None or not registration.is_flow:
            registration = self._service
        if registration is None:
            return None
        inputs = registration.call_arguments().encode((execution,), {})
        return FlowCall(registration.name, registration.code_version, inputs, QUEUE)

    def _flows(self) -> list[str]:
        return [name for name, each in self.app.workflows.items() if each.is_flow]


__all__ = ["ExecutionQueue", "ExecutionService", "ExecutionWorker"]
