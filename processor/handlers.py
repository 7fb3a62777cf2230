"""From decorated functions to what the engine runs: signatures read, types refused, handlers built.

    decorator ── registration ──▶ Registration ── at start ──▶ engine.handlers.Handler

Everything that can be refused is refused at registration, by name, before anything runs. Whether a handler wants the
event or its `Record` is read off its annotation once, never per record.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import FunctionType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from engine.cron import Cron
from engine.errors import ConfigurationError
from engine.execution_rows import Execution
from engine.handlers import Handler, HandlerKind, Step, TransactionStep, UndecodableError, record_key
from engine.policies import Breaker, DeadLetter, FailurePolicy
from engine.retries import NEVER, Retry
from engine.transaction import SyncTransaction, Transaction
from processor.arguments import CallArguments
from processor.codec import Result, UnencodableTypeError, result_codec, type_name
from processor.fingerprint import fingerprint
from processor.methods import class_of, is_method
from processor.policies import Ordering
from processor.record_identity import Judge
from processor.records import RawRecord, Record, view
from processor.routes import Http
from processor.triggers import Topic, key_bytes

NAME_MAX = 255
"""Characters of a workflow's or step's name."""


@dataclass(frozen=True, kw_only=True)  # without slots: what is read of its code is kept
class Registration:
    """A workflow of an app, as its decorator described it.

    Attributes:
        name: `workflow_status.name`.
        kind: Journaled, transaction or batch.
        function: Undecorated.
        topic: Whose records start it; `None`: none.
        cron: When it is started; `None`: no schedule does. Without topic and schedule only a call starts it.
        wants_record: Whether its argument is `Record[...]`.
        result: Its result as JSON text.
        group: Consumer group of its own; `None`: the one of the settings.
        renamed_from: Its former name, under which progress may be stored.
        version: Given instead of a fingerprint.
        continues: Earlier versions whose workflows it goes on with.
        class_name: Of a function that is defined in a class.
        instances: Of a method: the objects it can be called on, by name; `None`: it is none.
        http: What of HTTP starts it; `None`: nothing.
        roles_given: One of which somebody must have to start it; none: anybody may; `None`: as `roles_else` says later.
    """

    name: str
    kind: HandlerKind
    function: Callable[..., Any]
    topic: Topic[Any] | None
    wants_record: bool
    result: Result[Any]
    group: str | None = None
    renamed_from: str | None = None
    version: str | None = None
    continues: Sequence[str] = ()
    class_name: str | None = None
    instances: Mapping[str, Any] | None = None
    retry: Retry = NEVER
    on_failure: FailurePolicy = field(default_factory=DeadLetter)
    breaker: Breaker | None = field(default_factory=Breaker)
    batch_max: int = 500
    persist_first: bool = False
    cron: Cron | None = None
    http: Http | None = None
    roles_given: tuple[str, ...] | None = None
    roles_else: Callable[[], tuple[str, ...]] = tuple

    @property
    def roles(self) -> tuple[str, ...]:
        """One of which somebody must have to start it: its own, its class's, or the app's."""
        return self.roles_else() if self.roles_given is None else self.roles_given

    def handler(self, version: str | None = None) -> Handler:
        """What the engine runs. Late, because a fingerprint needs the functions that are defined further below.

        Args:
            version: Instead of the fingerprint, where the decorator gave none.
        """
        topic = self.topic
        common = Handler(
            name=self.name,
            kind=self.kind,
            function=self.function,
            is_async=inspect.iscoroutinefunction(self.function),
            format=NoEvents(),
            encode=self.result.encode,
            ordering_key=_no_key,
            retry=self.retry,
            version=self.version or version or self.code_version,
            continues=self.continues,
            class_name=self.class_name,
            instances=None if self.instances is None else dict(self.instances),
            arguments=self.arguments,
            cron=self.cron,
            is_flow=self.is_flow,
        )
        if topic is None:
            return common
        judge = None if topic.identity is None else Judge(topic.identity, name=self.name, required=self.roles)
        return replace(
            common,
            format=event_format(topic, wants_record=self.wants_record, judge=judge),
            origin=None if judge is None else judge.origin,
            ordering_key=ordering_key(topic, wants_record=self.wants_record),
            ordered_by_partition=topic.ordering is Ordering.PARTITION,
            orders_by_argument=topic.order_by is not None,
            decide=topic.decide,
            filters=topic.where is not None,
            on_failure=self.on_failure,
            breaker=self.breaker,
            batch_max=self.batch_max,
            persist_first=self.persist_first,
            stored_headers=topic.stored_headers,
        )

    @cached_property
    def code_version(self) -> str:
        """The version given, or the fingerprint of the code."""
        return self.version or fingerprint(cast("FunctionType", self.function))

    @cached_property
    def is_flow(self) -> bool:
        """Whether its one argument is an `Execution`: then it is a flow, its steps are nodes, and options hold for them."""
        parameters = list(inspect.signature(self.function).parameters)
        if (
            len(parameters) != 1
            or self.instances is not None
            or self.topic is not None
            or self.kind is not HandlerKind.JOURNALED
        ):
            return False
        function = cast("FunctionType", self.function)
        return annotation_of(function, parameters[0], "workflow") is Execution

    @cached_property
    def arguments(self) -> CallArguments | None:
        """The codec of its arguments, where it can be called; `None`: only records start it."""
        try:
            return self.call_arguments()
        except ConfigurationError:
            return None

    def call_arguments(self) -> CallArguments:
        """The codec of its arguments. Raises `ConfigurationError` if only records can start it, and says why."""
        function = cast("FunctionType", self.function)
        if self.kind is not HandlerKind.JOURNALED or self.wants_record:
            raise ConfigurationError(f"workflow {self.name!r}: only records start it, it cannot be called")
        topic = self.topic

        def annotation(name: str) -> Any:
            if name in function.__annotations__ or topic is None:
                return annotation_of(function, name, "workflow")
            return topic.model

        return CallArguments(self.name, function, annotation, is_method=self.instances is not None)


class NoEvents:
    """Of a workflow that no record starts."""

    embeds_json = True

    def decode(self, record: RawRecord) -> Any:
        """Never: raises `UndecodableError`."""
        raise UndecodableError(f"{record}: its handler is none of a topic's")


class EventFormat:
    """A topic's codec, as the engine calls it: a record in, the handler's argument out."""

    __slots__ = ("_allowed", "_decode", "_delivers_tombstones", "_wants_record", "embeds_json")

    def __init__(self, topic: Topic[Any], *, wants_record: bool) -> None:
        self._decode: Callable[[bytes, RawRecord], Any] = topic.codec.decode
        self._wants_record = wants_record
        self._allowed = topic.headers
        self._delivers_tombstones = topic.tombstone == "deliver"
        self.embeds_json = topic.codec.embeds_json

    def decode(self, record: RawRecord) -> Any:
        """The event or its `Record`. Raises `UndecodableError`; a codec's other exceptions count as one."""
        value = record.value
        if value is not None:
            event = self._decode(value, record)
        elif self._delivers_tombstones:
            event = None
        else:
            raise UndecodableError(f"{record}: it has no value, and its topic does not deliver tombstones")
        return view(event, record, self._allowed) if self._wants_record else event


