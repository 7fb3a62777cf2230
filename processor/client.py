"""The client: any program with the database's address starts workflows of apps, awaits them, and acts on them.

    async with Client("postgresql://…/shop") as client:
        handle = await client.start("fulfil", {"order_id": "o-1"}, id="fulfil-o-1")
        await client.enqueue("send_mail", "ada@example.org", queue="mails")
        receipt = await handle.result()

    with SyncClient("postgresql://…/shop") as client:      the same without a loop of the program's own
        client.start("fulfil", {"order_id": "o-1"}).result()

It runs nothing itself, has no code of the workflows, and needs no Kafka. Queues, schedules, dead letters:
`client.queues`, `.schedules`, `.dead_letters` (processor/client_acts.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack, cast, overload

from engine.children import start_outside
from engine.client import Caller
from engine.errors import ClientClosedError, ConfigurationError
from engine.identity import acting
from engine.ids import WorkflowId
from engine.payloads import PayloadKeys
from engine.queues import check_place, enter
from engine.settings import EngineSettings
from engine.starts import Start
from engine.tracing import Tracing
from processor.acts import Acts
from processor.client_acts import DeadLetters, Queues, Schedules
from processor.config import Settings
from processor.handles import WorkflowHandle
from processor.here import workflow_here
from processor.options import check_options
from processor.payload_keys import payload_keys
from processor.queues import PlaceOptions, Queue, checked
from processor.values import decoder, encode

if TYPE_CHECKING:
    from processor.client_sync import SyncClientActs

M = TypeVar("M")

POOL_MAX = 4
"""Connections of a client, unless it says otherwise; one more listens once anything is waited for."""


class PlaceInQueue(PlaceOptions, total=False):
    """Where a client's workflow waits, and how it is read.

    Attributes:
        queue: Which queue, by its name or as the value that an app registers.
        kwargs, version, instance: As for `Client.start`.
    """

    queue: str | Queue
    kwargs: Mapping[str, Any]
    version: str | None
    instance: str | None


class ClientOptions(TypedDict, total=False):
    """What `Client` takes beside the address."""

    direct_dsn: str | None
    schema: str
    payload_keys: Mapping[str, bytes] | None
    payload_key: str | None
    pool_max: int
    actor: str
    prepared_statements: bool


class Client(Acts):
    """A program's access to the workflows of a database.

    Opened by `async with`; it may be opened again after that. Calls of tasks beside each other share its connections. In a
    workflow's own code its calls are refused, for a replay would repeat them: call them in a step.

    Attributes:
        queues, schedules, dead_letters: Lists of these, and acts on them.

    Args:
        dsn: libpq connection string of the database.
        direct_dsn: Around a transaction-mode pooler, for LISTEN; without, waits behind one look every second.
        schema: Of the system tables.
        payload_keys: Where payloads are sealed: keys of 32 bytes by ID, as the processors have them. Without, what is sealed
            raises `UnreadablePayloadError` where it is read, and what this client writes is stored readable.
        payload_key: ID of the one that seals.
        pool_max: Connections.
        actor: Who acts, for the audit of acts on queues, schedules and dead letters.
        prepared_statements: Off behind a pooler that does not know them.

    Raises:
        ConfigurationError: When it is opened: the database does not let us in, or lacks the schema.
        StoreUnavailableError: When it is opened: the database does not answer.
    """

    def __init__(
        self,
        dsn: str,
        *,
        direct_dsn: str | None = None,
        schema: str = "dbos",
        payload_keys: Mapping[str, bytes] | None = None,
        payload_key: str | None = None,
        pool_max: int = POOL_MAX,
        actor: str = "client",
        prepared_statements: bool = True,
    ) -> None:
        self._settings = EngineSettings(
            conninfo=dsn,
            direct_conninfo=direct_dsn,
            schema=schema,
            payload_keys=PayloadKeys(payload_keys or {}, payload_key),
            pool_max=pool_max,
            prepare=prepared_statements,
        )
        self._caller: Caller | None = None
        self.queues = Queues(self.engine, actor)
        self.schedules = Schedules(self.engine, actor)
        self.dead_letters = DeadLetters(self.engine, actor)

    @classmethod
    def from_settings(cls, settings: Settings, *, actor: str = "client") -> Self:
        """The client of a deployment: its `postgres` and `payloads` settings, as `load_settings()` has them."""
        postgres, direct = settings.postgres, settings.postgres.direct_dsn
        client = cls(postgres.dsn.get_secret_value(), actor=actor)
        client._settings = EngineSettings(
            conninfo=postgres.dsn.get_secret_value(),
            direct_conninfo=None if direct is None else direct.get_secret_value(),
            schema=postgres.schema_name,
            pool_max=postgres.pool_max,
            connect_timeout=postgres.connect_timeout,
            statement_timeout=postgres.statement_timeout,
            prepare=postgres.prepared_statements,
            inputs_inline_max=settings.executor.inputs_inline_max,
            payload_keys=payload_keys(settings.payloads),
        )
        return client

    async def __aenter__(self) -> Self:
        """Connect."""
        if self._caller is not None:
            raise ConfigurationError("this client is open already")
        caller = Caller(self._settings, _tracing())
        await caller.open()
        self._caller = caller
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect. Whoever still waits gets `ClientClosedError`; what it waits for goes on."""
        caller, self._caller = self._caller, None
        if caller is not None:
            await caller.close()

    def engine(self) -> Caller:
        """Its connections. Raises `ClientClosedError` if it is not open."""
        if self._caller is None:
            raise ClientClosedError
        return self._caller

    @property
    def sync(self) -> SyncClientActs:
        """The same from threads beside its loop. A program without a loop: `SyncClient`."""
        from processor.client_sync import SyncClientActs

        return SyncClientActs(self)

    # -- starting --

    @overload
    def start(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        id: str | None = None,
        timeout: timedelta | None = None,
        version: str | None = None,
        instance: str | None = None,
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]: ...
    @overload
    def start(
        self,
        name: str,
        /,
        *args: Any,
        model: type[M],
        kwargs: Mapping[str, Any] | None = None,
        id: str | None = None,
        timeout: timedelta | None = None,
        version: str | None = None,
        instance: str | None = None,
    ) -> Coroutine[Any, Any, WorkflowHandle[M]]: ...
    def start(
        self,
        name: str,
        /,
        *args: Any,
        model: Any = Any,
        kwargs: Mapping[str, Any] | None = None,
        id: str | None = None,
        timeout: timedelta | None = None,
        version: str | None = None,
        instance: str | None = None,
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        """Start a workflow, and have its handle. Returns when its row is durable; who has its code and room takes it.

        The client knows nothing of the workflow's arguments: ones that it does not take fail it with `UndecodableError`.
        With `acting_as(...)` around the call it is that user's; roles are not checked, the database's address is all it takes.

        Args:
            name: As the app registers it.
            *args: Its positional arguments: whatever can be written as JSON.
            model: What its result is read as; JSON values unless given.
            kwargs: Its keyword arguments.
            id: Its idempotency key: the same ID again is the first run, also after a lost reply. A UUID by default.
            timeout: From when somebody runs it to its completion; then it is cancelled.
            version: Of the code that runs it. `None`: that of the live process which started last, else the latest there was.
            instance: Of a method: the name of the object it is called on.

        Raises:
            ConfigurationError: No app has registered such a workflow, or it is none of this object.
            WorkflowConflictError: The ID is another workflow's, or this one's with other inputs.
            TypeError, ValueError: An argument cannot be written as JSON, or is too large.
        """
        workflow_here("start()", self.engine)
        decode = decoder(model, f"result of workflow {name!r}")
        start = _row(name, args, kwargs, id=id, timeout=timeout, instance=instance)
        return self._start(start, version, decode)

    @overload
    def enqueue(
        self, name: str, /, *args: Any, **options: Unpack[PlaceInQueue]
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]: ...
    @overload
    def enqueue(
        self, name: str, /, *args: Any, model: type[M], **options: Unpack[PlaceInQueue]
    ) -> Coroutine[Any, Any, WorkflowHandle[M]]: ...
    def enqueue(
        self, name: str, /, *args: Any, model: Any = Any, **options: Unpack[PlaceInQueue]
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        """Have a workflow run when its turn in a queue comes. Returns when its row is durable.

        Its version is that of whoever takes it, unless it is given.

        Args:
            name: As for `start`.
            *args: As for `start`.
            model: As for `start`.
            **options: `queue=`, and its place there: see `PlaceOptions` and `PlaceInQueue`.

        Raises:
            ConfigurationError: As for `start`; no app has registered the queue, or it has no such places.
            DeduplicatedError: Another workflow of the queue has the deduplication ID.
            WorkflowConflictError: As for `start`.
            TypeError, ValueError: As for `start`.
        """
        workflow_here("enqueue()", self.engine)
        given: dict[str, Any] = dict(options)
        unknown = given.keys() - PlaceInQueue.__annotations__.keys() - PlaceOptions.__annotations__.keys()
        if unknown or "queue" not in given:
            raise TypeError(
                f"workflow {name!r}: there is no option {', '.join(sorted(unknown))}"
                if unknown
                else f"workflow {name!r}: queue= says where it waits"
            )
        queue, version, kwargs = given.pop("queue"), given.pop("version", None), given.pop("kwargs", None)
        instance = given.pop("instance", None)
        decode = decoder(model, f"result of workflow {name!r}")
        start = _row(name, args, kwargs, id=given.get("id"), timeout=given.get("timeout"), instance=instance)
        named = queue.name if isinstance(queue, Queue) else queue
        return self._enqueue(start, named, cast("PlaceOptions", given), version, decode)

    async def _start(self, start: Start, version: str | None, decode: Any) -> WorkflowHandle[Any]:
        caller = self.engine()
        start.version = await caller.version_of(start.name, start.config_name, version)
        await start_outside(caller, start)
        return WorkflowHandle(start.id, self.engine, decode)

    async def _enqueue(
        self, start: Start, queue: str, options: PlaceOptions, version: str | None, decode: Any
    ) -> WorkflowHandle[Any]:
        caller = self.engine()
        spec = await caller.queue(queue)
        placed: dict[str, Any] = {**checked(spec, options)}
        placed.pop("id", None)
        placed.pop("timeout", None)
        check_place(spec, **placed)
        await caller.version_of(start.name, start.config_name, version)
        enter(start, spec, **placed)
        start.version = version
        await start_outside(caller, start)
        return WorkflowHandle(start.id, self.engine, decode)


def _tracing() -> Tracing | None:
    """What puts the trace of the calling program into what it starts; `None`: it has no traces."""
    try:
        from processor.trace_export import spans_of_program
    except ModuleNotFoundError:  # without the extra `otel`
        return None
    return spans_of_program()


def _row(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    *,
    id: str | None,
    timeout: timedelta | None,
    instance: str | None,
) -> Start:
    what = f"workflow {name!r}"
    check_options(what, id=id, timeout=timeout)
    inputs = encode({"args": list(args), "kwargs": dict(kwargs or {})}, f"{what}: its arguments")
    start = Start(
        id=WorkflowId(str(uuid.uuid4()) if id is None else id),
        name=name,
        version=None,
        inputs=inputs,
        config_name=instance,
    )
    start.lasts(timeout)
    start.belongs_to(acting.get())
    return start


__all__ = ["Client", "ClientOptions", "PlaceInQueue"]
