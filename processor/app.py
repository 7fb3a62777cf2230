"""The App: where functions become steps, transactions and workflows. Importing one has no effect on the world.

    app = App("fulfilment", lifespan=resources)

    @app.step(retry=Retry(attempts=5))          at least once, its result is remembered
    @app.transaction()                          exactly once, in Postgres
    @app.workflow(on=orders)                    for every record of a topic, durably
    @app.post("/orders/{order_id}")             for every request, durably
    @app.workflow(on=Cron("0 3 * * *"))         at times of day
    @app.transaction(on=payments)               the whole handler is one transaction
    @app.batch(on=clicks, size=500)             many records, one transaction

Registration refuses what could not run: see the errors of each decorator.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, TypeVarTuple, overload

from engine.current import current_run
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.handlers import HandlerKind
from engine.identity import checked_roles
from processor.acts import Acts
from processor.config import Settings
from processor.declared import Declared
from processor.decorators import (
    BatchDecorator,
    FusedDecorator,
    StepDecorator,
    StepFunction,
    TransactionDecorator,
)
from processor.handlers import (
    Registration,
    build_step,
    check_arguments,
    checked_name,
    plain_function,
    result_of,
    takes_record,
)
from processor.inline import run_step
from processor.methods import class_of, is_method
from processor.options import check_callable, check_options
from processor.policies import NEVER, Breaker, DeadLetter, FailurePolicy, Retry
from processor.procedures import Procedures
from processor.queues import Queue
from processor.registry import AnyStep, Registry
from processor.routes import Http, Routes, check_http, given_roles
from processor.schedules import Cron, TickDecorator, check_tick_handler, refuse_options_of_records
from processor.triggers import Topic
from processor.workflows import CallableDecorator, HandlerDecorator, WorkflowFunction

if TYPE_CHECKING:
    from processor.runtime import Runtime

P = ParamSpec("P")
E = TypeVar("E")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

Isolation = Literal["read committed", "repeatable read", "serializable"]
Lifespan = Callable[["App"], AbstractAsyncContextManager[object]]

BATCH_MAX = 10_000
"""Most records of one call of a batch handler: they are in memory together, twice."""

_BREAKER = Breaker()
_DEAD_LETTER = DeadLetter()


class App(Acts, Procedures, Declared, Routes):
    """A set of handlers that are deployed together.

    Attributes:
        name: Of the consumer group unless the settings name another, and in logs.
        lifespan: Called with the app, once per process: an async context manager around everything that runs, for
            clients and pools of the user's. It is left when the last step has ended.
        required_roles: One of these must somebody have to start a workflow that says nothing else (`roles=`).
    """

    def __init__(self, name: str, *, lifespan: Lifespan | None = None, required_roles: Sequence[str] = ()) -> None:
        if not name or "|" in name:
            raise ConfigurationError(f"App({name!r}): a name, without '|', which separates groups in workflow IDs")
        check_callable(f"App({name!r})", lifespan=lifespan)
        self.name = name
        self.lifespan = lifespan
        self.required_roles = checked_roles(f"App({name!r})", required_roles)
        self.engines: list[Engine] = []
        """Those that run the app in this process, the newest last."""
        self._registry = Registry(name, roles=self.required_roles)

    @property
    def workflows(self) -> Mapping[str, Registration]:
        """Everything registered with `workflow`, `transaction(on=)` and `batch`, by name."""
        return self._registry.workflows

    @property
    def steps(self) -> Mapping[str, AnyStep]:
        """Everything registered with `step`, `transaction` and `procedure`, by name."""
        return self._registry.steps

    @property
    def queues(self) -> Mapping[str, Queue]:
        """Everything registered with `register_queue`, by name."""
        return self._registry.queues

    @property
    def registry(self) -> Registry:
        """What was registered."""
        return self._registry

    # -- steps --

    def step(self, *, name: str | None = None, retry: Retry = NEVER, timeout: timedelta | None = None) -> StepDecorator:
        """Remember the result of a function, so that a workflow calls it once.

        The result is recorded after the function returns. A crash between the two runs it again: a step that
        reaches the outside world is at least once. Hand `current_step().idempotency_key` on, or use `transaction` for
        Postgres. Outside of a workflow, in another step, and in a thread that does not know its workflow, it is a plain call.

        Args:
            name: Name in the history. Set it to rename the function without losing workflows under way.
            retry: When, and how often, to try again within one workflow attempt.
            timeout: Longest one try may take. An async step is cancelled; a sync one goes on in its thread, its
                result is dropped. `None`: no limit.

        Raises:
            StepFailedError: In the workflow, when the tries are used up; the last error is its `__cause__`.
            NondeterminismError: In the workflow, when its history has another step at this place.
            ConfigurationError: At registration: a result that cannot be written as JSON, a name that is taken.
        """

        def decorate(fn: Callable[P, R]) -> StepFunction[P, R]:
            function = plain_function(fn, "step", methods=True)
            check_options(f"step {function.__qualname__}", name=name, retry=retry, timeout=timeout)
            chosen = checked_name(name, function, "step")
            step = StepFunction[P, R](fn, build_step(function, chosen, retry=retry, timeout=timeout))
            self._registry.add_step(step)
            return step

        return decorate

    @overload
    def transaction(
        self, *, name: str | None = None, isolation: Isolation = "read committed", read_only: bool = False
    ) -> TransactionDecorator: ...
    @overload
    def transaction(
        self,
        *,
        on: Topic[E],
        name: str | None = None,
        retry: Retry = NEVER,
        on_failure: FailurePolicy = _DEAD_LETTER,
        breaker: Breaker | None = _BREAKER,
        version: str | None = None,
        renamed_from: str | None = None,
        group: str | None = None,
        roles: Sequence[str] | None = None,
    ) -> FusedDecorator[E]: ...
    def transaction(
        self,
        *,
        on: Topic[Any] | None = None,
        name: str | None = None,
        isolation: Isolation = "read committed",
        read_only: bool = False,
        retry: Retry = NEVER,
        on_failure: FailurePolicy = _DEAD_LETTER,
        breaker: Breaker | None = _BREAKER,
        version: str | None = None,
        renamed_from: str | None = None,
        group: str | None = None,
        roles: Sequence[str] | None = None,
    ) -> Any:
        """Run a function in a transaction that commits together with the record of having run.

        Exactly once: the writes and the checkpoint are one commit. The caller leaves `tx` out. What the function
        does outside of `tx` is at least once.

        With `on=` the transaction is the whole handler of a topic: effect, outcome and the partition's progress are
        one commit, shared by many records. A record whose handler raises is taken out, becomes a workflow of its
        own with `retry` and `on_failure`, and its key waits for it; the others go on.

        Args:
            on: Topic whose records it handles.
            name: Name in the history, or of the workflow.
            isolation: Serialization failures and deadlocks run it again at once; they are no attempts.
            read_only: For reads that need one snapshot.
            retry: Of a record that was taken out, as for `workflow`.
            on_failure: As for `workflow`.
            breaker: As for `workflow`.
            version: As for `workflow`.
            renamed_from: As for `workflow`.
            group: As for `workflow`.
            roles: As for `workflow`, of records.

        Raises:
            ConfigurationError: At registration: no `tx` of the function's colour, an event of another type than the
                topic's, a result that cannot be written as JSON, a name or topic that is taken.
        """
        if on is None:
            return self._registry.transaction_step(name, isolation, read_only=read_only)
        return self._registry.fused(
            on,
            HandlerKind.TRANSACTION,
            name=name,
            retry=retry,
            on_failure=on_failure,
            breaker=breaker,
            version=version,
            renamed_from=renamed_from,
            group=group,
            roles_given=given_roles("transaction", roles),
        )

    def batch(
        self,
        *,
        on: Topic[E],
        size: int = 500,
        name: str | None = None,
        retry: Retry = NEVER,
        on_failure: FailurePolicy = _DEAD_LETTER,
        breaker: Breaker | None = _BREAKER,
        version: str | None = None,
        renamed_from: str | None = None,
        group: str | None = None,
        roles: Sequence[str] | None = None,
    ) -> BatchDecorator[E]:
        """Handle many records of one partition in one transaction, in offset order.

        Effect, outcomes and progress are one commit. When the call raises, it is repeated with halves until the
        record at fault stands alone; it gets `retry` and `on_failure`, the others go on.

        Args:
            on: Topic whose records it handles.
            size: Most records of one call, 1 to 10,000. It waits for none: idle, a batch is one record.
            name: As for `workflow`.
            retry: Of a record that was taken out, as for `workflow`.
            on_failure: As for `workflow`.
            breaker: As for `workflow`.
            version: As for `workflow`.
            renamed_from: As for `workflow`.
            group: As for `workflow`.
            roles: As for `workflow`, of records.

        Raises:
            ConfigurationError: At registration, as for `transaction`.
        """
        check_options("batch", size=size)
        if not 1 <= size <= BATCH_MAX:
            raise ConfigurationError(f"batch(size={size}): 1 to {BATCH_MAX} records")
        return self._registry.fused(
            on,
            HandlerKind.BATCH,
            name=name,
            retry=retry,
            on_failure=on_failure,
            breaker=breaker,
            version=version,
            renamed_from=renamed_from,
            group=group,
            batch_max=size,
            roles_given=given_roles("batch", roles),
        )

    # -- workflows --

    @overload
    def workflow(
        self,
        *,
        on: Topic[E],
        name: str | None = None,
        retry: Retry = NEVER,
        on_failure: FailurePolicy = _DEAD_LETTER,
        breaker: Breaker | None = _BREAKER,
        persist_first: bool = False,
        version: str | None = None,
        renamed_from: str | None = None,
        group: str | None = None,
        roles: Sequence[str] | None = None,
    ) -> HandlerDecorator[E]: ...
    @overload
    def workflow(
        self,
        *,
        on: Cron,
        name: str | None = None,
        retry: Retry = NEVER,
        version: str | None = None,
        continues: Sequence[str] = (),
    ) -> TickDecorator: ...
    @overload
    def workflow(
        self,
        *,
        on: Http | None = None,
        name: str | None = None,
        retry: Retry = NEVER,
        version: str | None = None,
        continues: Sequence[str] = (),
        roles: Sequence[str] | None = None,
    ) -> CallableDecorator: ...
    def workflow(
        self,
        *,
        on: Topic[Any] | Cron | Http | None = None,
        name: str | None = None,
        retry: Retry = NEVER,
        on_failure: FailurePolicy = _DEAD_LETTER,
        breaker: Breaker | None = _BREAKER,
        persist_first: bool = False,
        version: str | None = None,
        continues: Sequence[str] = (),
        renamed_from: str | None = None,
        group: str | None = None,
        roles: Sequence[str] | None = None,
    ) -> Any:
        """Run a function durably for every record of a topic: interrupted, it goes on behind its last recorded step.

        Or at times of day: once for every tick of a `Cron`, whichever process is first, with a `Tick` for an argument.

        Its code between steps must be deterministic and without effects: it is run again over the history. An
        error that it does not catch ends it, after `retry`, in ERROR, and `on_failure` decides what follows.

        Args:
            on: Topic whose records it handles; at most one handler per topic and group. A `Cron`: when it runs. `Http`:
                requests start it. `None`: it is registered, and runs when it is called.
            name: `workflow_status.name`; the function's unless given. Unique in the app. A schedule has this name too:
                under another one it is another schedule, which begins anew.
            retry: Attempts of the workflow as a whole; each continues with the step that failed.
            on_failure: What happens to the record, its key and its partition after the last attempt.
            breaker: Halt the partition when most of the last records failed. `None`: never.
            persist_first: Give the record its row before the first step, for a workflow whose first step tells
                others its ID. Costs a commit per record.
            version: Instead of the fingerprint of its code.
            continues: Earlier versions of a workflow that no record starts, whose runs this code goes on with (`patch`).
                A record's goes on in whatever code its partition's owner has.
            renamed_from: The name this handler had, if its progress is stored under that.
            group: Consumer group of its own, to handle a topic a second time.
            roles: One of these must whoever calls or starts it have, in this program (`acting_as`), in a workflow or by
                HTTP; else nothing is written. `None`: those of the app. A record without is a dead letter (`Topic(identity=)`).

        Raises:
            ConfigurationError: At registration: an event of another type than the topic's, arguments or a result
                that cannot be written as JSON, a name, topic or path that is taken.
        """

        def decorate(fn: Callable[..., Any]) -> WorkflowFunction[..., Any]:
            function = plain_function(fn, "workflow", methods=on is None)
            check_options(
                f"workflow {function.__qualname__}",
                name=name,
                retry=retry,
                on_failure=on_failure,
                breaker=breaker,
                version=version,
                continues=continues,
                renamed_from=renamed_from,
                group=group,
            )
            chosen = checked_name(name, function, "workflow")
            owner = class_of(function)
            cron = on if isinstance(on, Cron) else None
            http = on if isinstance(on, Http) else None
            topic = None if isinstance(on, Cron | Http) else on
            given = given_roles(f"workflow {chosen!r}", roles, http)
            if cron is not None:
                check_tick_handler(function, cron, chosen)
                refuse_options_of_records(
                    f"workflow {function.__qualname__}",
                    on_failure=on_failure is not _DEAD_LETTER,
                    breaker=breaker is not _BREAKER,
                    persist_first=persist_first,
                    renamed_from=renamed_from is not None,
                    group=group is not None,
                )
            elif topic is None:
                check_arguments(function, "workflow")
            if http is not None:
                check_http(function, http, given)
            wants = topic is not None and takes_record(function, topic, kind=HandlerKind.JOURNALED, what="workflow")
            registration = Registration(
                name=chosen,
                kind=HandlerKind.JOURNALED,
                function=function,
                topic=topic,
                cron=cron,
                http=http,
                roles_given=given,
                roles_else=partial(self._registry.roles_of, owner),
                wants_record=wants,
                result=result_of(function, "workflow"),
                group=group,
                renamed_from=renamed_from,
                version=version,
                continues=tuple(continues),
                class_name=owner,
                instances=self._registry.instances.of(owner) if owner and is_method(function) else None,
                retry=retry,
                on_failure=on_failure,
                breaker=breaker,
                persist_first=persist_first,
            )
            self._registry.add_workflow(registration)
            return WorkflowFunction[..., Any](fn, registration, self.engine, self._registry.instances)

        return decorate

    def register_workflow(self, fn: Callable[P, R], *, name: str | None = None) -> WorkflowFunction[P, R]:
        """`workflow` for a function that cannot be decorated, as one of another library."""
        return self.workflow(name=name)(fn)

    @overload
    def run_step(
        self,
        fn: Callable[[*Ts], Awaitable[R]],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def run_step(
        self,
        fn: Callable[[*Ts], R],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
    ) -> Coroutine[Any, Any, R]: ...
    def run_step(
        self,
        fn: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Call a function as a step of the workflow that asks for it, without registering it before.

        A sync function, step or transaction runs in a thread of its own: this is how an async workflow calls one.
        The guarantee is that of `step` (or of `transaction`). Outside of a workflow it is a plain call. A sync workflow,
        which cannot await it, is refused: `processor.sync.run_step`.

        Args:
            fn: Function, registered or not. Its result must be JSON values, or what its annotation says.
            *args: Its arguments; those given by name go into a `lambda`.
            name: Name in the history. A `lambda` needs one.
            retry: As for `step`; `None`: as `fn` was registered.
            timeout: As for `step`; `None`: as `fn` was registered.

        Raises:
            ConfigurationError: No name, or a result type that cannot be written as JSON.
        """
        return run_step(fn, args, name=name, retry=retry, timeout=timeout)

    # -- running --

    def engine(self) -> Engine:
        """What runs the caller's workflow, or else the app in this process.

        Raises:
            ConfigurationError: Nothing does.
        """
        if (run := current_run.get()) is not None:
            return run.home.engine
        if not self.engines:
            raise ConfigurationError(
                f"app {self.name!r} does not run in this process: `async with app.running():` around the call.\n"
                f"  A unit test calls the function itself, as fulfil.fn(...)."
            )
        return self.engines[-1]

    def running(
        self, settings: Settings | None = None, *, kafka: bool = True
    ) -> AbstractAsyncContextManager["Runtime"]:
        """Run the app's handlers inside of any asyncio program, as long as the block does.

        Entered when the engine has started and, with Kafka, the group was joined; left when everything that ran has
        ended or been handed over, at the latest after `executor.drain`. Signals are the program's own business.

        Args:
            settings: Instead of those of the environment and `processor.yaml`.
            kafka: Whether to consume. Without, only what does not come from Kafka runs.

        Raises:
            ConfigurationError: Settings, schema or handlers are not fit to run. Says what to do.
            StoreUnavailableError: Postgres cannot be reached.
        """
        from processor.runtime import running

        return running(self, settings, kafka=kafka)