class JudgedFormat(EventFormat):
    """That of a topic whose records say whose they are: judged by their headers, before anybody looks into them."""

    __slots__ = ("_refuse",)

    def __init__(self, topic: Topic[Any], *, wants_record: bool, judge: Judge) -> None:
        super().__init__(topic, wants_record=wants_record)
        self._refuse = judge.refuse

    def decode(self, record: RawRecord) -> Any:
        """The same. Raises also `UnauthorizedRecordError`."""
        self._refuse(record)
        return super().decode(record)


def event_format(topic: Topic[Any], *, wants_record: bool, judge: Judge | None) -> EventFormat:
    """The format of a topic; with a `judge`, of one whose records say whose they are."""
    if judge is None:
        return EventFormat(topic, wants_record=wants_record)
    return JudgedFormat(topic, wants_record=wants_record, judge=judge)


def ordering_key(topic: Topic[Any], *, wants_record: bool) -> Callable[[RawRecord, Any], bytes | None]:
    """What orders a record: its key, what `order_by` says of its event, or nothing."""
    if topic.ordering is Ordering.NONE:
        return _no_key
    order_by = topic.order_by
    if order_by is None:
        return record_key

    def by_event(record: RawRecord, argument: Any) -> bytes | None:
        event = argument.event if wants_record else argument
        if event is None:
            return record.key
        try:
            return key_bytes(order_by(event))
        except Exception as error:  # noqa: BLE001  # the user's function; whatever it raises is this record's fault
            problem = f"{type(error).__name__}: {error}"
        raise UndecodableError(f"{record}: order_by of its topic raised {problem}")

    return by_event


