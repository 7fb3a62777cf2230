"""What an app has: its steps, handlers and queues by name, and the rules that no two of them may break."""

from collections.abc import Callable
from functools import partial
from typing import Any

from engine.errors import ConfigurationError
from engine.handlers import HandlerKind
from engine.queues import INTERNAL
from processor.decorators import (
    FusedFunction,
    ProcedureFunction,
    StepFunction,
    TransactionFunction,
    TransactionMethod,
)
from processor.handlers import (
    Registration,
    build_transaction,
    check_transaction,
    checked_name,
    plain_function,
    result_of,
    takes_record,
)
from processor.methods import Instances, class_of, is_method
from processor.options import check_options
from processor.policies import dead_letter_topic
from processor.queues import Queue
from processor.triggers import Topic

AnyStep = StepFunction[..., Any] | TransactionFunction[Any, ..., Any] | ProcedureFunction[..., Any]


class Registry:
    """The steps and workflows of one app."""

    def __init__(self, app: str, *, roles: tuple[str, ...] = ()) -> None:
        self._app = app
        self._roles = roles
        self._roles_of_classes: dict[str, tuple[str, ...]] = {}
        self.workflows: dict[str, Registration] = {}
        self.queues: dict[str, Queue] = {}
        self.instances = Instances()
        self.steps: dict[str, AnyStep] = {}

    def transaction_step(self, name: str | None, isolation: str, *, read_only: bool) -> Any:
        """The decorator of a transactional step."""

        def decorate(fn: Callable[..., Any]) -> TransactionFunction[Any, ..., Any]:
            function = plain_function(fn, "transaction", methods=True)
            check_options(f"transaction {function.__qualname__}", name=name, isolation=isolation)
            chosen = checked_name(name, function, "transaction")
            step = build_transaction(function, chosen, isolation=isolation, read_only=read_only)
            kind = TransactionMethod[Any, Any, ..., Any] if is_method(function) else TransactionFunction[Any, ..., Any]
            registered = kind(fn, step)
            self.add_step(registered)
            return registered

        return decorate

    def fused(self, on: Topic[Any], kind: HandlerKind, *, name: str | None, **options: Any) -> Any:
        """The decorator of a handler that is one transaction, for one record or many."""
        what = "batch" if kind is HandlerKind.BATCH else "transaction"

        def decorate(fn: Callable[..., Any]) -> FusedFunction[..., Any]:
            function = plain_function(fn, what)
            check_options(f"{what} {function.__qualname__}", name=name, **options)
            chosen = checked_name(name, function, what)
            check_transaction(function, what)
            self.add_workflow(
                Registration(
                    name=chosen,
                    kind=kind,
                    function=function,
                    topic=on,
                    wants_record=takes_record(function, on, kind=kind, what=what),
                    result=result_of(function, what),
                    class_name=class_of(function),
                    roles_else=partial(self.roles_of, class_of(function)),
                    **options,
                )
            )
            return FusedFunction[..., Any](fn, chosen)

        return decorate

    def roles_of(self, class_name: str | None) -> tuple[str, ...]:
        """What is required of those that start a workflow which says nothing itself: its class's roles, or the app's."""
        return self._roles if class_name is None else self._roles_of_classes.get(class_name, self._roles)

    def require(self, class_name: str, roles: tuple[str, ...]) -> None:
        """Roles of a class. Raises `ConfigurationError` if it has some, or no workflow, or one whose records are nobody's."""
        members = [each for each in self.workflows.values() if each.class_name == class_name]
        if not members:
            raise ConfigurationError(
                f"class {class_name}: it has no workflow of app {self._app!r} that could require a role"
            )
        if class_name in self._roles_of_classes:
            raise ConfigurationError(f"class {class_name}: it, or another of its name, requires roles already")
        for each in members:
            if each.roles_given is None:
                _check_roles(each, roles)
        self._roles_of_classes[class_name] = roles

    def add_step(self, step: AnyStep) -> None:
        """Enter a step. Raises `ConfigurationError` if there is one of its name."""
        if step.name in self.steps:
            raise ConfigurationError(
                f"step {step.name!r} is registered twice in app {self._app!r}: the history tells steps apart by name.\n"
                f"  Give one of them name=."
            )
        self.steps[step.name] = step

    def add_queue(self, queue: Queue) -> None:
        """Enter a queue. Raises `ConfigurationError` if there is one of its name."""
        if queue.name in self.queues:
            raise ConfigurationError(f"queue {queue.name!r} is registered twice in app {self._app!r}")
        if queue.name == INTERNAL:
            raise ConfigurationError(f"queue {queue.name!r} is the official client's, and every app takes from it")
        self.queues[queue.name] = queue

    def add_workflow(self, registration: Registration) -> None:
        """Enter a handler. Raises `ConfigurationError` if there is one of its name, or for its topic and group."""
        if registration.name in self.workflows:
            raise ConfigurationError(
                f"workflow {registration.name!r} is registered twice in app {self._app!r}. Give one of them name=."
            )
        _check_roles(registration, registration.roles)
        topic = registration.topic
        dead_letters = dead_letter_topic(registration.on_failure)
        if topic and dead_letters and topic.covers(dead_letters):
            raise ConfigurationError(
                f"workflow {registration.name!r}: its dead letters go to {dead_letters!r}, which it consumes: one that fails\n"
                f"  would come back for ever. Name another topic."
            )
        http = registration.http
        for other in self.workflows.values():
            if http is not None and other.http is not None and other.http.shape == http.shape:
                raise ConfigurationError(
                    f"{http} starts two workflows, {other.name!r} and {registration.name!r}. Give one another path."
                )
            if topic and other.topic and other.topic.name == topic.name and other.group == registration.group:
                group = f"group {registration.group!r}" if registration.group else "the app's group"
                raise ConfigurationError(
                    f"topic {topic.name!r} has two handlers in {group}, {other.name!r} and {registration.name!r}:\n"
                    f"  each would see half of the records. Give one of them group=, a consumer group of its own."
                )
        self.workflows[registration.name] = registration


def _check_roles(registration: Registration, roles: tuple[str, ...]) -> None:
    topic = registration.topic
    if topic is not None and roles and topic.identity is None:
        raise ConfigurationError(
            f"workflow {registration.name!r} requires one of the roles {', '.join(roles)}, and no record of {topic!r}\n"
            f"  says whose it is: Topic(..., identity=FromHeaders('user', roles='roles')), or roles=() for everybody."
        )