def _no_key(record: RawRecord, argument: Any) -> bytes | None:  # noqa: ARG001  # the engine's signature
    return None


# -- reading a function --


def plain_function(fn: Callable[..., Any], what: str, *, methods: bool = False) -> FunctionType:
    """The function itself. Refuses what cannot be run, found or recorded by name; methods, unless they may be."""
    if not isinstance(fn, FunctionType):
        raise ConfigurationError(f"{what} {fn!r}: decorate a function; {type(fn).__name__} is none")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigurationError(f"{what} {fn.__qualname__}: a generator has no result that could be recorded")
    if class_of(fn) is not None and next(iter(inspect.signature(fn).parameters), "") == "cls":
        raise ConfigurationError(f"{what} {fn.__qualname__}: a class method. Make it a static one, or a function")
    if is_method(fn) and not methods:
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: a method; nobody says of which object a record or request is. Make it a function"
        )
    return fn


def checked_name(name: str | None, fn: FunctionType, what: str) -> str:
    """The name something is recorded under."""
    owner = class_of(fn)
    own = fn.__name__ if owner is None else f"{owner}.{fn.__name__}"
    chosen = own if name is None else name
    if not chosen or len(chosen) > NAME_MAX or "\0" in chosen or chosen == "<lambda>":
        raise ConfigurationError(f"{what} {fn.__qualname__}: {chosen!r} is no name for the history; say name=")
    return chosen


def result_of(fn: FunctionType, what: str, name: str | None = None) -> Result[Any]:
    """The codec of a function's result. Refuses one that is not annotated or cannot be written as JSON.

    `name`: by which the history knows it; the function's unless given.
    """
    if "return" not in fn.__annotations__:
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: say what it returns (`-> None` if nothing): the annotation is how its result\n"
            f"  is read back from the database"
        )
    try:
        return result_codec(annotation_of(fn, "return", what), f"{what} {name or fn.__qualname__!r}: the result")
    except UnencodableTypeError as error:
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: its result cannot be recorded: {error}\n"
            f"  Return something pydantic can write and read: numbers, text, dates, lists, dicts, dataclasses, models."
        ) from None


def check_arguments(fn: FunctionType, what: str) -> None:
    """Refuse a workflow whose arguments could not be stored with it."""
    parameters = list(inspect.signature(fn).parameters.values())
    for parameter in parameters[1:] if is_method(fn) else parameters:
        if parameter.name not in fn.__annotations__:
            raise ConfigurationError(f"{what} {fn.__qualname__}: annotate {parameter.name}: it is stored as JSON")
        try:
            result_codec(annotation_of(fn, parameter.name, what))
        except UnencodableTypeError as error:
            raise ConfigurationError(
                f"{what} {fn.__qualname__}: argument {parameter.name} cannot be recorded: {error}"
            ) from None


def check_transaction(fn: FunctionType, what: str) -> None:
    """Refuse a first argument that is not the transaction of the function's colour."""
    parameters = list(inspect.signature(fn).parameters.values())[1 if is_method(fn) else 0 :]
    expected = Transaction if inspect.iscoroutinefunction(fn) else SyncTransaction
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: its first argument is the transaction, `tx: {expected.__name__}`.\n"
            f"  from processor import {expected.__name__}"
        )
    if parameters[0].name in fn.__annotations__:
        given = annotation_of(fn, parameters[0].name, what)
        if given in (Transaction, SyncTransaction) and given is not expected:
            colour = "an async" if expected is Transaction else "a sync"
            raise ConfigurationError(
                f"{what} {fn.__qualname__}: {colour} function takes `tx: {expected.__name__}`.\n"
                f"  from processor import {expected.__name__}"
            )


def takes_record(fn: FunctionType, topic: Topic[Any], *, kind: HandlerKind, what: str) -> bool:
    """Whether the handler asks for `Record[...]`; refuses one that does not take its topic's events.

    Without an annotation it gets the event.
    """
    if not isinstance(cast("object", topic), Topic):
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: on={topic!r}; it takes a Topic, as Topic('orders', OrderPlaced)"
        )
    before = 0 if kind is HandlerKind.JOURNALED else 1
    parameters = list(inspect.signature(fn).parameters.values())
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(parameters) <= before or len(required) > before + 1:
        wanted = {
            HandlerKind.JOURNALED: "one argument, the event",
            HandlerKind.TRANSACTION: "two arguments, the transaction and the event",
            HandlerKind.BATCH: "two arguments, the transaction and a sequence of events",
        }[kind]
        raise ConfigurationError(f"{what} {fn.__qualname__}: a handler of {topic!r} takes {wanted}")
    name = parameters[before].name
    if name not in fn.__annotations__:
        return False
    annotation = annotation_of(fn, name, what)
    if kind is HandlerKind.BATCH:
        annotation = _item(annotation, fn, what)
    is_record = get_origin(annotation) is Record or annotation is Record
    if is_record:
        annotation = next(iter(get_args(annotation)), Any)
    if not _takes(annotation, topic):
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: its argument {name} is {type_name(annotation)}, {topic!r} has"
            f" {type_name(topic.model)}{' or None' if topic.tombstone == 'deliver' else ''}"
        )
    return is_record


def annotation_of(fn: FunctionType, name: str, what: str) -> Any:
    """The type behind an annotation, also where it was written as text."""
    holder = FunctionType((lambda: None).__code__, fn.__globals__)
    holder.__annotations__ = {name: fn.__annotations__[name]}
    try:
        return get_type_hints(holder, localns=_locals(fn), include_extras=True)[name]
    except NameError as error:
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: the annotation of {name!r} is read at import: {error}.\n"
            f"  Define or import it above the function, outside of `if TYPE_CHECKING:`."
        ) from None


def _locals(fn: FunctionType) -> dict[str, Any]:
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False)
    found: dict[str, Any] = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _item(annotation: Any, fn: FunctionType, what: str) -> Any:
    origin = get_origin(annotation)
    if origin is None or not (isinstance(origin, type) and issubclass(list, origin)):
        raise ConfigurationError(
            f"{what} {fn.__qualname__}: a batch handler takes a sequence, `Sequence[...]`, not {type_name(annotation)}"
        )
    return next(iter(get_args(annotation)), Any)


def _takes(annotation: Any, topic: Topic[Any]) -> bool:
    """Whether a parameter annotated so can be given the topic's events. Only a plain mismatch is refused."""
    accepted: Sequence[Any] = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if Any in accepted or object in accepted:
        return True
    if topic.tombstone == "deliver" and type(None) not in accepted and None not in accepted:
        return False
    return any(_is_part(topic.model, each) for each in accepted)


def _is_part(model: Any, accepted: Any) -> bool:
    if model == accepted:
        return True
    if isinstance(model, type) and isinstance(accepted, type) and not get_args(accepted) and not get_args(model):
        try:
            return issubclass(model, accepted)
        except TypeError:  # a protocol or typed dict that answers no such question: pyright has answered it
            return True
    # Generic aliases, unions of the model's own, Annotated: pyright judges those.
    return not (isinstance(model, type) and isinstance(accepted, type))


# -- steps --


def build_step(fn: FunctionType, name: str, *, retry: Retry, timeout: Any) -> Step:
    """A step of a checked function."""
    result = result_of(fn, "step", name)
    return Step(
        name=name,
        function=fn,
        is_async=inspect.iscoroutinefunction(fn),
        record=result.record,
        decode=result.decode,
        retry=retry,
        timeout=timeout,
    )


def build_transaction(fn: FunctionType, name: str, *, isolation: str, read_only: bool) -> TransactionStep:
    """A transactional step of a checked function."""
    check_transaction(fn, "transaction")
    result = result_of(fn, "transaction", name)
    return TransactionStep(
        name=name,
        function=_method_of_transaction(fn) if is_method(fn) else fn,
        is_async=inspect.iscoroutinefunction(fn),
        record=result.record,
        decode=result.decode,
        isolation=isolation,
        read_only=read_only,
    )


def _method_of_transaction(fn: FunctionType) -> Callable[..., Any]:
    """A method as the engine calls it: the transaction first, then the object."""

    def called(tx: Any, instance: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(instance, tx, *args, **kwargs)

    return called


__all__ = [
    "EventFormat",
    "Registration",
    "annotation_of",
    "build_step",
    "build_transaction",
    "check_arguments",
    "check_transaction",
    "checked_name",
    "ordering_key",
    "plain_function",
    "result_of",
    "takes_record",
]
